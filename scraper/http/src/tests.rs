//! Fetching from real servers, honest and hostile ones.

use std::collections::BTreeMap;
use std::future::Future;
use std::io::Write;
use std::pin::Pin;
use std::sync::Arc;

use narthex_config::{Authorization, BasicAuth, Header, OAuth2, ProxyConfig, Secret, TlsConfig, WebUrl};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;

type Answer = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Reads one request head (and a body by Content-Length); empty at the connection's end.
async fn read_request(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return String::new(),
        }
    }
    let text = String::from_utf8_lossy(&head).into_owned();
    let length = text
        .lines()
        .filter_map(|l| l.split_once(": "))
        .find(|(n, _)| n.eq_ignore_ascii_case("content-length"))
        .and_then(|(_, v)| v.parse::<usize>().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    let _ = stream.read_exact(&mut body).await;
    text + &String::from_utf8_lossy(&body)
}

/// A server that lets `answer` do what it likes with each connection.
async fn serve(answer: impl Fn(TcpStream, usize) -> Answer + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        for n in 0.. {
            let Ok((stream, _)) = listener.accept().await else { return };
            tokio::spawn(answer(stream, n));
        }
    });
    address
}

/// A server that answers each request on each connection by a function of its text, and notes the requests.
async fn answering(answer: impl Fn(&str) -> String + Send + Sync + 'static) -> (String, Arc<Mutex<Vec<String>>>) {
    let requests: Arc<Mutex<Vec<String>>> = Arc::default();
    let (seen, answer) = (requests.clone(), Arc::new(answer));
    let address = serve(move |mut stream, _| {
        let (seen, answer) = (seen.clone(), answer.clone());
        Box::pin(async move {
            loop {
                let request = read_request(&mut stream).await;
                if request.is_empty() {
                    return;
                }
                let text = answer(&request);
                seen.lock().push(request);
                if stream.write_all(text.as_bytes()).await.is_err() {
                    return;
                }
            }
        })
    })
    .await;
    (address, requests)
}

fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

fn client_with(config: HttpClientConfig, body_limit: u64) -> Client {
    let options =
        ClientOptions { accept: "text/plain".into(), compression: true, user_agent: "Narthex/test".into(), body_limit };
    Client::new(config, options).unwrap()
}

fn client() -> Client {
    client_with(HttpClientConfig::default(), 1 << 20)
}

fn page(url: String) -> Page {
    let host = Url::parse(&url).map(|u| host_header(&u)).unwrap_or_default();
    Page { url, host, timeout: Duration::from_secs(60), unix_socket: None }
}

async fn get(client: &Client, page: &Page) -> Result<String, String> {
    let mut out = Vec::new();
    let result = client.fetch(page, &mut Connections::default(), &mut out).await;
    result.map(|_| String::from_utf8_lossy(&out).into_owned()).map_err(|e| e.to_string())
}

#[tokio::test]
async fn connections_are_kept_and_replaced_when_dead() {
    // Every connection serves two requests, then closes without a word.
    let connections = Arc::new(Mutex::new(0));
    let counted = connections.clone();
    let address = serve(move |mut stream, _| {
        *counted.lock() += 1;
        Box::pin(async move {
            for _ in 0..2 {
                read_request(&mut stream).await;
                let _ = stream.write_all(ok("a 1\n").as_bytes()).await;
            }
        })
    })
    .await;
    let (client, mut kept) = (client(), Connections::default());
    for i in 0..6 {
        let mut out = Vec::new();
        let result = client.fetch(&page(format!("http://{address}/m")), &mut kept, &mut out).await;
        assert_eq!((result, out.as_slice()), (Ok("text/plain".into()), &b"a 1\n"[..]), "{i}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(*connections.lock(), 3);
}

/// Credentials in a URL are decoded as Go decodes them, which need not give UTF-8.
#[tokio::test]
async fn credentials_in_urls() {
    let (address, requests) = answering(|_| ok("a 1\n")).await;
    for (user, sent) in [
        ("", None),
        ("me:secret@", Some(&b"me:secret"[..])),
        ("me@", Some(b"me:")),
        (":secret@", Some(b":secret")),
        ("a%40b:p%3Aq%2F%25@", Some(b"a@b:p:q/%")),
        ("a+b:c%2Bd+e@", Some(b"a+b:c+d+e")),
        ("%C3%BC:%ff@", Some(b"\xc3\xbc:\xff")),
    ] {
        get(&client(), &page(format!("http://{user}{address}/m"))).await.unwrap();
        let request = requests.lock().pop().unwrap();
        let header = request.lines().find_map(|l| l.to_lowercase().starts_with("authorization: ").then(|| &l[15..]));
        use base64::Engine;
        let given = header.map(|h| base64::engine::general_purpose::STANDARD.decode(&h["Basic ".len()..]).unwrap());
        assert_eq!(given.as_deref(), sent, "{user}");
    }
}

#[tokio::test]
async fn statuses_and_redirects() {
    let (other, others) = answering(|_| ok("other 1\n")).await;
    let elsewhere = format!("http://{other}/there");
    let (address, requests) = answering(move |request| {
        let path = request.split(' ').nth(1).unwrap_or_default();
        let redirect = |to: &str| format!("HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n");
        match path {
            "/ok?x=1" => ok("a 1\n"),
            "/created" => "HTTP/1.1 201 Created\r\nContent-Length: 4\r\n\r\na 1\n".into(),
            "/missing" => "HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno".into(),
            "/odd" => "HTTP/1.1 499 Whatever You Say\r\nContent-Length: 0\r\n\r\n".into(),
            "/relative" => redirect("/ok?x=1"),
            "/loop" => redirect("/loop"),
            "/file" => redirect("file:///etc/passwd"),
            "/away" => redirect(&elsewhere),
            _ => "HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n".into(),
        }
    })
    .await;
    let at = |path: &str| page(format!("http://{address}{path}"));
    let config = HttpClientConfig {
        basic_auth: Some(BasicAuth { username: "u".into(), password: Secret::new("p"), ..BasicAuth::default() }),
        http_headers: BTreeMap::from([(
            "X-Token".to_owned(),
            Header { values: vec!["v".into()], secrets: vec![Secret::new("s")], ..Header::default() },
        )]),
        ..HttpClientConfig::default()
    };
    let client = client_with(config.clone(), 1 << 20);
    assert_eq!(get(&client, &at("/ok?x=1")).await.unwrap(), "a 1\n");
    for (path, error) in [
        ("/created", "server returned HTTP status 201 Created"),
        ("/missing", "server returned HTTP status 404 Not Found"),
        ("/odd", "server returned HTTP status 499 Whatever You Say"),
    ] {
        assert_eq!(get(&client, &at(path)).await.unwrap_err(), error);
    }
    assert_eq!(get(&client, &at("/relative")).await.unwrap(), "a 1\n");
    assert!(get(&client, &at("/loop")).await.unwrap_err().ends_with("stopped after 10 redirects"));
    assert!(get(&client, &at("/file")).await.unwrap_err().contains("unsupported protocol scheme"));
    assert_eq!(get(&client, &at("/away")).await.unwrap(), "other 1\n");
    let mine = requests.lock()[0].to_lowercase();
    assert!(mine.contains("authorization: basic dtpw\r\n") && mine.contains("x-token: v\r\nx-token: s\r\n"), "{mine}");
    let theirs = others.lock()[0].to_lowercase();
    assert!(!theirs.contains("authorization") && !theirs.contains("x-token"), "{theirs}");
    assert!(theirs.contains(&format!("host: {other}\r\n")), "{theirs}");
    let stay = client_with(HttpClientConfig { follow_redirects: false, ..config }, 1 << 20);
    assert_eq!(get(&stay, &at("/relative")).await.unwrap_err(), "server returned HTTP status 302 Found");
}

/// What a hostile server does costs at most the timeout and the body limit.
#[tokio::test]
async fn hostile_servers_cost_bounded_time_and_memory() {
    type Script = fn(TcpStream) -> Answer;
    let endless: Script = |mut s| {
        Box::pin(async move {
            read_request(&mut s).await;
            let _ = s.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n").await;
            while s.write_all(&[b'a'; 65536]).await.is_ok() {}
        })
    };
    let trickle: Script = |mut s| {
        Box::pin(async move {
            read_request(&mut s).await;
            let _ = s.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n").await;
            while s.write_all(b"a").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
    };
    let silent: Script = |mut s| {
        Box::pin(async move {
            read_request(&mut s).await;
            std::future::pending::<()>().await;
        })
    };
    let header_flood: Script = |mut s| {
        Box::pin(async move {
            read_request(&mut s).await;
            let _ = s.write_all(b"HTTP/1.1 200 OK\r\n").await;
            while s.write_all(b"X-Flood: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n").await.is_ok() {}
        })
    };
    let one_long_header: Script = |mut s| {
        Box::pin(async move {
            read_request(&mut s).await;
            let _ = s.write_all(b"HTTP/1.1 200 OK\r\nX-Long: ").await;
            while s.write_all(&[b'a'; 4096]).await.is_ok() {}
        })
    };
    let reset: Script = |mut s| {
        Box::pin(async move {
            read_request(&mut s).await;
            let _ = s.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\na 1\n").await;
            let _ = s.set_zero_linger();
        })
    };
    let cut: Script = |mut s| {
        Box::pin(async move {
            read_request(&mut s).await;
            let _ = s.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\na 1\n").await;
        })
    };
    let broken_chunks: Script = |mut s| {
        Box::pin(async move {
            read_request(&mut s).await;
            let _ = s.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\na 1\n").await;
        })
    };
    let not_http: Script = |mut s| {
        Box::pin(async move {
            let _ = s.write_all(b"220 smtp.example.com ESMTP\r\n").await;
            read_request(&mut s).await;
        })
    };
    let closes: Script = |s| Box::pin(async move { drop(s) });
    let bomb: Script = |mut s| {
        Box::pin(async move {
            read_request(&mut s).await;
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            for _ in 0..64 {
                encoder.write_all(&[b'a'; 1 << 20]).unwrap();
            }
            let body = encoder.finish().unwrap();
            let head = format!("HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {}\r\n\r\n", body.len());
            let _ = s.write_all(head.as_bytes()).await;
            let _ = s.write_all(&body).await;
        })
    };
    let endless_interim: Script = |mut s| {
        Box::pin(async move {
            read_request(&mut s).await;
            while s.write_all(b"HTTP/1.1 103 Early Hints\r\n\r\n").await.is_ok() {}
        })
    };
    for (name, script, expected) in [
        ("endless", endless, "body size limit exceeded"),
        ("bomb", bomb, "body size limit exceeded"),
        ("trickle", trickle, "context deadline exceeded"),
        ("silent", silent, "context deadline exceeded"),
        ("header flood", header_flood, ""),
        ("long header", one_long_header, ""),
        ("interim", endless_interim, ""),
        ("reset", reset, ""),
        ("cut", cut, "unexpected EOF"),
        ("chunks", broken_chunks, ""),
        ("not http", not_http, ""),
        ("closes", closes, ""),
    ] {
        let address = serve(move |stream, _| script(stream)).await;
        let client = client_with(HttpClientConfig::default(), 1 << 20);
        // Only what never ends by itself has to be cut short.
        let endless = matches!(name, "trickle" | "silent" | "interim");
        let timeout = Duration::from_millis(if endless { 400 } else { 60_000 });
        let asked = Page { timeout, ..page(format!("http://{address}/")) };
        let mut out = Vec::new();
        let error = client.fetch(&asked, &mut Connections::default(), &mut out).await.unwrap_err().to_string();
        assert!(error.contains(expected), "{name}: {error}");
        assert!(!error.is_empty() && error.len() < 500, "{name}: {error}");
        assert!(out.capacity() <= 4 << 20, "{name} held {} bytes", out.capacity());
    }
    let error = get(&client(), &page("http://127.0.0.1:1/metrics".into())).await.unwrap_err();
    assert_eq!(error, "Get \"http://127.0.0.1:1/metrics\": dial tcp 127.0.0.1:1: connect: connection refused");
}

#[tokio::test]
async fn gzip_bodies() {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(&b"a 1\n".repeat(100_000)).unwrap();
    let body = encoder.finish().unwrap();
    let address = serve(move |mut stream, _| {
        let body = body.clone();
        Box::pin(async move {
            read_request(&mut stream).await;
            let head = format!("HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {}\r\n\r\n", body.len());
            let _ = stream.write_all(head.as_bytes()).await;
            let _ = stream.write_all(&body).await;
        })
    })
    .await;
    assert_eq!(get(&client(), &page(format!("http://{address}/"))).await.unwrap().len(), 400_000);
}

#[tokio::test]
async fn credentials_are_read_anew() {
    let (address, requests) = answering(|_| ok("a 1\n")).await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("token");
    let config = HttpClientConfig {
        authorization: Some(Authorization {
            kind: "Bearer".into(),
            credentials_file: file.clone(),
            ..Authorization::default()
        }),
        ..HttpClientConfig::default()
    };
    let client = client_with(config, 1 << 20);
    let asked = page(format!("http://{address}/"));
    assert!(get(&client, &asked).await.unwrap_err().starts_with("unable to read authorization credentials file"));
    for token in ["one", "two"] {
        std::fs::write(&file, format!("{token}\n")).unwrap();
        get(&client, &asked).await.unwrap();
        let last = requests.lock().last().unwrap().to_lowercase();
        assert!(last.contains(&format!("authorization: bearer {token}\r\n")), "{last}");
    }
}

#[tokio::test]
async fn secrets_of_a_manager_that_is_not_there() {
    let authorization = Authorization { credentials_ref: "vault".into(), ..Authorization::default() };
    let config = HttpClientConfig { authorization: Some(authorization), ..HttpClientConfig::default() };
    let options = ClientOptions { accept: "*/*".into(), compression: true, user_agent: "t".into(), body_limit: 1 };
    let text = "cannot use secret ref without manager";
    assert_eq!(Client::new(config.clone(), options).err().map(|e| e.to_string()).as_deref(), Some(text));
    let url = Url::parse("http://127.0.0.1:1/").unwrap();
    let ask = Ask::get(&url, Duration::from_secs(5), 100);
    assert_eq!(Client::plain(config, "t").ask(ask, &mut Connections::default()).await.unwrap_err(), text);
}

#[tokio::test]
async fn whole_answers_and_streams() {
    let (address, requests) = answering(|request| {
        if request.starts_with("POST /moved") {
            "HTTP/1.1 307 Temporary Redirect\r\nLocation: /there\r\nContent-Length: 0\r\n\r\n".into()
        } else if request.starts_with("POST /seen") {
            "HTTP/1.1 303 See Other\r\nLocation: /there\r\nContent-Length: 0\r\n\r\n".into()
        } else {
            "HTTP/1.1 418 Teapot\r\nX-Kind: pot\r\nContent-Length: 5\r\n\r\nshort".into()
        }
    })
    .await;
    let client = Client::plain(HttpClientConfig::default(), "Narthex/test");
    let url = |path: &str| Url::parse(&format!("http://{address}{path}")).unwrap();
    let mut kept = Connections::default();
    for (path, method) in [("/moved", "POST"), ("/seen", "GET")] {
        let (url, minute) = (url(path), Duration::from_secs(60));
        let ask = Ask { method: Method::POST, body: Bytes::from("a=b"), ..Ask::get(&url, minute, 6) };
        let answer = client.ask(ask, &mut kept).await.unwrap();
        assert_eq!(
            (answer.status.as_u16(), answer.header("x-kind"), answer.body.as_slice()),
            (418, "pot", &b"short"[..])
        );
        let last = requests.lock().last().unwrap().clone();
        assert!(last.starts_with(&format!("{method} /there ")), "{last}");
        assert_eq!(last.ends_with("a=b"), method == "POST", "{last}");
    }
    let (there, minute) = (url("/there"), Duration::from_secs(60));
    let error = client.ask(Ask::get(&there, minute, 4), &mut kept).await.unwrap_err();
    assert!(error.ends_with("the answer is longer than 4 bytes"), "{error}");
    let (status, mut stream) = client.open(Ask::get(&there, minute, 4)).await.unwrap();
    assert_eq!((status.as_u16(), stream.next().await.unwrap().as_deref()), (418, Some(&b"short"[..])));
    assert_eq!(stream.next().await.unwrap(), None);
}

#[tokio::test]
async fn tokens_are_asked_for_once() {
    let (tokens, asked) = answering(|request| {
        // This server wants the credentials in the body.
        if request.to_lowercase().contains("authorization:") {
            return "HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n".into();
        }
        ok(r#"{"access_token":"t1","token_type":"bearer","expires_in":3600}"#)
    })
    .await;
    let (address, requests) = answering(|_| ok("a 1\n")).await;
    let config = HttpClientConfig {
        oauth2: Some(OAuth2 {
            client_id: "id".into(),
            client_secret: Secret::new("s&x"),
            scopes: vec!["a".into(), "b".into()],
            token_url: format!("http://{tokens}/token"),
            endpoint_params: BTreeMap::from([("audience".to_owned(), "me".to_owned())]),
            ..OAuth2::default()
        }),
        ..HttpClientConfig::default()
    };
    let client = client_with(config, 1 << 20);
    for _ in 0..3 {
        get(&client, &page(format!("http://{address}/"))).await.unwrap();
    }
    assert!(requests.lock().iter().all(|r| r.to_lowercase().contains("authorization: bearer t1\r\n")));
    let asked = asked.lock();
    assert_eq!(asked.len(), 2);
    assert!(
        asked[1].ends_with("grant_type=client_credentials&scope=a+b&audience=me&client_id=id&client_secret=s%26x"),
        "{}",
        asked[1]
    );
}

/// The whole exchange: a signed assertion that the token server checks, the token, and a new one when it has expired or
/// the key on disk has changed. What the server refuses is the scrape's error.
#[tokio::test]
async fn signed_assertions_are_exchanged_for_tokens() {
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use ring::signature::{KeyPair, RSA_PKCS1_2048_8192_SHA256, RsaKeyPair, UnparsedPublicKey};
    let pem = include_str!("../testdata/rsa.pem");
    let der = rustls_pemfile::private_key(&mut pem.as_bytes()).unwrap().unwrap();
    let pair = RsaKeyPair::from_pkcs8(der.secret_der()).or_else(|_| RsaKeyPair::from_der(der.secret_der())).unwrap();
    let public = pair.public_key().as_ref().to_vec();
    let given = Arc::new(Mutex::new(0));
    let (tokens, asked) = answering(move |request| {
        let form: std::collections::HashMap<String, String> =
            url::form_urlencoded::parse(request.split("\r\n\r\n").nth(1).unwrap().as_bytes()).into_owned().collect();
        let (signed, signature) = form["assertion"].rsplit_once('.').unwrap();
        let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
        let key = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, &public);
        let claims = URL_SAFE_NO_PAD.decode(signed.split('.').nth(1).unwrap()).unwrap();
        let claims: serde_json::Value = serde_json::from_slice(&claims).unwrap();
        let good = form["grant_type"] == narthex_config::GRANT_JWT_BEARER
            && form["scope"] == "a b"
            && claims["sub"] == "id"
            && claims["aud"] == "me"
            && key.verify(signed.as_bytes(), &signature).is_ok();
        if !good || request.to_lowercase().contains("authorization:") {
            return "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n".into();
        }
        *given.lock() += 1;
        // Within the margin in which a token is not used any more, but for the second.
        let seconds = if *given.lock() == 2 { 3600 } else { 5 };
        ok(&format!(r#"{{"access_token":"t{}","expires_in":{seconds}}}"#, given.lock()))
    })
    .await;
    let (address, requests) = answering(|_| ok("a 1\n")).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("key.pem");
    std::fs::write(&file, pem).unwrap();
    let oauth = |audience: &str| HttpClientConfig {
        oauth2: Some(OAuth2 {
            client_id: "id".into(),
            grant_type: narthex_config::GRANT_JWT_BEARER.into(),
            client_certificate_key_file: file.to_string_lossy().into_owned(),
            scopes: vec!["a".into(), "b".into()],
            audience: audience.into(),
            token_url: format!("http://{tokens}/token"),
            ..OAuth2::default()
        }),
        ..HttpClientConfig::default()
    };
    let client = client_with(oauth("me"), 1 << 20);
    let target = page(format!("http://{address}/"));
    let sent = || requests.lock().pop().unwrap().to_lowercase();
    for token in ["t1", "t2", "t2"] {
        get(&client, &target).await.unwrap();
        let request = sent();
        assert!(request.contains(&format!("authorization: bearer {token}\r\n")), "{request}");
    }
    assert_eq!(asked.lock().len(), 2);
    std::fs::write(&file, format!("# the same key, written anew\n{pem}")).unwrap();
    get(&client, &target).await.unwrap();
    assert!(sent().contains("authorization: bearer t3\r\n"));
    let refused = get(&client_with(oauth("other"), 1 << 20), &target).await.unwrap_err();
    assert!(refused.contains("oauth2: cannot fetch token: 400 Bad Request"), "{refused}");
    std::fs::write(&file, "no key").unwrap();
    assert!(get(&client, &target).await.unwrap_err().contains("no private key"));
    // One for each token, and the one that was refused, which is not tried another way.
    assert_eq!(asked.lock().len(), 4);
    assert_eq!(requests.lock().len(), 0);
}

#[tokio::test]
async fn proxies() {
    let (address, requests) = answering(|request| {
        // Both proxy and target: what comes as CONNECT is answered, and then spoken to.
        if request.starts_with("CONNECT") { "HTTP/1.1 403 Forbidden\r\n\r\n".into() } else { ok("a 1\n") }
    })
    .await;
    let proxied = |no_proxy: &str| HttpClientConfig {
        proxy: ProxyConfig {
            proxy_url: Some(WebUrl::parse(&format!("http://user:pw@{address}")).unwrap()),
            no_proxy: no_proxy.into(),
            proxy_connect_header: BTreeMap::from([("X-Via".to_owned(), vec![Secret::new("me")])]),
            ..ProxyConfig::default()
        },
        ..HttpClientConfig::default()
    };
    let client = client_with(proxied(""), 1 << 20);
    assert_eq!(get(&client, &page("http://target.invalid:9/m?x=1".into())).await.unwrap(), "a 1\n");
    let request = requests.lock().last().unwrap().clone();
    assert!(request.starts_with("GET http://target.invalid:9/m?x=1 HTTP/1.1\r\n"), "{request}");
    assert!(request.to_lowercase().contains("proxy-authorization: basic dxnlcjpwdw==\r\n"), "{request}");
    assert!(request.to_lowercase().contains("host: target.invalid:9\r\n"), "{request}");
    let error = get(&client, &page("https://target.invalid/m".into())).await.unwrap_err();
    assert!(error.ends_with(": Forbidden"), "{error}");
    let request = requests.lock().last().unwrap().clone();
    assert!(
        request.starts_with("CONNECT target.invalid:443 HTTP/1.1\r\n") && request.contains("X-Via: me\r\n"),
        "{request}"
    );
    let direct = client_with(proxied("*"), 1 << 20);
    assert!(get(&direct, &page("http://target.invalid:9/m".into())).await.unwrap_err().contains("no such host"));
}

#[tokio::test]
async fn unix_sockets() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sock");
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        read_request(&mut stream).await;
        stream.write_all(ok("a 1\n").as_bytes()).await.unwrap();
    });
    let asked = Page { unix_socket: Some(path.display().to_string()), ..page("http://localhost/metrics".into()) };
    assert_eq!(get(&client(), &asked).await.unwrap(), "a 1\n");
    let missing = Page { unix_socket: Some("/nowhere/sock".into()), ..asked };
    assert!(get(&client(), &missing).await.unwrap_err().contains("dial unix /nowhere/sock: connect: no such file"));
}

mod tls {
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
    use rustls::ServerConfig;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    use rustls::server::WebPkiClientVerifier;
    use tokio_rustls::TlsAcceptor;

    use super::*;

    fn authority(name: &str) -> CertifiedIssuer<'static, KeyPair> {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
    }

    fn issue(issuer: &CertifiedIssuer<'static, KeyPair>, name: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let cert = CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, issuer).unwrap();
        (cert.pem(), key.serialize_pem())
    }

    fn chain(pem: &str) -> Vec<CertificateDer<'static>> {
        rustls_pemfile::certs(&mut pem.as_bytes()).map(Result::unwrap).collect()
    }

    fn key(pem: &str) -> PrivateKeyDer<'static> {
        rustls_pemfile::private_key(&mut pem.as_bytes()).unwrap().unwrap()
    }

    /// A TLS server that wants a certificate of `clients` and answers with the client's certificate's length.
    async fn serve_tls(server: (String, String), clients: Option<&str>, alpn: &[&[u8]]) -> String {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder =
            ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions().unwrap();
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some(ca) => {
                let mut roots = rustls::RootCertStore::empty();
                roots.add_parsable_certificates(chain(ca));
                let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider).build().unwrap();
                builder.with_client_cert_verifier(verifier)
            }
        };
        let mut config = builder.with_single_cert(chain(&server.0), key(&server.1)).unwrap();
        config.alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        serve(move |stream, _| {
            let acceptor = acceptor.clone();
            Box::pin(async move {
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                let connection = stream.get_ref().1;
                let length = connection.peer_certificates().map_or(0, |c| c[0].len());
                if connection.alpn_protocol() == Some(b"h2") {
                    let service = hyper::service::service_fn(|request: Request<Incoming>| async move {
                        let text = format!("{:?}", request.version());
                        Ok::<_, std::convert::Infallible>(Response::new(Full::new(Bytes::from(text))))
                    });
                    let io = hyper_util::rt::TokioIo::new(stream);
                    let executor = hyper_util::rt::TokioExecutor::new();
                    let _ = hyper::server::conn::http2::Builder::new(executor).serve_connection(io, service).await;
                    return;
                }
                loop {
                    if read_request(&mut stream).await.is_empty() {
                        return;
                    }
                    let _ = stream.write_all(ok(&format!("{length}")).as_bytes()).await;
                }
            })
        })
        .await
    }

    fn config(tls: TlsConfig) -> HttpClientConfig {
        HttpClientConfig { tls_config: tls, ..HttpClientConfig::default() }
    }

    #[tokio::test]
    async fn roots_names_and_skipping() {
        let ca = authority("ca");
        let address = serve_tls(issue(&ca, "target.example"), None, &[]).await;
        let asked = page(format!("https://{address}/"));
        let dir = tempfile::tempdir().unwrap();
        let ca_file = dir.path().join("ca.pem");
        std::fs::write(&ca_file, ca.pem()).unwrap();
        let right = TlsConfig { ca_file, server_name: "target.example".into(), ..TlsConfig::default() };
        for (tls, good) in [
            (right.clone(), true),
            (TlsConfig { insecure_skip_verify: true, ..TlsConfig::default() }, true),
            (TlsConfig::default(), false),
            (TlsConfig { server_name: String::new(), ..right.clone() }, false),
            (TlsConfig { server_name: "other.example".into(), ..right.clone() }, false),
            (TlsConfig { ca_file: "/nowhere/ca.pem".into(), ..right.clone() }, false),
            (TlsConfig { ca: "no certificate".into(), ca_file: Default::default(), ..right.clone() }, false),
            (TlsConfig { max_version: Some(narthex_config::TlsVersion::Tls11), ..right.clone() }, false),
            (TlsConfig { min_version: Some(narthex_config::TlsVersion::Tls13), ..right }, true),
        ] {
            let got = get(&client_with(config(tls.clone()), 1 << 20), &asked).await;
            assert_eq!(got.is_ok(), good, "{tls:?}: {got:?}");
        }
        // Plain HTTP to a TLS port.
        assert!(get(&client(), &page(format!("http://{address}/"))).await.is_err());
    }

    #[tokio::test]
    async fn client_certificates_rotate() {
        let ca = authority("ca");
        let address = serve_tls(issue(&ca, "target.example"), Some(&ca.pem()), &[]).await;
        let dir = tempfile::tempdir().unwrap();
        let (cert_file, key_file) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
        let tls = TlsConfig {
            ca: ca.pem(),
            server_name: "target.example".into(),
            cert_file: cert_file.clone(),
            key_file: key_file.clone(),
            ..TlsConfig::default()
        };
        let client = client_with(config(tls), 1 << 20);
        let mut kept = Connections::default();
        let mut lengths = Vec::new();
        for name in ["short", "a-much-longer-name.example"] {
            let (cert, key) = issue(&ca, name);
            std::fs::write(&cert_file, cert).unwrap();
            std::fs::write(&key_file, key).unwrap();
            for _ in 0..2 {
                let mut out = Vec::new();
                client.fetch(&page(format!("https://{address}/")), &mut kept, &mut out).await.unwrap();
                lengths.push(String::from_utf8(out).unwrap().parse::<usize>().unwrap());
            }
        }
        assert!(lengths[0] > 0 && lengths[0] == lengths[1] && lengths[2] > lengths[0], "{lengths:?}");
        let none = TlsConfig { ca: ca.pem(), server_name: "target.example".into(), ..TlsConfig::default() };
        assert!(get(&client_with(config(none), 1 << 20), &page(format!("https://{address}/"))).await.is_err());
    }

    #[tokio::test]
    async fn http2_where_both_sides_want_it() {
        let ca = authority("ca");
        let address = serve_tls(issue(&ca, "target.example"), None, &[b"h2", b"http/1.1"]).await;
        let tls = TlsConfig { ca: ca.pem(), server_name: "target.example".into(), ..TlsConfig::default() };
        let asked = page(format!("https://{address}/m"));
        let (client, mut kept) = (client_with(config(tls.clone()), 1 << 20), Connections::default());
        for _ in 0..3 {
            let mut out = Vec::new();
            client.fetch(&asked, &mut kept, &mut out).await.unwrap();
            assert_eq!(out, b"HTTP/2.0");
        }
        let old = HttpClientConfig { enable_http2: false, ..config(tls) };
        assert_eq!(get(&client_with(old, 1 << 20), &asked).await.unwrap(), "0");
    }
}

#[tokio::test]
async fn a_status_counts_whatever_becomes_of_the_body_and_no_password_is_told() {
    let (address, _) = answering(|request| {
        if request.starts_with("GET /odd") {
            "HTTP/1.1 302 Found\r\nLocation: http://[bad/\r\nContent-Length: 0\r\n\r\n".into()
        } else if request.starts_with("GET /relative") {
            "HTTP/1.1 302 Found\r\nLocation: ftp:x\r\nContent-Length: 0\r\n\r\n".into()
        } else if request.starts_with("GET /cut") {
            "HTTP/1.1 400 Bad\r\nContent-Length: 1000\r\n\r\nshort".into()
        } else {
            ok(&"long".repeat(1000))
        }
    })
    .await;
    let client = Client::plain(HttpClientConfig::default(), "Narthex/test");
    let mut kept = Connections::default();
    for (path, status, body) in [("/long", 200, "longlo"), ("/cut", 400, "short"), ("/long", 200, "longlo")] {
        let url = Url::parse(&format!("http://{address}{path}")).unwrap();
        let answer = client.tell(Ask::get(&url, Duration::from_millis(700), 6), &mut kept).await.unwrap();
        assert_eq!((answer.status.as_u16(), answer.body.as_slice()), (status, body.as_bytes()), "{path}");
    }
    for path in ["/odd", "/relative"] {
        let url = Url::parse(&format!("http://user:hunter2@{address}{path}")).unwrap();
        let error = client.tell(Ask::get(&url, Duration::from_secs(5), 6), &mut kept).await.unwrap_err();
        assert!(!error.contains("hunter2"), "{error}");
    }
}
