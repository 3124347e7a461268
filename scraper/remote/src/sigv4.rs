//! AWS's Signature Version 4 of a request (`sigv4`), with keys that are configured or in the environment.
//!
//! Absent: profiles of shared files, roles to be assumed (`role_arn`), and the keys of instances and containers: those
//! are refused when the configuration is loaded.

use http::HeaderMap;
use http::header::{HeaderName, HeaderValue};
use narthex_config::Secret;
use narthex_config::alerting::SigV4Config;
use ring::{digest, hmac};
use url::Url;

/// Signs requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SigV4 {
    access_key: String,
    secret_key: Secret,
    token: Option<Secret>,
    region: String,
    service: String,
}

impl SigV4 {
    /// # Errors
    /// In words, what is missing or not supported.
    pub fn new(config: &SigV4Config, environment: impl Fn(&str) -> Option<String>) -> Result<SigV4, String> {
        for (set, name) in [(&config.profile, "profile"), (&config.role_arn, "role_arn")] {
            if !set.is_empty() {
                return Err(format!("sigv4: {name} is not supported: only access_key and secret_key are"));
            }
        }
        let from = |names: &[&str]| names.iter().find_map(|n| environment(n)).filter(|v| !v.is_empty());
        let region = Some(config.region.clone()).filter(|r| !r.is_empty());
        let region = region.or_else(|| from(&["AWS_REGION", "AWS_DEFAULT_REGION"]));
        let region = region.ok_or("region not configured in sigv4 or in default credentials chain")?;
        let service = if config.service_name.is_empty() { "aps" } else { &config.service_name };
        let (access_key, secret_key, token) = if config.access_key.is_empty() {
            let missing = "sigv4: no access_key, nor AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment";
            let key = from(&["AWS_ACCESS_KEY_ID", "AWS_ACCESS_KEY"]).ok_or(missing)?;
            let secret = from(&["AWS_SECRET_ACCESS_KEY", "AWS_SECRET_KEY"]).ok_or(missing)?;
            (key, Secret::new(secret), from(&["AWS_SESSION_TOKEN"]).map(Secret::new))
        } else {
            (config.access_key.clone(), config.secret_key.clone(), None)
        };
        Ok(SigV4 { access_key, secret_key, token, region, service: service.to_owned() })
    }

    /// Adds the headers that sign a POST of `body`; `now` in seconds since the epoch.
    pub fn sign(&self, url: &Url, headers: &mut HeaderMap, body: &[u8], now: i64) {
        let (day, time) = stamps(now);
        let hash = hex(digest::digest(&digest::SHA256, body).as_ref());
        let host = match url.port() {
            Some(port) => format!("{}:{port}", url.host_str().unwrap_or_default()),
            None => url.host_str().unwrap_or_default().to_owned(),
        };
        let mut signed = vec![("host", host), ("x-amz-content-sha256", hash.clone()), ("x-amz-date", time.clone())];
        if let Some(token) = &self.token {
            signed.push(("x-amz-security-token", token.expose().to_owned()));
        }
        let authorization = self.authorization("POST", url, &signed, &hash, &day, &time);
        let mut set = |name: &'static str, value: &str| {
            if let Ok(mut value) = HeaderValue::from_str(value) {
                value.set_sensitive(name != "x-amz-date" && name != "x-amz-content-sha256");
                headers.insert(HeaderName::from_static(name), value);
            }
        };
        for (name, value) in signed.iter().filter(|(name, _)| *name != "host") {
            set(name, value);
        }
        set("authorization", &authorization);
    }

    /// The header's value, for these headers sorted by name.
    fn authorization(
        &self,
        method: &str,
        url: &Url,
        signed: &[(&str, String)],
        hash: &str,
        day: &str,
        time: &str,
    ) -> String {
        let names = signed.iter().map(|(n, _)| *n).collect::<Vec<_>>().join(";");
        let headers: String = signed.iter().map(|(n, v)| format!("{n}:{}\n", v.trim())).collect();
        let mut query: Vec<(String, String)> =
            url.query_pairs().map(|(n, v)| (escape(&n, false), escape(&v, false))).collect();
        query.sort();
        let query = query.iter().map(|(n, v)| format!("{n}={v}")).collect::<Vec<_>>().join("&");
        // The path as it is sent, escaped once more.
        let path = escape(url.path(), true);
        let canonical = format!("{method}\n{path}\n{query}\n{headers}\n{names}\n{hash}");
        let scope = format!("{day}/{}/{}/aws4_request", self.region, self.service);
        let canonical = hex(digest::digest(&digest::SHA256, canonical.as_bytes()).as_ref());
        let text = format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{canonical}");
        let mut key = format!("AWS4{}", self.secret_key.expose()).into_bytes();
        for part in [day, &self.region, &self.service, "aws4_request", &text] {
            let sign = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &key), part.as_bytes());
            key = sign.as_ref().to_vec();
        }
        format!(
            "AWS4-HMAC-SHA256 Credential={}/{scope}, SignedHeaders={names}, Signature={}",
            self.access_key,
            hex(&key)
        )
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn escape(text: &str, path: bool) -> String {
    let mut out = String::new();
    for b in text.bytes() {
        match b {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(b as char),
            b'/' if path => out.push('/'),
            _ => out.push_str(&format!("%{b:02X}")),
        }
    }
    out
}

/// `20150830` and `20150830T123600Z`.
fn stamps(now: i64) -> (String, String) {
    let time = jiff::Timestamp::from_second(now).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    (time.strftime("%Y%m%d").to_string(), time.strftime("%Y%m%dT%H%M%SZ").to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signer() -> SigV4 {
        SigV4 {
            access_key: "AKIDEXAMPLE".into(),
            secret_key: Secret::new("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"),
            token: None,
            region: "us-east-1".into(),
            service: "service".into(),
        }
    }

    /// From AWS's published test suite (`get-vanilla`, `get-vanilla-query-order-key-case`).
    #[test]
    fn as_in_the_published_examples() {
        let empty = hex(digest::digest(&digest::SHA256, b"").as_ref());
        let (day, time) = stamps(1_440_938_160);
        assert_eq!((day.as_str(), time.as_str()), ("20150830", "20150830T123600Z"));
        for (url, signature) in [
            ("https://example.amazonaws.com/", "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"),
            (
                "https://example.amazonaws.com/?Param2=value2&Param1=value1",
                "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500",
            ),
        ] {
            let url = Url::parse(url).unwrap();
            let signed = [("host", "example.amazonaws.com".to_owned()), ("x-amz-date", time.clone())];
            let header = signer().authorization("GET", &url, &signed, &empty, &day, &time);
            let expected = format!(
                "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, \
                 SignedHeaders=host;x-amz-date, Signature={signature}"
            );
            assert_eq!(header, expected);
        }
    }

    #[test]
    fn keys_from_the_environment_or_a_clear_word() {
        let config = SigV4Config { region: "eu".into(), ..SigV4Config::default() };
        let keys = |name: &str| match name {
            "AWS_ACCESS_KEY_ID" => Some("id".to_owned()),
            "AWS_SECRET_ACCESS_KEY" => Some("secret".to_owned()),
            _ => None,
        };
        let signer = SigV4::new(&config, keys).unwrap();
        assert_eq!((signer.access_key.as_str(), signer.service.as_str()), ("id", "aps"));
        assert!(!format!("{signer:?}").contains("\"secret\""));
        assert!(SigV4::new(&config, |_| None).unwrap_err().contains("AWS_ACCESS_KEY_ID"));
        assert!(SigV4::new(&SigV4Config::default(), keys).unwrap_err().contains("region"));
        let profile = SigV4Config { profile: "p".into(), ..config };
        assert!(SigV4::new(&profile, keys).unwrap_err().contains("profile is not supported"));
    }
}
