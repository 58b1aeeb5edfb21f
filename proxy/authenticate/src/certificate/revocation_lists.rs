//! Certificate revocation lists, from files.

use rustls_pki_types::CertificateRevocationListDer;
use underpass_pem::PemError;

/// The first byte of DER: a SEQUENCE. No PEM begins like that.
const SEQUENCE: u8 = 0x30;

/// Lists of revoked certificates. Without any, nothing is revoked.
#[derive(Clone, Debug, Default)]
pub struct RevocationLists(Vec<CertificateRevocationListDer<'static>>);

/// A file of revocation lists that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RevocationListsError {
    /// Its PEM is damaged, or in another encoding.
    #[error(transparent)]
    Pem(#[from] PemError),
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
        let lists = underpass_pem::revocation_lists(file)?;
        if lists.is_empty() {
            return Err(RevocationListsError::None);
        }
        self.0.extend(lists);
        Ok(())
    }

    pub(super) fn into_der(self) -> Vec<CertificateRevocationListDer<'static>> {
        self.0
    }
}
