//! Connections to endpoints, with the certificates that the files hold now.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::{InvalidDnsNameError, ServerName};
use rustls::{ClientConfig, RootCertStore};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use underpass_core::files;
use underpass_core::limits::PEM_FILE_BYTES;
use underpass_dial::SystemResolver;
use underpass_pem::PemError;
use zeroize::Zeroizing;

use crate::config::{Endpoint, EtcdConfig};

/// Why there is no connection.
#[derive(Debug, Error)]
pub(crate) enum ConnectError {
    #[error("cannot read {}", .0.display())]
    Read(PathBuf, #[source] io::Error),
    #[error("{} cannot be used", .0.display())]
    Pem(PathBuf, #[source] PemError),
    #[error("{} holds a certificate that cannot be a CA's", .0.display())]
    Root(PathBuf, #[source] rustls::Error),
    #[error("the certificate in {} and its key cannot be used", .0.display())]
    Certificate(PathBuf, #[source] rustls::Error),
    #[error("there is no TLS to ask over")]
    Tls(#[source] rustls::Error),
    #[error("reading the files did not end")]
    Task(#[source] tokio::task::JoinError),
    #[error("{0} has a name that no certificate can have")]
    Name(Endpoint, #[source] InvalidDnsNameError),
    #[error("{0} cannot be connected")]
    Tcp(Endpoint, #[source] io::Error),
    #[error("{0} cannot be trusted, or does not trust this server")]
    Handshake(Endpoint, #[source] io::Error),
    #[error("{0} does not speak HTTP/2")]
    Http(Endpoint, #[source] hyper::Error),
    #[error("{0} is silent")]
    Silent(Endpoint),
}

/// Bytes to and from an endpoint.
pub(crate) trait Socket: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Socket for T {}

/// Connects to an endpoint. The caller sets the deadline.
pub(crate) async fn connect(
    config: &EtcdConfig,
    endpoint: &Endpoint,
) -> Result<Box<dyn Socket>, ConnectError> {
    let tcp = underpass_dial::connect(&SystemResolver, endpoint.name(), endpoint.port).await;
    let tcp = tcp.map_err(|error| ConnectError::Tcp(endpoint.clone(), error))?;
    if !endpoint.tls {
        return Ok(Box::new(tcp));
    }
    let files = config.clone();
    // A file system that hangs blocks a thread of its own.
    let tls = tokio::task::spawn_blocking(move || client(&files)).await;
    let tls = TlsConnector::from(Arc::new(tls.map_err(ConnectError::Task)??));
    let name = ServerName::try_from(endpoint.name().to_owned());
    let name = name.map_err(|error| ConnectError::Name(endpoint.clone(), error))?;
    let tls = tls.connect(name, tcp).await;
    let tls = tls.map_err(|error| ConnectError::Handshake(endpoint.clone(), error))?;
    Ok(Box::new(tls))
}

/// Reads the files. Blocks.
fn client(config: &EtcdConfig) -> Result<ClientConfig, ConnectError> {
    let mut roots = RootCertStore::empty();
    if let Some(path) = &config.ca {
        let pem = |error| ConnectError::Pem(path.clone(), error);
        for certificate in underpass_pem::certificates(&read(path)?).map_err(pem)? {
            let added = roots.add(certificate);
            added.map_err(|error| ConnectError::Root(path.clone(), error))?;
        }
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(ConnectError::Tls)?
        .with_root_certificates(roots);
    let mut tls = match &config.certificate {
        None => tls.with_no_client_auth(),
        Some(files) => {
            let chain = underpass_pem::certificates(&read(&files.certificate)?)
                .map_err(|error| ConnectError::Pem(files.certificate.clone(), error))?;
            let key = underpass_pem::private_key(&read(&files.key)?)
                .map_err(|error| ConnectError::Pem(files.key.clone(), error))?;
            tls.with_client_auth_cert(chain, key)
                .map_err(|error| ConnectError::Certificate(files.certificate.clone(), error))?
        }
    };
    tls.alpn_protocols = vec![b"h2".to_vec()];
    Ok(tls)
}

fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, ConnectError> {
    let read = files::read(path, PEM_FILE_BYTES);
    read.map_err(|error| ConnectError::Read(path.to_owned(), error))
}
