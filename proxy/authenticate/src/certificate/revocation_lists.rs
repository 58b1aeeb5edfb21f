//! Certificate revocation lists, from files.

use rustls_pki_types::{CertificateRevocationListDer, pem::PemObject};

/// The first byte of DER: a SEQUENCE. No PEM begins like that.
const SEQUENCE: u8 = 0x30;

/// Lists of revoked certificates. Without any, nothing is revoked.
#[derive(Clone, Debug, Default)]
pub struct RevocationLists(Vec<CertificateRevocationListDer<'static>>);

/// A file of revocation lists that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RevocationListsError {
    /// Its PEM is broken.
    #[error("its PEM cannot be read")]
    Pem(#[source] rustls_pki_types::pem::Error),
    /// It holds something else, or nothing.
    #[error("there is no revocation list in it: neither a PEM section `X509 CRL`, nor DER")]
    None,
}

impl RevocationLists {
    /// Adds the lists of a file: PEM with one or more, or one in DER, as CAs publish it.
    ///
    /// # Errors
    /// It holds none. A file that is half written, or an error page in its place, must not let revoked certificates in.
    pub fn add(&mut self, file: &[u8]) -> Result<(), RevocationListsError> {
        if file.first() == Some(&SEQUENCE) {
            self.0.push(file.to_vec().into());
            return Ok(());
        }
        let before = self.0.len();
        for list in CertificateRevocationListDer::pem_slice_iter(file) {
            self.0.push(list.map_err(RevocationListsError::Pem)?);
        }
        match self.0.len() == before {
            true => Err(RevocationListsError::None),
            false => Ok(()),
        }
    }

    pub(super) fn into_der(self) -> Vec<CertificateRevocationListDer<'static>> {
        self.0
    }
}
