//! Credentials and configured headers.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use ::http::Method;
use ::http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use narthex_config::{Header, HttpClientConfig, OAuth2};
use serde::Deserialize;
use tokio::sync::Mutex;
use url::Url;

use super::{Exchange, exchange};

/// The text, or what the file holds.
async fn secret(text: &str, file: &Path, what: &str) -> Result<String, String> {
    if file.as_os_str().is_empty() {
        return Ok(text.to_owned());
    }
    let read = tokio::fs::read_to_string(file).await;
    read.map(|t| t.trim().to_owned()).map_err(|e| format!("unable to read {what} file {}: {e}", file.display()))
}

fn insert(headers: &mut HeaderMap, text: &str) -> Result<(), String> {
    let mut value = HeaderValue::from_str(text).map_err(|_| "invalid Authorization header value")?;
    value.set_sensitive(true);
    headers.insert(AUTHORIZATION, value);
    Ok(())
}

fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

/// Adds the Authorization header, if one is configured or stands in the URL.
pub(super) async fn authorize(
    config: &HttpClientConfig,
    tokens: &Tokens,
    url: &Url,
    headers: &mut HeaderMap,
) -> Result<(), String> {
    if let Some(a) = &config.basic_auth {
        let user = secret(&a.username, &a.username_file, "basic auth username").await?;
        let password = secret(a.password.expose(), &a.password_file, "basic auth password").await?;
        return insert(headers, &basic(&user, &password));
    }
    if let Some(a) = &config.authorization {
        let credentials = secret(a.credentials.expose(), &a.credentials_file, "authorization credentials").await?;
        return insert(headers, &format!("{} {credentials}", a.kind));
    }
    if let Some(oauth2) = &config.oauth2 {
        let header = tokens.header(oauth2).await.map_err(|e| format!("oauth2: {e}"))?;
        return insert(headers, &header);
    }
    if !url.username().is_empty() {
        return insert(headers, &format!("Basic {}", STANDARD.encode(super::proxy::user_pair(url))));
    }
    Ok(())
}

/// Adds the `http_headers`.
pub(super) async fn custom_headers(
    configured: &BTreeMap<String, Header>,
    headers: &mut HeaderMap,
) -> Result<(), String> {
    for (name, header) in configured {
        let name: HeaderName = name.parse().map_err(|_| format!("invalid header name {name:?}"))?;
        let mut values = header.values.clone();
        values.extend(header.secrets.iter().map(|s| s.expose().to_owned()));
        for file in &header.files {
            values.push(secret("", file, "headers").await?);
        }
        for value in values {
            let mut value = HeaderValue::from_str(&value).map_err(|_| format!("invalid value of header {name}"))?;
            value.set_sensitive(true);
            headers.append(name.clone(), value);
        }
    }
    Ok(())
}

struct Token {
    header: String,
    until: Option<Instant>,
    /// The secret that it was asked with.
    secret: String,
}

/// The access token of a client (RFC 6749, section 4.4).
#[derive(Default)]
pub(super) struct Tokens(Mutex<Option<Token>>);

/// A token is not used in its last seconds.
const MARGIN: Duration = Duration::from_secs(10);
const TOKEN_LIMIT: usize = 1 << 20;

#[derive(Deserialize)]
struct TokenAnswer {
    #[serde(default)]
    access_token: String,
    #[serde(default)]
    token_type: String,
    expires_in: Option<serde_json::Value>,
}

impl Tokens {
    async fn header(&self, config: &OAuth2) -> Result<String, String> {
        if !matches!(config.grant_type.as_str(), "" | "client_credentials") {
            return Err(format!("grant type {:?} is not supported", config.grant_type));
        }
        let secret = secret(config.client_secret.expose(), &config.client_secret_file, "oauth2 client secret").await?;
        let mut held = self.0.lock().await;
        if let Some(token) = &*held
            && token.secret == secret
            && token.until.is_none_or(|until| Instant::now() + MARGIN < until)
        {
            return Ok(token.header.clone());
        }
        let token = ask(config, secret).await?;
        let header = token.header.clone();
        *held = Some(token);
        Ok(header)
    }
}

/// The body of a token request, with the credentials where they are to stand there.
fn form(config: &OAuth2, secret: Option<&str>) -> String {
    let mut form = url::form_urlencoded::Serializer::new(String::new());
    form.append_pair("grant_type", "client_credentials");
    if !config.scopes.is_empty() {
        form.append_pair("scope", &config.scopes.join(" "));
    }
    form.extend_pairs(&config.endpoint_params);
    if let Some(secret) = secret {
        form.append_pair("client_id", &config.client_id).append_pair("client_secret", secret);
    }
    form.finish()
}

async fn ask(config: &OAuth2, secret: String) -> Result<Token, String> {
    let url = Url::parse(&config.token_url).map_err(|e| format!("token_url: {e}"))?;
    let mut refused = String::new();
    // Credentials in the header first; servers that want them in the body refuse that.
    for in_header in [true, false] {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
        if in_header {
            let encode = |text: &str| url::form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
            insert(&mut headers, &basic(&encode(&config.client_id), &encode(&secret)))?;
        }
        let body = form(config, (!in_header).then_some(secret.as_str()));
        let answer = exchange(Exchange {
            method: Method::POST,
            url: &url,
            headers,
            body: Bytes::from(body),
            tls: &config.tls_config,
            proxy: &config.proxy,
            socket: None,
            limit: TOKEN_LIMIT,
        })
        .await?;
        if !answer.status.is_success() {
            refused = format!("cannot fetch token: {}", answer.status);
            continue;
        }
        let token: TokenAnswer = answer.json()?;
        if token.access_token.is_empty() {
            return Err("server response missing access_token".into());
        }
        let seconds = match token.expires_in {
            Some(serde_json::Value::Number(n)) => n.as_f64(),
            Some(serde_json::Value::String(s)) => s.parse().ok(),
            _ => None,
        };
        let seconds = seconds.filter(|s| *s > 0.0 && *s < 1e9);
        let kind = match token.token_type.to_ascii_lowercase().as_str() {
            "" | "bearer" => "Bearer".to_owned(),
            _ => token.token_type,
        };
        return Ok(Token {
            header: format!("{kind} {}", token.access_token),
            until: seconds.map(|s| Instant::now() + Duration::from_secs_f64(s)),
            secret,
        });
    }
    Err(refused)
}
