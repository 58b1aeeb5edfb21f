//! Connections to the server, from any address of this machine.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Honest users.
pub(super) const HONEST: Ipv4Addr = Ipv4Addr::LOCALHOST;

/// Another source of the same machine's.
pub(super) const ATTACKER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// The client's protocol.
#[derive(Debug, Clone, Copy)]
pub(super) enum Protocol {
    Http1,
    Http2,
}

/// Where the server is, and whom it must be.
#[derive(Clone)]
pub(super) struct Door {
    address: SocketAddr,
    http1: TlsConnector,
    http2: TlsConnector,
}

impl Door {
    pub(super) fn new(port: u16, ca: &Path) -> Result<Self> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(ca).context("cannot read the server's CA")?)?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let http1 = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let mut http2 = http1.clone();
        http2.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Self {
            address: (Ipv4Addr::LOCALHOST, port).into(),
            http1: TlsConnector::from(Arc::new(http1)),
            http2: TlsConnector::from(Arc::new(http2)),
        })
    }

    /// A connection that nothing has been said on.
    pub(super) async fn dial(&self, from: Ipv4Addr) -> Result<TcpStream> {
        let socket = TcpSocket::new_v4()?;
        socket.bind(SocketAddr::from((from, 0)))?;
        Ok(socket.connect(self.address).await?)
    }

    /// One whose TLS handshake is done.
    pub(super) async fn connect(
        &self,
        from: Ipv4Addr,
        protocol: Protocol,
    ) -> Result<TlsStream<TcpStream>> {
        let tls = match protocol {
            Protocol::Http1 => &self.http1,
            Protocol::Http2 => &self.http2,
        };
        let name = ServerName::try_from("localhost")?;
        Ok(tls.connect(name, self.dial(from).await?).await?)
    }
}
