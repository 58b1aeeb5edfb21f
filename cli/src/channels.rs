//! Kubernetes's channels over a WebSocket (KEP-4006): at the other end is the command of a pod, or a shell.

use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use bytes::Bytes;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt as _, StreamExt as _};
use http::header::{HeaderValue, SEC_WEBSOCKET_PROTOCOL};
use http::{HeaderMap, Request};
use serde::Serialize;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};
use underpass_api::ShellChannel;
use underpass_session::UserSession;

use crate::refusal::Refusal;

/// The largest message: a piece of output.
const MESSAGE_BYTES: usize = 1024 * 1024;

/// The time for the other end to hear that this one leaves.
const GOODBYE: Duration = Duration::from_secs(1);

/// A byte stream to the other end.
trait Carrier: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Carrier for T {}

type Socket = WebSocketStream<Box<dyn Carrier>>;

/// Both directions.
pub(crate) struct Channels {
    socket: Socket,
    /// The subprotocol that the other end has chosen.
    protocol: Option<String>,
}

/// To the other end.
pub(crate) struct Outgoing(SplitSink<Socket, Message>);

/// From the other end.
pub(crate) struct Incoming(SplitStream<Socket>);

/// A message of the other end.
pub(crate) enum Heard {
    /// On a channel: `None` for one that this program does not know.
    On(Option<ShellChannel>, Bytes),
    /// There is no more.
    End,
}

impl Channels {
    /// Asks for them in the session, at a path of the server's. `protocols` are offered, the best first.
    ///
    /// # Errors
    /// A [`Refusal`] among others.
    pub(crate) async fn in_session(
        session: &UserSession,
        path: &str,
        protocols: &'static str,
    ) -> Result<Self> {
        let upgraded = match session.upgrade(request(path, protocols)?).await {
            Ok(upgraded) => upgraded,
            Err(response) => return Err(Refusal::read(response).await.into()),
        };
        let protocol = chosen(upgraded.headers());
        let stream: Box<dyn Carrier> = Box::new(upgraded);
        let socket = WebSocketStream::from_raw_socket(stream, Role::Client, Some(config()));
        Ok(Self {
            socket: socket.await,
            protocol,
        })
    }

    /// Asks for them on a stream of their own.
    pub(crate) async fn on_stream(
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        path: &str,
        protocols: &'static str,
    ) -> Result<Self> {
        let stream: Box<dyn Carrier> = Box::new(stream);
        let request = request(path, protocols)?;
        let (socket, response) = client_async_with_config(request, stream, Some(config())).await?;
        Ok(Self {
            socket,
            protocol: chosen(response.headers()),
        })
    }

    /// Those of a stream that is a WebSocket already.
    #[cfg(test)]
    pub(crate) async fn raw(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Self {
        let stream: Box<dyn Carrier> = Box::new(stream);
        let socket = WebSocketStream::from_raw_socket(stream, Role::Client, Some(config()));
        Self {
            socket: socket.await,
            protocol: None,
        }
    }

    /// The subprotocol that the other end has chosen.
    pub(crate) fn protocol(&self) -> Option<&str> {
        self.protocol.as_deref()
    }

    pub(crate) fn split(self) -> (Outgoing, Incoming) {
        let (to, from) = self.socket.split();
        (Outgoing(to), Incoming(from))
    }
}

impl Outgoing {
    pub(crate) async fn send(&mut self, channel: ShellChannel, payload: &[u8]) -> Result<()> {
        let message = Message::binary(channel.message(payload));
        Ok(self.0.send(message).await?)
    }

    pub(crate) async fn send_json(
        &mut self,
        channel: ShellChannel,
        content: &impl Serialize,
    ) -> Result<()> {
        let text = serde_json::to_vec(content)?;
        self.send(channel, &text).await
    }
}

impl Incoming {
    /// The next message. Those without a channel are none.
    ///
    /// # Errors
    /// The stream is lost.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub(crate) async fn next(&mut self) -> Result<Heard> {
        loop {
            let message = match self.0.next().await {
                Some(Ok(Message::Binary(message))) => message,
                Some(Ok(Message::Close(_))) | None => return Ok(Heard::End),
                Some(Ok(_)) => continue,
                Some(Err(error)) => return Err(error.into()),
            };
            let Some(number) = message.first() else {
                continue;
            };
            let channel = ShellChannel::read(*number);
            return Ok(Heard::On(channel, message.slice(1..)));
        }
    }
}

/// Says goodbye, so that the other end does not take this one for lost.
pub(crate) async fn close(to: Outgoing, from: Incoming) {
    let Ok(mut socket) = to.0.reunite(from.0) else {
        return;
    };
    let closing = async {
        // The other end may have said it first.
        let _ = socket.close(None).await;
        // The end goes with it: nothing would carry it once the program ends.
        let stream = socket.get_mut();
        let _ = stream.shutdown().await;
        let mut rest = [0; 1024];
        while let Ok(1..) = stream.read(&mut rest).await {}
    };
    let _ = tokio::time::timeout(GOODBYE, closing).await;
}

fn config() -> WebSocketConfig {
    WebSocketConfig::default()
        .write_buffer_size(0)
        .max_message_size(Some(MESSAGE_BYTES))
}

/// The request for a WebSocket. The host is the stream's.
fn request(path: &str, protocols: &'static str) -> Result<Request<()>> {
    if !path.starts_with('/') {
        bail!("{path:?} is no path");
    }
    let mut request = format!("ws://server{path}")
        .into_client_request()
        .with_context(|| format!("{path:?} is no path"))?;
    let protocols = HeaderValue::from_static(protocols);
    let headers = request.headers_mut();
    headers.insert(SEC_WEBSOCKET_PROTOCOL, protocols);
    Ok(request)
}

fn chosen(headers: &HeaderMap) -> Option<String> {
    let chosen = headers.get(SEC_WEBSOCKET_PROTOCOL)?.to_str().ok()?;
    Some(chosen.to_owned())
}

/// A message of the other end that is no JSON of the expected kind.
pub(crate) fn not_understood() -> anyhow::Error {
    anyhow!("the other end's words are not understood")
}
