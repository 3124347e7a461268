//! TLS from the configuration, its files read anew for each connection.

use std::path::Path;
use std::sync::Arc;

use narthex_config::{TlsConfig, TlsVersion};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_platform_verifier::BuilderVerifierExt;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// The provider of cryptography, in one place so that it can be swapped.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Speaks TLS over `io`, as a client of `host`.
pub(super) async fn handshake<S: AsyncRead + AsyncWrite + Unpin>(
    config: &TlsConfig,
    host: &str,
    io: S,
) -> Result<TlsStream<S>, String> {
    let name = if config.server_name.is_empty() { host } else { &config.server_name };
    let name = ServerName::try_from(name.to_owned()).map_err(|_| format!("tls: invalid server name {name:?}"))?;
    let settings = settings(config)?;
    TlsConnector::from(Arc::new(settings)).connect(name, io).await.map_err(|e| format!("tls: {e}"))
}

/// The text itself, or that of the file; none where neither is set.
fn material(text: &str, file: &Path, what: &str) -> Result<Option<Vec<u8>>, String> {
    if !text.is_empty() {
        return Ok(Some(text.as_bytes().to_vec()));
    }
    if file.as_os_str().is_empty() {
        return Ok(None);
    }
    std::fs::read(file).map(Some).map_err(|e| format!("unable to load specified {what} {}: {e}", file.display()))
}

fn certificates(pem: &[u8], what: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    rustls_pemfile::certs(&mut &pem[..]).collect::<Result<_, _>>().map_err(|e| format!("unable to parse {what}: {e}"))
}

fn settings(config: &TlsConfig) -> Result<ClientConfig, String> {
    let allowed = |version: TlsVersion| {
        config.min_version.is_none_or(|min| version >= min) && config.max_version.is_none_or(|max| version <= max)
    };
    let versions: Vec<_> = [(TlsVersion::Tls12, &rustls::version::TLS12), (TlsVersion::Tls13, &rustls::version::TLS13)]
        .into_iter()
        .filter_map(|(version, supported)| allowed(version).then_some(supported))
        .collect();
    if versions.is_empty() {
        return Err("tls: TLS 1.0 and 1.1 are not supported".into());
    }
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&versions)
        .map_err(|e| format!("tls: {e}"))?;
    let builder = if config.insecure_skip_verify {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(NoVerification(provider())))
    } else if let Some(pem) = material(&config.ca, &config.ca_file, "CA cert")? {
        let mut roots = RootCertStore::empty();
        let (added, _) = roots.add_parsable_certificates(certificates(&pem, "CA cert")?);
        if added == 0 {
            return Err(format!("unable to use specified CA cert {}", config.ca_file.display()));
        }
        builder.with_root_certificates(roots)
    } else {
        builder.with_platform_verifier().map_err(|e| format!("tls: {e}"))?
    };
    let chain = material(&config.cert, &config.cert_file, "client cert")?;
    let key = material(config.key.expose(), &config.key_file, "client key")?;
    let (Some(chain), Some(key)) = (chain, key) else { return Ok(builder.with_no_client_auth()) };
    let key = rustls_pemfile::private_key(&mut &key[..])
        .map_err(|e| format!("unable to parse the client key: {e}"))?
        .ok_or("unable to parse the client key: no key in it")?;
    builder
        .with_client_auth_cert(certificates(&chain, "client cert")?, key)
        .map_err(|e| format!("unable to use specified client cert & key: {e}"))
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
