//! TLS client certificates, as kube-apiserver reads them (`--client-ca-file`).

mod request;
mod revocation_lists;
mod usable;

use std::{
    borrow::Cow,
    fmt,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use async_trait::async_trait;
use rustls::{
    RootCertStore,
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
};
use rustls_pki_types::{CertificateDer, UnixTime};
use x509_parser::{
    certificate::X509Certificate,
    der_parser::asn1_rs::{Tag, oid},
    prelude::FromDer,
    x509::X509Name,
};

use self::usable::has_unknown_critical_extension;
pub use self::{
    request::CertificateRequest,
    revocation_lists::{RevocationLists, RevocationListsError},
};
use super::{
    AuthenticateError, Authenticated, Authenticator, Caller, CredentialError, Roots, Source,
    config::ConfigError, source::Assertion,
};
use underpass_core::UnusableCertificate;

/// Accepts client certificates that certain CAs have signed for client authentication.
///
/// The common name is the user and each organization a group. A request with a certificate that leads to none of
/// these CAs is another authenticator's; one that leads to them and is not valid is refused.
///
/// The listener proves that the client holds the certificate's key. Everything else is checked here, for each
/// request: a certificate that expires, or whose CA is configured no longer, is worth nothing from then on, however
/// old the connection.
#[derive(Clone)]
pub struct ClientCertificates {
    source: Source,
    verifier: Arc<dyn ClientCertVerifier>,
    roots: Arc<RootCertStore>,
    prefixes: CertificatePrefixes,
}

/// The prefixes of names. There is no default: without prefixes a CA could give every name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificatePrefixes {
    /// Before the common name.
    pub username: String,
    /// Before each organization.
    pub groups: String,
}

impl fmt::Debug for ClientCertificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientCertificates")
            .field("source", &self.source)
            .field("prefixes", &self.prefixes)
            .finish_non_exhaustive()
    }
}

impl ClientCertificates {
    /// Accepts certificates that lead to `roots`. With any list in `revoked`, each CA between a certificate and its root needs
    /// one that is current.
    ///
    /// # Errors
    /// The lists cannot be read.
    pub fn new(
        source: Source,
        roots: &Roots,
        revoked: RevocationLists,
        prefixes: CertificatePrefixes,
    ) -> Result<Self, ConfigError> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(roots.store(), provider)
            .with_crls(revoked.into_der())
            .enforce_revocation_expiration()
            .build()
            .map_err(|e| ConfigError::unusable("revocationListFiles", e))?;
        Ok(Self {
            source,
            verifier,
            roots: roots.store(),
            prefixes,
        })
    }

    /// Is it for me to say? The certificate, or one that came with it, names one of my CAs as its issuer.
    fn leads_here(&self, chain: &[CertificateDer<'_>]) -> bool {
        let mine = |issuer: &[u8]| {
            let mut subjects = self.roots.roots.iter().map(|root| root.subject.as_ref());
            subjects.any(|subject| is_name(issuer, subject))
        };
        chain.iter().any(|certificate| {
            X509Certificate::from_der(certificate)
                .is_ok_and(|(_, certificate)| mine(certificate.issuer().as_raw()))
        })
    }

    fn verify(&self, chain: &[CertificateDer<'_>]) -> Result<Assertion, Bad> {
        let (certificate, intermediates) = chain.split_first().ok_or(UNREADABLE)?;
        self.verifier
            .verify_client_cert(certificate, intermediates, UnixTime::now())
            .map_err(|error| Bad::of_chain(error, chain))?;
        let (rest, certificate) = X509Certificate::from_der(certificate).map_err(|_| UNREADABLE)?;
        if !rest.is_empty() || certificate.is_ca() {
            return Err(Bad::told("is not a client's"));
        }
        let subject = certificate.subject();
        let mut names = texts(subject, &oid!(2.5.4.3))?.into_iter();
        let (Some(name), None) = (names.next(), names.next()) else {
            return Err(Bad::told("needs exactly one common name"));
        };
        let groups = texts(subject, &oid!(2.5.4.10))?;
        let prefixed = |group| format!("{}{group}", self.prefixes.groups);
        Ok(Assertion {
            user: format!("{}{name}", self.prefixes.username),
            groups: groups.into_iter().map(prefixed).collect(),
            expires_at: end(&certificate),
            ..Assertion::default()
        })
    }
}

/// The fault of a certificate of another CA, for its client.
pub(super) const NO_AUTHORITY: &str = "leads to no certificate authority that is trusted here";

/// Any other fault.
const NOT_ACCEPTED: &str = "is not accepted";

const UNREADABLE: Bad = Bad {
    told: "cannot be read",
    why: CredentialError::Malformed,
};

/// A certificate that is not valid.
struct Bad {
    /// For the client.
    told: &'static str,
    /// For the log.
    why: CredentialError,
}

impl Bad {
    /// The library has no words of its own for some faults.
    fn of_chain(error: rustls::Error, chain: &[CertificateDer<'_>]) -> Self {
        let bad = Self::from(error);
        let found = match bad.told {
            NOT_ACCEPTED => fault(chain),
            _ => None,
        };
        Self {
            told: found.unwrap_or(bad.told),
            ..bad
        }
    }

    /// The log says the same as the client hears.
    fn told(told: &'static str) -> Self {
        let why = CredentialError::Certificate(told.to_owned());
        Self { told, why }
    }
}

/// The fault of a chain that the library refuses without a word.
fn fault(chain: &[CertificateDer<'_>]) -> Option<&'static str> {
    let read = |certificate| X509Certificate::from_der(certificate).ok();
    let read: Vec<_> = chain.iter().filter_map(|one| read(one)).collect();
    let certificates = || read.iter().map(|(_, certificate)| certificate);
    let early = |one: &X509Certificate<'_>| one.validity().not_before.timestamp() < 0;
    if certificates().any(has_unknown_critical_extension) {
        Some(UnusableCertificate::Extension.told())
    } else if certificates().next().is_some_and(|one| one.is_ca()) {
        Some(
            "is a certificate authority's (CA:TRUE), as `openssl req -x509` makes them: make one with -addext \
             basicConstraints=critical,CA:FALSE",
        )
    } else if certificates().any(early) {
        Some("begins before 1970, or another of its chain does: make one with a later notBefore")
    } else {
        None
    }
}

impl From<rustls::Error> for Bad {
    fn from(error: rustls::Error) -> Self {
        use rustls::CertificateError as Wrong;

        let told = match &error {
            rustls::Error::InvalidCertificate(wrong) => match wrong {
                Wrong::Expired | Wrong::ExpiredContext { .. } => {
                    let (told, why) = ("has expired", CredentialError::Expired);
                    return Self { told, why };
                }
                Wrong::NotValidYet | Wrong::NotValidYetContext { .. } => {
                    let (told, why) = ("is not valid yet", CredentialError::NotYetValid);
                    return Self { told, why };
                }
                Wrong::UnknownIssuer => NO_AUTHORITY,
                Wrong::InvalidPurpose | Wrong::InvalidPurposeContext { .. } => {
                    "is not meant for client authentication: make one with the extended key usage clientAuth, or without any \
                     (anyExtendedKeyUsage is not enough)"
                }
                Wrong::Revoked => "was revoked",
                Wrong::UnknownRevocationStatus
                | Wrong::ExpiredRevocationList
                | Wrong::ExpiredRevocationListContext { .. } => {
                    "cannot be checked: a revocation list of this server is missing or out of date"
                }
                Wrong::BadSignature => "has a wrong signature",
                _ => NOT_ACCEPTED,
            },
            _ => NOT_ACCEPTED,
        };
        let why = CredentialError::Certificate(error.to_string());
        Self { told, why }
    }
}

impl From<Bad> for AuthenticateError {
    fn from(Bad { told, why }: Bad) -> Self {
        Self::Certificate { told, why }
    }
}

/// A root's name is kept without the header of its outer SEQUENCE.
fn is_name(raw: &[u8], content: &[u8]) -> bool {
    raw.ends_with(content) && (2..=5).contains(&(raw.len() - content.len()))
}

fn end(certificate: &X509Certificate<'_>) -> Option<SystemTime> {
    let seconds = u64::try_from(certificate.validity().not_after.timestamp()).unwrap_or(0);
    UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}

/// The values of one attribute. UTF8String and PrintableString are in use (RFC 5280, section 4.1.2.4); older CAs write BMPString
/// and IA5String, whose characters are as unambiguous. TeletexString has several readings.
fn texts<'a>(
    name: &'a X509Name<'_>,
    attribute: &x509_parser::der_parser::Oid<'_>,
) -> Result<Vec<Cow<'a, str>>, Bad> {
    let values = name
        .iter_attributes()
        .filter(|a| a.attr_type() == attribute);
    values
        .map(|value| {
            let bytes = value.attr_value().data;
            let text = match value.attr_value().tag() {
                Tag::Utf8String | Tag::PrintableString => value.as_str().ok().map(Cow::Borrowed),
                Tag::Ia5String if bytes.is_ascii() => value.as_str().ok().map(Cow::Borrowed),
                Tag::BmpString => bmp(bytes).map(Cow::Owned),
                _ => None,
            };
            text.ok_or_else(|| Bad::told("has a name that cannot be read"))
        })
        .collect()
}

/// The basic multilingual plane, two bytes a character (X.690, section 8.23.8): no surrogates.
fn bmp(bytes: &[u8]) -> Option<String> {
    let (units, []) = bytes.as_chunks::<2>() else {
        return None;
    };
    let characters = units
        .iter()
        .map(|unit| char::from_u32(u16::from_be_bytes(*unit).into()));
    characters.collect()
}

#[async_trait]
impl Authenticator for ClientCertificates {
    async fn authenticate(
        &self,
        caller: &Caller<'_>,
    ) -> Result<Option<Authenticated>, AuthenticateError> {
        if let Some(unusable) = caller.unusable_certificate() {
            return Err(Bad::told(unusable.told()).into());
        }
        let chain = caller.certificates();
        if !self.leads_here(chain) {
            return Ok(None);
        }
        Ok(Some(self.source.vouch(self.verify(chain)?)?))
    }
}

#[cfg(test)]
mod tests {
    use super::bmp;

    #[test]
    fn two_bytes_are_a_character_or_none() {
        assert_eq!(bmp(&[0, b'a', 0, 0xfc]).as_deref(), Some("aü"));
        assert_eq!(bmp(&[]).as_deref(), Some(""));
        // Half a character; and halves of a pair, which would be another one together.
        assert_eq!(bmp(&[0, b'a', 0]), None);
        assert_eq!(bmp(&[0xd8, 0x3d, 0xde, 0x00]), None);
    }
}
