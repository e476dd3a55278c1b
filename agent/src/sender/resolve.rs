//! Finds the addresses of a server's name: the hosts file, then the name servers of `resolv.conf`.
//!
//! Small on purpose, a stub that asks a recursive server and keeps nothing. Never through `getaddrinfo`: a static
//! program would load the name modules of whatever system it runs on.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use super::random;

/// How long one name server may take.
const ANSWER_PATIENCE: Duration = Duration::from_secs(2);
/// As many as the system's own resolver asks.
const NAME_SERVERS_MAX: usize = 3;
const SEARCH_DOMAINS_MAX: usize = 6;
/// A name with fewer dots is first tried below the search domains.
const DOTS_DEFAULT: usize = 1;
const NAME_BYTES_MAX: usize = 253;
const LABEL_BYTES_MAX: usize = 63;
/// Without extensions no answer by UDP is longer; one by TCP has two bytes for its length.
const UDP_BYTES_MAX: usize = 512;
const HEADER_BYTES: usize = 12;
const TYPE_A: u16 = 1;
const TYPE_AAAA: u16 = 28;
const CLASS_IN: u16 = 1;
/// More addresses than this are not tried anyway.
const ADDRESSES_MAX: usize = 16;

/// Why a name has no address.
#[derive(Debug, thiserror::Error)]
enum ResolveError {
    #[error("{0:?} is no host name")]
    Name(String),
    #[error("no name server knows {0}: check its spelling, or name the server by address")]
    Unknown(String),
    #[error("no name server answered about {0}: check /etc/resolv.conf, or name the server by address")]
    Silent(String),
}

/// Where names are looked up.
#[derive(Debug, Clone)]
pub(super) struct Resolver {
    hosts: PathBuf,
    configuration: PathBuf,
    port: u16,
}

impl Resolver {
    /// As the system says in `/etc`.
    #[must_use]
    pub(super) fn of_system() -> Self {
        Self { hosts: "/etc/hosts".into(), configuration: "/etc/resolv.conf".into(), port: 53 }
    }

    async fn look_up(&self, name: &str) -> Result<Vec<IpAddr>, ResolveError> {
        // Both files are read anew each time: a site that mends them need not restart the agent.
        let read = |path: &PathBuf| std::fs::read_to_string(path).unwrap_or_default();
        let listed = in_hosts(&read(&self.hosts), name);
        if !listed.is_empty() {
            return Ok(listed);
        }
        let configuration = Configuration::parse(&read(&self.configuration));
        let mut was_answered = false;
        for full in configuration.candidates(name) {
            let questions = [TYPE_A, TYPE_AAAA].map(|kind| question(random(), &full, kind));
            let [Some(four), Some(six)] = questions else { return Err(ResolveError::Name(name.to_owned())) };
            for server in &configuration.servers {
                let server = SocketAddr::new(*server, self.port);
                let (four, six) = tokio::join!(ask(server, &four), ask(server, &six));
                let is_sure = four.is_some() || six.is_some();
                let found: Vec<IpAddr> = four.into_iter().chain(six).flatten().take(ADDRESSES_MAX).collect();
                if !found.is_empty() {
                    return Ok(found);
                }
                was_answered |= is_sure;
                if is_sure {
                    break;
                }
            }
        }
        Err(if was_answered { ResolveError::Unknown(name.to_owned()) } else { ResolveError::Silent(name.to_owned()) })
    }
}

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let resolver = self.clone();
        Box::pin(async move {
            let found = resolver.look_up(name.as_str()).await?;
            Ok(Box::new(found.into_iter().map(|address| SocketAddr::new(address, 0))) as Addrs)
        })
    }
}

fn in_hosts(text: &str, name: &str) -> Vec<IpAddr> {
    let name = name.trim_end_matches('.');
    let listed = text.lines().filter_map(|line| {
        let mut words = line.split('#').next()?.split_whitespace();
        let address = words.next()?.parse().ok()?;
        words.any(|word| word.eq_ignore_ascii_case(name)).then_some(address)
    });
    let mut listed: Vec<IpAddr> = listed.take(ADDRESSES_MAX).collect();
    if listed.is_empty() && name.eq_ignore_ascii_case("localhost") {
        listed = vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    }
    listed
}

/// What `resolv.conf` says.
#[derive(Debug, PartialEq, Eq)]
struct Configuration {
    servers: Vec<IpAddr>,
    search: Vec<String>,
    dots: usize,
}

impl Configuration {
    fn parse(text: &str) -> Self {
        let mut parsed = Self { servers: Vec::new(), search: Vec::new(), dots: DOTS_DEFAULT };
        for line in text.lines() {
            let mut words = line.split(['#', ';']).next().unwrap_or_default().split_whitespace();
            match words.next() {
                Some("nameserver") => parsed.servers.extend(words.next().and_then(|word| word.parse::<IpAddr>().ok())),
                // The last of these lines counts.
                Some("search" | "domain") => {
                    parsed.search = words.take(SEARCH_DOMAINS_MAX).map(str::to_owned).collect();
                }
                Some("options") => {
                    let dots = words.find_map(|word| word.strip_prefix("ndots:")?.parse().ok());
                    parsed.dots = dots.unwrap_or(parsed.dots);
                }
                _ => {}
            }
        }
        parsed.servers.truncate(NAME_SERVERS_MAX);
        if parsed.servers.is_empty() {
            parsed.servers.push(Ipv4Addr::LOCALHOST.into());
        }
        parsed
    }

    /// The full names to ask for, in order.
    fn candidates(&self, name: &str) -> Vec<String> {
        if let Some(full) = name.strip_suffix('.') {
            return vec![full.to_owned()];
        }
        let mut names: Vec<String> =
            self.search.iter().map(|domain| format!("{name}.{}", domain.trim_matches('.'))).collect();
        let at = if name.matches('.').count() >= self.dots { 0 } else { names.len() };
        names.insert(at, name.to_owned());
        names
    }
}

/// A query for one kind of address; `None` where the name is none.
fn question(random: u64, name: &str, kind: u16) -> Option<Vec<u8>> {
    if name.is_empty() || name.len() > NAME_BYTES_MAX {
        return None;
    }
    let [first, second, ..] = random.to_be_bytes();
    // Recursion desired, one question.
    let mut packet = vec![first, second, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        let len = u8::try_from(label.len()).ok().filter(|len| (1..=LABEL_BYTES_MAX).contains(&usize::from(*len)))?;
        packet.push(len);
        packet.extend_from_slice(label.as_bytes());
    }
    packet.push(0);
    packet.extend_from_slice(&kind.to_be_bytes());
    packet.extend_from_slice(&CLASS_IN.to_be_bytes());
    Some(packet)
}

/// Asks one name server. `None` when it does not answer or cannot; an empty list when the name has no such address.
async fn ask(server: SocketAddr, question: &[u8]) -> Option<Vec<IpAddr>> {
    match timeout(ANSWER_PATIENCE, ask_udp(server, question)).await.ok()?? {
        Answer::Addresses(found) => Some(found),
        Answer::Truncated => timeout(ANSWER_PATIENCE, ask_tcp(server, question)).await.ok()?,
    }
}

async fn ask_udp(server: SocketAddr, question: &[u8]) -> Option<Answer> {
    let any: IpAddr = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).await.ok()?;
    // Connected: answers from elsewhere never arrive.
    socket.connect(server).await.ok()?;
    socket.send(question).await.ok()?;
    let mut room = [0; UDP_BYTES_MAX];
    loop {
        let len = socket.recv(&mut room).await.ok()?;
        let packet = room.get(..len)?;
        // What is no answer to this question is no reason to stop waiting for one.
        if is_reply(packet, question) {
            return read_answer(packet);
        }
    }
}

async fn ask_tcp(server: SocketAddr, question: &[u8]) -> Option<Vec<IpAddr>> {
    let mut stream = TcpStream::connect(server).await.ok()?;
    let mut framed = u16::try_from(question.len()).ok()?.to_be_bytes().to_vec();
    framed.extend_from_slice(question);
    stream.write_all(&framed).await.ok()?;
    let len = stream.read_u16().await.ok()?;
    let mut packet = vec![0; usize::from(len)];
    stream.read_exact(&mut packet).await.ok()?;
    match read_answer(&packet).filter(|_| is_reply(&packet, question))? {
        Answer::Addresses(found) => Some(found),
        Answer::Truncated => None,
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Addresses(Vec<IpAddr>),
    /// It does not fit: to be asked for again by TCP.
    Truncated,
}

/// Whether a packet is a reply to this very question: same number, marked as reply, same name and kind.
fn is_reply(packet: &[u8], question: &[u8]) -> bool {
    let asked = question.get(HEADER_BYTES..).unwrap_or_default();
    packet.get(..2) == question.get(..2)
        && packet.get(2).is_some_and(|flags| flags & 0x80 != 0)
        && packet.get(HEADER_BYTES..HEADER_BYTES + asked.len()).is_some_and(|said| said.eq_ignore_ascii_case(asked))
}

/// The addresses in a reply. `None` when the server failed or the packet is damaged.
fn read_answer(packet: &[u8]) -> Option<Answer> {
    const NO_ERROR: u8 = 0;
    const NO_SUCH_NAME: u8 = 3;
    let number = |at: usize| Some(u16::from_be_bytes([*packet.get(at)?, *packet.get(at + 1)?]));
    if packet.get(2)? & 0x02 != 0 {
        return Some(Answer::Truncated);
    }
    match packet.get(3)? & 0x0f {
        NO_ERROR => {}
        NO_SUCH_NAME => return Some(Answer::Addresses(Vec::new())),
        _ => return None,
    }
    let (questions, records) = (number(4)?, number(6)?);
    let mut at = HEADER_BYTES;
    for _ in 0..questions {
        at = skip_name(packet, at)? + 4;
    }
    let mut found = Vec::new();
    for _ in 0..records {
        at = skip_name(packet, at)?;
        let (kind, len) = (number(at)?, usize::from(number(at + 8)?));
        let data = packet.get(at + 10..at + 10 + len)?;
        // A recursive server sends the chain of aliases with its end: the addresses are what counts.
        match kind {
            TYPE_A => found.push(IpAddr::from(<[u8; 4]>::try_from(data).ok()?)),
            TYPE_AAAA => found.push(IpAddr::from(<[u8; 16]>::try_from(data).ok()?)),
            _ => {}
        }
        at += 10 + len;
    }
    Some(Answer::Addresses(found))
}

/// Where the name that begins at `at` ends; a pointer to elsewhere ends it.
fn skip_name(packet: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *packet.get(at)? {
            0 => return Some(at + 1),
            len if len & 0xc0 == 0xc0 => return Some(at + 2),
            len => at += 1 + usize::from(len),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    /// A reply to `question` with these records; `flags` as its second pair of bytes.
    fn reply(question: &[u8], flags: [u8; 2], records: &[(u16, Vec<u8>)]) -> Vec<u8> {
        let mut packet = question.to_vec();
        packet[2..4].copy_from_slice(&flags);
        packet[7] = records.len() as u8;
        for (kind, data) in records {
            packet.extend([0xc0, 12]);
            packet.extend(kind.to_be_bytes());
            packet.extend([0, 1, 0, 0, 0, 60]);
            packet.extend((data.len() as u16).to_be_bytes());
            packet.extend(data);
        }
        packet
    }

    /// A name server that knows `fw.site.example` and says so by TCP only where `is_long`.
    async fn name_server(is_long: bool) -> u16 {
        let (udp, tcp) = loop {
            let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            let port = udp.local_addr().unwrap().port();
            if let Ok(tcp) = tokio::net::TcpListener::bind(("127.0.0.1", port)).await {
                break (udp, tcp);
            }
        };
        let port = udp.local_addr().unwrap().port();
        let answer = |question: &[u8]| {
            let is_known = String::from_utf8_lossy(question).contains("\u{2}fw\u{4}site\u{7}example");
            let is_four = question[question.len() - 3] == TYPE_A as u8;
            match (is_known, is_four) {
                (true, true) => reply(question, [0x81, 0x80], &[(5, vec![0]), (TYPE_A, vec![10, 1, 2, 3])]),
                (true, false) => reply(question, [0x81, 0x80], &[]),
                (false, _) => reply(question, [0x81, 0x83], &[]),
            }
        };
        tokio::spawn(async move {
            let mut room = [0; 512];
            while let Ok((len, from)) = udp.recv_from(&mut room).await {
                let question = &room[..len];
                let mut stray = reply(question, [0x81, 0x80], &[(TYPE_A, vec![6, 6, 6, 6])]);
                stray[0] ^= 1;
                udp.send_to(&stray, from).await.unwrap();
                let said = if is_long { reply(question, [0x83, 0x80], &[]) } else { answer(question) };
                udp.send_to(&said, from).await.unwrap();
            }
        });
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = tcp.accept().await {
                let len = stream.read_u16().await.unwrap();
                let mut question = vec![0; usize::from(len)];
                stream.read_exact(&mut question).await.unwrap();
                let said = answer(&question);
                stream.write_u16(said.len() as u16).await.unwrap();
                stream.write_all(&said).await.unwrap();
            }
        });
        port
    }

    fn resolver(dir: &tempfile::TempDir, port: u16, hosts: &str, configuration: &str) -> Resolver {
        let write = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        Resolver { hosts: write("hosts", hosts), configuration: write("resolv.conf", configuration), port }
    }

    #[tokio::test]
    async fn a_name_is_found_by_udp_by_tcp_and_below_a_search_domain() {
        for is_long in [false, true] {
            let port = name_server(is_long).await;
            let dir = tempfile::tempdir().unwrap();
            let resolver = resolver(&dir, port, "", "search other.example site.example\nnameserver 127.0.0.1\n");
            let expected = vec![IpAddr::from([10, 1, 2, 3])];
            for name in ["fw.site.example", "FW", "fw.site.example."] {
                let found = resolver.look_up(&name.to_ascii_lowercase()).await.unwrap();
                assert_eq!(found, expected, "{name}, long {is_long}");
            }
            let error = resolver.look_up("nobody.example").await.unwrap_err().to_string();
            assert!(error.starts_with("no name server knows nobody.example"), "{error}");
        }
    }

    #[tokio::test]
    async fn the_hosts_file_comes_first_and_a_dead_name_server_is_passed_over() {
        let port = name_server(false).await;
        let dir = tempfile::tempdir().unwrap();
        let hosts = "# ours\n10.9.9.9  fw.Plant.example fw # main\n";
        let resolver = resolver(&dir, port, hosts, "nameserver 127.0.0.2\nnameserver 127.0.0.1\n");
        assert_eq!(resolver.look_up("FW").await.unwrap(), [IpAddr::from([10, 9, 9, 9])]);
        assert_eq!(resolver.look_up("fw.site.example").await.unwrap(), [IpAddr::from([10, 1, 2, 3])]);
        assert_eq!(resolver.look_up("localhost").await.unwrap()[0], IpAddr::from([127, 0, 0, 1]));
        assert!(resolver.look_up("a..b").await.unwrap_err().to_string().contains("no host name"));
    }

    #[test]
    fn the_configuration_is_read_as_the_system_reads_it() {
        let parsed = Configuration::parse(
            "domain a\nsearch x.example y.example. # c\noptions edns0 ndots:2\nnameserver ::1\nnameserver bad\n",
        );
        assert_eq!(parsed.servers, ["::1".parse::<IpAddr>().unwrap()]);
        assert_eq!(parsed.candidates("a.b"), ["a.b.x.example", "a.b.y.example", "a.b"]);
        assert_eq!(parsed.candidates("a.b.c")[0], "a.b.c");
        assert_eq!(Configuration::parse("").servers, [IpAddr::from([127, 0, 0, 1])]);
    }

    proptest::proptest! {
        #[test]
        fn damaged_packets_never_panic(packet in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300)) {
            let _ = read_answer(&packet);
            let _ = is_reply(&packet, &packet);
        }
    }
}
