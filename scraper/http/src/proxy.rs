//! Which proxy a request goes through, by the rules of Go's `httpproxy`.

use std::net::IpAddr;

use http::header::HeaderValue;
use narthex_config::ProxyConfig;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use url::Url;

use crate::auth::{basic_of, percent_decode};

/// The proxy for `url`, or none.
///
/// # Errors
/// A proxy address that is no URL.
pub(crate) fn choose(config: &ProxyConfig, url: &Url) -> Result<Option<Url>, String> {
    if config.proxy_from_environment {
        let env = |name: &str| {
            let value = std::env::var(name).or_else(|_| std::env::var(name.to_lowercase()));
            value.unwrap_or_default()
        };
        let proxy = env(if url.scheme() == "https" { "HTTPS_PROXY" } else { "HTTP_PROXY" });
        if proxy.is_empty() || !applies(&env("NO_PROXY"), url) {
            return Ok(None);
        }
        return parse(&proxy).map(Some);
    }
    match &config.proxy_url {
        Some(proxy) if !proxy.as_str().is_empty() => {
            if !config.no_proxy.is_empty() && !applies(&config.no_proxy, url) {
                return Ok(None);
            }
            parse(proxy.as_str()).map(Some)
        }
        _ => Ok(None),
    }
}

fn parse(text: &str) -> Result<Url, String> {
    match Url::parse(text) {
        Ok(url) if url.has_host() => Ok(url),
        _ => Url::parse(&format!("http://{text}")).map_err(|_| "invalid proxy address".to_owned()),
    }
}

/// Whether a host is not excepted.
fn applies(no_proxy: &str, url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_start_matches('[').trim_end_matches(']').to_lowercase();
    let port = url.port_or_known_default().unwrap_or(0);
    let address: Option<IpAddr> = host.parse().ok();
    if host == "localhost" || address.is_some_and(|a| a.is_loopback()) {
        return false;
    }
    for entry in no_proxy.split(',').map(|e| e.trim().to_lowercase()).filter(|e| !e.is_empty()) {
        if entry == "*" {
            return false;
        }
        if let Some((network, bits)) = entry.split_once('/')
            && let (Ok(network), Ok(bits)) = (network.parse::<IpAddr>(), bits.parse::<u32>())
        {
            if address.is_some_and(|a| in_network(a, network, bits)) {
                return false;
            }
            continue;
        }
        let (name, wanted_port) = match entry.rsplit_once(':') {
            Some((name, p)) if !name.contains(':') || name.ends_with(']') => match p.parse::<u16>() {
                Ok(p) => (name.trim_start_matches('[').trim_end_matches(']').to_owned(), Some(p)),
                Err(_) => (entry.clone(), None),
            },
            _ => (entry.trim_start_matches('[').trim_end_matches(']').to_owned(), None),
        };
        if wanted_port.is_some_and(|p| p != port) {
            continue;
        }
        if let Ok(ip) = name.parse::<IpAddr>() {
            if address == Some(ip) {
                return false;
            }
            continue;
        }
        let (suffix, itself) = match name.strip_prefix("*.").or_else(|| name.strip_prefix('.')) {
            Some(rest) => (format!(".{rest}"), false),
            None => (format!(".{name}"), true),
        };
        if host.ends_with(&suffix) || itself && host == name {
            return false;
        }
    }
    true
}

fn in_network(address: IpAddr, network: IpAddr, bits: u32) -> bool {
    match (address, network) {
        (IpAddr::V4(a), IpAddr::V4(n)) if bits <= 32 => {
            let mask = u32::MAX.checked_shl(32 - bits).unwrap_or(0);
            u32::from(a) & mask == u32::from(n) & mask
        }
        (IpAddr::V6(a), IpAddr::V6(n)) if bits <= 128 => {
            let mask = u128::MAX.checked_shl(128 - bits).unwrap_or(0);
            u128::from(a) & mask == u128::from(n) & mask
        }
        _ => false,
    }
}

/// Basic credentials that stand in the proxy's URL.
pub(crate) fn authorization(proxy: &Url) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(&basic_of(proxy)?).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// Asks a SOCKS5 proxy (RFC 1928, 1929) for the target.
pub(crate) async fn socks<S: AsyncRead + AsyncWrite + Unpin>(
    mut io: S,
    proxy: &Url,
    host: &str,
    port: u16,
) -> Result<S, String> {
    let text = |e: std::io::Error| format!("socks connect: {}", super::connect::io_text(&e));
    let user = percent_decode(proxy.username());
    let password = percent_decode(proxy.password().unwrap_or_default());
    let with_password = !user.is_empty();
    io.write_all(if with_password { &[5, 2, 0, 2] } else { &[5, 1, 0] }).await.map_err(text)?;
    let mut answer = [0u8; 2];
    io.read_exact(&mut answer).await.map_err(text)?;
    match answer {
        [5, 0] => {}
        [5, 2] if with_password && user.len() < 256 && password.len() < 256 => {
            let mut login = vec![1, user.len() as u8];
            login.extend_from_slice(&user);
            login.push(password.len() as u8);
            login.extend_from_slice(&password);
            io.write_all(&login).await.map_err(text)?;
            io.read_exact(&mut answer).await.map_err(text)?;
            if answer[1] != 0 {
                return Err("socks connect: username/password authentication failed".to_owned());
            }
        }
        _ => return Err("socks connect: no acceptable authentication methods".to_owned()),
    }
    if host.len() > 255 {
        return Err("socks connect: FQDN too long".to_owned());
    }
    let mut request = vec![5, 1, 0, 3, host.len() as u8];
    request.extend_from_slice(host.as_bytes());
    request.extend_from_slice(&port.to_be_bytes());
    io.write_all(&request).await.map_err(text)?;
    let mut head = [0u8; 4];
    io.read_exact(&mut head).await.map_err(text)?;
    if head[1] != 0 {
        return Err(format!("socks connect: the proxy answered with code {}", head[1]));
    }
    let length = match head[3] {
        1 => 4,
        4 => 16,
        _ => io.read_u8().await.map_err(text)? as usize,
    };
    let mut rest = vec![0u8; length + 2];
    io.read_exact(&mut rest).await.map_err(text)?;
    Ok(io)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exceptions_as_go_reads_them() {
        for (no_proxy, url, through) in [
            ("", "http://example.com/", true),
            ("", "http://localhost:9100/", false),
            ("", "http://127.3.4.5/", false),
            ("", "http://[::1]/", false),
            ("*", "http://example.com/", false),
            ("example.com", "http://example.com/", false),
            ("example.com", "http://a.example.com/", false),
            ("example.com", "http://anexample.com/", true),
            (".example.com", "http://example.com/", true),
            (".example.com", "http://a.example.com/", false),
            ("*.example.com", "http://a.example.com/", false),
            ("EXAMPLE.com:8080", "http://example.com/", true),
            ("example.com:8080", "http://example.com:8080/", false),
            ("10.0.0.0/8", "http://10.1.2.3/", false),
            ("10.0.0.0/8", "http://11.1.2.3/", true),
            ("fd00::/8", "http://[fd00::1]/", false),
            ("10.1.2.3, 10.1.2.4:90", "http://10.1.2.4:90/", false),
            ("10.1.2.3, 10.1.2.4:90", "http://10.1.2.4/", true),
        ] {
            assert_eq!(applies(no_proxy, &Url::parse(url).unwrap()), through, "{no_proxy} {url}");
        }
    }

    #[test]
    fn credentials_of_the_url() {
        let proxy = Url::parse("http://us%3Aer:p%40ss+x@proxy:3128").unwrap();
        assert_eq!(authorization(&proxy).unwrap(), "Basic dXM6ZXI6cEBzcyt4");
        assert_eq!(authorization(&Url::parse("http://proxy").unwrap()), None);
    }
}
