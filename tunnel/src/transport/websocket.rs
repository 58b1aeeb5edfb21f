//! WebSocket (RFC 6455): binary messages that carry a multiplexer's bytes.
//!
//! Message boundaries mean nothing. Which multiplexer it is, the subprotocol says; TLS below and
//! the HTTP upgrade are the caller's, except for [`connect`].

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use futures_util::{AsyncRead, AsyncWrite, Sink, Stream};
use thiserror::Error;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::handshake::server::create_response;
use tokio_tungstenite::tungstenite::http::header::SEC_WEBSOCKET_PROTOCOL;
use tokio_tungstenite::tungstenite::http::{HeaderValue, Request, Response};
use tokio_tungstenite::tungstenite::protocol::{Role as WebSocketRole, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error as WebSocketError, Message};

use super::Kind;
use super::yamux::YamuxTransport;
use crate::proto::stream_id::Role;

/// The subprotocol of messages that carry yamux.
pub const SUBPROTOCOL_YAMUX: &str = "underpass.yamux.v1";

/// The path that a server takes agents' WebSockets on.
pub const PATH: &str = "/v1/tunnel";

/// Bytes gathered into one message before it is sent without being asked to: some TLS records.
const MESSAGE: usize = 64 * 1024;

/// Bytes that a peer's message may have, in one frame or several: this side buffers that much before
/// it knows who the peer is. We send `MESSAGE` and one yamux frame (64 KiB) at the most.
const MESSAGE_MAX: usize = 256 * 1024;

/// Bytes that wait for the socket before writes do.
const WRITE_BUFFER_MAX: usize = 512 * 1024;

/// Why a WebSocket could not be agreed on.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum UpgradeError {
    /// The server's address makes no URL.
    #[error("`{0}` is no host for a WebSocket URL")]
    Host(String),
    /// The server answered something else than an upgrade.
    #[error("the server answered {status} instead of upgrading to WebSocket{}", hint(.body))]
    Refused {
        /// The HTTP status.
        status: u16,
        /// The beginning of what it said.
        body: String,
    },
    /// The server upgraded, but not to a multiplexer that was offered.
    #[error("the server chose the WebSocket subprotocol {0:?}, which was not offered")]
    Subprotocol(Option<String>),
    /// The client offers no multiplexer that this server speaks.
    #[error(
        "no common WebSocket subprotocol: the client offers {0:?}, this side speaks {SUBPROTOCOL_YAMUX:?}"
    )]
    NotOffered(Vec<String>),
    /// The exchange itself failed.
    #[error("WebSocket handshake failed")]
    Protocol(#[source] Box<WebSocketError>),
}

fn hint(body: &str) -> String {
    if body.is_empty() {
        String::new()
    } else {
        format!(": {body}")
    }
}

fn config() -> WebSocketConfig {
    WebSocketConfig::default()
        .max_message_size(Some(MESSAGE_MAX))
        .max_frame_size(Some(MESSAGE_MAX))
        .write_buffer_size(MESSAGE)
        .max_write_buffer_size(WRITE_BUFFER_MAX)
}

/// Upgrades a connection to `host`, on which TLS is done, as the client.
///
/// # Errors
/// Where the server does not upgrade to a multiplexer that this side speaks.
///
/// # Cancel safety
/// Dropping the future drops the connection.
pub async fn connect<S>(
    io: S,
    host: &str,
    remote: Option<SocketAddr>,
) -> Result<YamuxTransport, UpgradeError>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
{
    let mut request = format!("wss://{host}{PATH}")
        .into_client_request()
        .map_err(|_| UpgradeError::Host(host.to_owned()))?;
    request.headers_mut().insert(
        SEC_WEBSOCKET_PROTOCOL,
        HeaderValue::from_static(SUBPROTOCOL_YAMUX),
    );
    let (socket, response) =
        tokio_tungstenite::client_async_with_config(request, io, Some(config()))
            .await
            .map_err(refused)?;
    let chosen = response.headers().get(SEC_WEBSOCKET_PROTOCOL);
    if chosen.is_none_or(|chosen| chosen != SUBPROTOCOL_YAMUX) {
        let chosen = chosen.map(|chosen| String::from_utf8_lossy(chosen.as_bytes()).into_owned());
        return Err(UpgradeError::Subprotocol(chosen));
    }
    Ok(YamuxTransport::start(
        Messages::new(socket),
        Role::Connector,
        Kind::WebSocket,
        remote,
    ))
}

fn refused(error: WebSocketError) -> UpgradeError {
    match error {
        WebSocketError::Http(response) => {
            let body = response.body().as_deref().unwrap_or_default();
            let body = String::from_utf8_lossy(body.get(..200).unwrap_or(body));
            let status = response.status().as_u16();
            UpgradeError::Refused {
                status,
                body: body.trim().to_owned(),
            }
        }
        error => UpgradeError::Protocol(Box::new(error)),
    }
}

/// The answer to a client's upgrade request; the connection then goes to [`accept`].
///
/// # Errors
/// Where the request is no WebSocket upgrade, or offers no multiplexer that this side speaks.
pub fn respond(request: &Request<()>) -> Result<Response<()>, UpgradeError> {
    let mut response =
        create_response(request).map_err(|error| UpgradeError::Protocol(Box::new(error)))?;
    let offered: Vec<_> = request
        .headers()
        .get_all(SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|name| name.trim().to_owned())
        .collect();
    if !offered.iter().any(|name| name == SUBPROTOCOL_YAMUX) {
        return Err(UpgradeError::NotOffered(offered));
    }
    response.headers_mut().insert(
        SEC_WEBSOCKET_PROTOCOL,
        HeaderValue::from_static(SUBPROTOCOL_YAMUX),
    );
    Ok(response)
}

/// Serves a connection whose client was answered with [`respond`].
pub async fn accept<S>(io: S, remote: Option<SocketAddr>) -> YamuxTransport
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
{
    let socket = WebSocketStream::from_raw_socket(io, WebSocketRole::Server, Some(config())).await;
    YamuxTransport::start(
        Messages::new(socket),
        Role::Acceptor,
        Kind::WebSocket,
        remote,
    )
}

/// A WebSocket's binary messages as one byte stream.
struct Messages<S> {
    socket: WebSocketStream<S>,
    received: Bytes,
    unsent: BytesMut,
}

impl<S> Messages<S>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    fn new(socket: WebSocketStream<S>) -> Self {
        Self {
            socket,
            received: Bytes::new(),
            unsent: BytesMut::new(),
        }
    }

    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.unsent.is_empty() {
            return Poll::Ready(Ok(()));
        }
        ready!(Pin::new(&mut self.socket).poll_ready(cx)).map_err(into_io)?;
        let message = Message::Binary(self.unsent.split().freeze());
        Poll::Ready(
            Pin::new(&mut self.socket)
                .start_send(message)
                .map_err(into_io),
        )
    }
}

fn into_io(error: WebSocketError) -> io::Error {
    match error {
        WebSocketError::Io(error) => error,
        WebSocketError::ConnectionClosed | WebSocketError::AlreadyClosed => {
            io::ErrorKind::ConnectionAborted.into()
        }
        error => io::Error::new(io::ErrorKind::InvalidData, error),
    }
}

impl<S> AsyncRead for Messages<S>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        while self.received.is_empty() {
            match ready!(Pin::new(&mut self.socket).poll_next(cx)) {
                Some(Ok(Message::Binary(bytes))) => self.received = bytes,
                // Answered by the library.
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
                Some(Ok(Message::Close(_))) | None => return Poll::Ready(Ok(0)),
                Some(Ok(Message::Text(_))) => {
                    let error = "a text message, where only binary ones have a meaning";
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, error)));
                }
                Some(Err(error)) => return Poll::Ready(Err(into_io(error))),
            }
        }
        let len = buf.len().min(self.received.len());
        self.received
            .copy_to_slice(buf.get_mut(..len).unwrap_or_default());
        Poll::Ready(Ok(len))
    }
}

impl<S> AsyncWrite for Messages<S>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.unsent.len() >= MESSAGE {
            ready!(self.poll_send(cx))?;
        }
        self.unsent.extend_from_slice(buf);
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(cx))?;
        Pin::new(&mut self.socket).poll_flush(cx).map_err(into_io)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(cx))?;
        Pin::new(&mut self.socket).poll_close(cx).map_err(into_io)
    }
}
