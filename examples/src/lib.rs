//! Shared parts of the examples: both ends of a tunnel over loopback, in one process.
//!
//! In earnest [`Server`] runs where agents can reach it, and [`agent`] where nobody can.

pub mod directory;
pub mod kubernetes;
pub mod word;

use std::net::Ipv4Addr;
use std::sync::Arc;

use anyhow::Result;
use futures_util::future::BoxFuture;
use tokio::net::{TcpStream, ToSocketAddrs};
use underpass_tunnel::transport::quic::{self, QuicConfig, ResetKey};
use underpass_tunnel::{
    Accepted, Acceptor, AcceptorConfig, Admission, AgentKey, AgentName, Connector, ConnectorConfig,
    Denied, IncomingStream, Proven, PublicKey, Registry, ResetCode, Session, Transports,
    copy_bidirectional, tls,
};

/// Knows one agent.
struct Known {
    key: PublicKey,
    name: &'static str,
}

impl Admission for Known {
    fn admit<'a>(&'a self, proven: &'a Proven) -> BoxFuture<'a, Result<AgentName, Denied>> {
        Box::pin(async {
            if proven.key == self.key {
                Ok(self.name.try_into()?)
            } else {
                Err(Denied::unknown_key())
            }
        })
    }
}

/// A server that agents dial, over QUIC.
#[derive(Debug)]
pub struct Server {
    /// The connected agents.
    pub agents: Registry,
    /// The port that it listens on.
    pub port: u16,
    /// The CA that its agents pin.
    pub ca_pem: String,
}

impl Server {
    /// Lets in the agent that has the private half of `key`, and calls it `name`.
    ///
    /// # Errors
    /// Where no port is to be had.
    pub async fn start(key: PublicKey, name: &'static str) -> Result<Self> {
        // In earnest the certificate is a CA's that outlives it.
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
        let key_der = made.signing_key.serialize_der();
        let config = tls::server(
            vec![made.cert.der().clone()],
            key_der.try_into().map_err(anyhow::Error::msg)?,
        )?;
        let endpoint = quic::server(
            (Ipv4Addr::LOCALHOST, 0).into(),
            config,
            &ResetKey::random(),
            &QuicConfig::default(),
        )?;
        let port = endpoint.local_addr()?.port();
        let acceptor = Acceptor::new(AcceptorConfig::default(), Arc::new(Known { key, name }));
        let agents = Registry::new();
        let registry = agents.clone();
        tokio::spawn(async move {
            while let Some(incoming) = endpoint.accept().await {
                // One that was there before and is resumed stands in the registry already.
                if let Ok(Accepted::New(session)) = acceptor.accept_quic(incoming).await {
                    registry.insert(session);
                }
            }
        });
        Ok(Self {
            agents,
            port,
            ca_pem: made.cert.pem(),
        })
    }
}

/// Keeps an agent connected to `server` for as long as the program runs; `serve` is called for each
/// session.
///
/// # Errors
/// Where the configuration cannot work.
pub fn agent(
    server: &Server,
    key: AgentKey,
    serve: impl FnMut(Session) + Send + 'static,
) -> Result<()> {
    let ca = server.ca_pem.clone().into_bytes();
    let mut config = ConnectorConfig::new("localhost", server.port, ca, key);
    config.transports = Transports::Quic;
    let connector = Connector::new(config)?;
    tokio::spawn(async move { connector.run(serve, |_| {}).await });
    Ok(())
}

/// Waits until the agent is there.
pub async fn connected(server: &Server, name: &str) {
    while server.agents.pick(name).is_none() {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

/// At the agent: joins a stream that the server opened to a TCP service.
///
/// # Errors
/// Where either of them breaks.
pub async fn join_tcp(incoming: IncomingStream, service: impl ToSocketAddrs) -> Result<()> {
    let connection = match TcpStream::connect(service).await {
        Ok(connection) => connection,
        Err(error) => {
            // The server's side is told, instead of a stream that ends at once.
            incoming.refuse(ResetCode::TargetUnreachable, &error.to_string());
            return Ok(());
        }
    };
    let stream = incoming.accept().await?;
    // Half-close passes in both directions; a reset ends both.
    copy_bidirectional(stream, connection).await?;
    Ok(())
}
