//! A viewer of a shell, at the other end of a WebSocket (RFC 6455) that speaks Kubernetes's channels (KEP-4006).

mod handshake;

use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt as _, StreamExt as _};
use serde::Serialize;
use serde_json::{Value, json};
use thiserror::Error;
use tokio::io::AsyncWriteExt as _;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Error as SocketError;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, WebSocketConfig};
use underpass_agent_shell::{
    Attach, End, Event, Input, InputError, Owner, Shells, Size, Viewer, Writes,
};
use underpass_api::{
    AttachQuery, ShellChannel, ShellEnd, ShellEvent, TerminalSize, ViewerRequest, ViewerWrites,
};
use underpass_core::ShellId;
use underpass_tunnel::{IncomingStream, Stream, StreamError};

use super::view;
use crate::limits;

use self::handshake::{Asked, Dialect};

/// Why a viewer is gone before its shell.
#[derive(Debug, Error)]
pub(super) enum Gone {
    #[error("the stream ended")]
    Stream(#[from] StreamError),
    #[error("the viewer speaks no WebSocket as it should")]
    Socket(#[from] SocketError),
    #[error("the viewer did not ask for a WebSocket within {} s", limits::QUESTION_TIME.as_secs())]
    Silent,
    #[error("the viewer's message cannot be read")]
    Malformed,
}

type To = SplitSink<WebSocketStream<Stream>, Message>;
type From = SplitStream<WebSocketStream<Stream>>;

/// Lets a viewer watch a shell of the owner's until one of them has enough of it. The shell goes on.
///
/// # Cancel safety
/// Dropping the future resets the stream.
pub(super) async fn watch(
    shells: &Shells,
    incoming: IncomingStream,
    id: &ShellId,
    owner: &Owner,
) -> Result<(), Gone> {
    let stream = incoming.accept().await?;
    let accepting = handshake::accept(stream, config());
    let accepted = timeout(limits::QUESTION_TIME, accepting).await;
    let (socket, Asked { query, dialect }) = accepted.map_err(|_| Gone::Silent)??;
    let (mut to, mut from) = socket.split();
    let mut telling = Telling {
        to: &mut to,
        dialect,
    };
    let watched = match shells.attach(id, owner, attach(query)).await {
        Ok(viewer) => {
            let input = viewer.input();
            tokio::select! {
                told = telling.tell(viewer) => told,
                typed = type_in(&mut from, &input, dialect) => typed,
            }
        }
        Err(error) => {
            let refusal = failure("InternalError", &error.to_string(), None);
            telling.status(&refusal).await
        }
    };
    let reason = match &watched {
        Ok(()) => CloseCode::Normal,
        Err(Gone::Malformed) => CloseCode::Policy,
        Err(_) => return watched,
    };
    let close = CloseFrame {
        code: reason,
        reason: Default::default(),
    };
    // The peer may be gone already.
    let closing = async {
        let _ = to.send(Message::Close(Some(close))).await;
        while let Some(Ok(_)) = from.next().await {}
        let Ok(mut socket) = to.reunite(from) else {
            return;
        };
        // The end of the stream is clean in both directions.
        let stream = socket.get_mut();
        let _ = stream.shutdown().await;
        while let Ok(Some(_)) = stream.read_bytes().await {}
    };
    let _ = timeout(limits::VIEWER_CLOSING_TIME, closing).await;
    watched
}

fn config() -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(limits::VIEWER_BUFFER_BYTES)
        .write_buffer_size(0)
        .max_write_buffer_size(limits::VIEWER_BUFFER_BYTES)
        .max_message_size(Some(limits::VIEWER_MESSAGE_BYTES))
        .max_frame_size(Some(limits::VIEWER_MESSAGE_BYTES))
}

fn attach(query: AttachQuery) -> Attach {
    Attach {
        writes: match query.writes {
            ViewerWrites::Free => Writes::WhereNoneDoes,
            ViewerWrites::TakeOver => Writes::TakesOver,
            ViewerWrites::Never => Writes::Never,
        },
        size: query.size.map(fit),
        had: query.had,
    }
}

fn fit(size: TerminalSize) -> Size {
    Size::fit(size.columns, size.rows)
}

/// The words to a viewer.
struct Telling<'a> {
    to: &'a mut To,
    dialect: Dialect,
}

impl Telling<'_> {
    /// Tells of a shell until its end, or until the viewer is dismissed.
    async fn tell(&mut self, mut viewer: Viewer) -> Result<(), Gone> {
        while let Some(event) = viewer.next().await {
            match event {
                Event::Attached {
                    at,
                    size,
                    redraw,
                    is_writer,
                } => {
                    self.attached(at, size, redraw.unwrap_or_default(), is_writer)
                        .await?
                }
                Event::Output { data, .. } => self.output(&data).await?,
                Event::Resized(size) => {
                    self.event(&ShellEvent::Resized(view::of_size(size)))
                        .await?;
                }
                Event::TakenOver => self.event(&ShellEvent::TakenOver {}).await?,
                Event::Dismissed => {
                    self.event(&ShellEvent::Dismissed {}).await?;
                    let why = "this viewer took nothing for too long while the shell's program waited for it; the shell goes on";
                    self.status(&failure("Timeout", why, None)).await?;
                }
                Event::Ended(end) => self.ended(end).await?,
                _ => {}
            }
        }
        Ok(())
    }

    async fn attached(
        &mut self,
        at: u64,
        size: Size,
        redraw: Vec<u8>,
        writes: bool,
    ) -> Result<(), Gone> {
        let attached = ShellEvent::Attached {
            at,
            size: view::of_size(size),
            redraw: u64::try_from(redraw.len()).unwrap_or(u64::MAX),
            writes,
        };
        self.event(&attached).await?;
        for piece in redraw.chunks(limits::VIEWER_PIECE_BYTES) {
            self.output(piece).await?;
        }
        Ok(())
    }

    async fn ended(&mut self, end: End) -> Result<(), Gone> {
        let end = view::of_end(end);
        let status = status(&end);
        self.event(&ShellEvent::Ended(end)).await?;
        self.status(&status).await
    }

    async fn output(&mut self, bytes: &[u8]) -> Result<(), Gone> {
        self.send(ShellChannel::Stdout, bytes).await
    }

    async fn status(&mut self, status: &Value) -> Result<(), Gone> {
        self.send_json(ShellChannel::Error, status).await
    }

    /// Tells of an event, where the viewer wants to hear of them.
    async fn event(&mut self, event: &ShellEvent) -> Result<(), Gone> {
        match self.dialect {
            Dialect::Shell => self.send_json(ShellChannel::Events, event).await,
            Dialect::Channels => Ok(()),
        }
    }

    async fn send_json(
        &mut self,
        channel: ShellChannel,
        content: &impl Serialize,
    ) -> Result<(), Gone> {
        let text = serde_json::to_vec(content).map_err(|_| Gone::Malformed)?;
        self.send(channel, &text).await
    }

    async fn send(&mut self, channel: ShellChannel, payload: &[u8]) -> Result<(), Gone> {
        let message = Message::binary(channel.message(payload));
        Ok(self.to.send(message).await?)
    }
}

/// The Status of a shell's end, as the kubelet has it of an exec's.
fn status(end: &ShellEnd) -> Value {
    let code = end.exit.map(underpass_api::ProgramExit::status);
    match (end.by_itself, code) {
        (true, Some(0)) => json!({"metadata": {}, "status": "Success"}),
        (true, Some(code)) => {
            let message = format!("command terminated with non-zero exit code: exit status {code}");
            failure("NonZeroExitCode", &message, Some(code))
        }
        (true, None) => failure(
            "InternalError",
            "the shell ended, and the system does not say how",
            None,
        ),
        (false, _) => failure(
            "InternalError",
            &format!("the shell ended: {}", end.cause),
            None,
        ),
    }
}

fn failure(reason: &str, message: &str, code: Option<i32>) -> Value {
    let mut status = json!({
        "metadata": {}, "status": "Failure", "reason": reason, "message": message,
    });
    if let (Some(code), Some(status)) = (code, status.as_object_mut()) {
        let causes = json!({"causes": [{"reason": "ExitCode", "message": code.to_string()}]});
        status.insert("details".to_owned(), causes);
    }
    status
}

/// Types what the viewer sends, until it says goodbye. A viewer that does not write is not listened to.
async fn type_in(from: &mut From, input: &Input, dialect: Dialect) -> Result<(), Gone> {
    while let Some(message) = from.next().await {
        let bytes = match message? {
            Message::Binary(bytes) => bytes,
            Message::Close(_) => return Ok(()),
            Message::Text(_) => return Err(Gone::Malformed),
            _ => continue,
        };
        let Some((channel, payload)) = bytes.split_first() else {
            return Err(Gone::Malformed);
        };
        let done = match (ShellChannel::read(*channel), dialect) {
            (Some(ShellChannel::Stdin), _) => input.write_all(payload).await,
            (Some(ShellChannel::Resize), _) => input.resize(fit(read(payload)?)),
            (Some(ShellChannel::Events), Dialect::Shell) => match read(payload)? {
                ViewerRequest::TakeOver {} => input.take_over(None),
            },
            // A terminal's input has no end: it is hung up with the shell.
            (Some(ShellChannel::Close), _) => Ok(()),
            _ => return Err(Gone::Malformed),
        };
        match done {
            Ok(()) | Err(InputError::NotWriter) => {}
            // The other half of the stream says so.
            Err(_) => return std::future::pending().await,
        }
    }
    Ok(())
}

fn read<T: serde::de::DeserializeOwned>(payload: &[u8]) -> Result<T, Gone> {
    serde_json::from_slice(payload).map_err(|_| Gone::Malformed)
}

#[cfg(test)]
mod tests {
    use underpass_api::ProgramExit;

    use super::*;

    #[test]
    fn the_end_is_the_status_that_front_ends_know() {
        let end = |exit, by_itself| ShellEnd {
            exit,
            cause: "it was idle for too long".to_owned(),
            by_itself,
        };
        for (exit, by_itself, expected) in [
            (Some(ProgramExit::Status(0)), true, "Success  "),
            (
                Some(ProgramExit::Status(3)),
                true,
                "Failure NonZeroExitCode 3",
            ),
            (
                Some(ProgramExit::Signal(9)),
                true,
                "Failure NonZeroExitCode 137",
            ),
            (None, true, "Failure InternalError "),
            (
                Some(ProgramExit::Signal(1)),
                false,
                "Failure InternalError ",
            ),
        ] {
            let status = status(&end(exit, by_itself));
            let text = |pointer: &str| {
                let found = status.pointer(pointer).and_then(Value::as_str);
                found.unwrap_or_default().to_owned()
            };
            let shown = [
                text("/status"),
                text("/reason"),
                text("/details/causes/0/message"),
            ];
            assert_eq!(shown.join(" "), expected);
        }
    }
}
