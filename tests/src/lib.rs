//! The harness: one room per real part that the product meets — engine, database, chat room,
//! network, filesystem, browser — and one for each of our two programs. Each part owns its data
//! folder, sockets, ports and bridge, and stops only what it started. A part that cannot be had
//! is an error, never a skipped test. Nothing of the two programs is linked in here: tests see them as
//! a user does, through their command lines, the API and the database.
#![allow(clippy::print_stderr, reason = "a test run tells its seed and where it kept its logs")]
#![allow(clippy::disallowed_methods, reason = "the rules on clock and environment are for the product")]

pub mod agent;
pub mod browser;
pub mod chat;
pub mod daemon;
pub mod database;
pub mod engine;
pub mod filesystem;
pub mod folder;
pub mod galera;
pub mod http;
pub mod network;
pub mod podman;
pub mod process;
pub mod program;
pub mod proxy;
pub mod server;

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Result, bail};

/// How often a condition is looked at while waiting.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// The wall clock in unix milliseconds.
#[must_use]
pub fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// Waits until `look` finds something; an error of `look` counts as "not yet" and is told at the end.
///
/// # Errors
/// When nothing was found within `patience`.
pub fn wait_until<T>(what: &str, patience: Duration, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let start = Instant::now();
    loop {
        let last = match look() {
            Ok(Some(found)) => return Ok(found),
            Ok(None) => String::new(),
            Err(error) => format!(": {error:#}"),
        };
        if start.elapsed() > patience {
            bail!("waited {} s in vain for {what}{last}", patience.as_secs());
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// A seed for a test's random choices: `FOREWARN_TEST_SEED`, else the clock. Printed, so that a
/// failing run can be repeated.
#[must_use]
pub fn seed() -> u64 {
    let given = std::env::var("FOREWARN_TEST_SEED").ok().and_then(|text| text.parse().ok());
    let seed = given.unwrap_or_else(|| now_ms().unsigned_abs());
    eprintln!("seed: FOREWARN_TEST_SEED={seed}");
    seed
}

/// How large a torture test is made: `FOREWARN_TORTURE_ROUNDS` (which `make torture` sets), else a few.
#[must_use]
pub fn torture_rounds(few: u64) -> u64 {
    torture().unwrap_or(few)
}

/// The rounds asked for by `make torture`; absent in an everyday run.
#[must_use]
pub fn torture() -> Option<u64> {
    std::env::var("FOREWARN_TORTURE_ROUNDS").ok().and_then(|text| text.parse().ok())
}

/// A small generator for test inputs (splitmix64): the same seed gives the same run everywhere.
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    /// Starts from a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A whole number from `low` to `high`, both included.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.next() % (high - low + 1)
    }

    /// A number from 0 on, below 1.
    pub fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }
}

/// The top of the repository.
#[must_use]
pub fn repository() -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Where a run leaves what is worth looking at afterwards (screenshots, logs); ignored by git.
///
/// # Errors
/// When the folder cannot be made.
pub fn artefacts() -> Result<std::path::PathBuf> {
    let folder = repository().join("out/test");
    std::fs::create_dir_all(&folder)?;
    Ok(folder)
}

/// A TCP port on 127.0.0.1 that nobody listens on now.
///
/// # Errors
/// When no port can be had.
pub fn free_port() -> Result<u16> {
    Ok(std::net::TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}
