//! Tokens by a signed assertion (RFC 7523, `urn:ietf:params:oauth:grant-type:jwt-bearer`).

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use narthex_config::{GRANT_JWT_BEARER, OAuth2};
use ring::rand::{SecureRandom, SystemRandom};
use ring::signature::{RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512, RsaKeyPair};
use rustls::pki_types::PrivateKeyDer;
use serde_json::{Map, Value, json};

/// How long an assertion holds, in seconds.
const LIFETIME: u64 = 600;

/// Headers and form of a token request, signed with a private RSA key in PEM.
pub(crate) fn token_request(config: &OAuth2, key: &str) -> Result<(HeaderMap, Bytes), String> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let mut form = url::form_urlencoded::Serializer::new(String::new());
    let grant = config.endpoint_params.get("grant_type").map_or(GRANT_JWT_BEARER, String::as_str);
    form.append_pair("grant_type", grant);
    form.append_pair("assertion", &assertion(config, key, now)?);
    if !config.scopes.is_empty() {
        form.append_pair("scope", &config.scopes.join(" "));
    }
    for (name, value) in config.endpoint_params.iter().filter(|(name, _)| *name != "grant_type") {
        if matches!(name.as_str(), "assertion" | "scope") && (name == "assertion" || !config.scopes.is_empty()) {
            return Err(format!("cannot overwrite parameter {name:?}"));
        }
        form.append_pair(name, value);
    }
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
    Ok((headers, Bytes::from(form.finish())))
}

/// The signed assertion; `now` in seconds.
fn assertion(config: &OAuth2, key: &str, now: u64) -> Result<String, String> {
    let random = SystemRandom::new();
    let mut id = [0u8; 16];
    random.fill(&mut id).map_err(|_| "no randomness")?;
    let issuer = if config.iss.is_empty() { &config.client_id } else { &config.iss };
    let audience = if config.audience.is_empty() { &config.token_url } else { &config.audience };
    let mut claims = Map::new();
    claims.insert("iss".into(), json!(issuer));
    claims.insert("sub".into(), json!(config.client_id));
    claims.insert("jti".into(), json!(id.iter().map(|b| format!("{b:02x}")).collect::<String>()));
    claims.insert("aud".into(), json!(audience));
    claims.insert("iat".into(), json!(now));
    claims.insert("exp".into(), json!(now + LIFETIME));
    if !config.scopes.is_empty() {
        claims.insert("scope".into(), json!(config.scopes.join(" ")));
    }
    claims.extend(config.claims.iter().map(|(name, value)| (name.clone(), value.clone())));
    let (algorithm, encoding): (_, &'static dyn ring::signature::RsaEncoding) =
        match config.signature_algorithm.as_str() {
            "RS384" => ("RS384", &RSA_PKCS1_SHA384),
            "RS512" => ("RS512", &RSA_PKCS1_SHA512),
            _ => ("RS256", &RSA_PKCS1_SHA256),
        };
    let mut header = json!({"alg": algorithm, "typ": "JWT"});
    if !config.client_certificate_key_id.is_empty() {
        header["kid"] = json!(config.client_certificate_key_id);
    }
    let encode = |value: &str| URL_SAFE_NO_PAD.encode(value);
    let signed = format!("{}.{}", encode(&header.to_string()), encode(&Value::Object(claims).to_string()));
    let pair = key_pair(key)?;
    let mut signature = vec![0; pair.public().modulus_len()];
    pair.sign(encoding, &random, signed.as_bytes(), &mut signature).map_err(|_| "the assertion cannot be signed")?;
    Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
}

fn key_pair(pem: &str) -> Result<RsaKeyPair, String> {
    let named = |e: &dyn std::fmt::Display| format!("client certificate key: {e}");
    let key = rustls_pemfile::private_key(&mut pem.as_bytes()).map_err(|e| named(&e))?;
    match key.ok_or_else(|| named(&"no private key in it"))? {
        PrivateKeyDer::Pkcs1(der) => RsaKeyPair::from_der(der.secret_pkcs1_der()).map_err(|e| named(&e)),
        PrivateKeyDer::Pkcs8(der) => RsaKeyPair::from_pkcs8(der.secret_pkcs8_der()).map_err(|e| named(&e)),
        _ => Err(named(&"not a valid RSA private key")),
    }
}

#[cfg(test)]
mod tests {
    use ring::signature::{RSA_PKCS1_2048_8192_SHA384, UnparsedPublicKey};

    use super::*;

    /// A key for this test alone, by `openssl genrsa 2048`.
    const KEY: &str = include_str!("../testdata/rsa.pem");

    #[test]
    fn assertions_say_and_sign_what_is_configured() {
        let config = OAuth2 {
            client_id: "me".into(),
            client_certificate_key_id: "k1".into(),
            signature_algorithm: "RS384".into(),
            scopes: vec!["a".into(), "b".into()],
            token_url: "https://tokens.test/".into(),
            claims: [("extra".to_owned(), json!({"x": 1})), ("aud".to_owned(), json!("other"))].into(),
            ..OAuth2::default()
        };
        let text = assertion(&config, KEY, 1000).unwrap();
        let parts: Vec<&str> = text.split('.').collect();
        let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).unwrap();
        let header: Value = serde_json::from_slice(&decode(parts[0])).unwrap();
        assert_eq!(header, json!({"alg": "RS384", "typ": "JWT", "kid": "k1"}));
        let mut claims: Value = serde_json::from_slice(&decode(parts[1])).unwrap();
        assert_eq!(claims["jti"].take().as_str().unwrap().len(), 32);
        let expected = json!({"iss": "me", "sub": "me", "jti": null, "aud": "other", "iat": 1000, "exp": 1600,
            "scope": "a b", "extra": {"x": 1}});
        assert_eq!(claims, expected);
        let public = key_pair(KEY).unwrap().public().as_ref().to_vec();
        let signed = format!("{}.{}", parts[0], parts[1]);
        let key = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA384, public);
        key.verify(signed.as_bytes(), &decode(parts[2])).unwrap();
        let (_, body) = token_request(&config, KEY).unwrap();
        let body = String::from_utf8_lossy(&body).into_owned();
        assert!(
            body.starts_with("grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer&assertion="),
            "{body}"
        );
        assert!(body.ends_with("&scope=a+b"), "{body}");
        assert!(assertion(&config, "no key", 0).unwrap_err().contains("no private key"));
    }
}
