//! tungstenite's messages as the byte stream that yamux wants.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use futures_util::{AsyncRead, AsyncWrite, Sink, Stream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error as WebSocketError, Message};

use crate::limits;

/// Bytes gathered into one message before it is sent without being asked to: some TLS records.
const MESSAGE: usize = 64 * 1024;

/// Bytes that wait for the socket before writes do.
const WRITE_BUFFER_MAX: usize = 512 * 1024;

/// Bounds for both ends. A peer's message is buffered before the peer is authenticated; we
/// send `MESSAGE` and one yamux frame (64 KiB) at the most.
pub(super) fn config() -> WebSocketConfig {
    WebSocketConfig::default()
        .max_message_size(Some(limits::WEBSOCKET_MESSAGE))
        .max_frame_size(Some(limits::WEBSOCKET_MESSAGE))
        .write_buffer_size(MESSAGE)
        .max_write_buffer_size(WRITE_BUFFER_MAX)
}

/// A WebSocket's binary messages as one byte stream.
pub(super) struct Messages<S> {
    socket: WebSocketStream<S>,
    received: Bytes,
    unsent: BytesMut,
}

impl<S> Messages<S>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    pub(super) fn new(socket: WebSocketStream<S>) -> Self {
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
