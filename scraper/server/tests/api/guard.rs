//! The listener against real clients: TLS of every kind, passwords, limits, and clients that are slow on purpose.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::routing::{get, post};
use narthex_runtime::Shutdown;
use narthex_server::listen::{ListenOptions, serve};
use narthex_server::web_config::Live;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// How long something that has to happen may take.
const SOON: Duration = Duration::from_secs(20);

/// Counts bodies that are being sent.
static OPEN: AtomicUsize = AtomicUsize::new(0);

struct Endless;

impl Drop for Endless {
    fn drop(&mut self) {
        OPEN.fetch_sub(1, Ordering::SeqCst);
    }
}

fn router() -> Router {
    let endless = || async {
        OPEN.fetch_add(1, Ordering::SeqCst);
        Body::from_stream(futures::stream::unfold(Endless, |e| async move {
            Some((Ok::<_, std::convert::Infallible>(Bytes::from(vec![b'x'; 64 << 10])), e))
        }))
    };
    let count = |body: Result<Bytes, _>| async move {
        body.map_or_else(|e: axum::extract::rejection::BytesRejection| e.to_string(), |b| b.len().to_string())
    };
    Router::new().route("/", get(|| async { "hello" })).route("/endless", get(endless)).route("/count", post(count))
}

struct Server {
    address: std::net::SocketAddr,
    folder: PathBuf,
    shutdown: Shutdown,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shutdown.request();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

async fn start(options: ListenOptions, web_config: Option<&str>, files: &[(&str, &str)]) -> Server {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let name = format!("narthex-guard-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::SeqCst));
    let folder = std::env::temp_dir().join(name);
    std::fs::create_dir_all(&folder).unwrap();
    for (name, content) in files {
        std::fs::write(folder.join(name), content).unwrap();
    }
    let live = web_config.map(|yaml| {
        std::fs::write(folder.join("web.yml"), yaml).unwrap();
        Arc::new(Live::open(&folder.join("web.yml")).unwrap())
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let shutdown = Shutdown::new();
    let counts = narthex_server::metrics::HttpMetrics::new(&narthex_runtime::Registry::new()).connections;
    tokio::spawn(serve(vec![listener.into_std().unwrap()], router(), options, live, counts, shutdown.clone()));
    Server { address, folder, shutdown }
}

/// Sends and reads until the server closes.
async fn exchange(mut stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin, request: &str) -> String {
    let mut out = Vec::new();
    if stream.write_all(request.as_bytes()).await.is_ok() {
        let _ = tokio::time::timeout(SOON, stream.read_to_end(&mut out)).await.expect("the server goes on");
    }
    String::from_utf8_lossy(&out).into_owned()
}

async fn plain(server: &Server, request: &str) -> String {
    exchange(TcpStream::connect(server.address).await.unwrap(), request).await
}

fn get_with(headers: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n{headers}\r\n")
}

/// A certificate authority and what it signs.
struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new(name: &str) -> Authority {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        Authority { pem, issuer: Issuer::new(params, key) }
    }

    /// Certificate and key.
    fn sign(&self, name: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let cert = CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, &self.issuer).unwrap();
        (cert.pem(), key.serialize_pem())
    }
}

fn chain(pem: &str) -> Vec<CertificateDer<'static>> {
    rustls_pemfile::certs(&mut pem.as_bytes()).map(Result::unwrap).collect()
}

fn key(pem: &str) -> PrivateKeyDer<'static> {
    rustls_pemfile::private_key(&mut pem.as_bytes()).unwrap().unwrap()
}

struct Client<'a> {
    ca: &'a str,
    identity: Option<&'a (String, String)>,
    versions: &'a [&'static rustls::SupportedProtocolVersion],
    alpn: &'a [&'a str],
}

impl Client<'_> {
    /// What a GET gives, with the protocol that was chosen; or why there is no answer.
    async fn ask(&self, server: &Server) -> Result<(String, String), String> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add_parsable_certificates(chain(self.ca));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(self.versions)
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match self.identity {
            Some((cert, k)) => builder.with_client_auth_cert(chain(cert), key(k)).unwrap(),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = self.alpn.iter().map(|p| p.as_bytes().to_vec()).collect();
        let stream = TcpStream::connect(server.address).await.unwrap();
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let name = ServerName::try_from("localhost").unwrap();
        let stream = connector.connect(name, stream).await.map_err(|e| e.to_string())?;
        // Clients prefer the longer key.
        let suite = stream.get_ref().1.negotiated_cipher_suite().unwrap().suite();
        assert!(format!("{suite:?}").contains("AES_128_GCM"), "{suite:?}");
        let chosen = stream.get_ref().1.alpn_protocol().map_or(String::new(), |p| String::from_utf8_lossy(p).into());
        let io = hyper_util::rt::TokioIo::new(stream);
        let request = http::Request::get("https://localhost/").header("host", "localhost");
        let request = request.body(http_body_util::Empty::<Bytes>::new()).unwrap();
        let failed = |e: hyper::Error| format!("{e}: {:?}", std::error::Error::source(&e).map(ToString::to_string));
        let response = if chosen == "h2" {
            let (mut send, connection) =
                hyper::client::conn::http2::handshake(hyper_util::rt::TokioExecutor::new(), io)
                    .await
                    .map_err(failed)?;
            tokio::spawn(connection);
            send.send_request(request).await.map_err(failed)?
        } else {
            let (mut send, connection) = hyper::client::conn::http1::handshake(io).await.map_err(failed)?;
            tokio::spawn(connection);
            send.send_request(request).await.map_err(failed)?
        };
        Ok((chosen, response.status().as_u16().to_string()))
    }
}

const TLS: &str = "tls_server_config:\n  cert_file: s.pem\n  key_file: s.key\n";
const BOTH: &[&rustls::SupportedProtocolVersion] = &[&rustls::version::TLS12, &rustls::version::TLS13];
const ONLY_12: &[&rustls::SupportedProtocolVersion] = &[&rustls::version::TLS12];
const ONLY_13: &[&rustls::SupportedProtocolVersion] = &[&rustls::version::TLS13];

#[tokio::test]
async fn tls_as_the_file_says() {
    let (ours, others) = (Authority::new("ours"), Authority::new("others"));
    let (cert, key) = ours.sign("localhost");
    let (good, stranger) = (ours.sign("client.example"), others.sign("client.example"));
    let files = [("s.pem", cert.as_str()), ("s.key", &key), ("ca.pem", &ours.pem)];
    let inline = |pem: &str| pem.trim_end().replace('\n', "\n    ");
    let inline = format!("tls_server_config:\n  cert: |\n    {}\n  key: |\n    {}\n", inline(&cert), inline(&key));
    let policy = |kind: &str, more: &str| format!("{TLS}  client_auth_type: {kind}\n{more}");
    let ca = "  client_ca_file: ca.pem\n";
    let (none, ours_shown, theirs) = (None, Some(&good), Some(&stranger));
    let h2 = ["h2", "http/1.1"];
    for (case, yaml, identity, versions, alpn, expected) in [
        ("plain", TLS.to_owned(), none, BOTH, &[][..], Ok("")),
        ("inline", inline.clone(), none, BOTH, &[], Ok("")),
        ("http/2", TLS.to_owned(), none, BOTH, &h2, Ok("h2")),
        ("http/2 off", format!("{TLS}http_server_config:\n  http2: false\n"), none, BOTH, &h2, Ok("")),
        (
            "http/2 off, nothing else wanted",
            format!("{TLS}http_server_config:\n  http2: false\n"),
            none,
            BOTH,
            &["h2"],
            Ok(""),
        ),
        ("1.2 by default", TLS.to_owned(), none, ONLY_12, &[], Ok("")),
        ("1.3 at least", format!("{TLS}  min_version: TLS13\n"), none, ONLY_12, &[], Err("ProtocolVersion")),
        ("1.2 at most", format!("{TLS}  max_version: TLS12\n"), none, ONLY_13, &[], Err("ProtocolVersion")),
        (
            "a suite that the client lacks",
            format!("{TLS}  max_version: TLS12\n  cipher_suites: [TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256]\n"),
            none,
            ONLY_12,
            &[],
            // The certificate's key is no RSA key.
            Err("HandshakeFailure"),
        ),
        (
            "a suite",
            format!("{TLS}  max_version: TLS12\n  cipher_suites: [TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256]\n"),
            none,
            ONLY_12,
            &[],
            Ok(""),
        ),
        ("a curve", format!("{TLS}  curve_preferences: [CurveP384]\n"), none, BOTH, &[], Ok("")),
        ("asked, none shown", policy("RequestClientCert", ""), none, BOTH, &[], Ok("")),
        ("asked, any shown", policy("RequestClientCert", ""), theirs, BOTH, &[], Ok("")),
        ("any, none shown", policy("RequireAnyClientCert", ""), none, BOTH, &[], Err("CertificateRequired")),
        ("any, none shown, 1.2", policy("RequireAnyClientCert", ""), none, ONLY_12, &[], Err("CertificateRequired")),
        ("any, a stranger", policy("RequireAnyClientCert", ""), theirs, BOTH, &[], Ok("")),
        ("any, old name", policy("RequireClientCert", ca), theirs, ONLY_12, &[], Ok("")),
        ("if given, none shown", policy("VerifyClientCertIfGiven", ca), none, BOTH, &[], Ok("")),
        ("if given, ours", policy("VerifyClientCertIfGiven", ca), ours_shown, BOTH, &[], Ok("")),
        ("if given, a stranger", policy("VerifyClientCertIfGiven", ca), theirs, BOTH, &[], Err("UnknownCA")),
        ("verified, ours", policy("RequireAndVerifyClientCert", ca), ours_shown, BOTH, &h2, Ok("h2")),
        ("verified, none", policy("RequireAndVerifyClientCert", ca), none, BOTH, &[], Err("CertificateRequired")),
        ("verified, a stranger", policy("RequireAndVerifyClientCert", ca), theirs, BOTH, &[], Err("UnknownCA")),
        ("verified by the system", policy("RequireAndVerifyClientCert", ""), theirs, BOTH, &[], Err("UnknownCA")),
        (
            "a name that is allowed",
            policy("RequireAndVerifyClientCert", &format!("{ca}  client_allowed_sans: [x, client.example]\n")),
            ours_shown,
            BOTH,
            &[],
            Ok(""),
        ),
        (
            "a name that is not",
            policy("RequireAndVerifyClientCert", &format!("{ca}  client_allowed_sans: [other.example]\n")),
            ours_shown,
            BOTH,
            &[],
            Err("AccessDenied"),
        ),
        (
            "a name, none shown",
            policy("VerifyClientCertIfGiven", &format!("{ca}  client_allowed_sans: [client.example]\n")),
            none,
            BOTH,
            &[],
            Err("CertificateRequired"),
        ),
    ] {
        let server = start(ListenOptions::default(), Some(&yaml), &files).await;
        let got = Client { ca: &ours.pem, identity, versions, alpn }.ask(&server).await;
        match (&got, expected) {
            (Ok((chosen, status)), Ok(protocol)) => assert!(chosen == protocol && status == "200", "{case}: {got:?}"),
            (Err(e), Err(part)) => assert!(e.contains(part), "{case}: {e}, expected {part}"),
            _ => panic!("{case}: {got:?}, expected {expected:?}"),
        }
    }
}

#[tokio::test]
async fn certificates_and_users_change_without_a_restart() {
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let (cert, key) = old.sign("localhost");
    let server = start(ListenOptions::default(), Some(TLS), &[("s.pem", &cert), ("s.key", &key)]).await;
    let trusts = |ca: String, server: std::net::SocketAddr| async move {
        let server = Server { address: server, folder: PathBuf::from("/nonexistent"), shutdown: Shutdown::new() };
        Client { ca: &ca, identity: None, versions: BOTH, alpn: &[] }.ask(&server).await
    };
    assert!(trusts(old.pem.clone(), server.address).await.is_ok());
    let later = |name: &str, content: &str, seconds: u64| {
        let path = server.folder.join(name);
        std::fs::write(&path, content).unwrap();
        let at = SystemTime::now() + Duration::from_secs(seconds);
        std::fs::File::options().write(true).open(path).unwrap().set_modified(at).unwrap();
    };
    // Half of a pair leaves the old one in force.
    let (cert, key) = new.sign("localhost");
    later("s.pem", &cert, 5);
    assert!(trusts(old.pem.clone(), server.address).await.is_ok());
    later("s.key", &key, 6);
    assert!(trusts(new.pem.clone(), server.address).await.is_ok());
    assert!(trusts(old.pem.clone(), server.address).await.is_err());
    let hash = bcrypt::hash("secret", 4).unwrap();
    later("web.yml", &format!("{TLS}basic_auth_users:\n  u: {hash}\n"), 7);
    assert_eq!(trusts(new.pem.clone(), server.address).await.unwrap().1, "401");
    later("web.yml", "nonsense: [", 8);
    assert!(trusts(new.pem.clone(), server.address).await.is_err());
    let answer = plain(&server, &get_with("")).await;
    let expected = "HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n";
    assert_eq!(answer, expected);
    later("web.yml", TLS, 9);
    assert_eq!(trusts(new.pem.clone(), server.address).await.unwrap().1, "200");
    // Whether there is TLS was decided at the start.
    later("web.yml", "rate_limit: {}\n", 10);
    assert!(trusts(new.pem.clone(), server.address).await.is_err());
}

#[tokio::test]
async fn a_bad_file_ends_all_answers_until_it_is_mended() {
    let server = start(ListenOptions::default(), Some("rate_limit: {}\n"), &[]).await;
    let path = server.folder.join("web.yml");
    let mut seconds = 5;
    for (content, expected) in [
        ("rate_limit: {}\n", "HTTP/1.1 200 OK"),
        ("rate_limit: {}\nnope: 1\n", "HTTP/1.1 500 Internal Server Error"),
        ("http_server_config: {headers: {X-Nope: a}}\n", "HTTP/1.1 500 Internal Server Error"),
        ("", "HTTP/1.1 200 OK"),
    ] {
        std::fs::write(&path, content).unwrap();
        let at = SystemTime::now() + Duration::from_secs(seconds);
        std::fs::File::options().write(true).open(&path).unwrap().set_modified(at).unwrap();
        seconds += 5;
        let answer = plain(&server, &get_with("Connection: close\r\n")).await;
        assert!(answer.starts_with(expected), "{content}: {answer}");
    }
    std::fs::remove_file(&path).unwrap();
    assert!(plain(&server, &get_with("Connection: close\r\n")).await.starts_with("HTTP/1.1 500"));
}

#[tokio::test]
async fn passwords_headers_and_the_rate_limit() {
    let hash = bcrypt::hash("right", 4).unwrap();
    let yaml = format!(
        "basic_auth_users:\n  alice: {hash}\nhttp_server_config:\n  headers:\n    X-Frame-Options: deny\n    \
         Strict-Transport-Security: max-age=1\n"
    );
    let server = start(ListenOptions::default(), Some(&yaml), &[]).await;
    use base64::Engine;
    let basic =
        |pair: &str| format!("Authorization: Basic {}\r\n", base64::engine::general_purpose::STANDARD.encode(pair));
    for (headers, status) in [
        (String::new(), 401),
        (basic("alice:right"), 200),
        (basic("alice:right").replace("Basic", "bAsIc"), 200),
        (basic("alice:wrong"), 401),
        (basic("bob:right"), 401),
        (basic("alice"), 401),
        (basic("alice:right:more"), 401),
        ("Authorization: Bearer right\r\n".into(), 401),
        ("Authorization: Basic %%%\r\n".into(), 401),
        (basic("bob:fakepassword"), 401),
    ] {
        let answer = plain(&server, &get_with(&headers)).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{headers}: {answer}");
        // Names as Go writes them.
        assert!(answer.contains("\r\nX-Frame-Options: deny\r\n"), "{answer}");
        assert!(answer.contains("\r\nStrict-Transport-Security: max-age=1\r\n"), "{answer}");
        let asked = answer.contains("\r\nWww-Authenticate: Basic\r\n") && answer.ends_with("Unauthorized\n");
        assert_eq!(status == 401, asked, "{answer}");
    }
    let server = start(ListenOptions::default(), Some("rate_limit:\n  burst: 2\n  interval: 1h\n"), &[]).await;
    for status in ["200 OK", "200 OK", "429 Too Many Requests"] {
        let answer = plain(&server, &get_with("")).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{answer}");
    }
}

fn quick() -> ListenOptions {
    let (read_timeout, header_timeout) = (Duration::from_millis(400), Duration::from_millis(200));
    ListenOptions { read_timeout, header_timeout, max_connections: 3, ..ListenOptions::default() }
}

/// Waits for the server to close; gives what it said before.
async fn closed(mut stream: TcpStream) -> String {
    let mut out = Vec::new();
    let _ = tokio::time::timeout(SOON, stream.read_to_end(&mut out)).await.expect("the server keeps the connection");
    String::from_utf8_lossy(&out).into_owned()
}

#[tokio::test]
async fn slow_clients_lose_their_connections() {
    let server = start(quick(), None, &[]).await;
    let connect = || TcpStream::connect(server.address);
    // Says nothing.
    assert_eq!(closed(connect().await.unwrap()).await, "");
    // Headers, a byte now and then.
    let mut slow = connect().await.unwrap();
    let (mut read, mut write) = slow.split();
    let drip = async {
        for b in b"GET / HTTP/1.1\r\nHost: h\r\nX-Slow: ".iter().chain([b'x'].iter().cycle()) {
            if write.write_all(&[*b]).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let mut out = Vec::new();
    tokio::select! {
        () = drip => {}
        _ = read.read_to_end(&mut out) => {}
        () = tokio::time::sleep(SOON) => panic!("the server waits for headers for ever"),
    }
    // A second request on a connection that was good before.
    let mut second = connect().await.unwrap();
    second.write_all(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n").await.unwrap();
    let mut first = [0; 17];
    second.read_exact(&mut first).await.unwrap();
    second.write_all(b"GET / HTT").await.unwrap();
    assert!(closed(second).await.ends_with("hello"));
    // A body that never ends: it is answered, and then the connection ends.
    let mut body = connect().await.unwrap();
    body.write_all(b"POST /count HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\nabc").await.unwrap();
    let answer = closed(body).await;
    assert!(answer.is_empty() || answer.contains("took too long"), "{answer}");
    // An answer that nobody takes.
    let mut reader = connect().await.unwrap();
    reader.write_all(b"GET /endless HTTP/1.1\r\nHost: h\r\n\r\n").await.unwrap();
    let begun = async {
        while OPEN.load(Ordering::SeqCst) == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        // It takes a little, so that the connection is not quite dead.
        while OPEN.load(Ordering::SeqCst) > 0 {
            let mut little = [0; 1000];
            let _ = reader.read(&mut little).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(SOON, begun).await.expect("the answer waits for ever");
    // All of this left the server well.
    assert!(plain(&server, &get_with("")).await.ends_with("hello"));
}

#[tokio::test]
async fn headers_and_connections_are_limited() {
    let server = start(ListenOptions { max_connections: 2, ..ListenOptions::default() }, None, &[]).await;
    let long = format!("X-Long: {}\r\n", "x".repeat(1 << 21));
    let answer = plain(&server, &get_with(&long)).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431 "), "{answer}");
    let fits = plain(&server, &get_with(&format!("X-Long: {}\r\nConnection: close\r\n", "x".repeat(1 << 20)))).await;
    assert!(fits.starts_with("HTTP/1.1 200 "), "{fits}");
    let many = (0..2000).map(|i| format!("X-{i}: y\r\n")).collect::<String>();
    let answer = plain(&server, &get_with(&many)).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431 "), "{answer}");
    let held = [TcpStream::connect(server.address).await.unwrap(), TcpStream::connect(server.address).await.unwrap()];
    let mut third = TcpStream::connect(server.address).await.unwrap();
    third.write_all(get_with("").as_bytes()).await.unwrap();
    let mut first = [0; 1];
    let early = tokio::time::timeout(Duration::from_millis(300), third.read(&mut first)).await;
    assert!(early.is_err(), "a third connection is served");
    drop(held);
    assert!(closed(third).await.ends_with("hello"));
}
