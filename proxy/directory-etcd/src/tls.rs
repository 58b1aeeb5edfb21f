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
    let mut file = Vec::new();
    if let Some(path) = &config.ca {
        let pem = |error| ConnectError::Pem(path.clone(), error);
        file = underpass_pem::certificates(&read(path)?).map_err(pem)?;
        for certificate in &file {
            let added = roots.add(certificate.clone());
            added.map_err(|error| ConnectError::Root(path.clone(), error))?;
        }
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = underpass_trust::trusting(Arc::new(roots), file.into(), provider);
    let tls = tls.map_err(ConnectError::Tls)?;
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

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
    use rustls::ServerConfig;
    use rustls::pki_types::PrivateKeyDer;
    use tokio_rustls::TlsAcceptor;

    use super::*;

    /// As `openssl req -x509` makes it: a CA's.
    #[tokio::test]
    async fn rule_10_etcds_own_certificate_in_its_ca_file_is_trusted_itself() {
        let folder = tempfile::tempdir().unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(["localhost".to_owned()]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap();
        let path = folder.path().join("ca.pem");
        std::fs::write(&path, certificate.pem()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut server = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
            )
            .unwrap();
        server.alpn_protocols = vec![b"h2".to_vec()];
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let acceptor = TlsAcceptor::from(Arc::new(server));
        let endpoint =
            |host: &str| -> Endpoint { format!("https://{host}:{port}").parse().unwrap() };
        let config = EtcdConfig {
            endpoints: vec![endpoint("localhost")],
            ca: Some(path),
            certificate: None,
            user: None,
            prefix: "/underpass/".parse().unwrap(),
            installation: None,
        };
        for (host, trusted) in [("localhost", true), ("127.0.0.1", false)] {
            let accepting = async {
                let tcp = listener.accept().await.unwrap().0;
                acceptor.accept(tcp).await
            };
            let endpoint = endpoint(host);
            let (connected, _) = tokio::join!(connect(&config, &endpoint), accepting);
            assert_eq!(connected.is_ok(), trusted, "{:?}", connected.err());
        }
    }
}
