//! How a listener asks clients for certificates.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use rustls::{
    DigitallySignedStruct, DistinguishedName, Error, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};
use rustls_pki_types::{CertificateDer, UnixTime};

use super::usable::unusable;
use underpass_core::UnusableCertificate;

/// Asks clients for a certificate, of any CA, and goes on without one: a listener's half of
/// [`ClientCertificates`](super::ClientCertificates).
///
/// It proves that the client holds the certificate's key, and nothing more. A certificate with which that cannot be proved does
/// not end the connection: [`CertificateRequest::shown`] tells it from the others. As with kube-apiserver, whether the
/// certificate is worth anything is decided for each request, so that a client hears why in HTTP, the CAs may change
/// while the listener runs, and agents and users with tokens need no certificate.
#[derive(Debug)]
pub struct CertificateRequest {
    wanted: AtomicBool,
    provider: Arc<CryptoProvider>,
}

impl CertificateRequest {
    /// Asks no client for now.
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            wanted: AtomicBool::new(false),
            provider: Arc::new(rustls::crypto::aws_lc_rs::default_provider()),
        })
    }

    /// The chain that a client of a complete handshake showed, if it proves something, or else why it does not.
    pub fn shown(
        chain: &[CertificateDer<'static>],
    ) -> (Vec<CertificateDer<'static>>, Option<UnusableCertificate>) {
        let Some((certificate, intermediates)) = chain.split_first() else {
            return (Vec::new(), None);
        };
        match unusable(certificate, intermediates.len()) {
            Some(unusable) => (Vec::new(), Some(unusable)),
            None => (chain.to_vec(), None),
        }
    }

    /// Asks clients that connect from now on, or no longer.
    pub fn want(&self, wanted: bool) {
        self.wanted.store(wanted, Ordering::Relaxed);
    }
}

impl ClientCertVerifier for CertificateRequest {
    fn offer_client_auth(&self) -> bool {
        self.wanted.load(Ordering::Relaxed)
    }

    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        if unusable(certificate, 0).is_some() {
            // It proves nothing, and counts for nothing.
            return Ok(HandshakeSignatureValid::assertion());
        }
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        if unusable(certificate, 0).is_some() {
            // It proves nothing, and counts for nothing.
            return Ok(HandshakeSignatureValid::assertion());
        }
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let algorithms = &self.provider.signature_verification_algorithms;
        algorithms.supported_schemes()
    }
}
