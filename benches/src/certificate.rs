//! A server's certificate, and the CA that signed it.

use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, ServerConfig};

/// A self-signed certificate for `localhost`.
#[derive(Debug)]
pub struct Certificate {
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
    pem: String,
}

impl Certificate {
    /// Makes one.
    #[allow(clippy::new_without_default, reason = "every call makes another one")]
    pub fn new() -> Self {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()])
            .expect("a certificate for localhost can be made");
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der())
            .expect("rcgen writes keys that rustls reads");
        Self {
            certificate: made.cert.der().clone(),
            key,
            pem: made.cert.pem(),
        }
    }

    /// As PEM, for who pins it.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// The configuration that serves it.
    pub fn server(&self) -> ServerConfig {
        underpass_tunnel::tls::server(vec![self.certificate.clone()], self.key.clone_key())
            .expect("rustls takes the certificate")
    }

    /// The configuration that trusts it.
    pub fn client(&self) -> ClientConfig {
        underpass_tunnel::tls::pinned_client(self.pem.as_bytes()).expect("rustls takes the CA")
    }
}
