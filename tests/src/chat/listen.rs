//! The room's door: a listener on loopback and a thread for each connection, one request each.
//! It speaks just enough HTTP/1.1 for a client that posts a body of a known length.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::robot::{Request, answer_body, judge};
use super::{Fault, Shared};
use crate::now_ms;

/// A request line with headers is never longer.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// A body is never longer; the robots' own limits are far below.
const BODY_BYTES_MAX: usize = 1024 * 1024;
/// A client that says nothing for this long is given up.
const READ_PATIENCE: Duration = Duration::from_secs(10);

/// An open port, closed with the value.
#[derive(Debug)]
pub(super) struct Listener {
    address: SocketAddr,
    closing: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Listener {
    pub(super) fn start(shared: Arc<Shared>) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let address = listener.local_addr()?;
        let closing = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&closing);
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if seen.load(Ordering::SeqCst) {
                    break;
                }
                let Ok(stream) = stream else { continue };
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || {
                    if let Err(error) = answer(stream, &shared) {
                        eprintln!("the chat room dropped a request: {error:#}");
                    }
                });
            }
        });
        Ok(Self { address, closing, thread: Some(thread) })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.closing.store(true, Ordering::SeqCst);
        // Wakes the accepting thread so that it sees the flag.
        _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            _ = thread.join();
        }
    }
}

fn answer(mut stream: TcpStream, shared: &Shared) -> Result<()> {
    if shared.state().down {
        return Ok(());
    }
    stream.set_read_timeout(Some(READ_PATIENCE))?;
    let request = read_request(&mut stream)?;
    let fault = shared.state().faults.pop_front();
    let (mut message, mut reply) = judge(shared, request);
    let mut status = 200;
    match &fault {
        Some(Fault::Errcode(errcode)) => {
            message.errcode = *errcode;
            reply = answer_body(message.robot, *errcode, "ordered by the test");
        }
        Some(Fault::Status(ordered)) => {
            message.errcode = -1;
            status = *ordered;
            reply = "<html>ordered by the test</html>".to_owned();
        }
        Some(Fault::Hangup) => message.errcode = -1,
        Some(Fault::DeliverThenHangup | Fault::Slow(_)) | None => {}
    }
    shared.state().messages.push(message);
    match fault {
        Some(Fault::Hangup | Fault::DeliverThenHangup) => return Ok(()),
        Some(Fault::Slow(delay)) => std::thread::sleep(delay),
        _ => {}
    }
    let kind = if status == 200 { "application/json" } else { "text/html" };
    let head = format!(
        "HTTP/1.1 {status} Answer\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        reply.len()
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(reply.as_bytes())?;
    Ok(())
}

fn read_request(stream: &mut TcpStream) -> Result<Request> {
    let mut bytes = Vec::new();
    let mut chunk = [0_u8; 4096];
    let head_end = loop {
        if let Some(at) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
            break at + 4;
        }
        ensure!(bytes.len() < HEAD_BYTES_MAX, "the request head is too long");
        let read = stream.read(&mut chunk)?;
        ensure!(read > 0, "the client went away");
        bytes.extend_from_slice(&chunk[..read]);
    };
    let head = std::str::from_utf8(&bytes[..head_end])?.to_owned();
    let mut lines = head.lines();
    let mut first = lines.next().context("no request line")?.split(' ');
    ensure!(first.next() == Some("POST"), "a robot takes POST only");
    let target = first.next().context("no path")?.to_owned();
    let header = |line: &str| line.split_once(':').map(|(name, value)| (name.to_lowercase(), value.trim().to_owned()));
    let headers: Vec<(String, String)> = lines.filter_map(header).collect();
    let length = headers.iter().find(|(name, _)| name == "content-length").map(|(_, value)| value.parse::<usize>());
    let length = length.context("a robot wants content-length")??;
    ensure!(length <= BODY_BYTES_MAX, "the body is too long");
    let mut body = bytes.split_off(head_end);
    while body.len() < length {
        let read = stream.read(&mut chunk)?;
        ensure!(read > 0, "the client went away in the body");
        body.extend_from_slice(&chunk[..read]);
    }
    body.truncate(length);
    Ok(Request { target, headers, body, received_at_ms: now_ms() })
}
