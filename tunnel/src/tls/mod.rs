//! TLS as both transports use it: version 1.3, a pinned CA, one ALPN protocol.

mod pin;
mod witness;

use std::sync::Arc;

/// The version of rustls whose types stand in signatures and in errors.
pub use rustls;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, TrustAnchor};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use thiserror::Error;
use underpass_pem::PemError;

pub use self::pin::{CaPin, CaPinError};
pub use self::witness::CertificateError;
pub(crate) use self::witness::Witness;

/// How a connector verifies its server: an agent's always by a CA that was pinned beforehand, never by one of
/// the system's.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Trust {
    /// The CAs in this PEM text.
    Ca(Vec<u8>),
    /// The CA that has this pin. The server must send the CA's certificate with its own.
    Pin(CaPin),
    /// Of the CAs in this PEM text, the one that has this pin: a check that the text is the right one.
    PinnedCa(Vec<u8>, CaPin),
    /// These trust anchors: a user's, who trusts a server as browsers do. No agent does.
    Anchors(Vec<TrustAnchor<'static>>),
}

impl From<Vec<u8>> for Trust {
    fn from(pem: Vec<u8>) -> Self {
        Self::Ca(pem)
    }
}

impl From<CaPin> for Trust {
    fn from(pin: CaPin) -> Self {
        Self::Pin(pin)
    }
}

/// Why a TLS configuration cannot be made.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TlsError {
    /// The text holds no certificate, or one that cannot be read.
    #[error("the certificates cannot be read")]
    Pem(#[from] PemError),
    /// rustls does not take the certificate or key.
    #[error("certificate or key refused")]
    Rejected(#[source] rustls::Error),
    /// No certificate of the text has the pin.
    #[error("no certificate in it has the pin {0}")]
    NotPinned(CaPin),
    /// rustls does not take the CAs.
    #[error("the CAs cannot be used")]
    Verifier(#[from] rustls::client::VerifierBuilderError),
}

/// The configuration of a connector that trusts the CAs in `pem` and no others.
///
/// # Errors
/// Where `pem` holds no usable certificate.
pub fn pinned_client(pem: &[u8]) -> Result<ClientConfig, TlsError> {
    client(&Trust::Ca(pem.to_vec()))
}

/// The configuration of a connector that trusts as told.
///
/// # Errors
/// Where no usable certificate can have that trust.
pub fn client(trust: &Trust) -> Result<ClientConfig, TlsError> {
    client_with(verifier(trust)?)
}

pub(crate) fn client_with(verifier: Arc<dyn ServerCertVerifier>) -> Result<ClientConfig, TlsError> {
    Ok(ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(TlsError::Rejected)?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth())
}

/// The verifier of a server's certificate: rustls' own on the CAs that are trusted.
pub(crate) fn verifier(trust: &Trust) -> Result<Arc<dyn ServerCertVerifier>, TlsError> {
    let trusted = match trust {
        Trust::Pin(pin) => return Ok(Arc::new(pin::Verifier::new(*pin, provider()))),
        Trust::Anchors(anchors) => {
            let roots = Arc::new(anchors.iter().cloned().collect::<RootCertStore>());
            return Ok(WebPkiServerVerifier::builder_with_provider(roots, provider()).build()?);
        }
        Trust::Ca(pem) => certificates(pem)?,
        Trust::PinnedCa(pem, pin) => {
            let mut trusted = certificates(pem)?;
            trusted.retain(|certificate| pin.is_of(certificate));
            if trusted.is_empty() {
                return Err(TlsError::NotPinned(*pin));
            }
            trusted
        }
    };
    let roots = Arc::new(roots(trusted)?);
    Ok(WebPkiServerVerifier::builder_with_provider(roots, provider()).build()?)
}

fn roots(trusted: Vec<CertificateDer<'static>>) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in trusted {
        roots.add(certificate).map_err(TlsError::Rejected)?;
    }
    Ok(roots)
}

/// The configuration of an acceptor, for QUIC. `certificates` are its own and then its CA's, which
/// connectors need that know no more than the CA's pin.
///
/// # Errors
/// Where the certificate or key is not usable.
pub fn server(
    certificates: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<ServerConfig, TlsError> {
    ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(TlsError::Rejected)?
        .with_no_client_auth()
        .with_single_cert(certificates, key)
        .map_err(TlsError::Rejected)
}

/// The certificates in a PEM text.
///
/// # Errors
/// Where it holds none, or one that cannot be read.
pub fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    Ok(underpass_pem::certificates(pem)?)
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}
