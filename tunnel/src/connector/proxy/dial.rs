//! From a connection to a proxy to one through it.

use std::io;

use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::connect::{ProxyError, connect};
use super::{Proxy, ProxyConfigError};
use crate::connector::ServerAddress;
use crate::tls;

/// A connection to a proxy or through it, under TLS.
pub(in crate::connector) trait Io:
    AsyncRead + AsyncWrite + Send + Unpin
{
}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// Knows how to get through a proxy.
pub(in crate::connector) struct ProxyDialer {
    pub(in crate::connector) proxy: Proxy,
    /// To the proxy itself, where it wants that.
    tls: Option<(TlsConnector, ServerName<'static>)>,
}

impl ProxyDialer {
    pub(in crate::connector) fn new(proxy: Proxy) -> Result<Self, ProxyConfigError> {
        let tls = if proxy.url.tls {
            let connector = tls::proxy_client(proxy.ca_pem.as_deref())?;
            Some((TlsConnector::from(connector), proxy.url.name.clone()))
        } else {
            None
        };
        Ok(Self { proxy, tls })
    }

    /// The proxy's host and port.
    pub(in crate::connector) fn place(&self) -> (&str, u16) {
        (&self.proxy.url.host, self.proxy.url.port)
    }

    /// Makes a connection to the proxy one to the server.
    pub(in crate::connector) async fn open(
        &self,
        tcp: TcpStream,
        server: &ServerAddress,
    ) -> Result<Box<dyn Io>, ProxyError> {
        let mut io: Box<dyn Io> = match &self.tls {
            None => Box::new(tcp),
            Some((tls, name)) => {
                let tls = tls.connect(name.clone(), tcp).await.map_err(tls_error)?;
                Box::new(tls)
            }
        };
        let authorization = self.proxy.url.authorization.as_ref();
        let authorization = authorization.map(|value| value.as_str());
        connect(&mut io, &server.to_string(), authorization).await?;
        Ok(io)
    }
}

fn tls_error(error: io::Error) -> ProxyError {
    match tls::certificate_error(&error) {
        Some(error) => ProxyError::Untrusted(error),
        None => ProxyError::Tls(error),
    }
}
