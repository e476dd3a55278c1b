//! The server's rooms together, through its public face, in one test binary: a file per subject. `stories` makes the
//! series that they are asked about. Nothing here starts a second server or needs a database other than SQLite.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that fails panics")]

mod backtest;
mod forecast;
mod grid;
mod property;
mod rounds;
mod stories;
mod train;
