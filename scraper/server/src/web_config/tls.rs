//! `tls_server_config`: versions, suites, curves, the certificate, and what is asked of clients.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig, SignatureScheme};

use super::{TlsConfig, WebConfig, WebConfigError, invalid, read};

/// Suites that Go knows by default and rustls has not: they are accepted and never chosen.
const ONLY_GO: [&str; 4] = [
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA",
];

impl WebConfig {
    /// The TLS side, or none where the file has none.
    ///
    /// # Errors
    /// See [`WebConfigError`].
    pub fn tls(&self) -> Result<Option<ServerConfig>, WebConfigError> {
        let t = &self.tls_server_config;
        let mut provider = rustls::crypto::ring::default_provider();
        restrict(&mut provider, t)?;
        let mut versions = versions(t)?;
        let none = [&t.cert, &t.cert_file, &t.key, &t.key_file, &t.client_ca, &t.client_ca_file, &t.client_auth_type];
        if none.iter().all(|s| s.is_empty()) {
            return Ok(None);
        }
        if t.cert.is_empty() && t.cert_file.is_empty() {
            return Err(invalid("missing one of cert or cert_file"));
        }
        if t.key.is_empty() && t.key_file.is_empty() {
            return Err(invalid("missing one of key or key_file"));
        }
        if !provider.cipher_suites.iter().any(|s| s.tls13().is_none()) {
            versions.retain(|v| v.version != rustls::ProtocolVersion::TLSv1_2);
            if versions.is_empty() {
                return Err(invalid("none of the cipher_suites is supported with TLS 1.2"));
            }
        }
        let required = ["TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"];
        let lacks_required = !t.cipher_suites.is_empty()
            && t.min_version != "TLS13"
            && !t.cipher_suites.iter().any(|s| required.contains(&s.as_str()));
        if self.http_server_config.http2 && lacks_required {
            return Err(invalid(format!(
                "http2: TLSConfig.CipherSuites is missing an HTTP/2-required AES_128_GCM_SHA256 cipher (need at least one of {} or {})",
                required[0], required[1]
            )));
        }
        let certs = certificates(&either(&t.cert_file, &t.cert, "cert_file")?)?;
        let key = either(&t.key_file, &t.key, "key_file")?;
        let key: PrivateKeyDer<'static> = rustls_pemfile::private_key(&mut &key[..])
            .ok()
            .flatten()
            .ok_or_else(|| invalid("failed to load X509KeyPair: tls: failed to find any PEM data in key input"))?;
        let provider = Arc::new(provider);
        let builder = ServerConfig::builder_with_provider(provider.clone()).with_protocol_versions(&versions)?;
        let builder = match client_auth(t, provider)? {
            Some(verifier) => builder.with_client_cert_verifier(verifier),
            None => builder.with_no_client_auth(),
        };
        let mut config = builder.with_single_cert(certs, key).map_err(|e| match e {
            rustls::Error::InconsistentKeys(_) => {
                invalid("failed to load X509KeyPair: tls: private key does not match public key")
            }
            other => other.into(),
        })?;
        // Without HTTP/2 no protocol is agreed upon, so that those who want another one are served, too.
        if self.http_server_config.http2 {
            config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        }
        config.ignore_client_order = true;
        Ok(Some(config))
    }
}

/// Leaves the provider only the suites and curves that are allowed.
fn restrict(provider: &mut CryptoProvider, t: &TlsConfig) -> Result<(), WebConfigError> {
    for name in &t.cipher_suites {
        if !provider.cipher_suites.iter().any(|s| suite_name(s.suite()) == *name) && !ONLY_GO.contains(&name.as_str()) {
            return Err(invalid(format!("unknown cipher: {name}")));
        }
    }
    if !t.cipher_suites.is_empty() {
        // Go has no choice among the suites of TLS 1.3.
        let allowed = |suite| t.cipher_suites.iter().any(|n| *n == suite_name(suite));
        provider.cipher_suites.retain(|s| s.tls13().is_some() || allowed(s.suite()));
    }
    provider.cipher_suites.sort_by_key(|s| preference(&suite_name(s.suite())));
    if !t.curve_preferences.is_empty() {
        let wanted = |name: &str| match name {
            "CurveP256" => Ok(Some(rustls::NamedGroup::secp256r1)),
            "CurveP384" => Ok(Some(rustls::NamedGroup::secp384r1)),
            "X25519" => Ok(Some(rustls::NamedGroup::X25519)),
            // Not in ring.
            "CurveP521" => Ok(None),
            other => Err(invalid(format!("unknown curve: {other}"))),
        };
        let groups = t.curve_preferences.iter().map(|n| wanted(n)).collect::<Result<Vec<_>, _>>()?;
        provider.kx_groups.retain(|g| groups.contains(&Some(g.name())));
        if provider.kx_groups.is_empty() {
            return Err(invalid("none of the curve_preferences is supported"));
        }
    }
    Ok(())
}

/// The order in which Go's server takes suites, whatever clients and configurations prefer (where the processor has AES).
fn preference(suite: &str) -> usize {
    ["AES_128_GCM", "AES_256_GCM"].iter().position(|cipher| suite.contains(cipher)).unwrap_or(2)
}

fn versions(t: &TlsConfig) -> Result<Vec<&'static rustls::SupportedProtocolVersion>, WebConfigError> {
    let number = |name: &str, default: u8| match name {
        "" => Ok(default),
        "TLS13" => Ok(13),
        "TLS12" => Ok(12),
        "TLS11" => Ok(11),
        "TLS10" => Ok(10),
        other => Err(invalid(format!("unknown TLS version: {other}"))),
    };
    let (min, max) = (number(&t.min_version, 12)?, number(&t.max_version, 13)?);
    let all = [(12, &rustls::version::TLS12), (13, &rustls::version::TLS13)];
    let chosen: Vec<_> = all.into_iter().filter(|(v, _)| (min..=max).contains(v)).map(|(_, v)| v).collect();
    if chosen.is_empty() { Err(invalid("no TLS version from 1.2 on is allowed")) } else { Ok(chosen) }
}

fn suite_name(suite: rustls::CipherSuite) -> String {
    format!("{suite:?}").replace("TLS13_", "TLS_")
}

fn either(path: &str, inline: &str, key: &str) -> Result<Vec<u8>, WebConfigError> {
    match path {
        "" => Ok(inline.as_bytes().to_vec()),
        path => std::fs::read(path)
            .map_err(|e| invalid(format!("failed to read {key} ({path}): open {path}: {}", super::io_text(&e)))),
    }
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, WebConfigError> {
    let certs: Vec<_> = rustls_pemfile::certs(&mut &pem[..]).flatten().collect();
    if certs.is_empty() {
        return Err(invalid("failed to load X509KeyPair: tls: failed to find any PEM data in certificate input"));
    }
    Ok(certs)
}

fn client_auth(
    t: &TlsConfig,
    provider: Arc<CryptoProvider>,
) -> Result<Option<Arc<dyn ClientCertVerifier>>, WebConfigError> {
    let ca = match t.client_ca_file.as_str() {
        "" => t.client_ca.clone().into_bytes(),
        path => read(Path::new(path))?,
    };
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_pemfile::certs(&mut &ca[..]).flatten());
    let (mandatory, verified) = match t.client_auth_type.as_str() {
        "" | "NoClientCert" => {
            if !t.client_ca_file.is_empty() || !t.client_ca.is_empty() {
                return Err(invalid("client CA's have been configured without a Client Auth Policy"));
            }
            return Ok(None);
        }
        "RequestClientCert" => (false, false),
        "RequireAnyClientCert" | "RequireClientCert" => (true, false),
        "VerifyClientCertIfGiven" => (false, true),
        "RequireAndVerifyClientCert" => (true, true),
        other => return Err(invalid(format!("invalid ClientAuth: {other}"))),
    };
    let trust = if verified {
        if roots.is_empty() && t.client_ca_file.is_empty() && t.client_ca.is_empty() {
            roots = system_roots();
        }
        if roots.is_empty() {
            Trust::Nobody
        } else {
            let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
            Trust::Signed(builder.build().map_err(|e| invalid(e.to_string()))?)
        }
    } else {
        Trust::Anybody
    };
    // Who must have one of these names must have a certificate.
    let mandatory = mandatory || t.client_allowed_sans.is_some();
    Ok(Some(Arc::new(ClientAuth { trust, mandatory, sans: t.client_allowed_sans.clone(), provider })))
}

/// The system's certificate authorities, which Go takes where the file names none; none where there is no bundle.
fn system_roots() -> RootCertStore {
    const BUNDLES: [&str; 3] =
        ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];
    let mut roots = RootCertStore::empty();
    if let Some(pem) = BUNDLES.iter().find_map(|path| std::fs::read(path).ok()) {
        roots.add_parsable_certificates(rustls_pemfile::certs(&mut &pem[..]).flatten());
    }
    roots
}

/// Whose certificates count.
#[derive(Debug)]
enum Trust {
    Anybody,
    Signed(Arc<dyn ClientCertVerifier>),
    Nobody,
}

/// Asks clients for certificates as Go's `tls.ClientAuthType` says.
#[derive(Debug)]
struct ClientAuth {
    trust: Trust,
    mandatory: bool,
    sans: Option<Vec<String>>,
    provider: Arc<CryptoProvider>,
}

impl ClientCertVerifier for ClientAuth {
    fn client_auth_mandatory(&self) -> bool {
        self.mandatory
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        match &self.trust {
            Trust::Signed(verifier) => verifier.root_hint_subjects(),
            _ => &[],
        }
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        match &self.trust {
            Trust::Anybody => {}
            Trust::Signed(verifier) => {
                verifier.verify_client_cert(end_entity, intermediates, now)?;
            }
            Trust::Nobody => return Err(rustls::CertificateError::UnknownIssuer.into()),
        }
        if let Some(allowed) = &self.sans {
            let names = alternative_names(end_entity).ok_or(rustls::CertificateError::BadEncoding)?;
            if !names.iter().any(|n| allowed.contains(n)) {
                return Err(rustls::CertificateError::ApplicationVerificationFailure.into());
            }
        }
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// The next DER value of `rest`: its tag and content.
fn der<'a>(rest: &mut &'a [u8]) -> Option<(u8, &'a [u8])> {
    let (tag, after) = rest.split_first()?;
    let (first, mut after) = after.split_first()?;
    let mut len = usize::from(*first);
    if *first >= 0x80 {
        let count = len - 0x80;
        if count == 0 || count > 4 {
            return None;
        }
        let (bytes, more) = after.split_at_checked(count)?;
        len = bytes.iter().fold(0, |n, b| n << 8 | usize::from(*b));
        after = more;
    }
    let (content, more) = after.split_at_checked(len)?;
    *rest = more;
    Some((*tag, content))
}

/// DNS names, mail addresses, IP addresses and URIs that a certificate is made out to; none where it does not decode.
fn alternative_names(cert: &[u8]) -> Option<Vec<String>> {
    const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 0x11];
    let mut names = Vec::new();
    let (_, mut cert) = der(&mut &*cert)?;
    let (_, mut fields) = der(&mut cert)?;
    while !fields.is_empty() {
        let (tag, mut content) = der(&mut fields)?;
        if tag != 0xa3 {
            continue;
        }
        let (_, mut extensions) = der(&mut content)?;
        while !extensions.is_empty() {
            let (_, mut extension) = der(&mut extensions)?;
            let (_, oid) = der(&mut extension)?;
            if oid != SUBJECT_ALT_NAME {
                continue;
            }
            // A flag may stand before the value.
            let mut value = der(&mut extension)?;
            if value.0 == 0x01 {
                value = der(&mut extension)?;
            }
            let (_, mut list) = der(&mut &*value.1)?;
            while !list.is_empty() {
                let (tag, name) = der(&mut list)?;
                match tag {
                    0x81 | 0x82 | 0x86 => names.push(String::from_utf8_lossy(name).into_owned()),
                    0x87 => {
                        if let Ok(v4) = <[u8; 4]>::try_from(name) {
                            names.push(Ipv4Addr::from(v4).to_string());
                        } else if let Ok(v6) = <[u8; 16]>::try_from(name) {
                            names.push(Ipv6Addr::from(v6).to_string());
                        }
                    }
                    _ => {}
                }
            }
        }
    }
    Some(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_certificates() {
        let names = ["a.example", "127.0.0.1", "::1"];
        let key = rcgen::KeyPair::generate().unwrap();
        let cert = rcgen::CertificateParams::new(names.map(String::from)).unwrap().self_signed(&key).unwrap();
        assert_eq!(alternative_names(cert.der()).unwrap(), names);
        // Cut anywhere it is refused, never a panic.
        for end in 0..cert.der().len() {
            alternative_names(&cert.der()[..end]);
        }
    }
}
