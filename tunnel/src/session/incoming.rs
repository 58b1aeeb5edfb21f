//! Streams that the peer opens.

use std::fmt;
use std::future::poll_fn;
use std::sync::Arc;

use bytes::Bytes;
use thiserror::Error;
use tokio::sync::mpsc::error::SendTimeoutError;
use tracing::Instrument;
use underpass_proto::DecodeError;
use underpass_proto::chain;
use underpass_proto::code::ResetCode;
use underpass_proto::frame::{self, Answer, Class, FrameReader, Open};
use underpass_proto::stream_id::StreamId;

use super::io::StreamIo;
use super::shared::Shared;
use crate::limits;
use crate::stream::{Stream, StreamError};
use crate::transport::HalfError;

/// A stream that waits to be taken. It does not hold the session.
pub(super) struct Queued {
    io: Arc<StreamIo>,
    open: Open,
}

impl Queued {
    pub(super) fn into_incoming(self, shared: &Arc<Shared>) -> IncomingStream {
        IncomingStream {
            stream: Some(Stream::accepted_from(Arc::clone(shared), self.io)),
            shared: Arc::clone(shared),
            open: self.open,
        }
    }
}

/// A stream that the peer wants, not yet answered.
///
/// Dropping it refuses it with [`ResetCode::Cancelled`].
pub struct IncomingStream {
    /// `None` once it was answered.
    stream: Option<Stream>,
    shared: Arc<Shared>,
    open: Open,
}

impl IncomingStream {
    /// The target that the peer asks for.
    pub fn target(&self) -> &str {
        &self.open.target
    }

    /// The header for the target, in the application's encoding.
    pub fn header(&self) -> &Bytes {
        &self.open.header
    }

    /// How urgent the peer says its bytes are.
    pub fn class(&self) -> Class {
        self.open.class
    }

    /// The stream's id in its session.
    pub fn id(&self) -> StreamId {
        self.open.stream
    }

    /// Takes the stream, and answers at once. Answer before the target is reached: the peer waits three seconds for
    /// the answer, and for the target as long as it likes.
    ///
    /// # Errors
    /// Where the peer has left meanwhile.
    ///
    /// # Cancel safety
    /// Dropping the future cancels the stream.
    pub async fn accept(mut self) -> Result<Stream, StreamError> {
        let mut stream = self.take()?;
        stream.write_bytes(frame::to_bytes(&Answer)).await?;
        Ok(stream)
    }

    /// As [`accept`](Self::accept), where bytes follow soon: the answer goes out with the first write, or by itself after 5 ms.
    /// That spares a message. Not for peers that send nothing before they have the answer, as [`Stream::accepted`] has
    /// it: nothing follows until then.
    ///
    /// # Errors
    /// Where the peer has left meanwhile.
    ///
    /// # Cancel safety
    /// Dropping the future cancels the stream.
    pub async fn accept_coalesced(mut self) -> Result<Stream, StreamError> {
        let stream = self.take()?;
        let mut answer = frame::to_bytes(&Answer);
        while !answer.is_empty() {
            poll_fn(|cx| stream.poll_write_coalesced(cx, &mut answer)).await?;
        }
        Ok(stream)
    }

    fn take(&mut self) -> Result<Stream, StreamError> {
        self.stream.take().ok_or(StreamError::Finished)
    }

    /// Refuses the stream. `code` and `reason` go to the peer, 512 bytes of it at the most.
    pub fn refuse(mut self, code: ResetCode, reason: &str) {
        self.refuse_now(code, reason);
    }

    fn refuse_now(&mut self, code: ResetCode, reason: &str) {
        if let Some(stream) = self.stream.take() {
            // Before the stream is dropped, which would be a reset.
            self.shared
                .with(|core| core.refuse(self.open.stream, code, reason));
            drop(stream);
        }
    }
}

impl Drop for IncomingStream {
    fn drop(&mut self) {
        self.refuse_now(ResetCode::Cancelled, "nobody took the stream");
    }
}

impl fmt::Debug for IncomingStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The header may hold secrets.
        f.debug_struct("IncomingStream")
            .field("id", &self.open.stream)
            .field("target", &self.open.target)
            .finish_non_exhaustive()
    }
}

/// Why a stream's open header was not taken.
#[derive(Debug, Error)]
pub(super) enum HeaderError {
    #[error("malformed open header")]
    Decode(#[from] DecodeError),
    #[error("the open header did not arrive within {} s", limits::OPEN_HEADER_TIME.as_secs())]
    Timeout,
    #[error("the stream ended before its open header did")]
    Ended,
    #[error("the stream broke before its open header arrived")]
    Broken(#[source] HalfError),
    #[error("the stream ended before its open header arrived")]
    Stream(#[source] StreamError),
}

impl HeaderError {
    pub(super) fn code(&self) -> ResetCode {
        match self {
            Self::Decode(DecodeError::TooLong { .. }) => ResetCode::HeaderTooLarge,
            Self::Decode(_) | Self::Ended => ResetCode::HeaderInvalid,
            Self::Timeout => ResetCode::HeaderTimeout,
            Self::Broken(_) | Self::Stream(_) => ResetCode::Cancelled,
        }
    }
}

/// Queues a stream for `Session::accept`, even if its transport is lost meanwhile.
pub(super) fn announce(shared: Arc<Shared>, io: Arc<StreamIo>, open: Open) {
    let queued = Box::new(Queued { io, open });
    let queued = match shared.queue().try_send(queued) {
        Ok(()) => return,
        Err(error) => error.into_inner(),
    };
    tokio::spawn(async move {
        let sent = shared.queue().send_timeout(queued, limits::ACCEPT_TIME);
        let (queued, code, reason) = match sent.await {
            Ok(()) => return,
            Err(SendTimeoutError::Timeout(queued)) => {
                let reason = "too many streams wait to be taken";
                (queued, ResetCode::Overloaded, reason)
            }
            Err(SendTimeoutError::Closed(queued)) => {
                let reason = "this side takes no streams";
                (queued, ResetCode::UnknownTarget, reason)
            }
        };
        queued.into_incoming(&shared).refuse(code, reason);
    });
}

/// Reads the OPEN of a stream whose first transport was lost before it arrived, and passes the
/// stream on.
pub(super) fn read_open(shared: Arc<Shared>, io: Arc<StreamIo>) {
    let Some(opens) = shared.opens() else {
        let reason = "too many open headers are still arriving";
        shared.log_refused(reason);
        shared.with(|core| core.refuse(io.id(), ResetCode::Overloaded, reason));
        return;
    };
    let reading = async move {
        let _opens = opens;
        let header = read_header(&shared, &io);
        let header = tokio::time::timeout(limits::OPEN_HEADER_TIME, header).await;
        match header.unwrap_or(Err(HeaderError::Timeout)) {
            Ok((open, rest)) => {
                io.classify(&shared, open.class);
                io.put_back(rest);
                announce(shared, io, open);
            }
            Err(error) => {
                let reason = chain(&error);
                shared.log_refused(&reason);
                shared.with(|core| core.refuse(io.id(), error.code(), &reason));
            }
        }
    };
    tokio::spawn(reading.in_current_span());
}

async fn read_header(shared: &Shared, io: &StreamIo) -> Result<(Open, Bytes), HeaderError> {
    let mut reader = FrameReader::new(limits::OPEN_FRAME);
    loop {
        if let Some(raw) = reader.next()? {
            let open: Open = raw.decode()?;
            if open.stream != io.id() {
                let value = open.stream.to_wire().into_inner();
                let what = "stream";
                return Err(DecodeError::BadValue { what, value }.into());
            }
            return Ok((open, reader.into_rest()));
        }
        let bytes = poll_fn(|cx| io.poll_read(shared, cx, 16 * 1024)).await;
        match bytes.map_err(HeaderError::Stream)? {
            Some(bytes) => reader.push(&bytes),
            None => return Err(HeaderError::Ended),
        }
    }
}
