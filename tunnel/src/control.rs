//! The control stream while the handshake lasts.

use std::future::poll_fn;

use bytes::Bytes;
use underpass_proto::code::CloseCode;
use underpass_proto::frame::{FrameReader, RawFrame};
use underpass_proto::{DecodeError, handshake};

use crate::limits;
use crate::session::{ControlStream, write_all};
use crate::transport::{BiStream, HalfError, TransportError};

/// Sends and receives whole frames, in turns.
pub(crate) struct HandshakeStream {
    stream: BiStream,
    reader: FrameReader,
}

/// Why no frame came or went.
pub(crate) enum ControlError {
    /// The peer's bytes are no frame.
    Decode(DecodeError),
    /// The connection, or the stream on it, ended.
    Transport(TransportError),
}

impl HandshakeStream {
    pub(crate) fn new(stream: BiStream) -> Self {
        Self {
            stream,
            reader: FrameReader::new(limits::CONTROL_FRAME),
        }
    }

    pub(crate) async fn send(&mut self, frame: Bytes) -> Result<(), ControlError> {
        Ok(write_all(self.stream.send.as_mut(), frame).await?)
    }

    pub(crate) async fn receive(&mut self) -> Result<RawFrame, ControlError> {
        loop {
            if let Some(frame) = self.reader.next().map_err(ControlError::Decode)? {
                return Ok(frame);
            }
            let recv = &mut self.stream.recv;
            match poll_fn(|cx| recv.poll_read_bytes(cx, limits::CONTROL_FRAME)).await? {
                Some(bytes) => self.reader.push(&bytes),
                None => return Err(ControlError::Transport(TransportError::lost(Ended))),
            }
        }
    }

    /// Sends CLOSE and waits, a second at most, until the peer has closed too: a transport that
    /// is cut at once may cut the CLOSE off.
    pub(crate) async fn close(mut self, code: CloseCode, reason: &str) {
        let told = async {
            self.send(handshake::close(code, reason)).await?;
            poll_fn(|cx| self.stream.send.poll_finish(cx)).await?;
            while self.receive().await.is_ok() {}
            Ok::<_, ControlError>(())
        };
        let _ = tokio::time::timeout(limits::CLOSE_TIME, told).await;
    }
}

impl From<HandshakeStream> for ControlStream {
    fn from(control: HandshakeStream) -> Self {
        Self {
            stream: control.stream,
            reader: control.reader,
        }
    }
}

impl From<HalfError> for ControlError {
    fn from(error: HalfError) -> Self {
        match error {
            HalfError::Transport(error) => Self::Transport(error),
            HalfError::Malformed(error) => Self::Decode(error),
            other => Self::Transport(TransportError::lost(other)),
        }
    }
}

/// The peer ended the control stream in the middle of the handshake.
#[derive(Debug, thiserror::Error)]
#[error("the peer ended the control stream")]
struct Ended;
