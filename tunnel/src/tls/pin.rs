//! A CA known by a hash alone.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, DigitallySignedStruct, Error, OtherError, RootCertStore, SignatureScheme,
};
use thiserror::Error;

use super::TlsError;

const PREFIX: &str = "sha256:";

/// The SHA-256 of a CA's public key: an operator can copy it where a file is one thing too many.
///
/// Its text form is `sha256:` and 64 hexadecimal digits. The hash is over the DER encoding of the
/// certificate's SubjectPublicKeyInfo, as in RFC 7469 and in kubeadm's `--discovery-token-ca-cert-hash`: it
/// stays the same when the CA's certificate is made anew with the same key, and other tools can compute
/// it:
///
/// ```text
/// openssl x509 -in ca.pem -pubkey -noout | openssl pkey -pubin -outform DER | sha256sum
/// ```
///
/// The sender may choose the rest of the CA's certificate, which is of no use to an attacker: besides the
/// key, the verification uses only its subject, and that must be the issuer named in certificates
/// which the key has signed.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct CaPin([u8; 32]);

/// Why a text is no pin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("a CA's pin is `{PREFIX}` and 64 hexadecimal digits (`underpass-server ca-pin` prints it)")]
pub struct CaPinError;

impl CaPin {
    /// The pin of a CA by its certificate.
    ///
    /// # Errors
    /// Where it is no certificate.
    pub fn of(certificate: &CertificateDer<'_>) -> Result<Self, TlsError> {
        let parsed = ParsedCertificate::try_from(certificate).map_err(TlsError::Rejected)?;
        let hash = digest(&SHA256, &parsed.subject_public_key_info());
        let hash = hash.as_ref().first_chunk().copied();
        Ok(Self(hash.unwrap_or_default()))
    }

    pub(super) fn is_of(&self, certificate: &CertificateDer<'_>) -> bool {
        Self::of(certificate).is_ok_and(|pin| pin == *self)
    }
}

impl fmt::Display for CaPin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(PREFIX)?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for CaPin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for CaPin {
    type Err = CaPinError;

    fn from_str(text: &str) -> Result<Self, CaPinError> {
        let digits = text.trim().strip_prefix(PREFIX).ok_or(CaPinError)?;
        let digits: Vec<u8> = digits
            .chars()
            .map(|digit| {
                digit
                    .to_digit(16)
                    .and_then(|value| u8::try_from(value).ok())
            })
            .collect::<Option<_>>()
            .ok_or(CaPinError)?;
        let (pairs, rest) = digits.as_chunks::<2>();
        let bytes: Vec<u8> = pairs.iter().map(|[high, low]| high << 4 | low).collect();
        match <[u8; 32]>::try_from(bytes) {
            Ok(hash) if rest.is_empty() => Ok(Self(hash)),
            _ => Err(CaPinError),
        }
    }
}

/// No certificate that the server sent has the pin.
#[derive(Debug, Clone, Copy, Error)]
#[error("no CA in the server's chain has the pin {0}")]
pub(super) struct NotPinned(pub(super) CaPin);

/// Takes the CA that has the pin out of the server's chain, and leaves everything else to rustls: paths,
/// signatures, times, names and purposes.
#[derive(Debug)]
pub(super) struct Verifier {
    pin: CaPin,
    provider: Arc<CryptoProvider>,
}

impl Verifier {
    pub(super) fn new(pin: CaPin, provider: Arc<CryptoProvider>) -> Self {
        Self { pin, provider }
    }

    fn anchored(&self, chain: &[CertificateDer<'_>]) -> Result<Arc<WebPkiServerVerifier>, Error> {
        let mut roots = RootCertStore::empty();
        // A CA whose certificate was made anew may come with both.
        for certificate in chain
            .iter()
            .filter(|certificate| self.pin.is_of(certificate))
        {
            roots.add(certificate.clone().into_owned())?;
        }
        if roots.is_empty() {
            let error = OtherError(Arc::new(NotPinned(self.pin)));
            return Err(CertificateError::Other(error).into());
        }
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&self.provider))
            .build()
            .map_err(|error| Error::General(error.to_string()))
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
        self.anchored(intermediates)?.verify_server_cert(
            end_entity,
            intermediates,
            server_name,
            ocsp_response,
            now,
        )
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::{CertificateError, Trust, verifier};
    use rcgen::{
        BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
        KeyPair, PublicKeyData,
    };
    use rustls::crypto::aws_lc_rs;

    const NAME: &str = "u.example.org";

    struct Ca {
        key: KeyPair,
        params: CertificateParams,
    }

    impl Ca {
        fn new() -> Self {
            let mut params = CertificateParams::default();
            params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
            params
                .distinguished_name
                .push(DnType::CommonName, "Test CA");
            let key = KeyPair::generate().unwrap();
            Self { key, params }
        }

        fn certificate(&self) -> CertificateDer<'static> {
            self.params.self_signed(&self.key).unwrap().der().clone()
        }

        fn pin(&self) -> CaPin {
            CaPin::of(&self.certificate()).unwrap()
        }

        fn sign(&self, change: impl FnOnce(&mut CertificateParams)) -> CertificateDer<'static> {
            let mut params = CertificateParams::new(vec![NAME.to_owned()]).unwrap();
            change(&mut params);
            let issuer = Issuer::from_params(&self.params, &self.key);
            let key = KeyPair::generate().unwrap();
            params.signed_by(&key, &issuer).unwrap().der().clone()
        }
    }

    fn verify(
        pin: CaPin,
        leaf: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
    ) -> Result<(), CertificateError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let name = ServerName::try_from(NAME).unwrap();
        Verifier::new(pin, provider)
            .verify_server_cert(leaf, chain, &name, &[], UnixTime::now())
            .map(drop)
            .map_err(|error| CertificateError::from(&error))
    }

    #[test]
    fn the_pin_is_that_of_the_public_key() {
        let ca = Ca::new();
        let hash = digest(&SHA256, &ca.key.subject_public_key_info());
        let text = ca.pin().to_string();
        assert_eq!(text.parse(), Ok(ca.pin()));
        assert_eq!(
            text.to_uppercase().replace("SHA", "sha").parse(),
            Ok(ca.pin())
        );
        assert_eq!(format!(" {text}\n").parse(), Ok(ca.pin()));
        let hex: String = hash.as_ref().iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(text, format!("sha256:{hex}"));
        let mut renewed = Ca::new();
        renewed.key = ca.key;
        renewed.params.not_after = rcgen::date_time_ymd(3000, 1, 1);
        assert_eq!(
            renewed.pin().to_string(),
            text,
            "made anew with the same key"
        );
    }

    /// `openssl req -x509 -newkey ed25519 …`, and the pin by the command in the documentation.
    #[test]
    fn the_pin_is_what_openssl_computes() {
        const PEM: &[u8] = b"-----BEGIN CERTIFICATE-----
MIIBOjCB7aADAgECAhQPmFVASnQVjHYEO6D0GM8H83z6cjAFBgMrZXAwEjEQMA4G
A1UEAwwHVGVzdCBDQTAgFw0yNjExMjExNTEzMDhaGA8yMTI2MTAyODE1MTMwOFow
EjEQMA4GA1UEAwwHVGVzdCBDQTAqMAUGAytlcAMhAAkYWMaDeDHEszOpeP/uj0Ki
p5ztNF9Is3yJjf+Zxav+o1MwUTAdBgNVHQ4EFgQUqpIusYXAC6QOzl86Tv5bwz1U
/44wHwYDVR0jBBgwFoAUqpIusYXAC6QOzl86Tv5bwz1U/44wDwYDVR0TAQH/BAUw
AwEB/zAFBgMrZXADQQBn8hQIFhixqv6hLUuILNigYNi2Qi5lrN/VlZyzyDxHE7Zi
jHHQm+6hGhXKlfY3JLd0cAb0uBUDHGYhMOk9O0QM
-----END CERTIFICATE-----
";
        const PIN: &str = "sha256:4f64ab6bc3a38a2d591bea8c743bc917b9b7c86e539c7660bd564a64739e7d26";
        let certificate = super::super::certificates(PEM).unwrap().remove(0);
        assert_eq!(CaPin::of(&certificate).unwrap().to_string(), PIN);
    }

    #[test]
    fn other_texts_are_no_pins() {
        let digits = "0123456789abcdef".repeat(4);
        assert!(format!("sha256:{digits}").parse::<CaPin>().is_ok());
        for text in [
            "",
            "sha256:",
            &digits,
            &format!("sha1:{digits}"),
            &format!("sha256:{digits}0"),
            &format!("sha256:{digits}00"),
            &format!("sha256:{}", &digits[1..]),
            &format!("sha256:{}", digits.replace('0', "g")),
            &format!("sha256:{}", digits.replace("01", "+1")),
        ] {
            assert_eq!(text.parse::<CaPin>(), Err(CaPinError), "{text}");
        }
    }

    #[test]
    fn rule_10_the_chain_must_hold_the_pinned_ca_and_end_there() {
        let (ca, other) = (Ca::new(), Ca::new());
        let leaf = ca.sign(|_| {});
        assert_eq!(verify(ca.pin(), &leaf, &[ca.certificate()]), Ok(()));
        let both = [other.certificate(), ca.certificate()];
        assert_eq!(verify(ca.pin(), &leaf, &both), Ok(()));
        // Another CA, none, and one whose certificate stands there for show.
        let not_pinned = Err(CertificateError::NotPinned(other.pin()));
        assert_eq!(verify(other.pin(), &leaf, &[ca.certificate()]), not_pinned);
        assert_eq!(verify(other.pin(), &leaf, &[]), not_pinned);
        let unknown = Err(CertificateError::UnknownCa);
        assert_eq!(verify(other.pin(), &leaf, &both), unknown);
        // The pin of the server's own certificate is not its CA's.
        let own = CaPin::of(&leaf).unwrap();
        assert!(verify(own, &leaf, &[ca.certificate()]).is_err());
        assert!(verify(own, &leaf, std::slice::from_ref(&leaf)).is_err());
        assert!(verify(ca.pin(), &ca.certificate(), &[ca.certificate()]).is_err());
    }

    #[test]
    fn rule_10_what_else_makes_a_certificate_good_is_checked_too() {
        let ca = Ca::new();
        let verdict = |leaf| verify(ca.pin(), &leaf, &[ca.certificate()]);
        let day = rcgen::date_time_ymd;
        assert_eq!(
            verdict(ca.sign(|params| params.not_after = day(2020, 1, 1))),
            Err(CertificateError::Expired)
        );
        assert_eq!(
            verdict(ca.sign(|params| params.not_before = day(3000, 1, 1))),
            Err(CertificateError::NotYetValid)
        );
        assert_eq!(
            verdict(ca.sign(|params| {
                params.subject_alt_names =
                    vec![rcgen::SanType::DnsName("x.org".try_into().unwrap())];
            })),
            Err(CertificateError::WrongName)
        );
        assert_eq!(
            verdict(ca.sign(|params| {
                params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
            })),
            Err(CertificateError::Unusable)
        );
        let garbage = CertificateDer::from(vec![0x30, 0x03, 1, 2, 3]);
        assert_eq!(verdict(garbage), Err(CertificateError::Unusable));
    }

    /// Anyone can make a certificate of the CA's public key, with any other fields.
    #[test]
    fn rule_10_a_forged_certificate_of_the_ca_opens_nothing() {
        let (ca, mallory) = (Ca::new(), Ca::new());
        struct Borrowed(Vec<u8>);
        impl PublicKeyData for Borrowed {
            fn der_bytes(&self) -> &[u8] {
                &self.0
            }
            fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
                &rcgen::PKCS_ECDSA_P256_SHA256
            }
        }
        let public = Borrowed(ca.key.der_bytes().to_vec());
        let issuer = Issuer::from_params(&mallory.params, &mallory.key);
        let forged = mallory.params.signed_by(&public, &issuer).unwrap();
        assert_eq!(CaPin::of(forged.der()).unwrap(), ca.pin());
        let leaf = mallory.sign(|_| {});
        for chain in [
            vec![forged.der().clone()],
            vec![forged.der().clone(), mallory.certificate()],
        ] {
            assert_eq!(
                verify(ca.pin(), &leaf, &chain),
                Err(CertificateError::UnknownCa),
                "the CA's key has not signed it"
            );
        }
    }

    #[test]
    fn a_file_with_a_pin_must_hold_it() {
        let (ca, other) = (Ca::new(), Ca::new());
        let pem = |ca: &Ca| ca.params.self_signed(&ca.key).unwrap().pem();
        let text = (pem(&other) + &pem(&ca)).into_bytes();
        let trust = Trust::PinnedCa(text.clone(), ca.pin());
        let name = ServerName::try_from(NAME).unwrap();
        let verdict = |leaf| {
            let verifier = verifier(&trust).unwrap();
            verifier.verify_server_cert(&leaf, &[], &name, &[], UnixTime::now())
        };
        assert!(
            verdict(ca.sign(|_| {})).is_ok(),
            "without its CA in the chain"
        );
        assert!(
            verdict(other.sign(|_| {})).is_err(),
            "it is not the pinned one"
        );
        let error = verifier(&Trust::PinnedCa(text, Ca::new().pin())).unwrap_err();
        assert!(matches!(error, TlsError::NotPinned(_)), "{error:?}");
    }
}
