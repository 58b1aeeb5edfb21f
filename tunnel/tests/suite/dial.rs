//! Transports as a stranger would dial them: without the connector.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use quinn::crypto::rustls::QuicClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use underpass_tunnel::tls;
use underpass_tunnel::transport::quic::{ALPN, QuicTransport};
use underpass_tunnel::transport::websocket::{self, Subprotocol};
use underpass_tunnel::transport::{Transport, tcp};

use crate::server::Pki;

pub(crate) const HOST: &str = "127.0.0.1";

pub(crate) async fn quic(pki: &Pki, port: u16) -> QuicTransport {
    let connection = quic_connection(pki, port, ALPN).await.unwrap();
    QuicTransport::new(connection)
}

pub(crate) async fn quic_connection(
    pki: &Pki,
    port: u16,
    alpn: &[u8],
) -> Result<quinn::Connection, quinn::ConnectionError> {
    let (_endpoint, connecting) = connecting(pki, port, alpn);
    connecting.await
}

/// A connection, and the endpoint whose socket carries it.
pub(crate) async fn quic_endpoint(pki: &Pki, port: u16) -> (quinn::Endpoint, quinn::Connection) {
    let (endpoint, connecting) = connecting(pki, port, ALPN);
    (endpoint, connecting.await.unwrap())
}

fn connecting(pki: &Pki, port: u16, alpn: &[u8]) -> (quinn::Endpoint, quinn::Connecting) {
    let mut tls = tls::pinned_client(&pki.ca_pem).unwrap();
    tls.alpn_protocols = vec![alpn.to_vec()];
    let config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
    let endpoint = quinn::Endpoint::client(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
    let connecting = endpoint
        .connect_with(config, (Ipv4Addr::LOCALHOST, port).into(), HOST)
        .unwrap();
    (endpoint, connecting)
}

pub(crate) async fn tls(pki: &Pki, port: u16) -> TlsStream<TcpStream> {
    let socket = TcpStream::connect((HOST, port)).await.unwrap();
    tls_on(pki, socket).await
}

async fn tls_on(pki: &Pki, socket: TcpStream) -> TlsStream<TcpStream> {
    let mut config = tls::pinned_client(&pki.ca_pem).unwrap();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    tcp::tune(&socket).unwrap();
    TlsConnector::from(Arc::new(config))
        .connect(ServerName::try_from(HOST).unwrap(), socket)
        .await
        .unwrap()
}

pub(crate) async fn websocket(pki: &Pki, port: u16, offers: &[Subprotocol]) -> Arc<dyn Transport> {
    let socket = TcpStream::connect((HOST, port)).await.unwrap();
    websocket_on(pki, port, socket, offers).await
}

/// On a connection that leads to the server on `port`.
pub(crate) async fn websocket_on(
    pki: &Pki,
    port: u16,
    socket: TcpStream,
    offers: &[Subprotocol],
) -> Arc<dyn Transport> {
    let host = format!("{HOST}:{port}");
    websocket::connect(tls_on(pki, socket).await, &host, None, offers)
        .await
        .unwrap()
}
