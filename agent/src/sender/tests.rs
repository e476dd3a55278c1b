//! Promises of the sender, against a real TLS server on the loopback.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, KeyUsagePurpose};
use rustls::pki_types::PrivateKeyDer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;

const SITE: &str = "site-1.forewarn.internal";
const KEY: &str = "00ff";

/// A certificate authority of a site.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn fingerprint(&self) -> String {
        fingerprint(self.0.der())
    }

    fn trust(&self, version: u64) -> TrustBundle {
        TrustBundle { version, site_name: SITE.to_owned(), ca_pem: vec![self.0.pem()] }
    }

    /// A server's chain for `name`, the authority at its end.
    fn chain(&self, name: &str) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let key = KeyPair::generate().unwrap();
        let leaf = CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, &self.0).unwrap();
        (vec![leaf.der().clone(), self.0.der().clone()], PrivateKeyDer::try_from(key.serialize_der()).unwrap())
    }

    fn token(&self) -> String {
        EnrollToken { secret: "s3cret".to_owned(), ca_sha256: self.fingerprint() }.encode()
    }
}

type Requests = Rc<RefCell<Vec<String>>>;

/// A server that gives its answers in turn and remembers the requests. It runs on the test's own thread.
struct TestServer {
    url: String,
    requests: Requests,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for TestServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(
    chain: (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>),
    answers: &[(u16, &str, String)],
) -> TestServer {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    let config = rustls::ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain.0, chain.1)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let requests: Requests = Rc::default();
    let mut answers: VecDeque<_> =
        answers.iter().map(|(status, head, body)| (*status, (*head).to_owned(), body.clone())).collect();
    let seen = Rc::clone(&requests);
    let task = tokio::task::spawn_local(async move {
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            let Ok(mut stream) = acceptor.accept(socket).await else { continue };
            let mut text = Vec::new();
            let mut chunk = [0; 4096];
            while !is_whole(&text) {
                match stream.read(&mut chunk).await {
                    Ok(got) if got > 0 => text.extend_from_slice(&chunk[..got]),
                    _ => break,
                }
            }
            seen.borrow_mut().push(String::from_utf8_lossy(&text).into_owned());
            let (status, head, body) = answers.pop_front().unwrap_or((500, String::new(), "no answer left".to_owned()));
            let reply = format!(
                "HTTP/1.1 {status} X\r\nconnection: close\r\n{head}content-length: {}\r\n\r\n{body}",
                body.len()
            );
            let _ = stream.write_all(reply.as_bytes()).await;
            let _ = stream.shutdown().await;
        }
    });
    TestServer { url, requests, task }
}

fn is_whole(request: &[u8]) -> bool {
    let text = String::from_utf8_lossy(request);
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
    body.len() >= length.unwrap_or(0)
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, test);
}

fn enrolled(trust: TrustBundle) -> String {
    serde_json::to_string(&EnrollReply { host: HostId([5; 16]), key: KEY.to_owned(), trust }).unwrap()
}

fn identity(trust: TrustBundle) -> Identity {
    Identity { host: HostId([5; 16]), key: KEY.to_owned(), trust }
}

fn link(server: &TestServer, trust: TrustBundle) -> Link {
    Link::new(identity(trust), std::slice::from_ref(&server.url), "").unwrap()
}

#[test]
fn enrolment_pins_the_authority_of_the_token_and_keeps_what_it_gets() {
    run(async {
        let site = Authority::new();
        // The name on the certificate is not known yet, and 127.0.0.1 is dialled.
        let server = serve(site.chain(SITE), &[(200, "", enrolled(site.trust(1)))]).await;
        let urls = ["https://127.0.0.1:1".to_owned(), server.url.clone()];
        let got = enroll(&urls, "", &site.token(), None, "plant-3").await.unwrap();
        assert_eq!(got, identity(site.trust(1)));
        let request = server.requests.borrow()[0].clone();
        assert!(
            request.starts_with("POST /agent/v1/enroll ") && request.contains("\"hostname\":\"plant-3\""),
            "{request}"
        );
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Identity::load(dir.path()).unwrap(), None);
        got.save(dir.path()).unwrap();
        assert_eq!(Identity::load(dir.path()).unwrap(), Some(got.clone()));
        let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(dir.path().join(IDENTITY_FILE)).unwrap());
        assert_eq!(mode & 0o777, 0o600);
        assert!(!format!("{got:?}").contains(KEY), "a key is never printed");
    });
}

#[test]
fn enrolment_with_another_authority_sends_nothing() {
    run(async {
        let (site, impostor) = (Authority::new(), Authority::new());
        let server = serve(impostor.chain(SITE), &[(200, "", enrolled(impostor.trust(1)))]).await;
        let error =
            enroll(std::slice::from_ref(&server.url), "", &site.token(), None, "h").await.unwrap_err().to_string();
        assert!(error.contains("cannot be reached") && error.contains("UnknownIssuer"), "{error}");
        assert!(server.requests.borrow().is_empty(), "the secret must not leave");
    });
}

#[test]
fn a_chain_that_only_shows_the_pinned_authority_is_refused() {
    run(async {
        let (site, impostor) = (Authority::new(), Authority::new());
        // The impostor knows the public certificate and puts it beside its own leaf.
        let (mut chain, key) = impostor.chain(SITE);
        chain.push(site.0.der().clone());
        let server = serve((chain, key), &[(200, "", enrolled(impostor.trust(1)))]).await;
        let error =
            enroll(std::slice::from_ref(&server.url), "", &site.token(), None, "h").await.unwrap_err().to_string();
        assert!(error.contains("invalid peer certificate"), "{error}");
        assert!(server.requests.borrow().is_empty());
    });
}

#[test]
fn a_refused_or_malformed_token_is_said_in_words() {
    run(async {
        let site = Authority::new();
        let refusal = serde_json::json!({ "error": "bad_token", "detail": "the token has expired" }).to_string();
        let server = serve(site.chain(SITE), &[(401, "", refusal)]).await;
        let urls = std::slice::from_ref(&server.url);
        let error = enroll(urls, "", &site.token(), None, "h").await.unwrap_err().to_string();
        assert!(error.contains("401") && error.contains("the token has expired (bad_token)"), "{error}");
        let error = enroll(urls, "", "fwt1.nonsense", None, "h").await.unwrap_err().to_string();
        assert!(error.starts_with("the enrolment token is malformed"), "{error}");
        assert!(matches!(enroll(&[], "", &site.token(), None, "h").await, Err(SenderError::NoServer)));
    });
}

#[test]
fn a_push_verifies_the_site_name_whatever_address_it_dials() {
    run(async {
        let site = Authority::new();
        let reply = serde_json::to_string(&PushReply { now_ms: 7, config_version: 3, ..PushReply::default() }).unwrap();
        let server = serve(site.chain(SITE), &[(200, "", reply)]).await;
        let outcome = link(&server, site.trust(1)).push(b"block".to_vec(), (12, 34)).await;
        assert!(matches!(outcome, Outcome::Stored(PushReply { now_ms: 7, config_version: 3, .. })), "{outcome:?}");
        let request = server.requests.borrow()[0].to_ascii_lowercase();
        let bearer = format!("authorization: bearer {}:{KEY}", HostId([5; 16]));
        for line in [
            "post /agent/v1/blocks http/1.1",
            &bearer,
            "forewarn-sent: 12,34",
            "content-type: application/vnd.forewarn.block",
        ] {
            assert!(request.contains(line), "{request} lacks {line}");
        }
        assert!(request.ends_with("block"));
    });
}

#[test]
fn a_certificate_for_another_name_or_of_another_authority_gets_no_key() {
    run(async {
        let (site, impostor) = (Authority::new(), Authority::new());
        for (chain, words) in [(site.chain("127.0.0.1"), "not valid for name"), (impostor.chain(SITE), "certificate")] {
            let server = serve(chain, &[(200, "", "{}".to_owned())]).await;
            let Outcome::Failed(detail) = link(&server, site.trust(1)).push(b"block".to_vec(), (1, 2)).await else {
                panic!("a push went through");
            };
            assert!(detail.contains(words), "{detail}");
            assert!(server.requests.borrow().is_empty(), "the key must not leave");
        }
    });
}

#[test]
fn old_and_new_authority_overlap_and_a_newer_bundle_replaces_both() {
    run(async {
        let (old, new) = (Authority::new(), Authority::new());
        let both = TrustBundle { version: 2, site_name: SITE.to_owned(), ca_pem: vec![old.0.pem(), new.0.pem()] };
        let server = serve(new.chain(SITE), &[(200, "", "{}".to_owned()), (200, "", "{}".to_owned())]).await;
        let mut link = link(&server, old.trust(1));
        assert!(matches!(link.push(Vec::new(), (1, 2)).await, Outcome::Failed(_)));
        assert!(link.renew_trust(&both).unwrap());
        assert!(matches!(link.push(Vec::new(), (1, 2)).await, Outcome::Stored(_)));
        assert!(!link.renew_trust(&old.trust(1)).unwrap(), "an older bundle is ignored");
        let broken = TrustBundle { version: 3, ca_pem: vec!["nonsense".to_owned()], ..both };
        assert!(link.renew_trust(&broken).is_err());
        assert!(matches!(link.push(Vec::new(), (1, 2)).await, Outcome::Stored(_)), "a broken bundle changes nothing");
    });
}

#[test]
fn each_answer_of_the_server_has_its_consequence() {
    run(async {
        let site = Authority::new();
        let long = "x".repeat(300 << 10);
        let answers = [
            (429, "retry-after: 17\r\n", String::new()),
            (503, "", String::new()),
            (401, "", "{\"error\":\"unknown_key\",\"detail\":\"enrol again\"}".to_owned()),
            (413, "", String::new()),
            (400, "", String::new()),
            (404, "", String::new()),
            (500, "", String::new()),
            (302, "location: https://127.0.0.1:1/\r\n", String::new()),
            (200, "", long),
            (429, "retry-after: 999999\r\n", String::new()),
        ];
        let server = serve(site.chain(SITE), &answers).await;
        let link = link(&server, site.trust(1));
        let mut outcomes = Vec::new();
        for _ in &answers {
            outcomes.push(link.push(Vec::new(), (1, 2)).await);
        }
        assert_eq!(outcomes[0], Outcome::Busy { retry_after_ms: Some(17_000) });
        assert_eq!(outcomes[1], Outcome::Busy { retry_after_ms: None });
        assert!(matches!(&outcomes[2], Outcome::Unauthorized(text) if text.contains("enrol again (unknown_key)")));
        assert!(matches!(outcomes[3], Outcome::Refused(_)) && matches!(outcomes[4], Outcome::Refused(_)));
        // A wrong address must not cost a block.
        for outcome in &outcomes[5..9] {
            assert!(matches!(outcome, Outcome::Failed(_)), "{outcome:?}");
        }
        assert_eq!(outcomes[9], Outcome::Busy { retry_after_ms: Some(RETRY_AFTER_MS_MAX) });
    });
}

#[test]
fn the_configuration_is_fetched_with_the_key() {
    run(async {
        let site = Authority::new();
        let config = AgentConfig {
            version: 4,
            keywords: Vec::new(),
            exclude: Vec::new(),
            samples_a_day_max: None,
            trust: site.trust(1),
        };
        let server = serve(site.chain(SITE), &[(200, "", serde_json::to_string(&config).unwrap())]).await;
        let mut link =
            Link::new(identity(site.trust(1)), &["https://127.0.0.1:1".to_owned(), server.url.clone()], "").unwrap();
        assert!(link.config().await.is_err());
        link.fail_over(0);
        assert_eq!(link.config().await.unwrap(), config);
        assert!(server.requests.borrow()[0].contains("GET /agent/v1/config"));
    });
}

#[test]
fn another_server_is_gone_to_after_a_failure_and_the_first_again_after_a_while() {
    run(async {
        let site = Authority::new();
        let urls: Vec<String> = ["a", "b", "c"].map(|name| format!("https://{name}:1")).to_vec();
        let mut link = Link::new(identity(site.trust(1)), &urls, "").unwrap();
        let at = |link: &Link| urls[link.current].clone();
        link.come_home(AWAY_MS);
        assert_eq!(at(&link), "https://a:1");
        link.fail_over(1000);
        link.fail_over(5000);
        link.come_home(AWAY_MS + 999);
        assert_eq!(at(&link), "https://c:1");
        link.come_home(AWAY_MS + 1000);
        assert_eq!(at(&link), "https://a:1");
        link.fail_over(2 * AWAY_MS);
        link.come_home(2 * AWAY_MS + 1);
        assert_eq!(at(&link), "https://b:1", "it is not there yet: it is left alone for as long again");
        link.fail_over(0);
        link.fail_over(0);
        link.come_home(10 * AWAY_MS);
        assert_eq!(at(&link), "https://a:1");
    });
}

#[test]
fn pauses_grow_with_failures_are_spread_and_end_with_success() {
    let failed = Outcome::Failed(String::new());
    let mut pacing = Pacing::default();
    let mut longest = 0;
    for round in 0..20_u32 {
        pacing.note(&failed, 0, u64::from(round) * 7919);
        let full = (RETRY_MS_MIN << round.min(10)).min(RETRY_MS_MAX);
        assert!((full / 2..=full).contains(&pacing.not_before_ms()), "round {round}: {}", pacing.not_before_ms());
        longest = longest.max(pacing.not_before_ms());
    }
    assert!(pacing.is_failing() && longest > RETRY_MS_MAX / 2);
    pacing.spread(0, 1_000_000, 999_999);
    assert!(pacing.not_before_ms() <= RETRY_MS_MAX, "spreading never lengthens a retry");
    pacing.note(&Outcome::Stored(PushReply::default()), 5, 0);
    assert_eq!((pacing.is_failing(), pacing.not_before_ms()), (false, 5 + BACKLOG_GAP_MS));
    pacing.note(&Outcome::Busy { retry_after_ms: Some(17_000) }, 0, u64::MAX);
    assert!(pacing.not_before_ms() >= 17_000, "the server's wish is honoured");
    pacing.note(&Outcome::Unauthorized(String::new()), 0, 0);
    assert!(pacing.not_before_ms() >= RETRY_MS_MAX / 2);
}

#[test]
fn a_damaged_identity_is_refused_with_its_file_name() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join(IDENTITY_FILE), "{").unwrap();
    let message = Identity::load(dir.path()).unwrap_err().to_string();
    assert!(message.contains("identity.json") && message.contains("enrol again"), "{message}");
}
