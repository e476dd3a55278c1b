//! The server's own log: one sentence an event, to standard error.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// Starts logging; `RUST_LOG` narrows or widens it.
pub fn start() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    // Colours are for eyes: a file or a journal has none. A second start, as in tests, changes nothing.
    let _ = log.with_ansi(std::io::stderr().is_terminal()).try_init();
}
