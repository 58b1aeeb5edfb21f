//! QUIC endpoints: sockets and what quinn is told about them.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::hmac;
use quinn::crypto::rustls::{NoInitialCipherSuite, QuicClientConfig, QuicServerConfig};
use quinn::{ClientConfig, Endpoint, EndpointConfig, TokioRuntime, TransportConfig, VarInt};
use thiserror::Error;

use super::ALPN;
use crate::proto::limits;

/// Silence after which quinn gives a connection up. The session's keepalive finds a lost peer
/// sooner; this is for connections that never became sessions.
const IDLE: Duration = Duration::from_secs(30);

/// The session counts streams; this only has to stay out of its way: its limit, and those that end.
pub(super) const STREAMS: VarInt = VarInt::from_u32(2 * limits::STREAMS_MAX);

/// Bytes that a peer may send before it is authenticated: some control frames.
const UNAUTHENTICATED_WINDOW: VarInt = VarInt::from_u32(64 * 1024);

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
}

/// The key of stateless resets (RFC 9000, section 10.3): with the same key a server that was started
/// again tells agents at once that it knows nothing of their connections, which otherwise takes
/// until their keepalive gives up.
#[derive(Debug, Clone)]
pub struct ResetKey(Arc<hmac::Key>);

impl ResetKey {
    /// A key that only this process knows: after a crash, agents find out by keepalive.
    pub fn random() -> Self {
        Self::derive(&crate::random::random::<32>())
    }

    /// The key that belongs to a secret of the server's, which it still has after a restart.
    pub fn derive(secret: &[u8]) -> Self {
        let secret = hmac::Key::new(hmac::HMAC_SHA256, secret);
        let key = hmac::sign(&secret, b"underpass quic stateless reset");
        Self(Arc::new(hmac::Key::new(hmac::HMAC_SHA256, key.as_ref())))
    }
}

/// An endpoint that accepts, on `address`.
///
/// # Errors
/// Where the address is taken or the TLS configuration does not fit.
pub fn server(
    address: SocketAddr,
    tls: rustls::ServerConfig,
    reset_key: &ResetKey,
) -> Result<Endpoint, EndpointError> {
    let mut tls = tls;
    tls.alpn_protocols = vec![ALPN.to_vec()];
    let crypto = QuicServerConfig::try_from(tls)?;
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
    let mut transport = transport_config();
    // Until the peer has proven who it is (see `QuicTransport::authenticated`).
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(1))
        .receive_window(UNAUTHENTICATED_WINDOW);
    config.transport_config(Arc::new(transport));
    let endpoint = EndpointConfig::new(Arc::clone(&reset_key.0) as Arc<dyn quinn::crypto::HmacKey>);
    bind(address, endpoint, Some(config))
}

/// An endpoint that connects to addresses of `peer`'s family.
///
/// # Errors
/// Where no socket can be had.
pub(crate) fn client(peer: SocketAddr) -> Result<Endpoint, EndpointError> {
    let any = match peer {
        SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    };
    bind(any, EndpointConfig::default(), None)
}

pub(crate) fn client_config(tls: rustls::ClientConfig) -> Result<ClientConfig, EndpointError> {
    let mut tls = tls;
    tls.alpn_protocols = vec![ALPN.to_vec()];
    let mut config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?));
    config.transport_config(Arc::new(transport_config()));
    Ok(config)
}

fn bind(
    address: SocketAddr,
    endpoint: EndpointConfig,
    config: Option<quinn::ServerConfig>,
) -> Result<Endpoint, EndpointError> {
    let bind_error = |source| EndpointError::Bind { address, source };
    let socket = UdpSocket::bind(address).map_err(bind_error)?;
    Endpoint::new(endpoint, config, socket, Arc::new(TokioRuntime)).map_err(bind_error)
}

fn transport_config() -> TransportConfig {
    let mut config = TransportConfig::default();
    config
        .max_concurrent_bidi_streams(STREAMS)
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(None)
        .max_idle_timeout(Some(idle()));
    config
}

fn idle() -> quinn::IdleTimeout {
    let millis = u32::try_from(IDLE.as_millis()).unwrap_or(u32::MAX);
    quinn::IdleTimeout::from(VarInt::from_u32(millis))
}
