//! Bare quinn with one of its settings changed.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{
    AckFrequencyConfig, ClientConfig, Connection, Endpoint, EndpointConfig, MtuDiscoveryConfig,
    ServerConfig, TokioRuntime, TransportConfig, VarInt,
};
use tokio::io::join;

use crate::{Certificate, echo};

const ALPN: &[u8] = b"bench";

/// Differences from quinn's defaults, at both ends.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tuned {
    /// Each datagram is a system call of its own.
    pub no_offload: bool,
    /// The largest datagram looked for, in bytes; 1,452 by default.
    pub max_datagram: Option<u16>,
    /// Both buffers of both sockets, in bytes; the system's by default.
    pub socket_buffer: Option<usize>,
    /// Packets that may go unacknowledged at the receiver; 1 by default.
    pub unacknowledged: Option<u32>,
    /// Credit of each stream, in bytes; 1.25 MB by default.
    pub stream_window: Option<u32>,
    /// Bytes kept until they are acknowledged; 10 MB by default.
    pub send_window: Option<u32>,
}

impl Tuned {
    /// A connection, every stream of which is echoed. Keep the endpoint.
    pub async fn connect(self) -> (Endpoint, Connection) {
        let certificate = Certificate::new();
        let (mut server, mut client) = (certificate.server(), certificate.client());
        server.alpn_protocols = vec![ALPN.to_vec()];
        client.alpn_protocols = vec![ALPN.to_vec()];
        let server = QuicServerConfig::try_from(server).expect("TLS 1.3 fits QUIC");
        let mut server = ServerConfig::with_crypto(Arc::new(server));
        server.transport_config(Arc::new(self.transport()));
        let listening = self.endpoint(Some(server));
        let address = listening
            .local_addr()
            .expect("a bound socket has an address");
        tokio::spawn(async move {
            let connection = listening.accept().await?.await.ok()?;
            while let Ok((send, recv)) = connection.accept_bi().await {
                tokio::spawn(echo(join(recv, send)));
            }
            Some(())
        });
        let client = QuicClientConfig::try_from(client).expect("TLS 1.3 fits QUIC");
        let mut client = ClientConfig::new(Arc::new(client));
        client.transport_config(Arc::new(self.transport()));
        let endpoint = self.endpoint(None);
        let connecting = endpoint.connect_with(client, address, "localhost");
        let connection = connecting
            .expect("the address is usable")
            .await
            .expect("it is trusted");
        (endpoint, connection)
    }

    fn endpoint(self, server: Option<ServerConfig>) -> Endpoint {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let socket = UdpSocket::bind(any).expect("loopback has a free port");
        if let Some(bytes) = self.socket_buffer {
            let socket = socket2::SockRef::from(&socket);
            socket.set_recv_buffer_size(bytes).expect("it is a size");
            socket.set_send_buffer_size(bytes).expect("it is a size");
        }
        let mut config = EndpointConfig::default();
        if let Some(bytes) = self.max_datagram {
            config
                .max_udp_payload_size(bytes)
                .expect("it is a datagram's size");
        }
        Endpoint::new(config, server, socket, Arc::new(TokioRuntime)).expect("within a runtime")
    }

    fn transport(self) -> TransportConfig {
        let mut config = TransportConfig::default();
        config.enable_segmentation_offload(!self.no_offload);
        if let Some(bytes) = self.max_datagram {
            let mut discovery = MtuDiscoveryConfig::default();
            discovery.upper_bound(bytes);
            config.mtu_discovery_config(Some(discovery));
        }
        if let Some(packets) = self.unacknowledged {
            let mut frequency = AckFrequencyConfig::default();
            frequency.ack_eliciting_threshold(VarInt::from_u32(packets));
            config.ack_frequency_config(Some(frequency));
        }
        if let Some(bytes) = self.stream_window {
            config.stream_receive_window(VarInt::from_u32(bytes));
        }
        if let Some(bytes) = self.send_window {
            config.send_window(bytes.into());
        }
        config
    }
}
