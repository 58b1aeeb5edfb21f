//! The layers below ours, without us.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, join};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::{Certificate, echo};

const ANY: (Ipv4Addr, u16) = (Ipv4Addr::LOCALHOST, 0);

/// A TCP connection whose other end echoes.
pub async fn tcp() -> impl AsyncRead + AsyncWrite + Unpin {
    let listener = TcpListener::bind(ANY)
        .await
        .expect("loopback has a free port");
    let address = listener
        .local_addr()
        .expect("a bound socket has an address");
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        echo(stream).await
    });
    connect(address).await
}

async fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address)
        .await
        .expect("the listener is there");
    stream.set_nodelay(true).expect("TCP has this option");
    stream
}

/// A TLS connection over TCP whose other end echoes.
pub async fn tls() -> impl AsyncRead + AsyncWrite + Unpin {
    let certificate = Certificate::new();
    let acceptor = TlsAcceptor::from(Arc::new(certificate.server()));
    let listener = TcpListener::bind(ANY)
        .await
        .expect("loopback has a free port");
    let address = listener
        .local_addr()
        .expect("a bound socket has an address");
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        echo(acceptor.accept(stream).await?).await
    });
    let name = ServerName::try_from("localhost").expect("localhost is a name");
    let connector = TlsConnector::from(Arc::new(certificate.client()));
    connector
        .connect(name, connect(address).await)
        .await
        .expect("the certificate is trusted")
}

/// A quinn connection with its defaults, every stream of which is echoed. Keep the endpoint.
pub async fn quinn_streams() -> (quinn::Endpoint, quinn::Connection) {
    let certificate = Certificate::new();
    let (mut server, mut client) = (certificate.server(), certificate.client());
    server.alpn_protocols = vec![b"bench".to_vec()];
    client.alpn_protocols = vec![b"bench".to_vec()];
    let server = QuicServerConfig::try_from(server).expect("TLS 1.3 fits QUIC");
    let server = quinn::ServerConfig::with_crypto(Arc::new(server));
    let listening = quinn::Endpoint::server(server, ANY.into()).expect("loopback has a free port");
    let address = listening
        .local_addr()
        .expect("a bound socket has an address");
    tokio::spawn(async move {
        let incoming = listening.accept().await?;
        let connection = incoming.await.ok()?;
        while let Ok((send, recv)) = connection.accept_bi().await {
            tokio::spawn(echo(join(recv, send)));
        }
        Some(())
    });
    let client = QuicClientConfig::try_from(client).expect("TLS 1.3 fits QUIC");
    let client = quinn::ClientConfig::new(Arc::new(client));
    let endpoint = quinn::Endpoint::client(ANY.into()).expect("loopback has a free port");
    let connecting = endpoint.connect_with(client, address, "localhost");
    let connection = connecting
        .expect("the address is usable")
        .await
        .expect("it is trusted");
    (endpoint, connection)
}
