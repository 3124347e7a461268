//! URLs as Go's `net/url` takes them: any reference, also a relative or an empty one.

use std::fmt;

use crate::yaml::decode::Fault;
use crate::yaml::{Context, Node, Out, Yaml};

/// A URL as it was configured. Showing it hides the password.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct WebUrl {
    text: String,
    scheme_len: usize,
    /// Start and end of the authority, `user:password@host:port`.
    authority: Option<(usize, usize)>,
}

impl WebUrl {
    /// # Errors
    /// When Go would refuse the text. The message names the text without its password.
    pub fn parse(text: &str) -> Result<WebUrl, String> {
        let fail = |why: String| Err(format!("parse {}: {why}", narthex_model::labels::quote(&hide_password(text))));
        if text.bytes().any(|b| b < 0x20 || b == 0x7f) {
            return fail("net/url: invalid control character in URL".into());
        }
        let scheme_len = match scheme_end(text) {
            Ok(len) => len,
            Err(why) => return fail(why.into()),
        };
        let rest_at = if scheme_len > 0 { scheme_len + 1 } else { 0 };
        let body_end = text.find('#').unwrap_or(text.len()).max(rest_at);
        let path_end = text[rest_at..body_end].find('?').map_or(body_end, |i| rest_at + i);
        let rest = &text[rest_at..path_end];
        if scheme_len == 0 && !rest.starts_with('/') && rest.split('/').next().is_some_and(|first| first.contains(':'))
        {
            return fail("first path segment in URL cannot contain colon".into());
        }
        let mut authority = None;
        let mut path = rest;
        if let Some(after) = rest.strip_prefix("//")
            && (scheme_len > 0 || !rest.starts_with("///"))
        {
            let len = after.find('/').unwrap_or(after.len());
            authority = Some((rest_at + 2, rest_at + 2 + len));
            path = &after[len..];
            let host = after[..len].rsplit_once('@').map_or(&after[..len], |(_, host)| host);
            if let Err(why) = check_host(host) {
                return fail(why);
            }
        }
        let escaped: &[&str] =
            if scheme_len > 0 && authority.is_none() && !path.starts_with('/') { &[] } else { &[path] };
        for part in escaped {
            if let Some(bad) = bad_escape(part) {
                return fail(format!("invalid URL escape {}", narthex_model::labels::quote(bad)));
            }
        }
        // Go keeps the scheme in lower case.
        let text = text[..scheme_len].to_ascii_lowercase() + &text[scheme_len..];
        Ok(WebUrl { text, scheme_len, authority })
    }

    /// The whole text, password included.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Empty for a relative reference.
    pub fn scheme(&self) -> &str {
        &self.text[..self.scheme_len]
    }

    /// `host` or `host:port`; empty where there is none.
    pub fn host(&self) -> &str {
        let Some((start, end)) = self.authority else { return "" };
        let authority = &self.text[start..end];
        authority.rsplit_once('@').map_or(authority, |(_, host)| host)
    }

    /// The text with `xxxxx` for the password.
    pub fn redacted(&self) -> String {
        let Some((start, end)) = self.authority else { return self.text.clone() };
        let Some((user, host)) = self.text[start..end].rsplit_once('@') else { return self.text.clone() };
        match user.split_once(':') {
            Some((name, _)) => format!("{}{name}:xxxxx@{host}{}", &self.text[..start], &self.text[end..]),
            None => self.text.clone(),
        }
    }
}

/// The length of the scheme; 0 for none.
fn scheme_end(text: &str) -> Result<usize, &'static str> {
    for (i, b) in text.bytes().enumerate() {
        match b {
            b'a'..=b'z' | b'A'..=b'Z' => {}
            b'0'..=b'9' | b'+' | b'-' | b'.' if i > 0 => {}
            b':' if i == 0 => return Err("missing protocol scheme"),
            b':' => return Ok(i),
            _ => return Ok(0),
        }
    }
    Ok(0)
}

fn check_host(host: &str) -> Result<(), String> {
    let port = if let Some(inner) = host.strip_prefix('[') {
        match inner.split_once(']') {
            None => return Err("missing ']' in host".into()),
            Some((_, port)) => port,
        }
    } else {
        if let Some(bad) =
            host.chars().find(|c| matches!(c, ' ' | '"' | '<' | '>' | '\\' | '^' | '`' | '{' | '|' | '}'))
        {
            return Err(format!("invalid character {} in host name", narthex_model::labels::quote(&bad.to_string())));
        }
        host.find(':').map_or("", |i| &host[i..])
    };
    if port.is_empty() || port.strip_prefix(':').is_some_and(|p| p.bytes().all(|b| b.is_ascii_digit())) {
        Ok(())
    } else {
        Err(format!("invalid port {} after host", narthex_model::labels::quote(port)))
    }
}

fn bad_escape(text: &str) -> Option<&str> {
    text.match_indices('%').map(|(i, _)| i).find_map(|i| {
        let bytes = text.as_bytes();
        let hex = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_hexdigit);
        if hex(i + 1) && hex(i + 2) {
            return None;
        }
        let end = (i + 3).min(text.len());
        Some(text.get(i..end).unwrap_or("%"))
    })
}

/// For messages about texts that are no URL.
fn hide_password(text: &str) -> String {
    let start = text.find("//").map_or(0, |i| i + 2);
    let end = text[start..].find('/').map_or(text.len(), |i| start + i);
    match text[start..end].rsplit_once('@') {
        Some((user, host)) => {
            let name = user.split_once(':').map_or("xxxxx", |(name, _)| name);
            format!("{}{name}:xxxxx@{host}{}", &text[..start], &text[end..])
        }
        None => text.to_owned(),
    }
}

impl fmt::Debug for WebUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.redacted())
    }
}

impl fmt::Display for WebUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.redacted())
    }
}

impl Yaml for WebUrl {
    const GO_TYPE: &'static str = "config.URL";

    fn zero() -> Self {
        WebUrl::default()
    }

    fn is_zero(&self) -> bool {
        false
    }

    fn decode(node: &Node, cx: &mut Context) -> Result<Self, Fault> {
        let text = String::decode(node, cx)?;
        WebUrl::parse(&text).map_err(|message| cx.fault(node, message))
    }

    fn print(&self) -> Out {
        Out::Text(self.redacted())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_and_redaction() {
        for (text, scheme, host, shown) in [
            ("http://h:1/p?q#f", "http", "h:1", "http://h:1/p?q#f"),
            ("HTTP://h", "http", "h", "http://h"),
            ("http://u:p@ss@h/x", "http", "h", "http://u:xxxxx@h/x"),
            ("http://u@h", "http", "h", "http://u@h"),
            ("unix:///run/d.sock", "unix", "", "unix:///run/d.sock"),
            ("", "", "", ""),
            ("localhost", "", "", "localhost"),
            ("//host/p", "", "host", "//host/p"),
            ("https://[::1]:9/", "https", "[::1]:9", "https://[::1]:9/"),
        ] {
            let url = WebUrl::parse(text).unwrap();
            assert_eq!((url.scheme(), url.host(), url.redacted().as_str()), (scheme, host, shown), "{text}");
        }
    }

    #[test]
    fn refused_without_showing_passwords() {
        for (text, message) in [
            (":9090", "parse \":9090\": missing protocol scheme"),
            ("127.0.0.1:9090", "parse \"127.0.0.1:9090\": first path segment in URL cannot contain colon"),
            ("http://u:secret@h:x/", "parse \"http://u:xxxxx@h:x/\": invalid port \":x\" after host"),
            ("http://h/%zz", "parse \"http://h/%zz\": invalid URL escape \"%zz\""),
            ("http://a b/", "parse \"http://a b/\": invalid character \" \" in host name"),
        ] {
            assert_eq!(WebUrl::parse(text).unwrap_err(), message);
        }
    }
}
