//! The server's sockets: one port of TCP and UDP.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use quinn::Endpoint;
use tokio::net::TcpListener;
use underpass_tunnel::ConnectorRole;
use underpass_tunnel::transport::quic::{self, QuicConfig};

/// How often another port is tried where the system chose one for TCP that is taken for UDP.
const PORT_ATTEMPTS: usize = 16;

/// The server's sockets.
pub(crate) struct Sockets {
    pub(crate) tcp: TcpListener,
    pub(crate) quic: Endpoint,
    pub(crate) address: SocketAddr,
}

impl Sockets {
    /// Binds both protocols to the same port. Port 0 is one that is free for both.
    pub(crate) async fn bind(
        address: SocketAddr,
        tls: &rustls::ServerConfig,
        reset_key: &quic::ResetKey,
        quic_config: &QuicConfig,
    ) -> Result<Self> {
        let mut attempts = if address.port() == 0 {
            PORT_ATTEMPTS
        } else {
            1
        };
        loop {
            attempts -= 1;
            let tcp = TcpListener::bind(address)
                .await
                .with_context(|| format!("cannot listen on TCP {address}"))?;
            let address = tcp.local_addr()?;
            match quic::server_for(
                &ConnectorRole::ALL,
                address,
                tls.clone(),
                reset_key,
                quic_config,
            ) {
                Ok(quic) => return Ok(Self { tcp, quic, address }),
                Err(_) if attempts > 0 => {}
                Err(error) => return Err(error).context("cannot listen for QUIC"),
            }
        }
    }
}
