//! QUIC endpoints: sockets, and quinn's configuration for them.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use aws_lc_rs::hmac;
use quinn::crypto::rustls::{NoInitialCipherSuite, QuicClientConfig, QuicServerConfig};
use quinn::{
    ClientConfig, Endpoint, EndpointConfig, IdleTimeout, MtuDiscoveryConfig, Runtime as _,
    TokioRuntime, TransportConfig, VarInt,
};
use quinn_proto::HashedConnectionIdGenerator;
use quinn_proto::congestion::CubicConfig;
use thiserror::Error;

use super::batches::Batches;
use super::config::{Congestion, DATAGRAM_MIN, Offload, QuicConfig};
use super::{alpn, congestion, offload, socket};
use crate::limits;
use crate::role::ConnectorRole;

/// Unread bytes that an authenticated peer may have sent.
pub(super) const CONNECTION_WINDOW: VarInt = VarInt::from_u32(limits::QUIC_CONNECTION_WINDOW);

/// Why there is no endpoint.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum EndpointError {
    /// The socket cannot be had.
    #[error("cannot bind UDP {address}")]
    Bind {
        /// The wanted address.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// The TLS configuration has no cipher suite that QUIC needs (RFC 9001, section 5.3).
    #[error("the TLS configuration does not fit QUIC")]
    Tls(#[from] NoInitialCipherSuite),
    /// The trace cannot be written.
    #[cfg(feature = "qlog")]
    #[error("cannot write a qlog trace to {}", path.display())]
    Qlog {
        /// The file.
        path: std::path::PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// The key of stateless resets (RFC 9000, section 10.3): with the same key a server that was started
/// again tells agents at once that it knows nothing of their connections, which otherwise takes
/// until their keepalive gives up.
#[derive(Debug, Clone)]
pub struct ResetKey {
    key: Arc<hmac::Key>,
    /// Marks the ids of connections: quinn answers nothing that comes with others.
    ids: u64,
}

impl ResetKey {
    /// A key that only this process knows: after a crash, agents find out by keepalive.
    pub fn random() -> Self {
        Self::derive(&crate::random::random::<32>())
    }

    /// The key that belongs to a secret of the server's, which it still has after a restart.
    pub fn derive(secret: &[u8]) -> Self {
        let secret = hmac::Key::new(hmac::HMAC_SHA256, secret);
        let key = hmac::sign(&secret, b"underpass quic stateless reset");
        let ids = hmac::sign(&secret, b"underpass quic connection ids");
        let ids = ids.as_ref().first_chunk().copied().unwrap_or_default();
        Self {
            key: Arc::new(hmac::Key::new(hmac::HMAC_SHA256, key.as_ref())),
            ids: u64::from_be_bytes(ids),
        }
    }
}

/// An endpoint that accepts agents, on `address`. A client may change its address in the midst of it
/// (connection migration, RFC 9000, section 9).
///
/// # Errors
/// Where the address is taken, the TLS configuration does not fit, or a trace cannot be written.
pub fn server(
    address: SocketAddr,
    tls: rustls::ServerConfig,
    reset_key: &ResetKey,
    config: &QuicConfig,
) -> Result<Endpoint, EndpointError> {
    server_for(&[ConnectorRole::Agent], address, tls, reset_key, config)
}

/// An endpoint that accepts connectors in these roles, on `address`.
///
/// # Errors
/// As [`server`].
pub fn server_for(
    roles: &[ConnectorRole],
    address: SocketAddr,
    tls: rustls::ServerConfig,
    reset_key: &ResetKey,
    config: &QuicConfig,
) -> Result<Endpoint, EndpointError> {
    let mut tls = tls;
    tls.alpn_protocols = roles.iter().map(|role| alpn(*role).to_vec()).collect();
    let crypto = QuicServerConfig::try_from(tls)?;
    let mut server = quinn::ServerConfig::with_crypto(Arc::new(crypto));
    let mut transport = transport_config(config, "server")?;
    // Until the peer is authenticated (see `QuicTransport::authenticated`).
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(1))
        .receive_window(VarInt::from_u32(limits::UNAUTHENTICATED_WINDOW));
    server
        .transport_config(Arc::new(transport))
        .migration(true)
        .max_incoming(limits::QUIC_INCOMING)
        .incoming_buffer_size(limits::QUIC_INCOMING_BYTES)
        .incoming_buffer_size_total(limits::QUIC_INCOMING_BYTES_TOTAL);
    let key = Arc::clone(&reset_key.key);
    let mut endpoint = EndpointConfig::new(key as Arc<dyn quinn::crypto::HmacKey>);
    let ids = reset_key.ids;
    endpoint.cid_generator(move || Box::new(HashedConnectionIdGenerator::from_key(ids)));
    bind(address, endpoint, Some(server), config)
}

/// An endpoint that connects to addresses of `peer`'s family, for one connection.
///
/// It is bound to no address: where the machine's own changes, packets leave with the new one, and
/// the server takes that for a migration.
///
/// # Errors
/// Where no socket can be had.
pub fn client(peer: SocketAddr, config: &QuicConfig) -> Result<Endpoint, EndpointError> {
    let any = match peer {
        SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    };
    bind(any, EndpointConfig::default(), None, config)
}

/// How such an endpoint dials a server of ours, as an agent.
///
/// # Errors
/// Where the TLS configuration does not fit QUIC, or a trace cannot be written.
pub fn client_config(
    tls: rustls::ClientConfig,
    config: &QuicConfig,
) -> Result<ClientConfig, EndpointError> {
    client_config_as(ConnectorRole::Agent, tls, config)
}

/// The same in this role.
///
/// # Errors
/// As [`client_config`].
pub fn client_config_as(
    role: ConnectorRole,
    tls: rustls::ClientConfig,
    config: &QuicConfig,
) -> Result<ClientConfig, EndpointError> {
    let mut tls = tls;
    tls.alpn_protocols = vec![alpn(role).to_vec()];
    let mut client = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?));
    let mut transport = transport_config(config, "client")?;
    transport.keep_alive_interval(Some(limits::KEEPALIVE_MAX));
    client.transport_config(Arc::new(transport));
    Ok(client)
}

fn bind(
    address: SocketAddr,
    endpoint: EndpointConfig,
    server: Option<quinn::ServerConfig>,
    config: &QuicConfig,
) -> Result<Endpoint, EndpointError> {
    let bind_error = |source| EndpointError::Bind { address, source };
    let mut endpoint = endpoint;
    let datagram = config.max_datagram.max(ETHERNET);
    endpoint
        .max_udp_payload_size(datagram)
        .map_err(|error| bind_error(io::Error::other(error)))?;
    let socket = socket::bind(address, config.socket_buffer).map_err(bind_error)?;
    let socket = TokioRuntime.wrap_udp_socket(socket).map_err(bind_error)?;
    let socket = Batches::of(socket, datagram);
    let runtime = Arc::new(TokioRuntime);
    Endpoint::new_with_abstract_socket(endpoint, server, socket, runtime).map_err(bind_error)
}

/// The least datagram size taken from peers, even if this side sends less: Ethernet's.
const ETHERNET: u16 = 1472;

/// All else keeps quinn's default, measured to be right or to make no difference
/// (`docs/PERFORMANCE.md`): acknowledgements of every second packet, an assumed round trip of
/// 333 ms before the first is measured (RFC 9002, section 6.2.2).
fn transport_config(config: &QuicConfig, side: &str) -> Result<TransportConfig, EndpointError> {
    let offload = match config.offload {
        Offload::Auto => offload::works(),
        Offload::On => true,
        Offload::Off => false,
    };
    let discovery = (config.max_datagram > DATAGRAM_MIN).then(|| {
        let mut discovery = MtuDiscoveryConfig::default();
        discovery.upper_bound(config.max_datagram);
        discovery
    });
    let mut transport = TransportConfig::default();
    transport
        .enable_segmentation_offload(offload)
        .mtu_discovery_config(discovery)
        .stream_receive_window(VarInt::from_u32(limits::QUIC_STREAM_WINDOW))
        .receive_window(CONNECTION_WINDOW)
        .send_window(config.send_window.into())
        .max_concurrent_bidi_streams(VarInt::from_u32(limits::QUIC_STREAMS_FIRST))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(None)
        .max_idle_timeout(Some(idle()));
    match config.congestion {
        Congestion::Rate => transport.congestion_controller_factory(Arc::new(congestion::Rate)),
        Congestion::Cubic => {
            transport.congestion_controller_factory(Arc::new(CubicConfig::default()))
        }
    };
    #[cfg(feature = "qlog")]
    if let Some(folder) = &config.qlog {
        transport.qlog_stream(super::qlog::start(folder, side)?);
    }
    #[cfg(not(feature = "qlog"))]
    let _ = side;
    Ok(transport)
}

fn idle() -> IdleTimeout {
    let millis = u32::try_from(limits::QUIC_IDLE.as_millis()).unwrap_or(u32::MAX);
    IdleTimeout::from(VarInt::from_u32(millis))
}
