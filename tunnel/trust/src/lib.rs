//! Verifies the certificates of servers by the CAs of a file, as OpenSSL and Go do.
//!
//! They take a server's certificate that stands in the file itself, and ask for no issuer then. Operators rely on it: the file is then the
//! self-signed certificate of the server, or of a load balancer in front of it (kube-rs#1767). rustls looks for an issuer.

use std::sync::Arc;

use rustls::{
    CertificateError, ClientConfig, ConfigBuilder, DigitallySignedStruct, Error, RootCertStore,
    SignatureScheme,
    client::{
        VerifierBuilderError, WantsClientCert, WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_name,
    },
    crypto::CryptoProvider,
    server::ParsedCertificate,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

/// TLS that trusts `roots`, and nobody else. `file` are the certificates of the file that they were read from, byte for byte: none of
/// them needs an issuer. It is empty for the system's CAs.
///
/// # Errors
/// The cryptography has no protocol version in common with TLS, or none of the certificates can be used.
pub fn trusting(
    roots: Arc<RootCertStore>,
    file: Arc<[CertificateDer<'static>]>,
    provider: Arc<CryptoProvider>,
) -> Result<ConfigBuilder<ClientConfig, WantsClientCert>, Error> {
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()?;
    if file.is_empty() {
        return Ok(builder.with_root_certificates(roots));
    }
    let verifier = Verifier::new(roots, file, provider);
    let verifier = verifier.map_err(|error| Error::General(error.to_string()))?;
    let builder = builder.dangerous();
    Ok(builder.with_custom_certificate_verifier(Arc::new(verifier)))
}

/// Verifies as rustls does, except that a certificate that is trusted itself needs no issuer.
#[derive(Debug)]
pub struct Verifier {
    trusted: Arc<[CertificateDer<'static>]>,
    issued: Arc<WebPkiServerVerifier>,
}

impl Verifier {
    /// See [`trusting`].
    ///
    /// # Errors
    /// There are no roots.
    pub fn new(
        roots: Arc<RootCertStore>,
        trusted: Arc<[CertificateDer<'static>]>,
        provider: Arc<CryptoProvider>,
    ) -> Result<Self, VerifierBuilderError> {
        let issued = WebPkiServerVerifier::builder_with_provider(roots, provider).build()?;
        Ok(Self { trusted, issued })
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verified = self.issued.verify_server_cert(
            end_entity,
            intermediates,
            server_name,
            ocsp_response,
            now,
        );
        match verified {
            // Faults of the way to an issuer, behind which webpki looks at the time first. `Other` is a CA's certificate that a server
            // shows; the signature is the issuer's.
            Err(Error::InvalidCertificate(
                CertificateError::UnknownIssuer
                | CertificateError::BadSignature
                | CertificateError::Other(_),
            )) if self.trusted.contains(end_entity) => {
                verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
                Ok(ServerCertVerified::assertion())
            }
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.issued
            .verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.issued
            .verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.issued.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rcgen::{BasicConstraints, Certificate, CertificateParams, IsCa, Issuer, KeyPair};
    use time::OffsetDateTime;

    use super::*;

    fn params(name: &str, ca: bool) -> CertificateParams {
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        params.not_before = OffsetDateTime::now_utc() - Duration::from_secs(3600);
        params.not_after = OffsetDateTime::now_utc() + Duration::from_secs(3600);
        if ca {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        }
        params
    }

    fn verify(trusted: &[&Certificate], shown: &Certificate, later: u64) -> Result<(), Error> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let trusted: Arc<[_]> = trusted.iter().map(|one| one.der().clone()).collect();
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(trusted.iter().cloned());
        let verifier = Verifier::new(Arc::new(roots), trusted, provider).unwrap();
        let now = Duration::from_secs(UnixTime::now().as_secs() + later);
        let now = UnixTime::since_unix_epoch(now);
        let name = ServerName::try_from("api.example").unwrap();
        verifier
            .verify_server_cert(shown.der(), &[], &name, &[], now)
            .map(drop)
    }

    #[test]
    fn rule_10_a_certificate_that_is_trusted_itself_needs_no_issuer_but_its_name_and_time() {
        let (ca_key, key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let issuer = Issuer::new(params("ca.example", true), &ca_key);
        let signed = params("api.example", false);
        let leaf = signed.signed_by(&key, &issuer).unwrap();
        let sibling = signed.signed_by(&key, &issuer).unwrap();
        // As `openssl req -x509` makes it.
        let own_ca = params("api.example", true).self_signed(&key).unwrap();
        for pinned in [&leaf, &own_ca] {
            verify(&[pinned], pinned, 0).unwrap();
            verify(&[&sibling, pinned], pinned, 0).unwrap();
            // Expired, by then.
            verify(&[pinned], pinned, 7200).unwrap_err();
        }
        // The same key, name and issuer are another certificate.
        verify(&[&sibling], &leaf, 0).unwrap_err();
        let elsewhere = params("other.example", true).self_signed(&key).unwrap();
        let error = verify(&[&elsewhere], &elsewhere, 0).unwrap_err();
        assert!(matches!(
            error,
            Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. }
            )
        ));
        // An issuer is found as ever.
        let ca = params("ca.example", true).self_signed(&ca_key).unwrap();
        verify(&[&ca], &leaf, 0).unwrap();
    }
}
