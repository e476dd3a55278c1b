//! The product from outside, on real parts. One file per subject; a test's name is its promise.
//! `parts` shows first that each real part of the harness works and fails as its real model does;
//! `site` is what the journeys share.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that fails panics")]
#![allow(clippy::print_stderr, reason = "a journey tells what it drew and what it measured")]

mod agent;
mod bad_input;
mod cluster;
mod console;
mod container;
mod crash;
mod delivery;
mod engine;
mod fault;
mod fill;
mod models;
mod operations;
mod outage;
mod packaging;
mod parts;
mod podman;
mod ranking;
mod scrape;
mod site;
mod socketless;
mod storm;
mod strain;
