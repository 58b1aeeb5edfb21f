//! Why a server's certificate was refused.

use std::fmt;
use std::sync::{Arc, OnceLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ClientConfig, Resumption};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError as Reason, DigitallySignedStruct, Error, SignatureScheme};

use super::CaPin;
use super::pin::NotPinned;

/// Why a certificate is not trusted. `Display` goes on after "presents a certificate".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum CertificateError {
    /// Its chain does not end at the pinned CA, or a signature is wrong.
    UnknownCa,
    /// The CA with this pin is not among the certificates that the server sent.
    NotPinned(CaPin),
    /// It is for other names than the one that was dialled.
    WrongName,
    /// Its time is over, by this side's clock.
    Expired,
    /// Its time has not come, by this side's clock.
    NotYetValid,
    /// It is malformed, or not for servers.
    Unusable,
}

impl fmt::Display for CertificateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownCa => f.write_str("that the pinned CA did not sign"),
            Self::NotPinned(pin) => write!(f, "without the CA that is pinned as {pin}"),
            Self::WrongName => f.write_str("for another name"),
            Self::Expired => f.write_str("that has expired"),
            Self::NotYetValid => f.write_str("that is not valid yet"),
            Self::Unusable => f.write_str("that cannot be used"),
        }
    }
}

impl From<&Error> for CertificateError {
    fn from(error: &Error) -> Self {
        use Reason::*;

        let Error::InvalidCertificate(error) = error else {
            return Self::Unusable;
        };
        match error {
            UnknownIssuer | BadSignature => Self::UnknownCa,
            NotValidForName | NotValidForNameContext { .. } => Self::WrongName,
            Expired | ExpiredContext { .. } => Self::Expired,
            NotValidYet | NotValidYetContext { .. } => Self::NotYetValid,
            Other(other) => match other.0.downcast_ref::<NotPinned>() {
                Some(NotPinned(pin)) => Self::NotPinned(*pin),
                None => Self::Unusable,
            },
            _ => Self::Unusable,
        }
    }
}

/// Remembers the verifier's error of one connection: quinn passes on no more than the number of a TLS
/// alert, which stands for many errors.
#[derive(Debug)]
pub(crate) struct Witness {
    verifier: Arc<dyn ServerCertVerifier>,
    error: OnceLock<Error>,
}

impl Witness {
    /// Puts a new witness into the configuration of a connection.
    pub(crate) fn of(
        config: &mut ClientConfig,
        verifier: &Arc<dyn ServerCertVerifier>,
    ) -> Arc<Self> {
        let witness = Arc::new(Self {
            verifier: Arc::clone(verifier),
            error: OnceLock::new(),
        });
        let verifier: Arc<dyn ServerCertVerifier> = Arc::<Self>::clone(&witness);
        config.dangerous().set_certificate_verifier(verifier);
        // rustls resumes sessions of the same verifier only. An agent connects once in a long while, and
        // its proof costs the round trip that a resumption could save.
        config.resumption = Resumption::disabled();
        witness
    }

    /// Why the certificate was refused, if it was.
    pub(crate) fn error(&self) -> Option<&Error> {
        self.error.get()
    }

    fn note<T>(&self, result: Result<T, Error>) -> Result<T, Error> {
        if let Err(error) = &result {
            let _ = self.error.set(error.clone());
        }
        result
    }
}

impl ServerCertVerifier for Witness {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.note(self.verifier.verify_server_cert(
            end_entity,
            intermediates,
            server_name,
            ocsp_response,
            now,
        ))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.note(self.verifier.verify_tls12_signature(message, cert, dss))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.note(self.verifier.verify_tls13_signature(message, cert, dss))
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.supported_verify_schemes()
    }
}
