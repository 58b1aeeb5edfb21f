//! Streams that the peer opens.

use std::fmt;
use std::future::poll_fn;
use std::sync::Arc;

use bytes::Bytes;
use thiserror::Error;
use tokio::sync::mpsc::{self, error::SendTimeoutError};

use super::{Shared, Slot, write_all};
use crate::proto::code::ResetCode;
use crate::proto::frame::{self, Answer, Class, FrameReader, Open};
use crate::proto::session::Violation;
use crate::proto::stream_id::StreamId;
use crate::proto::{DecodeError, limits};
use crate::stream::{Stream, StreamError};
use crate::transport::{BiStream, HalfError};

/// Bytes read in one go while the open header arrives.
const READ: usize = 16 * 1024;

/// A stream that waits to be taken. It counts as one of the peer's without holding the session.
pub(super) struct Queued {
    stream: BiStream,
    open: Open,
    payload: Bytes,
}

impl Queued {
    pub(super) fn id(&self) -> StreamId {
        self.open.stream
    }

    pub(super) fn into_incoming(self, shared: &Arc<Shared>) -> IncomingStream {
        IncomingStream {
            slot: Slot {
                shared: Arc::clone(shared),
                id: self.open.stream,
            },
            stream: self.stream,
            open: self.open,
            payload: self.payload,
        }
    }
}

/// A stream that the peer wants, and that nobody has answered yet.
///
/// Dropping it refuses it with [`ResetCode::Cancelled`].
pub struct IncomingStream {
    slot: Slot,
    stream: BiStream,
    open: Open,
    payload: Bytes,
}

impl IncomingStream {
    /// What the peer wants to be connected to.
    pub fn target(&self) -> &str {
        &self.open.target
    }

    /// What the target needs to know, in the application's encoding.
    pub fn header(&self) -> &Bytes {
        &self.open.header
    }

    /// How urgent the peer says its bytes are.
    pub fn class(&self) -> Class {
        self.open.class
    }

    /// The stream's id in its session.
    pub fn id(&self) -> StreamId {
        self.slot.id()
    }

    /// Takes the stream. Answer before the target is reached: the peer waits three seconds for
    /// the answer, and for the target as long as it likes.
    ///
    /// # Errors
    /// Where the peer has left meanwhile.
    ///
    /// # Cancel safety
    /// Dropping the future cancels the stream.
    pub async fn accept(self) -> Result<Stream, StreamError> {
        let mut stream = Stream::accepted_from(self.stream, self.payload, self.slot);
        let answer = frame::to_bytes(&Answer::Accepted);
        stream
            .send_preface(answer)
            .await
            .map_err(|error| stream.error(error))?;
        Ok(stream)
    }

    /// Refuses the stream. `reason` goes to the peer.
    ///
    /// # Cancel safety
    /// The peer may then learn the refusal without its reason.
    pub async fn refuse(self, code: ResetCode, reason: &str) {
        refuse(self.stream, code, reason).await;
    }
}

impl fmt::Debug for IncomingStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The header may hold what must not be logged.
        f.debug_struct("IncomingStream")
            .field("id", &self.slot.id())
            .field("target", &self.open.target)
            .finish_non_exhaustive()
    }
}

/// Why a stream's open header was not taken.
#[derive(Debug, Error)]
enum HeaderError {
    #[error("malformed open header")]
    Decode(#[from] DecodeError),
    #[error("the open header did not arrive within {} s", limits::OPEN_HEADER_TIME.as_secs())]
    Timeout,
    #[error("the stream ended before its open header did")]
    Ended,
    #[error("the stream broke before its open header arrived")]
    Broken(#[source] HalfError),
}

impl HeaderError {
    fn code(&self) -> ResetCode {
        match self {
            Self::Decode(DecodeError::TooLong { .. }) => ResetCode::HeaderTooLarge,
            Self::Decode(_) | Self::Ended => ResetCode::HeaderInvalid,
            Self::Timeout => ResetCode::HeaderTimeout,
            Self::Broken(_) => ResetCode::Cancelled,
        }
    }
}

/// Reads a new stream's open header and passes the stream on. A bad header costs the stream; only
/// an id that the peer may not use costs the session.
pub(super) async fn open(
    shared: Arc<Shared>,
    mut stream: BiStream,
    accepted: mpsc::Sender<Queued>,
) -> Result<(), Violation> {
    let header = tokio::time::timeout(limits::OPEN_HEADER_TIME, read_header(&mut stream)).await;
    let (open, payload) = match header.unwrap_or(Err(HeaderError::Timeout)) {
        Ok(header) => header,
        Err(error) => {
            let reason = crate::error::chain(&error);
            tracing::warn!(session = %shared.info.id, agent = shared.info.agent, "stream refused: {reason}");
            refuse(stream, error.code(), &reason).await;
            return Ok(());
        }
    };
    let may_open = shared.protocol().accept_stream(open.stream)?;
    if !may_open {
        let code = if shared.protocol().is_open() {
            ResetCode::Overloaded
        } else {
            ResetCode::GoingAway
        };
        refuse(stream, code, "no stream is taken now").await;
        return Ok(());
    }
    let queued = Queued {
        stream,
        open,
        payload,
    };
    let (queued, code, reason) = match accepted.send_timeout(queued, limits::ACCEPT_TIME).await {
        Ok(()) => return Ok(()),
        Err(SendTimeoutError::Timeout(queued)) => {
            let reason = "too many streams wait to be taken";
            (queued, ResetCode::Overloaded, reason)
        }
        Err(SendTimeoutError::Closed(queued)) => {
            let reason = "this side takes no streams";
            (queued, ResetCode::UnknownTarget, reason)
        }
    };
    queued.into_incoming(&shared).refuse(code, reason).await;
    Ok(())
}

async fn read_header(stream: &mut BiStream) -> Result<(Open, Bytes), HeaderError> {
    let mut reader = FrameReader::new(limits::OPEN_FRAME);
    loop {
        if let Some(raw) = reader.next()? {
            return Ok((raw.decode()?, reader.into_rest()));
        }
        let bytes = poll_fn(|cx| stream.recv.poll_read_bytes(cx, READ)).await;
        match bytes.map_err(broken)? {
            Some(bytes) => reader.push(&bytes),
            None => return Err(HeaderError::Ended),
        }
    }
}

fn broken(error: HalfError) -> HeaderError {
    match error {
        HalfError::Malformed(error) => HeaderError::Decode(error),
        error => HeaderError::Broken(error),
    }
}

/// Answers with a refusal and ends the stream. Tells as much as the peer still listens to.
async fn refuse(mut stream: BiStream, code: ResetCode, reason: &str) {
    let answer = Answer::Refused {
        code,
        reason: reason.to_owned(),
    };
    let told = async {
        write_all(stream.send.as_mut(), frame::to_bytes(&answer)).await?;
        poll_fn(|cx| stream.send.poll_finish(cx)).await
    };
    let _ = tokio::time::timeout(limits::ANSWER_TIME, told).await;
    stream.recv.stop(code);
}
