//! Certificates, keys and revocation lists in PEM (RFC 7468), as editors, OpenSSL and PowerShell write them.
//!
//! `rustls-pki-types` reads the sections. It passes over those that it does not know, and over one that does not begin its line:
//! the first of a file with a byte order mark. Here nothing is left out without a word: a CA that is missing among others is found
//! out by the callers that it would have vouched for.

use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};

/// Why a text cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PemError {
    /// Of another encoding than UTF-8.
    #[error("it is in UTF-16, as PowerShell writes files: write it in UTF-8")]
    Utf16,
    /// A section that cannot be read.
    #[error("its PEM is damaged: {0}")]
    Damaged(Damage),
    /// There is no section `CERTIFICATE`.
    #[error("there is no certificate in PEM in it")]
    NoCertificate,
    /// A certificate in a section of another name.
    #[error(
        "it has a section `{0}`, which would not be read: write it as `CERTIFICATE` (openssl x509 -in FILE)"
    )]
    Label(&'static str),
    /// There is no section of a private key.
    #[error("there is no private key in PEM in it")]
    NoKey,
    /// A key with a password.
    #[error(
        "its private key is encrypted, and nobody is asked for the password: write it without one (openssl pkey -in FILE)"
    )]
    EncryptedKey,
}

/// The fault of a section. It repeats nothing of the text, which may be a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Damage {
    /// There is no line `-----END LABEL-----` to its first one.
    #[error("a section has no end (are its line breaks lost?)")]
    NoEnd,
    /// Its first line begins as one of PEM and does not end so.
    #[error("a section's first line is not `-----BEGIN LABEL-----`")]
    Beginning,
    /// Its content is something else.
    #[error("a section's content is not base64")]
    Content,
}

impl From<pem::Error> for Damage {
    fn from(error: pem::Error) -> Self {
        match error {
            pem::Error::MissingSectionEnd { .. } => Self::NoEnd,
            pem::Error::IllegalSectionStart { .. } => Self::Beginning,
            _ => Self::Content,
        }
    }
}

/// Labels of certificates (OpenSSL's `x509 -trustout`, and of old), whose sections are passed over. A `TRUSTED CERTIFICATE` is no
/// plain one: behind it stands for which purposes it is trusted, and that is not read.
const OTHER_LABELS: [&str; 2] = ["TRUSTED CERTIFICATE", "X509 CERTIFICATE"];

/// Of UTF-8, as Windows' editors write it.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Of UTF-16, little and big endian.
const UTF16_MARKS: [&[u8]; 2] = [b"\xff\xfe", b"\xfe\xff"];

/// Beginnings of lines in encrypted keys: of PKCS #8 (RFC 7468, section 11), and of OpenSSL's own format.
const ENCRYPTED: [&str; 2] = [
    "-----BEGIN ENCRYPTED PRIVATE KEY-----",
    "Proc-Type: 4,ENCRYPTED",
];

/// All certificates of a text, one at least.
///
/// # Errors
/// There is none, one of them is damaged, or it has a label that would be passed over.
pub fn certificates(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, PemError> {
    let text = plain(text)?;
    match other_label(text) {
        None => sections(text),
        Some(label) => Err(PemError::Label(label)),
    }
}

/// The certificates of a text as Go's `x509.CertPool` takes them, and so client-go: sections with other labels are passed over
/// where there is a certificate beside them.
///
/// # Errors
/// There is none, or one of them is damaged.
pub fn certificates_among(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, PemError> {
    let text = plain(text)?;
    match (sections(text), other_label(text)) {
        (Err(PemError::NoCertificate), Some(label)) => Err(PemError::Label(label)),
        (read, _) => read,
    }
}

/// The first private key of a text.
///
/// # Errors
/// There is none, it is damaged, or it is encrypted.
pub fn private_key(text: &[u8]) -> Result<PrivateKeyDer<'static>, PemError> {
    let text = plain(text)?;
    if ENCRYPTED.iter().any(|line| has_line(text, line)) {
        return Err(PemError::EncryptedKey);
    }
    PrivateKeyDer::from_pem_slice(text).map_err(|error| match error {
        pem::Error::NoItemsFound => PemError::NoKey,
        damaged => PemError::Damaged(damaged.into()),
    })
}

/// All revocation lists of a text. Without any, the list is empty.
///
/// # Errors
/// One of them is damaged.
pub fn revocation_lists(
    text: &[u8],
) -> Result<Vec<CertificateRevocationListDer<'static>>, PemError> {
    let text = plain(text)?;
    CertificateRevocationListDer::pem_slice_iter(text)
        .collect::<Result<_, _>>()
        .map_err(|error| PemError::Damaged(error.into()))
}

/// Without the mark at its beginning.
fn plain(text: &[u8]) -> Result<&[u8], PemError> {
    if UTF16_MARKS.iter().any(|mark| text.starts_with(mark)) {
        return Err(PemError::Utf16);
    }
    Ok(text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text))
}

fn sections(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, PemError> {
    let all: Vec<_> = CertificateDer::pem_slice_iter(text)
        .collect::<Result<_, _>>()
        .map_err(|error| PemError::Damaged(error.into()))?;
    match all.is_empty() {
        true => Err(PemError::NoCertificate),
        false => Ok(all),
    }
}

fn other_label(text: &[u8]) -> Option<&'static str> {
    let present = |label: &&str| has_line(text, &format!("-----BEGIN {label}-----"));
    OTHER_LABELS.into_iter().find(present)
}

fn has_line(text: &[u8], beginning: &str) -> bool {
    let mut lines = text.split(|byte| matches!(byte, b'\n' | b'\r'));
    lines.any(|line| line.starts_with(beginning.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----\nAQID\n-----END CERTIFICATE-----\n";
    const KEY: &str = "-----BEGIN PRIVATE KEY-----\nAQID\n-----END PRIVATE KEY-----\n";
    const LIST: &str = "-----BEGIN X509 CRL-----\nAQID\n-----END X509 CRL-----\n";

    fn utf16(text: &str, mark: u16) -> Vec<u8> {
        let units = std::iter::once(mark).chain(text.encode_utf16());
        units.flat_map(u16::to_le_bytes).collect()
    }

    #[test]
    fn a_byte_order_mark_hides_no_section() {
        let two = format!("\u{feff}{CERTIFICATE}{CERTIFICATE}");
        assert_eq!(certificates(two.as_bytes()).unwrap().len(), 2);
        assert_eq!(certificates_among(two.as_bytes()).unwrap().len(), 2);
        private_key(format!("\u{feff}{KEY}").as_bytes()).unwrap();
        let lists = revocation_lists(format!("\u{feff}{LIST}{LIST}").as_bytes());
        assert_eq!(lists.unwrap().len(), 2);
    }

    #[test]
    fn line_ends_of_every_system_and_text_around_are_read() {
        for end in ["\n", "\r\n", "\r"] {
            let text = format!("subject=x\n{CERTIFICATE}\nissuer=y\n{CERTIFICATE}end");
            let text = text.replace('\n', end);
            assert_eq!(certificates(text.as_bytes()).unwrap().len(), 2, "{end:?}");
        }
    }

    #[test]
    fn other_encodings_are_named() {
        for mark in [0xfeff, 0xfffe] {
            let text = utf16(CERTIFICATE, mark);
            assert!(matches!(certificates(&text), Err(PemError::Utf16)));
            assert!(matches!(certificates_among(&text), Err(PemError::Utf16)));
            assert!(matches!(private_key(&text), Err(PemError::Utf16)));
            assert!(matches!(revocation_lists(&text), Err(PemError::Utf16)));
        }
    }

    #[test]
    fn sections_that_would_be_passed_over_are_named() {
        for label in OTHER_LABELS {
            let other = CERTIFICATE.replace("CERTIFICATE", label);
            let both = format!("{CERTIFICATE}{other}");
            for text in [&other, &both] {
                let error = certificates(text.as_bytes()).unwrap_err();
                assert!(matches!(error, PemError::Label(named) if named == label));
            }
            let error = certificates_among(other.as_bytes()).unwrap_err();
            assert!(matches!(error, PemError::Label(named) if named == label));
            assert_eq!(certificates_among(both.as_bytes()).unwrap().len(), 1);
        }
    }

    #[test]
    fn a_text_without_its_section_is_told_from_a_damaged_one() {
        for text in ["", "<html>", KEY] {
            let error = certificates(text.as_bytes()).unwrap_err();
            assert!(matches!(error, PemError::NoCertificate), "{error:?}");
        }
        let cut = &CERTIFICATE[..40];
        let error = certificates(format!("{CERTIFICATE}{cut}").as_bytes()).unwrap_err();
        assert!(matches!(error, PemError::Damaged(_)), "{error:?}");
        let error = private_key(CERTIFICATE.as_bytes()).unwrap_err();
        assert!(matches!(error, PemError::NoKey), "{error:?}");
        let error = private_key(&KEY.as_bytes()[..40]).unwrap_err();
        assert!(matches!(error, PemError::Damaged(_)), "{error:?}");
        assert!(revocation_lists(b"<html>").unwrap().is_empty());
        assert!(revocation_lists(&LIST.as_bytes()[..40]).is_err());
    }

    #[test]
    fn errors_repeat_nothing_of_a_key() {
        let lost = KEY.replace('\n', "").replace("AQID", "c2VjcmV0");
        let no_base64 = KEY.replace("AQID", "secret!");
        for (text, damage) in [
            (&lost[..], Damage::NoEnd),
            (&format!("-----BEGIN {lost}x"), Damage::Beginning),
            (&no_base64, Damage::Content),
            (&KEY[..40], Damage::NoEnd),
        ] {
            let error = private_key(text.as_bytes()).unwrap_err();
            let PemError::Damaged(seen) = &error else {
                panic!("{error:?}");
            };
            assert_eq!(*seen, damage);
            let told = format!("{error} {error:?}");
            assert!(!told.contains("c2Vj") && !told.contains("secret"), "{told}");
            assert!(std::error::Error::source(&error).is_none());
        }
    }

    #[test]
    fn an_encrypted_key_is_no_other_fault() {
        let new = KEY.replace("PRIVATE", "ENCRYPTED PRIVATE");
        let old = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\nAQID\n-----END RSA PRIVATE KEY-----\n";
        for text in [&new[..], old] {
            let error = private_key(text.as_bytes()).unwrap_err();
            assert!(matches!(error, PemError::EncryptedKey), "{error:?}");
        }
    }
}
