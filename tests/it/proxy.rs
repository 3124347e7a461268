//! Proxies as people name them: SOCKS5 with a password, and those of the environment; beside a real Prometheus.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use anyhow::{Result, ensure};

use crate::net;
use crate::process::{Server, eventually, narthex, prometheus};

type Asked = Arc<Mutex<Vec<String>>>;

fn listen(serve: impl Fn(TcpStream, &Asked) -> Result<()> + Send + Sync + 'static) -> Result<(SocketAddr, Asked)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let asked = Asked::default();
    let (serve, seen) = (Arc::new(serve), asked.clone());
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (serve, seen) = (serve.clone(), seen.clone());
            std::thread::spawn(move || drop(serve(stream, &seen)));
        }
    });
    Ok((address, asked))
}

fn note(asked: &Asked, what: String) {
    let mut asked = asked.lock().unwrap_or_else(|e| e.into_inner());
    if !asked.contains(&what) {
        asked.push(what);
    }
}

/// Answers requests on a connection with a page; notes request lines and credentials for the proxy.
fn pages(stream: TcpStream, asked: &Asked) -> Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut out = stream;
    loop {
        let mut request = String::new();
        if reader.read_line(&mut request)? == 0 {
            return Ok(());
        }
        let mut said = request.trim_end().to_owned();
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? <= 2 {
                break;
            }
            if line.to_lowercase().starts_with("proxy-") {
                said += &format!(" {}", line.trim_end().replacen("proxy-authorization", "Proxy-Authorization", 1));
            }
        }
        note(asked, said);
        out.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 4\r\n\r\na 1\n")?;
    }
}

/// A SOCKS5 proxy that wants a password, and is the target, too.
fn socks(mut stream: TcpStream, asked: &Asked) -> Result<()> {
    let mut take = |n: usize| -> Result<Vec<u8>> {
        let mut bytes = vec![0; n];
        stream.read_exact(&mut bytes)?;
        Ok(bytes)
    };
    let hello = take(2)?;
    let methods = take(hello[1] as usize)?;
    ensure!(hello[0] == 5 && methods.contains(&2), "{methods:?}");
    stream.write_all(&[5, 2])?;
    let mut take = |n: usize| -> Result<Vec<u8>> {
        let mut bytes = vec![0; n];
        stream.read_exact(&mut bytes)?;
        Ok(bytes)
    };
    let length = take(2)?[1];
    let user = take(length as usize)?;
    let length = take(1)?[0];
    let password = take(length as usize)?;
    stream.write_all(&[1, 0])?;
    let mut take = |n: usize| -> Result<Vec<u8>> {
        let mut bytes = vec![0; n];
        stream.read_exact(&mut bytes)?;
        Ok(bytes)
    };
    let request = take(4)?;
    ensure!(request[..2] == [5, 1], "{request:?}");
    let host = match request[3] {
        3 => {
            let length = take(1)?[0];
            String::from_utf8(take(length as usize)?)?
        }
        1 => format!("{:?}", take(4)?),
        _ => format!("{:?}", take(16)?),
    };
    let port = take(2)?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let port = u16::from_be_bytes([port[0], port[1]]);
    note(asked, format!("{}:{} to {host}:{port}", text(&user), text(&password)));
    stream.write_all(&[5, 0, 0, 1, 127, 0, 0, 1, 0, 80])?;
    pages(stream, asked)
}

#[test]
fn socks_and_the_environment() -> Result<()> {
    let Some(binary) = prometheus() else {
        println!("skipped: no Prometheus to compare with");
        return Ok(());
    };
    let mut said = Vec::new();
    for ours in [true, false] {
        let folder = tempfile::tempdir()?;
        let (socks, by_socks) = listen(socks)?;
        let (http, by_http) = listen(pages)?;
        let direct = net::exporter(|_| "a 1\n".to_owned())?;
        let file = folder.path().join("prometheus.yml");
        std::fs::write(
            &file,
            format!(
                "global: {{scrape_interval: 1s, scrape_timeout: 1s}}\nscrape_configs:\n\
                 - {{job_name: socks, proxy_url: 'socks5://us%40er:pass@{socks}', static_configs: [{{targets: ['exporter.test:81']}}]}}\n\
                 - {{job_name: environment, proxy_from_environment: true, static_configs: [{{targets: ['exporter.test:82', 'sub.no.test:83', '{direct}']}}]}}\n"
            ),
        )?;
        let port = net::free_port()?;
        let mut args = vec![
            format!("--config.file={}", file.display()),
            format!("--web.listen-address=127.0.0.1:{port}"),
            format!("--storage.tsdb.path={}", folder.path().join("data").display()),
        ];
        if ours {
            args.insert(0, "server".into());
        }
        let proxy = format!("http://a:b@{http}");
        let environment = [("HTTP_PROXY", proxy.as_str()), ("NO_PROXY", "no.test,other.test")];
        let program = if ours { narthex()? } else { binary.clone() };
        let log = folder.path().join("log");
        let server = Server::start_with(&program, &args, &environment, port, &log, "/-/ready")?;
        let targets = eventually(30, "all targets", || {
            let targets = server.json("/api/v1/targets")?;
            let mut all: Vec<String> = Vec::new();
            for target in targets["data"]["activeTargets"].as_array().into_iter().flatten() {
                let instance = target["labels"]["instance"].to_string().replace(&direct.to_string(), "direct");
                // Who cannot look a name up says so in the resolver's words.
                let error = target["lastError"].as_str().unwrap_or_default();
                let error = if error.contains("sub.no.test") { "not found" } else { error };
                all.push(format!("{instance} {} {error}", target["health"]));
            }
            all.sort();
            Ok((all.len() == 4 && !all.iter().any(|t| t.contains("unknown"))).then_some(all))
        })?;
        let by = |asked: &Asked| {
            let mut all = asked.lock().unwrap_or_else(|e| e.into_inner()).clone();
            all.sort();
            all
        };
        said.push((targets, by(&by_socks), by(&by_http)));
    }
    ensure!(said[0] == said[1], "{:#?}\n   instead of\n{:#?}", said[0], said[1]);
    ensure!(said[0].1.iter().any(|s| s == "us@er:pass to exporter.test:81"), "{:?}", said[0].1);
    ensure!(said[0].2.iter().any(|s| s.starts_with("GET http://exporter.test:82/metrics ")), "{:?}", said[0].2);
    Ok(())
}
