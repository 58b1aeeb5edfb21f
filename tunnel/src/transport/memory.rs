//! Transports within one process, for tests of this library and of its users.

use tokio_util::compat::TokioAsyncReadCompatExt;
use underpass_proto::stream_id::Role;

use super::TransportKind;
use super::yamux::YamuxTransport;

/// Bytes that each direction holds before a write waits, like a socket's buffer.
const BUFFER: usize = 256 * 1024;

/// Two ends of one connection: the connector's and the acceptor's.
///
/// They speak yamux over a pipe. Must be called within a tokio runtime, which runs both ends'
/// drivers.
pub fn pair() -> (YamuxTransport, YamuxTransport) {
    let (connector, acceptor) = tokio::io::duplex(BUFFER);
    (
        YamuxTransport::start(
            connector.compat(),
            Role::Connector,
            TransportKind::Memory,
            None,
        ),
        YamuxTransport::start(
            acceptor.compat(),
            Role::Acceptor,
            TransportKind::Memory,
            None,
        ),
    )
}
