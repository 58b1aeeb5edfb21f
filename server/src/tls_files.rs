//! A certificate of the operator's for the server, in files that something else renews (cert-manager, certbot).

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier as _;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use thiserror::Error;
use tokio::time::Instant;
use underpass_core::files::{self, Readings, Stamps, Stuck};
use underpass_core::limits::PEM_FILE_BYTES;
use underpass_pem::PemError;
use underpass_tunnel::CaPin;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;
use zeroize::Zeroizing;

use crate::limits;
use crate::pki::ServerCertificate;

/// The files of a certificate for the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// PEM: the certificate, and those between it and its root; last the root, where [`ca`](Self::ca) does not name it.
    pub certificate: PathBuf,
    /// PEM: its private key.
    pub key: PathBuf,
    /// PEM: the root, which agents and kubeconfigs trust. For chains without it, as certbot and cert-manager write them.
    pub ca: Option<PathBuf>,
}

/// Files that cannot be used.
#[derive(Debug, Error)]
pub(crate) enum TlsFilesError {
    #[error("cannot read {path}")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{path} cannot be used")]
    Pem {
        path: PathBuf,
        #[source]
        source: PemError,
    },
    #[error("the key in {key} does not belong to the first certificate in {certificate}")]
    Pair {
        certificate: PathBuf,
        key: PathBuf,
        #[source]
        source: rustls::Error,
    },
    #[error(
        "the certificate in {path} cannot be used: it has to be of X.509 version 3, without critical extensions that few clients know"
    )]
    Unsupported {
        path: PathBuf,
        #[source]
        source: rustls::Error,
    },
    #[error(
        "{path} ends with an intermediate certificate, and agents and kubeconfigs would trust that one: the next renewal may be signed by \
         another. Name the root certificate with --tls-ca, or append it to the file"
    )]
    Intermediate { path: PathBuf },
    #[error(
        "{path} of --tls-ca holds an intermediate certificate: name the root that agents and kubeconfigs can trust for years"
    )]
    NoRoot { path: PathBuf },
    #[error(
        "{path} of --tls-ca holds {count} certificates in PEM: it has to hold the root certificate and no other"
    )]
    RootCount { path: PathBuf, count: usize },
    #[error(
        "clients that ask for {name}, the server's first --name, do not accept the certificate in {path} up to {}, which has to be its root: agents and \
         kubeconfigs trust that one", .ca.as_ref().map_or("the last certificate of the file".to_owned(), |ca| ca.display().to_string())
    )]
    Invalid {
        path: PathBuf,
        name: String,
        /// The file of the root, where it has one of its own.
        ca: Option<PathBuf>,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error(
        "the root in {path} is another one than at the start, which agents and kubeconfigs do not trust: restart the server, and give \
         them the new one"
    )]
    OtherCa { path: PathBuf },
    #[error("the files of --tls-certificate are not read")]
    Stuck(#[source] Stuck),
}

/// A certificate that was read, and is valid.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) served: Arc<CertifiedKey>,
    /// Its CA, as PEM and by its pin.
    pub(crate) ca_pem: String,
    pub(crate) pin: CaPin,
}

impl TlsFiles {
    /// Reads and checks the files, as a client would that connects to `name`. Blocks.
    pub(crate) fn load(&self, name: &str) -> Result<Loaded, TlsFilesError> {
        let certificate = || self.certificate.clone();
        let text = read(&self.certificate)?;
        let mut chain = certificates(&text, &self.certificate)?;
        let ca_pem = self.add_root(&text, &mut chain)?;
        let [leaf, rest @ ..] = &chain[..] else {
            return Err(unusable(&self.certificate, PemError::NoCertificate));
        };
        let key = read(&self.key)?;
        let key = underpass_pem::private_key(&key).map_err(|error| unusable(&self.key, error))?;
        let provider = aws_lc_rs::default_provider();
        let served = CertifiedKey::from_der(chain.clone(), key, &provider);
        let served = served.map_err(|source| match source {
            rustls::Error::InvalidCertificate(_) => TlsFilesError::Unsupported {
                path: certificate(),
                source,
            },
            source => TlsFilesError::Pair {
                certificate: certificate(),
                key: self.key.clone(),
                source,
            },
        })?;
        let invalid = |source| TlsFilesError::Invalid {
            path: certificate(),
            name: name.to_owned(),
            ca: self.ca.clone(),
            source,
        };
        let (ca, between) = rest.split_last().unwrap_or((leaf, &[]));
        verify(leaf, between, ca, name).map_err(invalid)?;
        let pin = CaPin::of(ca).map_err(|error| invalid(Box::new(error)))?;
        Ok(Loaded {
            served: Arc::new(served),
            ca_pem,
            pin,
        })
    }

    /// Appends the root to a chain that does not end with it: agents that know no more of it than its pin look for it there.
    /// Gives the root as PEM.
    fn add_root(
        &self,
        text: &[u8],
        chain: &mut Vec<CertificateDer<'static>>,
    ) -> Result<String, TlsFilesError> {
        let Some(path) = &self.ca else {
            let last = chain.last();
            return match last.is_some_and(|last| is_self_issued(last)) {
                true => Ok(last_pem(text)),
                false => Err(TlsFilesError::Intermediate {
                    path: self.certificate.clone(),
                }),
            };
        };
        let text = read(path)?;
        let roots = certificates(&text, path)?;
        let path = path.clone();
        let [root] = &roots[..] else {
            let count = roots.len();
            return Err(TlsFilesError::RootCount { path, count });
        };
        if !is_self_issued(root) {
            return Err(TlsFilesError::NoRoot { path });
        }
        if chain.last() != Some(root) {
            chain.push(root.clone());
        }
        Ok(last_pem(&text))
    }

    fn paths(&self) -> Vec<PathBuf> {
        let ca = self.ca.iter();
        [&self.certificate, &self.key]
            .into_iter()
            .chain(ca)
            .cloned()
            .collect()
    }
}

fn certificates(text: &[u8], path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsFilesError> {
    underpass_pem::certificates(text).map_err(|error| unusable(path, error))
}

fn unusable(path: &Path, source: PemError) -> TlsFilesError {
    let path = path.to_owned();
    TlsFilesError::Pem { path, source }
}

/// RFC 5280, section 3.2: issuer and subject are one. An unreadable certificate is refused where it is verified.
fn is_self_issued(certificate: &CertificateDer<'_>) -> bool {
    X509Certificate::from_der(certificate)
        .is_ok_and(|(_, read)| read.issuer().as_raw() == read.subject().as_raw())
}

/// Serves a certificate in files, and those that replace it there.
#[derive(Debug)]
pub(crate) struct Following {
    pub(crate) files: TlsFiles,
    pub(crate) name: String,
    /// The CA that agents and kubeconfigs have.
    pub(crate) pin: CaPin,
}

impl Following {
    /// Looks at the files from time to time, and when it is asked to, for as long as the server runs. Files that cannot be used change
    /// nothing.
    pub(crate) async fn follow(self, certificate: Arc<ServerCertificate>) {
        let this = Arc::new(self);
        // Off the runtime: a file system may hang.
        let mut readings = Readings::default();
        // Of the files as they are served. Empty: they may have changed since they were read.
        let mut served: Option<Stamps> = None;
        let mut told = None;
        let mut next = Instant::now() + limits::TLS_FILES_AGE;
        loop {
            let asked = tokio::select! {
                () = tokio::time::sleep_until(next) => false,
                () = certificate.asked() => true,
            };
            next = Instant::now() + limits::TLS_FILES_AGE;
            // Asked to, it reads files that have not changed as well.
            let known = served.clone().filter(|_| !asked);
            let reader = Arc::clone(&this);
            let read = readings.next(move || reader.read_again(known.as_ref()));
            match read.await.map_err(TlsFilesError::Stuck).flatten() {
                Ok(None) => {}
                Ok(Some((stamps, loaded))) => {
                    certificate.serve(loaded.served);
                    (served, told) = (Some(stamps), None);
                }
                // The next look tries again: the fault may be none of the files', as a certificate that is valid from
                // the next minute on.
                Err(error) => {
                    metrics::counter!("underpass_certificate_errors_total").increment(1);
                    let error = underpass_tunnel::chain(&error).to_string();
                    if asked || told.as_ref() != Some(&error) {
                        tracing::error!("keeping the last good certificate: {error}");
                    }
                    (served, told) = (None, Some(error));
                }
            }
        }
    }

    /// Reads the files where they are not as they were known. Blocks.
    fn read_again(
        &self,
        known: Option<&Stamps>,
    ) -> Result<Option<(Stamps, Loaded)>, TlsFilesError> {
        // Before they are read: a change meanwhile is seen the next time.
        let stamps = Stamps::of(self.files.paths());
        if known == Some(&stamps) {
            return Ok(None);
        }
        Ok(Some((stamps, self.load()?)))
    }

    /// Blocks.
    fn load(&self) -> Result<Loaded, TlsFilesError> {
        let loaded = self.files.load(&self.name)?;
        if loaded.pin != self.pin {
            let path = self.files.ca.as_ref().unwrap_or(&self.files.certificate);
            return Err(TlsFilesError::OtherCa { path: path.clone() });
        }
        Ok(loaded)
    }
}

fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, TlsFilesError> {
    let read = files::read(path, PEM_FILE_BYTES);
    read.map_err(|source| TlsFilesError::Read {
        path: path.to_owned(),
        source,
    })
}

/// As a client does that trusts this CA and nothing else.
fn verify(
    leaf: &CertificateDer<'_>,
    between: &[CertificateDer<'_>],
    ca: &CertificateDer<'_>,
    name: &str,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let name = ServerName::try_from(name)?;
    let mut roots = RootCertStore::empty();
    roots.add(ca.clone().into_owned())?;
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier =
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build()?;
    verifier.verify_server_cert(leaf, between, &name, &[], UnixTime::now())?;
    Ok(())
}

/// The last certificate of a PEM text that holds one.
fn last_pem(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    let last = text.rfind("-----BEGIN CERTIFICATE-----");
    let last = last.and_then(|at| text.get(at..)).unwrap_or_default();
    let end = "-----END CERTIFICATE-----";
    let last = last
        .find(end)
        .and_then(|at| last.get(..at))
        .unwrap_or_default();
    format!("{last}{end}\n")
}

#[cfg(test)]
pub(crate) mod tests;
