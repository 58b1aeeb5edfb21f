//! An HTTPS listener on this machine, for programs of the user who started it and for no others.
//!
//! A port of 127.0.0.1 is open to every user of the machine and, by way of a browser, to every web page. So a [`Loopback`] has a
//! certificate of its own, made for this run by a CA whose key is forgotten at once, and a random bearer token, and refuses each
//! request without the token or for another host. The [`kubeconfig`](Loopback::kubeconfig) holds the three of them. A [`Handler`] gets
//! requests that have passed, without the token.
//!
//! It knows neither where requests go nor who the user is elsewhere.

mod certificate;
mod kubeconfig;
mod limits;
mod serve;
mod strangers;
mod token;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use async_trait::async_trait;
use http::{Request, Response};
use thiserror::Error;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use underpass_core::Body;

pub use self::kubeconfig::Entry;
use self::token::Token;
pub use underpass_http::serve::RequestBody;

/// Answers requests.
#[async_trait]
pub trait Handler: Send + Sync + 'static {
    /// Answers a request that has shown the token, which was taken from it. Upgrades are the handler's, by `hyper::upgrade::on`.
    ///
    /// # Cancel safety
    /// The future is dropped when the client is gone.
    async fn handle(&self, request: Request<RequestBody>) -> Response<Body>;
}

/// The name that a request's client has asked for in TLS, as an extension of the request. It is part of the address, and says nothing of the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerName(pub Arc<str>);

/// Why there is no listener.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BindError {
    /// Others could reach it.
    #[error("{0} is not an address of this machine alone: use 127.0.0.1 or [::1]")]
    NotLoopback(SocketAddr),
    /// The address is not free, or none of this machine's.
    #[error("cannot listen on {0}")]
    Bind(SocketAddr, #[source] io::Error),
    /// The certificate cannot be made.
    #[error("cannot make a certificate")]
    Certificate(#[source] rcgen::Error),
    /// rustls does not take it.
    #[error("cannot use the certificate")]
    Tls(#[source] rustls::Error),
}

/// A listener that has not accepted yet.
pub struct Loopback {
    listener: TcpListener,
    address: SocketAddr,
    tls: TlsAcceptor,
    ca_pem: String,
    token: Arc<Token>,
    connections: usize,
}

impl Loopback {
    /// Listens at a loopback address; port 0 is any free one.
    ///
    /// # Errors
    /// Other machines could reach the address, or it is taken.
    pub async fn bind(address: SocketAddr) -> Result<Self, BindError> {
        if !address.ip().is_loopback() {
            return Err(BindError::NotLoopback(address));
        }
        let failed = |error| BindError::Bind(address, error);
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let made = certificate::make(address.ip(), None)?;
        Ok(Self {
            listener,
            address,
            tls: TlsAcceptor::from(Arc::new(made.tls)),
            ca_pem: made.ca_pem,
            token: Arc::new(Token::random()),
            connections: limits::CONNECTIONS,
        })
    }

    /// Has a certificate for this name as well, or for all names of a wildcard. A request has the name that its client has asked for:
    /// [`ServerName`].
    ///
    /// # Errors
    /// It is no name of DNS.
    pub fn named(self, name: &str) -> Result<Self, BindError> {
        let made = certificate::make(self.address.ip(), Some(name))?;
        Ok(Self {
            tls: TlsAcceptor::from(Arc::new(made.tls)),
            ca_pem: made.ca_pem,
            ..self
        })
    }

    /// Has so many connections at a time at the most, and not 1024.
    #[must_use]
    pub fn at_most(self, connections: usize) -> Self {
        Self {
            connections,
            ..self
        }
    }

    /// The address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The CA of the certificate, as PEM.
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// The token that each request must show.
    pub fn token(&self) -> &str {
        self.token.expose()
    }
}

impl std::fmt::Debug for Loopback {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Loopback")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
