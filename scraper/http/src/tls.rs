//! TLS settings of a client: made from the configuration, and made anew when one of its files changes.

use std::path::Path;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use narthex_config::{TlsConfig, TlsVersion};
use parking_lot::Mutex;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_platform_verifier::BuilderVerifierExt;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// The provider of cryptography, in one place so that it can be swapped.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// The TLS settings of one client.
pub(crate) struct TlsCache {
    config: TlsConfig,
    http2: bool,
    ready: Mutex<Option<(u64, Arc<ClientConfig>)>>,
}

impl TlsCache {
    pub fn new(config: TlsConfig, http2: bool) -> TlsCache {
        TlsCache { config, http2, ready: Mutex::new(None) }
    }

    /// Differs when one of the files does.
    pub fn stamp(&self) -> u64 {
        let mut stamp = 0u64;
        for file in [&self.config.ca_file, &self.config.cert_file, &self.config.key_file] {
            if file.as_os_str().is_empty() {
                continue;
            }
            let metadata = std::fs::metadata(file);
            let modified = metadata.as_ref().ok().and_then(|m| m.modified().ok());
            let nanos = modified.and_then(|t| t.duration_since(UNIX_EPOCH).ok()).map_or(0, |d| d.as_nanos() as u64);
            let length = metadata.map_or(0, |m| m.len());
            for part in [nanos, length] {
                stamp = (stamp ^ part).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
            }
        }
        stamp
    }

    fn settings(&self) -> Result<Arc<ClientConfig>, String> {
        let stamp = self.stamp();
        if let Some((made, settings)) = &*self.ready.lock()
            && *made == stamp
        {
            return Ok(settings.clone());
        }
        let settings = Arc::new(build(&self.config, self.http2)?);
        *self.ready.lock() = Some((stamp, settings.clone()));
        Ok(settings)
    }

    /// Speaks TLS over `io`, as a client of `host`.
    pub async fn handshake<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        host: &str,
        io: S,
    ) -> Result<TlsStream<S>, String> {
        let settings = self.settings()?;
        let name = if self.config.server_name.is_empty() { host } else { &self.config.server_name };
        let name = ServerName::try_from(name.to_owned()).map_err(|_| format!("tls: invalid server name {name:?}"))?;
        TlsConnector::from(settings).connect(name, io).await.map_err(|e| format!("tls: {e}"))
    }
}

fn read(file: &Path, what: &str) -> Result<Vec<u8>, String> {
    std::fs::read(file).map_err(|e| format!("unable to read {what} {}: {e}", file.display()))
}

/// The text itself, or that of the file; `None` where neither is set.
fn material(text: &str, file: &Path, what: &str) -> Result<Option<Vec<u8>>, String> {
    if !text.is_empty() {
        return Ok(Some(text.as_bytes().to_vec()));
    }
    if file.as_os_str().is_empty() { Ok(None) } else { read(file, what).map(Some) }
}

fn certificates(pem: &[u8], what: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    rustls_pemfile::certs(&mut &pem[..]).collect::<Result<_, _>>().map_err(|e| format!("unable to parse {what}: {e}"))
}

fn build(config: &TlsConfig, http2: bool) -> Result<ClientConfig, String> {
    let allowed = |version: TlsVersion| {
        config.min_version.is_none_or(|min| version >= min) && config.max_version.is_none_or(|max| version <= max)
    };
    let mut versions = Vec::new();
    if allowed(TlsVersion::Tls12) {
        versions.push(&rustls::version::TLS12);
    }
    if allowed(TlsVersion::Tls13) {
        versions.push(&rustls::version::TLS13);
    }
    if versions.is_empty() {
        return Err("tls: TLS 1.0 and 1.1 are not supported".to_owned());
    }
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&versions)
        .map_err(|e| format!("tls: {e}"))?;
    let authority = material(&config.ca, &config.ca_file, "CA cert")?;
    let builder = if config.insecure_skip_verify {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(NoVerification(provider())))
    } else if let Some(pem) = authority {
        let mut roots = RootCertStore::empty();
        let (added, _) = roots.add_parsable_certificates(certificates(&pem, "CA cert")?);
        if added == 0 {
            return Err(format!("unable to use specified CA cert {}", config.ca_file.display()));
        }
        builder.with_root_certificates(roots)
    } else {
        builder.with_platform_verifier().map_err(|e| format!("tls: {e}"))?
    };
    let chain = material(&config.cert, &config.cert_file, "specified client cert")?;
    let key = material(config.key.expose(), &config.key_file, "specified client key")?;
    let mut settings = match (chain, key) {
        (Some(chain), Some(key)) => {
            let key: PrivateKeyDer<'static> = rustls_pemfile::private_key(&mut &key[..])
                .map_err(|e| format!("unable to parse the client key: {e}"))?
                .ok_or("unable to parse the client key: no key in it")?;
            builder
                .with_client_auth_cert(certificates(&chain, "specified client cert")?, key)
                .map_err(|e| format!("unable to use specified client cert & key: {e}"))?
        }
        _ => builder.with_no_client_auth(),
    };
    settings.alpn_protocols =
        if http2 { vec![b"h2".to_vec(), b"http/1.1".to_vec()] } else { vec![b"http/1.1".to_vec()] };
    Ok(settings)
}

/// `insecure_skip_verify`: any certificate will do, but its signatures must be right.
#[derive(Debug)]
struct NoVerification(Arc<CryptoProvider>);

impl ServerCertVerifier for NoVerification {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
