//! From a connection to a proxy to one through it.

use std::fmt;
use std::io;
use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use underpass_dial::ServerAddress;
use underpass_pem::PemError;

use crate::connect::{ProxyError, connect};
use crate::proxy::{Proxy, ProxyEnvError};
use crate::socks;
use crate::url::Scheme;

/// A connection to a proxy or through it, under TLS.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// Knows how to get through a proxy.
#[derive(Clone)]
pub struct ProxyDialer {
    proxy: Proxy,
    /// To the proxy itself, where it wants that.
    tls: Option<(TlsConnector, ServerName<'static>)>,
}

impl ProxyDialer {
    /// For this proxy.
    ///
    /// # Errors
    /// The CAs of an `https://` proxy cannot be used.
    pub fn new(proxy: Proxy) -> Result<Self, ProxyConfigError> {
        let tls = match proxy.url() {
            Ok(url) if url.scheme == Scheme::Https => {
                let connector = tls_client(proxy.ca_pem.as_deref())?;
                Some((TlsConnector::from(connector), url.name.clone()))
            }
            _ => None,
        };
        Ok(Self { proxy, tls })
    }

    /// The proxy.
    pub fn proxy(&self) -> &Proxy {
        &self.proxy
    }

    /// The proxy's host and port.
    ///
    /// # Errors
    /// The environment names no proxy that can be used.
    pub fn place(&self) -> Result<(&str, u16), &ProxyEnvError> {
        let url = self.proxy.url()?;
        Ok((&url.host, url.port))
    }

    /// Makes a connection to the proxy one to the server. The caller sets the deadline.
    ///
    /// # Errors
    /// The proxy gives no way to the server.
    ///
    /// # Cancel safety
    /// Dropping the future closes the connection.
    pub async fn open(
        &self,
        tcp: TcpStream,
        server: &ServerAddress,
    ) -> Result<Box<dyn Io>, ProxyError> {
        let url = self.proxy.url().map_err(Clone::clone)?;
        let mut io: Box<dyn Io> = match &self.tls {
            None => Box::new(tcp),
            Some((tls, name)) => {
                let tls = tls.connect(name.clone(), tcp).await.map_err(tls_error)?;
                Box::new(tls)
            }
        };
        if url.scheme == Scheme::Socks5 {
            socks::connect(&mut io, server, url.login()).await?;
            return Ok(io);
        }
        connect(&mut io, &server.to_string(), url.authorization()).await?;
        Ok(io)
    }
}

impl fmt::Debug for ProxyDialer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let proxy = &self.proxy;
        f.debug_tuple("ProxyDialer").field(proxy).finish()
    }
}

/// Why a proxy's configuration cannot be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ProxyConfigError {
    /// The CA for the proxy is not usable.
    #[error("the CA for the proxy's certificate cannot be used")]
    Ca(#[from] ProxyCaError),
}

/// Why no CA says which certificate is the proxy's.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ProxyCaError {
    /// The text holds no certificate, or one that cannot be read.
    #[error("the certificates cannot be read")]
    Pem(#[from] PemError),
    /// rustls does not take the certificate.
    #[error("certificate refused")]
    Rejected(#[source] rustls::Error),
    /// The system's CAs cannot be read.
    #[error("the operating system has no CA certificates that can be read")]
    NoSystemRoots(#[source] Option<rustls_native_certs::Error>),
}

/// The configuration for a proxy's own TLS: with the CAs in `pem`, or with those of the system.
fn tls_client(pem: Option<&[u8]>) -> Result<Arc<ClientConfig>, ProxyCaError> {
    let (roots, file) = match pem {
        Some(pem) => roots(pem)?,
        None => (system_roots()?, Arc::default()),
    };
    let provider = Arc::new(aws_lc_rs::default_provider());
    // Proxies are appliances, often old ones: TLS 1.2 as well.
    let builder = underpass_trust::trusting(Arc::new(roots), file, provider);
    let builder = builder.map_err(ProxyCaError::Rejected)?;
    Ok(Arc::new(builder.with_no_client_auth()))
}

/// The CAs in the text, and the certificates themselves.
fn roots(pem: &[u8]) -> Result<(RootCertStore, Arc<[CertificateDer<'static>]>), ProxyCaError> {
    let mut roots = RootCertStore::empty();
    let file: Arc<[_]> = underpass_pem::certificates(pem)?.into();
    for certificate in file.iter() {
        let added = roots.add(certificate.clone());
        added.map_err(ProxyCaError::Rejected)?;
    }
    Ok((roots, file))
}

fn system_roots() -> Result<RootCertStore, ProxyCaError> {
    let mut system = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    // Systems have certificates among theirs that no library takes.
    roots.add_parsable_certificates(system.certs);
    if roots.is_empty() {
        return Err(ProxyCaError::NoSystemRoots(system.errors.pop()));
    }
    Ok(roots)
}

fn tls_error(error: io::Error) -> ProxyError {
    let rustls = error.get_ref();
    let rustls = rustls.and_then(|error| error.downcast_ref::<rustls::Error>());
    match rustls {
        Some(error @ rustls::Error::InvalidCertificate(_)) => ProxyError::Untrusted(error.clone()),
        _ => ProxyError::Tls(error),
    }
}
