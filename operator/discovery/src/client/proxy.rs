//! Which proxy a request goes through.

use std::net::IpAddr;

use ::http::header::HeaderValue;
use base64::Engine;
use narthex_config::ProxyConfig;
use url::Url;

/// # Errors
/// When the proxy's URL is none.
pub(super) fn choose(config: &ProxyConfig, url: &Url) -> Result<Option<Url>, String> {
    let environment = |names: [&str; 2]| names.iter().find_map(|n| std::env::var(n).ok()).filter(|v| !v.is_empty());
    let (proxy, no_proxy) = if config.proxy_from_environment {
        let proxy = match url.scheme() {
            "https" => environment(["HTTPS_PROXY", "https_proxy"]),
            _ => environment(["HTTP_PROXY", "http_proxy"]),
        };
        (proxy, environment(["NO_PROXY", "no_proxy"]).unwrap_or_default())
    } else {
        (config.proxy_url.as_ref().map(|u| u.as_str().to_owned()), config.no_proxy.clone())
    };
    let Some(proxy) = proxy.filter(|p| !p.is_empty()) else { return Ok(None) };
    if bypasses(&no_proxy, url) {
        return Ok(None);
    }
    let text = if proxy.contains("://") { proxy } else { format!("http://{proxy}") };
    Url::parse(&text).map(Some).map_err(|e| format!("invalid proxy URL: {e}"))
}

/// Go's `httpproxy` rules: `*`, hosts with their subdomains, `.suffix`, addresses, networks, each perhaps with a port.
/// Without any list, loopback hosts are asked directly only where the proxy comes with one.
fn bypasses(no_proxy: &str, url: &Url) -> bool {
    if no_proxy.is_empty() {
        return false;
    }
    let host = url.host_str().unwrap_or_default().trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
    let address: Option<IpAddr> = host.parse().ok();
    if host == "localhost" || address.is_some_and(|a| a.is_loopback()) {
        return true;
    }
    let port = url.port_or_known_default();
    no_proxy.split(',').map(|p| p.trim().to_ascii_lowercase()).filter(|p| !p.is_empty()).any(|pattern| {
        if pattern == "*" {
            return true;
        }
        if let Some((network, bits)) = pattern.split_once('/') {
            return match (network.parse(), bits.parse(), address) {
                (Ok(network), Ok(bits), Some(address)) => in_network(address, network, bits),
                _ => false,
            };
        }
        if let Ok(exact) = pattern.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
            return address == Some(exact);
        }
        let (name, wanted) = match pattern.rsplit_once(':') {
            Some((name, port)) => (name.to_owned(), port.parse::<u16>().ok()),
            None => (pattern.clone(), None),
        };
        if wanted.is_some() && wanted != port {
            return false;
        }
        let suffix = name.trim_start_matches("*.").trim_start_matches('.');
        let only_below = name.starts_with('.') || name.starts_with("*.");
        (host == suffix && !only_below) || host.strip_suffix(suffix).is_some_and(|h| h.ends_with('.'))
    })
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

/// `user:password` of a proxy's URL.
pub(super) fn user_pair(proxy: &Url) -> String {
    let decode = |s: &str| percent_encoding::percent_decode_str(s).decode_utf8_lossy().into_owned();
    format!("{}:{}", decode(proxy.username()), decode(proxy.password().unwrap_or_default()))
}

/// The header for a plain request through the proxy.
pub(super) fn credentials(proxy: &Url) -> Option<HeaderValue> {
    if proxy.username().is_empty() {
        return None;
    }
    let encoded = base64::engine::general_purpose::STANDARD.encode(user_pair(proxy));
    let mut value = HeaderValue::from_str(&format!("Basic {encoded}")).ok()?;
    value.set_sensitive(true);
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exceptions() {
        for (list, url, expected) in [
            ("", "http://127.0.0.1/", false),
            ("x", "http://127.0.0.1/", true),
            ("*", "http://a/", true),
            ("example.com", "http://example.com/", true),
            ("example.com", "http://a.example.com/", true),
            ("example.com", "http://badexample.com/", false),
            (".example.com", "http://example.com/", false),
            ("*.example.com", "http://a.example.com/", true),
            ("a:80", "http://a/", true),
            ("a:81", "http://a/", false),
            ("10.0.0.0/8", "http://10.1.2.3/", true),
            ("10.0.0.0/8", "http://11.1.2.3/", false),
            ("fd00::/8", "http://[fd00::1]/", true),
            ("1.2.3.4", "http://1.2.3.4:9/", true),
        ] {
            assert_eq!(bypasses(list, &Url::parse(url).unwrap()), expected, "{list} {url}");
        }
    }
}
