//! A proxy before a database: what goes through it can be held, so that the database seems slow or gone to whoever is
//! connected, while connections stay open.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Result;

/// How often a held connection looks whether it may go on.
const LOOK_EVERY: Duration = Duration::from_millis(10);

#[derive(Debug, Default)]
struct State {
    delay_ms: AtomicU64,
    frozen: AtomicBool,
    stopped: AtomicBool,
}

/// A TCP proxy on a port of its own.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    state: Arc<State>,
}

impl Proxy {
    /// Starts a proxy to a port of this machine.
    ///
    /// # Errors
    /// When no port can be had.
    pub fn to(target: u16) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = listener.local_addr()?.port();
        let state = Arc::<State>::default();
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for near in listener.incoming().flatten() {
                if shared.stopped.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(far) = TcpStream::connect((Ipv4Addr::LOCALHOST, target)) else { continue };
                let (Ok(near_again), Ok(far_again)) = (near.try_clone(), far.try_clone()) else { continue };
                for (from, to) in [(near, far), (far_again, near_again)] {
                    let state = Arc::clone(&shared);
                    std::thread::spawn(move || pump(from, to, &state));
                }
            }
        });
        Ok(Self { port, state })
    }

    /// Where to connect to.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// From now on each piece waits for so long.
    pub fn delay(&self, delay: Duration) {
        self.state.delay_ms.store(delay.as_millis() as u64, Ordering::SeqCst);
    }

    /// Lets nothing through, or everything again.
    pub fn freeze(&self, frozen: bool) {
        self.state.frozen.store(frozen, Ordering::SeqCst);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.state.stopped.store(true, Ordering::SeqCst);
        // Wakes the listener, which then ends.
        _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
    }
}

fn pump(mut from: TcpStream, mut to: TcpStream, state: &State) {
    let mut piece = vec![0; 64 << 10];
    while let Ok(length @ 1..) = from.read(&mut piece) {
        std::thread::sleep(Duration::from_millis(state.delay_ms.load(Ordering::SeqCst)));
        while state.frozen.load(Ordering::SeqCst) && !state.stopped.load(Ordering::SeqCst) {
            std::thread::sleep(LOOK_EVERY);
        }
        if state.stopped.load(Ordering::SeqCst) || to.write_all(&piece[..length]).is_err() {
            break;
        }
    }
    _ = from.shutdown(Shutdown::Both);
    _ = to.shutdown(Shutdown::Both);
}
