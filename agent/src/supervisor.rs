//! Tells the service manager how the agent fares: ready, alive, reloading, stopping (the `sd_notify` protocol).
//!
//! One datagram a word, nothing where no manager asked. It reads no environment and no clock.

use std::ffi::OsStr;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// A sign of life is given this many times in the interval in which one is expected.
const SIGNS_AN_INTERVAL: i64 = 3;

/// What the manager is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Word {
    /// It works, from the first time on or again after a reload.
    Ready,
    /// It takes over new settings.
    Reloading {
        /// `CLOCK_MONOTONIC`, as the protocol asks for it.
        monotonic_us: u64,
    },
    /// The loop turns.
    Alive,
    /// It was asked to stop and does.
    Stopping,
}

/// The way to the manager, if there is one.
#[derive(Debug)]
pub(crate) struct Supervisor {
    manager: Option<(UnixDatagram, SocketAddr)>,
    pause_ms: Option<i64>,
    next_sign_ms: i64,
}

impl Supervisor {
    /// The manager that listens at `socket` and expects a sign of life within `watchdog_ms`. A socket that cannot
    /// be used is said and left alone: the agent works without a manager.
    #[must_use]
    pub(crate) fn new(socket: Option<&OsStr>, watchdog_ms: Option<i64>) -> Self {
        let manager = socket.and_then(|name| match reach(name) {
            Ok(manager) => Some(manager),
            Err(error) => {
                tracing::warn!(%error, "the service manager cannot be told how the agent fares");
                None
            }
        });
        let pause_ms = watchdog_ms.filter(|_| manager.is_some()).map(|ms| (ms / SIGNS_AN_INTERVAL).max(1));
        Self { manager, pause_ms, next_sign_ms: 0 }
    }

    /// Tells the manager.
    pub(crate) fn tell(&self, word: Word) {
        let Some((socket, address)) = &self.manager else { return };
        let text = match word {
            Word::Ready => "READY=1".to_owned(),
            Word::Reloading { monotonic_us } => format!("RELOADING=1\nMONOTONIC_USEC={monotonic_us}"),
            Word::Alive => "WATCHDOG=1".to_owned(),
            Word::Stopping => "STOPPING=1".to_owned(),
        };
        // A manager that went away is no reason to stop.
        let _ = socket.send_to_addr(text.as_bytes(), address);
    }

    /// When the next sign of life is due, `CLOCK_BOOTTIME`; never where none is expected.
    #[must_use]
    pub(crate) fn due_ms(&self) -> i64 {
        if self.pause_ms.is_some() { self.next_sign_ms } else { i64::MAX }
    }

    /// Gives a sign of life if one is due.
    pub(crate) fn show_life(&mut self, boot_ms: i64) {
        if let Some(pause_ms) = self.pause_ms.filter(|_| boot_ms >= self.next_sign_ms) {
            self.next_sign_ms = boot_ms + pause_ms;
            self.tell(Word::Alive);
        }
    }
}

fn reach(name: &OsStr) -> std::io::Result<(UnixDatagram, SocketAddr)> {
    let address = match name.as_bytes().strip_prefix(b"@") {
        Some(abstract_name) => SocketAddr::from_abstract_name(abstract_name)?,
        None => SocketAddr::from_pathname(name)?,
    };
    let socket = UnixDatagram::unbound()?;
    // A manager whose queue is full must not hold up the loop.
    socket.set_nonblocking(true)?;
    Ok((socket, address))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    fn heard(manager: &UnixDatagram) -> Option<String> {
        let mut room = [0; 200];
        manager.set_nonblocking(true).unwrap();
        let len = manager.recv(&mut room).ok()?;
        Some(String::from_utf8_lossy(&room[..len]).into_owned())
    }

    #[test]
    fn a_sign_of_life_is_given_three_times_an_interval() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        let mut supervisor = Supervisor::new(Some(path.as_os_str()), Some(30_000));
        supervisor.tell(Word::Ready);
        assert_eq!(heard(&manager).unwrap(), "READY=1");
        supervisor.show_life(1_000);
        assert_eq!(heard(&manager).unwrap(), "WATCHDOG=1");
        assert_eq!(supervisor.due_ms(), 11_000);
        supervisor.show_life(10_999);
        assert_eq!(heard(&manager), None);
        supervisor.show_life(11_000);
        assert_eq!(heard(&manager).unwrap(), "WATCHDOG=1");
        supervisor.tell(Word::Reloading { monotonic_us: 5 });
        assert_eq!(heard(&manager).unwrap(), "RELOADING=1\nMONOTONIC_USEC=5");
    }

    #[test]
    fn abstract_sockets_are_reached_and_missing_ones_harm_nobody() {
        let name = format!("forewarn-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(name.as_bytes()).unwrap();
        let manager = UnixDatagram::bind_addr(&address).unwrap();
        Supervisor::new(Some(OsStr::new(&format!("@{name}"))), None).tell(Word::Stopping);
        assert_eq!(heard(&manager).unwrap(), "STOPPING=1");

        let mut alone = Supervisor::new(None, Some(3_000));
        alone.show_life(0);
        assert_eq!(alone.due_ms(), i64::MAX, "nobody waits for a sign");
        Supervisor::new(Some(OsStr::new("/nonexistent/notify")), Some(3_000)).tell(Word::Ready);
    }
}
