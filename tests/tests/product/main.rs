//! The product from outside, on real parts. One file per subject; a test's name is its promise.
//! `parts` shows first that each real part of the harness works and fails as its real model does.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that fails panics")]

mod packaging;
mod parts;
