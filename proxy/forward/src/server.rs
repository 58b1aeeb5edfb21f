//! The server that is asked.

use std::{fmt, sync::Arc};

use rustls_pki_types::ServerName;
use underpass_https::{Connector, Credentials, Proxy, ProxyConfigError, Roots, https_url};

/// A server: where it is, whose certificates count, and who asks.
#[derive(Clone)]
pub struct Server {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) name: ServerName<'static>,
    pub(crate) connector: Connector,
    pub(crate) tls: Arc<rustls::ClientConfig>,
    pub(crate) credentials: Arc<dyn Credentials>,
}

/// Why a server cannot be asked at all: the caller's settings.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// Not the URL of a server.
    #[error("{0:?} is not https://HOST[:PORT]")]
    Url(String),
    /// The cryptography has no TLS.
    #[error("there is no TLS to ask over")]
    Tls(#[source] rustls::Error),
    /// The proxy's CAs cannot be used.
    #[error("the proxy cannot be used")]
    Proxy(#[source] ProxyConfigError),
}

impl Server {
    /// The server at `https://HOST[:PORT]`, whose certificate one of `roots` has signed, through this proxy where it is not
    /// excepted.
    ///
    /// # Errors
    /// The URL or the proxy cannot be used.
    pub fn new(
        url: &str,
        roots: &Roots,
        proxy: Option<&Proxy>,
        credentials: Arc<dyn Credentials>,
    ) -> Result<Self, ServerError> {
        let wrong = || ServerError::Url(url.to_owned());
        let parsed = https_url(url).ok_or_else(wrong)?;
        let host = parsed.host().ok_or_else(wrong)?;
        let plain = host.trim_start_matches('[').trim_end_matches(']');
        let name = ServerName::try_from(plain.to_owned()).map_err(|_| wrong())?;
        if parsed.path() != "/" {
            return Err(wrong());
        }
        let mut tls = roots.client().map_err(ServerError::Tls)?;
        tls.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Self {
            host: host.to_owned(),
            port: parsed.port_u16().unwrap_or(443),
            name,
            connector: Connector::new(proxy).map_err(ServerError::Proxy)?,
            tls: Arc::new(tls),
            credentials,
        })
    }
}

/// `HOST:PORT`.
impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("host", &self.host)
            .field("port", &self.port)
            .finish_non_exhaustive()
    }
}
