//! A certificate of the operator's for the server, in files that something else renews (cert-manager, certbot).

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier as _;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use thiserror::Error;
use tokio::time::Instant;
use underpass_core::files::Stamps;
use underpass_tunnel::CaPin;
use zeroize::Zeroizing;

use crate::limits;
use crate::pki::ServerCertificate;

/// The files of a certificate for the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// PEM: the certificate, those between it and its CA, and last the CA, which agents and kubeconfigs trust.
    pub certificate: PathBuf,
    /// PEM: its private key.
    pub key: PathBuf,
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
    #[error("{path} holds no certificate in PEM")]
    NoCertificate { path: PathBuf },
    #[error("{path} holds no private key in PEM")]
    NoKey { path: PathBuf },
    #[error("the key in {key} does not belong to the first certificate in {certificate}")]
    Pair {
        certificate: PathBuf,
        key: PathBuf,
        #[source]
        source: rustls::Error,
    },
    #[error(
        "the certificate in {path} is not valid for {name}, the server's first --name, up to the last certificate of the file, which \
         has to be its CA: agents and kubeconfigs trust that one"
    )]
    Invalid {
        path: PathBuf,
        name: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error(
        "{path} ends with another CA than at the start, which agents and kubeconfigs do not trust: restart the server, and give \
         them the new CA"
    )]
    OtherCa { path: PathBuf },
    #[error("reading the files did not end")]
    Task(#[source] tokio::task::JoinError),
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
        let chain: Vec<_> = CertificateDer::pem_slice_iter(&text)
            .collect::<Result<_, _>>()
            .unwrap_or_default();
        let [leaf, rest @ ..] = &chain[..] else {
            return Err(TlsFilesError::NoCertificate {
                path: certificate(),
            });
        };
        let key = read(&self.key)?;
        let key = PrivateKeyDer::from_pem_slice(&key).map_err(|_| TlsFilesError::NoKey {
            path: self.key.clone(),
        })?;
        let provider = aws_lc_rs::default_provider();
        let served = CertifiedKey::from_der(chain.clone(), key, &provider);
        let served = served.map_err(|source| TlsFilesError::Pair {
            certificate: certificate(),
            key: self.key.clone(),
            source,
        })?;
        let invalid = |source| TlsFilesError::Invalid {
            path: certificate(),
            name: name.to_owned(),
            source,
        };
        let (ca, between) = rest.split_last().unwrap_or((leaf, &[]));
        verify(leaf, between, ca, name).map_err(invalid)?;
        let pin = CaPin::of(ca).map_err(|error| invalid(Box::new(error)))?;
        Ok(Loaded {
            served: Arc::new(served),
            ca_pem: last_pem(&text),
            pin,
        })
    }
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
        let paths = [&this.files.certificate, &this.files.key];
        let paths: Vec<_> = paths.into_iter().cloned().collect();
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
            let same = match &served {
                Some(stamps) => !stamps.have_changed().await,
                None => false,
            };
            if same && !asked {
                continue;
            }
            match this.read_again(&paths).await {
                Ok((stamps, loaded)) => {
                    certificate.serve(loaded.served);
                    (served, told) = (Some(stamps), None);
                }
                // The next look tries again: what failed may be none of the files' doing, as a certificate that is valid from
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

    async fn read_again(
        self: &Arc<Self>,
        paths: &[PathBuf],
    ) -> Result<(Stamps, Loaded), TlsFilesError> {
        let (this, paths) = (Arc::clone(self), paths.to_vec());
        let reading = tokio::task::spawn_blocking(move || {
            // Before they are read: a change meanwhile is seen the next time.
            let stamps = Stamps::of(paths);
            this.load().map(|loaded| (stamps, loaded))
        });
        reading.await.map_err(TlsFilesError::Task)?
    }

    /// Blocks.
    fn load(&self) -> Result<Loaded, TlsFilesError> {
        let loaded = self.files.load(&self.name)?;
        if loaded.pin != self.pin {
            return Err(TlsFilesError::OtherCa {
                path: self.files.certificate.clone(),
            });
        }
        Ok(loaded)
    }
}

fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, TlsFilesError> {
    let read = std::fs::read(path).map(Zeroizing::new);
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
