//! The agent's binary from outside, in one test binary: a file per subject, a test's name is its promise.
//! What needs more than the agent (server, database, browser) is in the product's tests.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that fails panics")]

mod delivery;
mod life;
mod live;
mod site;
mod socketless;
mod stream;
