//! TLS as both transports use it: version 1.3, one pinned CA, one ALPN protocol.

use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{CertificateError, ClientConfig, RootCertStore, ServerConfig};
use thiserror::Error;

/// Why a TLS configuration cannot be made.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TlsError {
    /// The text holds no certificate.
    #[error("no PEM certificate found")]
    NoCertificate,
    /// The text is no PEM.
    #[error("malformed PEM")]
    Pem(#[source] rustls::pki_types::pem::Error),
    /// rustls does not take the certificate or key.
    #[error("certificate or key refused")]
    Rejected(#[source] rustls::Error),
}

/// The configuration of a connector that trusts the CAs in `pem` and no others.
///
/// # Errors
/// Where `pem` holds no usable certificate.
pub fn pinned_client(pem: &[u8]) -> Result<ClientConfig, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(pem)? {
        roots.add(certificate).map_err(TlsError::Rejected)?;
    }
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(TlsError::Rejected)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(config)
}

/// The configuration of an acceptor, for QUIC.
///
/// # Errors
/// Where the certificate or key is not usable.
pub fn server(
    certificates: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<ServerConfig, TlsError> {
    ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(TlsError::Rejected)?
        .with_no_client_auth()
        .with_single_cert(certificates, key)
        .map_err(TlsError::Rejected)
}

/// The certificates in a PEM text.
///
/// # Errors
/// Where it holds none.
pub fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(TlsError::Pem)?;
    if certificates.is_empty() {
        Err(TlsError::NoCertificate)
    } else {
        Ok(certificates)
    }
}

/// Whether a failed handshake means that the server's certificate is not one that is trusted.
pub(crate) fn is_untrusted(error: &rustls::Error) -> bool {
    matches!(
        error,
        rustls::Error::InvalidCertificate(
            CertificateError::UnknownIssuer | CertificateError::BadSignature
        )
    )
}
