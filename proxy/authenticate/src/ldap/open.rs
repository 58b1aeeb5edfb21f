//! Connections to a directory, with TLS.

use std::sync::Arc;

use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::exchange::{Exchange, ExchangeError};
use underpass_core::limits;
use underpass_dial::Resolve;

/// All on it is encrypted.
pub(super) type Stream = TlsStream<TcpStream>;

pub(super) type Connection = Exchange<Stream>;

/// Where a directory is.
pub(super) struct Address {
    /// A name, or an address; of IPv6 with or without brackets.
    pub(super) host: String,
    pub(super) port: u16,
    /// The name that its certificate has to have.
    pub(super) name: ServerName<'static>,
    /// Whether TLS begins when it is asked for.
    pub(super) start_tls: bool,
    pub(super) resolver: Arc<dyn Resolve>,
    pub(super) tls: Arc<ClientConfig>,
}

impl Address {
    /// A connection on which nothing has been said but TLS.
    pub(super) async fn open(&self) -> Result<Connection, ExchangeError> {
        let connected = timeout(limits::PROVIDER_CONNECT_TIME, self.connect()).await;
        connected.unwrap_or(Err(ExchangeError::Unconnected))
    }

    async fn connect(&self) -> Result<Connection, ExchangeError> {
        let mut tcp = underpass_dial::connect(&*self.resolver, &self.host, self.port).await?;
        if self.start_tls {
            tcp = Exchange::new(tcp).start_tls().await?;
        }
        let tls = TlsConnector::from(Arc::clone(&self.tls));
        let tls = tls.connect(self.name.clone(), tcp).await?;
        Ok(Exchange::new(tls))
    }
}
