//! The connections below a client's TLS: to a server, or through a proxy to it.

use std::{
    fmt, io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use http::Uri;
use hyper_util::{
    client::legacy::connect::{Connected, Connection},
    rt::TokioIo,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tower_service::Service;

use underpass_core::limits;
use underpass_dial::{Resolve, ServerAddress, SystemResolver};
use underpass_http_proxy::{
    Io, Proxy, ProxyConfigError, ProxyDialer, ProxyEnvError, ProxyError, ProxyUrl,
};

/// Connects to servers by name, through the proxy where there is one and it is not excepted. Of several addresses the first that
/// answers counts: hyper's own connector races the families of addresses only, so that the first silent address of one family
/// would take half of the time.
#[derive(Clone, Debug)]
pub struct Connector {
    resolver: Arc<dyn Resolve>,
    proxy: Option<Arc<ProxyDialer>>,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The server has no address, or none that answers.
    #[error(transparent)]
    Direct(io::Error),
    /// The way leads through a proxy, and the environment names none that can be used.
    #[error("a proxy is needed")]
    Environment(#[source] ProxyEnvError),
    /// The proxy has no address, or none that answers. It is named without its password.
    #[error("the proxy {0} cannot be reached")]
    NoProxy(Box<ProxyUrl>, #[source] io::Error),
    /// The proxy gives no way to the server.
    #[error("no way through the proxy {0}")]
    Proxy(Box<ProxyUrl>, #[source] ProxyError),
}

impl Connector {
    /// Through this proxy, or directly.
    ///
    /// # Errors
    /// The CAs of an `https://` proxy cannot be used.
    pub fn new(proxy: Option<&Proxy>) -> Result<Self, ProxyConfigError> {
        let proxy = proxy.cloned().map(ProxyDialer::new).transpose()?;
        Ok(Self {
            resolver: Arc::new(SystemResolver),
            proxy: proxy.map(Arc::new),
        })
    }

    /// The same, with names looked up in `resolver`.
    #[must_use]
    pub fn resolving(self, resolver: Arc<dyn Resolve>) -> Self {
        Self { resolver, ..self }
    }

    /// A connection to `host`, a DNS name or an IP address (of IPv6 with or without brackets).
    ///
    /// # Errors
    /// Neither the server nor the proxy answers in time, or the proxy refuses.
    ///
    /// # Cancel safety
    /// Dropping the future ends all attempts.
    pub async fn connect(&self, host: &str, port: u16) -> Result<Socket, ConnectError> {
        let plain = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
        let server = ServerAddress::new(plain.unwrap_or(host), port);
        let proxy = self.proxy.as_ref();
        let Some(dialer) = proxy.filter(|dialer| dialer.proxy().applies_to(&server)) else {
            let tcp = self.tcp(&server.host, port).await;
            return tcp.map(Socket::Direct).map_err(ConnectError::Direct);
        };
        let unusable = |error: &ProxyEnvError| ConnectError::Environment(error.clone());
        let url = dialer.proxy().url().map_err(unusable)?;
        let url = || Box::new(url.clone());
        let (host, port) = dialer.place().map_err(unusable)?;
        let tcp = self.tcp(host, port).await;
        let tcp = tcp.map_err(|error| ConnectError::NoProxy(url(), error))?;
        let opening = dialer.open(tcp, &server);
        let opened = tokio::time::timeout(limits::PROVIDER_CONNECT_TIME, opening).await;
        let opened = opened.unwrap_or_else(|late| Err(ProxyError::Io(late.into())));
        match opened {
            Ok(io) => Ok(Socket::Proxied(io)),
            Err(error) => Err(ConnectError::Proxy(url(), error)),
        }
    }

    async fn tcp(&self, host: &str, port: u16) -> io::Result<TcpStream> {
        let connecting = underpass_dial::connect(&*self.resolver, host, port);
        tokio::time::timeout(limits::PROVIDER_CONNECT_TIME, connecting).await?
    }
}

impl Service<Uri> for Connector {
    type Response = TokioIo<Socket>;
    type Error = ConnectError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, ConnectError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, url: Uri) -> Self::Future {
        let connector = self.clone();
        Box::pin(async move {
            let host = url.host().unwrap_or_default();
            let connected = if url.scheme_str() == Some("http") {
                // `HTTPS_PROXY` is for HTTPS.
                let tcp = connector.tcp(host, url.port_u16().unwrap_or(80)).await;
                tcp.map(Socket::Direct).map_err(ConnectError::Direct)
            } else {
                let port = url.port_u16().unwrap_or(443);
                connector.connect(host, port).await
            };
            connected.map(TokioIo::new)
        })
    }
}

/// A connection to a server.
pub enum Socket {
    /// To one of its addresses.
    Direct(TcpStream),
    /// Through a proxy.
    Proxied(Box<dyn Io>),
}

impl fmt::Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Direct(_) => "Direct",
            Self::Proxied(_) => "Proxied",
        })
    }
}

impl Socket {
    fn io(self: Pin<&mut Self>) -> Pin<&mut dyn Io> {
        match self.get_mut() {
            Self::Direct(tcp) => Pin::new(tcp),
            Self::Proxied(io) => Pin::new(&mut **io),
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.io().poll_read(context, buffer)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.io().poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io().poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io().poll_shutdown(context)
    }
}

/// A request is written as for the server itself: CONNECT's proxy does not read it.
impl Connection for Socket {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}
