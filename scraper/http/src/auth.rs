//! Credentials and configured headers. Files are read for each request, so that secrets can rotate.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use narthex_config::{Header, HttpClientConfig, OAuth2};
use tokio::sync::Mutex;
use url::Url;

use super::tls::TlsCache;
use super::{FetchError, failed, round_trip};

async fn file_text(file: &Path, what: &str) -> Result<String, FetchError> {
    let text = tokio::fs::read_to_string(file).await;
    text.map(|t| t.trim().to_owned()).map_err(|e| failed(format!("unable to read {what} file {}: {e}", file.display())))
}

/// The text, or what the file holds.
async fn secret(text: &str, file: &Path, what: &str) -> Result<String, FetchError> {
    if file.as_os_str().is_empty() { Ok(text.to_owned()) } else { file_text(file, what).await }
}

fn insert(headers: &mut HeaderMap, text: &str) -> Result<(), FetchError> {
    let mut value = HeaderValue::from_str(text).map_err(|_| failed("invalid Authorization header value"))?;
    value.set_sensitive(true);
    headers.insert(AUTHORIZATION, value);
    Ok(())
}

fn basic(user: impl AsRef<[u8]>, password: impl AsRef<[u8]>) -> String {
    format!("Basic {}", STANDARD.encode([user.as_ref(), b":", password.as_ref()].concat()))
}

/// A text of a URL with its percent escapes replaced by the bytes that they stand for. What is no escape stays.
pub(crate) fn percent_decode(text: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        let digit = |b: &u8| (*b as char).to_digit(16);
        match after {
            [high, low, tail @ ..] if *first == b'%' => match (digit(high), digit(low)) {
                (Some(h), Some(l)) => {
                    out.push((h << 4 | l) as u8);
                    rest = tail;
                }
                _ => out.push(*first),
            },
            _ => out.push(*first),
        }
    }
    out
}

/// The value of a header with the user and the password that stand in a URL; `None` where neither does.
pub(crate) fn basic_of(url: &Url) -> Option<String> {
    let (user, password) = (url.username(), url.password());
    let given = !user.is_empty() || password.is_some();
    given.then(|| basic(percent_decode(user), percent_decode(password.unwrap_or_default())))
}

/// Adds the Authorization header, if one is configured or stands in the URL.
pub(crate) async fn authorize(
    config: &HttpClientConfig,
    token: &TokenCache,
    url: &Url,
    headers: &mut HeaderMap,
) -> Result<(), FetchError> {
    if let Some(a) = &config.basic_auth {
        let user = secret(&a.username, &a.username_file, "basic auth username").await?;
        let password = secret(a.password.expose(), &a.password_file, "basic auth password").await?;
        return insert(headers, &basic(user, password));
    }
    if let Some(a) = &config.authorization {
        let credentials = secret(a.credentials.expose(), &a.credentials_file, "authorization credentials").await?;
        let kind = if a.kind.is_empty() { "Bearer" } else { &a.kind };
        return insert(headers, &format!("{kind} {credentials}"));
    }
    if let Some(oauth) = &config.oauth2 {
        let (kind, text) = token.get(oauth).await?;
        return insert(headers, &format!("{kind} {text}"));
    }
    basic_of(url).map_or(Ok(()), |value| insert(headers, &value))
}

/// Adds the `http_headers`.
pub(crate) async fn custom_headers(
    configured: &BTreeMap<String, Header>,
    headers: &mut HeaderMap,
) -> Result<(), FetchError> {
    for (name, header) in configured {
        let name: HeaderName = name.parse().map_err(|_| failed(format!("invalid header name {name:?}")))?;
        headers.remove(&name);
        let mut values = header.values.clone();
        values.extend(header.secrets.iter().map(|s| s.expose().to_owned()));
        for file in &header.files {
            values.push(file_text(file, "headers").await?);
        }
        for value in values {
            let mut value =
                HeaderValue::from_str(&value).map_err(|_| failed(format!("invalid value of header {name}")))?;
            value.set_sensitive(true);
            headers.append(name.clone(), value);
        }
    }
    Ok(())
}

struct Token {
    kind: String,
    text: String,
    until: Option<Instant>,
    /// The secret that it was asked with.
    secret: String,
}

/// The access token of a client, asked for when there is none or it is about to expire (RFC 6749, section 4.4).
pub(crate) struct TokenCache {
    tls: Option<TlsCache>,
    token: Mutex<Option<Token>>,
}

/// A token is not used in its last seconds.
const EXPIRY_MARGIN: Duration = Duration::from_secs(10);

impl TokenCache {
    pub fn new(config: Option<OAuth2>) -> TokenCache {
        TokenCache { tls: config.map(|c| TlsCache::new(c.tls_config, false)), token: Mutex::new(None) }
    }

    async fn get(&self, config: &OAuth2) -> Result<(String, String), FetchError> {
        let client_secret = if is_jwt(config) {
            let file = Path::new(&config.client_certificate_key_file);
            secret(config.client_certificate_key.expose(), file, "oauth2 client certificate key").await?
        } else {
            secret(config.client_secret.expose(), &config.client_secret_file, "oauth2 client secret").await?
        };
        let mut held = self.token.lock().await;
        if let Some(t) = &*held
            && t.secret == client_secret
            && t.until.is_none_or(|until| Instant::now() + EXPIRY_MARGIN < until)
        {
            return Ok((t.kind.clone(), t.text.clone()));
        }
        let token = self.ask(config, client_secret).await.map_err(|e| failed(format!("oauth2: {e}")))?;
        let answer = (token.kind.clone(), token.text.clone());
        *held = Some(token);
        Ok(answer)
    }

    async fn ask(&self, config: &OAuth2, client_secret: String) -> Result<Token, String> {
        let Some(tls) = &self.tls else { return Err("not configured".to_owned()) };
        let url = Url::parse(&config.token_url).map_err(|e| format!("parse {:?}: {e}", config.token_url))?;
        // Credentials in the header first; servers that want them in the body say no.
        let mut last = String::new();
        for in_header in [true, false] {
            let (headers, body) = if is_jwt(config) {
                // A signed assertion is the only credential there is.
                if !in_header {
                    break;
                }
                super::jwt::token_request(config, &client_secret)?
            } else {
                token_request(config, &client_secret, in_header)?
            };
            let (status, answer) = round_trip(&url, &config.proxy, tls, headers, body).await?;
            if !status.is_success() {
                last = format!("cannot fetch token: {status}");
                continue;
            }
            #[derive(serde::Deserialize)]
            struct Answer {
                access_token: String,
                #[serde(default)]
                token_type: String,
                expires_in: Option<serde_json::Value>,
            }
            let answer: Answer = serde_json::from_slice(&answer).map_err(|e| format!("cannot parse json: {e}"))?;
            if answer.access_token.is_empty() {
                return Err("server response missing access_token".to_owned());
            }
            let seconds = match answer.expires_in {
                Some(serde_json::Value::Number(n)) => n.as_f64(),
                Some(serde_json::Value::String(s)) => s.parse().ok(),
                _ => None,
            };
            let seconds = seconds.filter(|s| *s > 0.0 && *s < 1e9);
            let kind = match answer.token_type.to_lowercase().as_str() {
                "" | "bearer" => "Bearer".to_owned(),
                "mac" => "MAC".to_owned(),
                "basic" => "Basic".to_owned(),
                _ => answer.token_type,
            };
            let until = seconds.map(|s| Instant::now() + Duration::from_secs_f64(s));
            return Ok(Token { kind, text: answer.access_token, until, secret: client_secret });
        }
        Err(last)
    }
}

fn is_jwt(config: &OAuth2) -> bool {
    config.grant_type == narthex_config::GRANT_JWT_BEARER
}

/// Headers and form of a token request.
fn token_request(config: &OAuth2, client_secret: &str, in_header: bool) -> Result<(HeaderMap, Bytes), String> {
    let mut form = url::form_urlencoded::Serializer::new(String::new());
    form.append_pair("grant_type", "client_credentials");
    if !config.scopes.is_empty() {
        form.append_pair("scope", &config.scopes.join(" "));
    }
    for (name, value) in &config.endpoint_params {
        form.append_pair(name, value);
    }
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
    if in_header {
        let encode = |text: &str| url::form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
        let value = basic(encode(&config.client_id), encode(client_secret));
        headers.insert(AUTHORIZATION, HeaderValue::from_str(&value).map_err(|e| e.to_string())?);
    } else {
        form.append_pair("client_id", &config.client_id);
        form.append_pair("client_secret", client_secret);
    }
    Ok((headers, Bytes::from(form.finish())))
}
