//! A viewer's request for a WebSocket.

use http::header::SEC_WEBSOCKET_PROTOCOL;
use http::{HeaderValue, Response, StatusCode};
use tokio_tungstenite::tungstenite::Error as SocketError;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::{WebSocketStream, accept_hdr_async_with_config};
use underpass_api::{AttachQuery, CHANNEL_PROTOCOL, SHELL_PROTOCOL};
use underpass_tunnel::Stream;

/// The wishes of a viewer.
pub(super) struct Asked {
    pub(super) query: AttachQuery,
    pub(super) dialect: Dialect,
}

/// The subprotocol that both sides speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    /// Kubernetes's channels alone.
    Channels,
    /// The shell's events beside them.
    Shell,
}

/// Answers the request for a WebSocket, which comes first on the stream.
///
/// # Errors
/// There is no such request. The viewer has been told.
pub(super) async fn accept(
    stream: Stream,
    config: WebSocketConfig,
) -> Result<(WebSocketStream<Stream>, Asked), SocketError> {
    let mut asked = None;
    #[expect(clippy::result_large_err, reason = "the library's own type")]
    let read = |request: &Request, mut response: Response<()>| {
        let (found, protocol) = read(request)?;
        let protocol = HeaderValue::from_static(protocol);
        response
            .headers_mut()
            .insert(SEC_WEBSOCKET_PROTOCOL, protocol);
        asked = Some(found);
        Ok(response)
    };
    let socket = accept_hdr_async_with_config(stream, read, Some(config)).await?;
    let asked = asked.ok_or(SocketError::Protocol(ProtocolError::HandshakeIncomplete))?;
    Ok((socket, asked))
}

#[expect(clippy::result_large_err, reason = "the library's own type")]
fn read(request: &Request) -> Result<(Asked, &'static str), ErrorResponse> {
    let query = request.uri().query().unwrap_or_default();
    let query = query.parse::<AttachQuery>();
    let query = query.map_err(|error| refusal(error.to_string()))?;
    let lines = request.headers().get_all(SEC_WEBSOCKET_PROTOCOL).iter();
    let offered = lines.filter_map(|line| line.to_str().ok());
    let mut offered = offered.flat_map(|line| line.split(',')).map(str::trim);
    let (mut has_channels, mut has_shell) = (false, false);
    offered.by_ref().for_each(|offer| {
        has_channels |= offer == CHANNEL_PROTOCOL;
        has_shell |= offer == SHELL_PROTOCOL;
    });
    let (dialect, protocol) = match (has_shell, has_channels) {
        (true, _) => (Dialect::Shell, SHELL_PROTOCOL),
        (false, true) => (Dialect::Channels, CHANNEL_PROTOCOL),
        (false, false) => {
            return Err(refusal(format!(
                "a viewer of a shell speaks {CHANNEL_PROTOCOL} or {SHELL_PROTOCOL}: name one in Sec-WebSocket-Protocol"
            )));
        }
    };
    Ok((Asked { query, dialect }, protocol))
}

fn refusal(why: String) -> ErrorResponse {
    let mut refusal = Response::new(Some(why));
    *refusal.status_mut() = StatusCode::BAD_REQUEST;
    refusal
}
