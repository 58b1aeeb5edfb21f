//! Streams: what an application reads and writes.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use crate::proto::code::ResetCode;
use crate::proto::frame::{Answer, FrameReader};
use crate::proto::stream_id::StreamId;
use crate::proto::{DecodeError, limits};
use crate::session::{SessionError, Slot, write_all};
use crate::transport::{BiStream, HalfError, RecvStream, SendStream};

/// Bytes read in one go where the caller names no number.
const READ: usize = 64 * 1024;

/// A bidirectional byte stream of a session.
///
/// Each half ends on its own: [`poll_shutdown`](AsyncWrite::poll_shutdown) is half-close, the
/// reader of the other end then sees the end of file. Dropping the stream before both ends were
/// reached resets it with [`ResetCode::Cancelled`]: the peer gets an error, never a clean end
/// that is none.
///
/// Written bytes may wait until [`poll_flush`](AsyncWrite::poll_flush) or the next write.
#[derive(Debug)]
pub struct Stream {
    send: WriteHalf,
    recv: ReadHalf,
}

/// The half of a [`Stream`] that writes.
pub struct WriteHalf {
    stream: Box<dyn SendStream>,
    slot: Arc<Slot>,
}

/// The half of a [`Stream`] that reads.
pub struct ReadHalf {
    stream: Box<dyn RecvStream>,
    answer: AnswerState,
    received: Bytes,
    slot: Arc<Slot>,
}

/// Whether the peer has answered our OPEN yet.
enum AnswerState {
    Awaited(Box<Awaited>),
    Accepted,
    Failed(StreamError),
}

struct Awaited {
    reader: FrameReader,
    deadline: Pin<Box<Sleep>>,
}

/// Why a stream gives or takes no more bytes.
#[derive(Debug, Clone, Error)]
#[non_exhaustive]
pub enum StreamError {
    /// The peer does not take the stream.
    #[error("stream refused by the peer: {code}: {reason}")]
    Refused {
        /// Why, for programs.
        code: ResetCode,
        /// Why, for people.
        reason: String,
    },
    /// The peer did not answer the open header.
    #[error("no answer from the peer within {} ms", .0.as_millis())]
    NoAnswer(Duration),
    /// The peer's answer is not one.
    #[error("malformed answer from the peer")]
    BadAnswer(#[source] DecodeError),
    /// The peer ended the stream without an answer.
    #[error("the peer ended the stream without an answer")]
    Unanswered,
    /// The peer gave the stream up; or this side did, before.
    #[error("stream reset: {0}")]
    Reset(ResetCode),
    /// The peer reads no more.
    #[error("the peer reads no more: {0}")]
    Stopped(ResetCode),
    /// This side has ended its half already.
    #[error("this half of the stream has ended")]
    Finished,
    /// The peer's bytes are none of the transport's frames.
    #[error("malformed bytes from the peer")]
    Malformed(#[source] DecodeError),
    /// The session ended under the stream.
    #[error("stream lost with its session")]
    Session(#[source] SessionError),
}

impl From<StreamError> for io::Error {
    /// The [`StreamError`] is the error's inner one. Of two kinds nothing else comes:
    /// [`NotConnected`](io::ErrorKind::NotConnected) is a stream of which the peer did not say that it takes
    /// it, or not now; [`ConnectionRefused`](io::ErrorKind::ConnectionRefused) is one that it declined.
    /// Only after the latter is it certain that nothing was done with what was written.
    fn from(error: StreamError) -> Self {
        let kind = match &error {
            StreamError::NoAnswer(_)
            | StreamError::Refused {
                code: ResetCode::GoingAway | ResetCode::Overloaded,
                ..
            } => io::ErrorKind::NotConnected,
            StreamError::Refused { .. } => io::ErrorKind::ConnectionRefused,
            StreamError::BadAnswer(_) | StreamError::Malformed(_) => io::ErrorKind::InvalidData,
            StreamError::Unanswered | StreamError::Reset(_) => io::ErrorKind::ConnectionReset,
            StreamError::Stopped(_) | StreamError::Finished => io::ErrorKind::BrokenPipe,
            StreamError::Session(_) => io::ErrorKind::ConnectionAborted,
        };
        Self::new(kind, error)
    }
}

impl Stream {
    /// A stream that this side opened: the peer's answer comes first, until `deadline`.
    pub(crate) fn opened(stream: BiStream, slot: Slot, deadline: Instant) -> Self {
        let awaited = Awaited {
            reader: FrameReader::new(limits::CONTROL_FRAME),
            deadline: Box::pin(tokio::time::sleep_until(deadline)),
        };
        Self::new(
            stream,
            AnswerState::Awaited(Box::new(awaited)),
            Bytes::new(),
            slot,
        )
    }

    /// A stream that the peer opened, with the payload that came behind its header.
    pub(crate) fn accepted_from(stream: BiStream, payload: Bytes, slot: Slot) -> Self {
        Self::new(stream, AnswerState::Accepted, payload, slot)
    }

    fn new(stream: BiStream, answer: AnswerState, received: Bytes, slot: Slot) -> Self {
        let slot = Arc::new(slot);
        Self {
            send: WriteHalf {
                stream: stream.send,
                slot: Arc::clone(&slot),
            },
            recv: ReadHalf {
                stream: stream.recv,
                answer,
                received,
                slot,
            },
        }
    }

    pub(crate) async fn send_preface(&mut self, preface: Bytes) -> Result<(), HalfError> {
        write_all(self.send.stream.as_mut(), preface).await
    }

    pub(crate) fn error(&self, error: HalfError) -> StreamError {
        into_stream_error(error, &self.send.slot)
    }

    /// Waits for the peer's answer to the open header.
    ///
    /// Not needed before reading or writing: reads wait for the answer by themselves.
    ///
    /// # Errors
    /// Where the peer refuses the stream, does not answer in three seconds, or is gone.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub async fn accepted(&mut self) -> Result<(), StreamError> {
        poll_fn(|cx| self.recv.poll_answer(cx)).await
    }

    /// The stream's id in its session.
    pub fn id(&self) -> StreamId {
        self.send.slot.id()
    }

    /// Ends both directions at once and tells the peer why.
    pub fn reset(mut self, code: ResetCode) {
        self.send.stream.reset(code);
        self.recv.stream.stop(code);
    }

    /// Parts the stream into halves that can go to different tasks. Dropping a half ends its
    /// direction only.
    pub fn into_split(self) -> (ReadHalf, WriteHalf) {
        (self.recv, self.send)
    }

    /// The next bytes as they came, without a copy; `None` at the clean end.
    ///
    /// # Errors
    /// Where the stream ended in any other way.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub async fn read_bytes(&mut self) -> Result<Option<Bytes>, StreamError> {
        self.recv.read_bytes().await
    }

    /// Writes all of `bytes`, without a copy where the transport can.
    ///
    /// # Errors
    /// Where the peer takes no more.
    ///
    /// # Cancel safety
    /// A part may have been written.
    pub async fn write_bytes(&mut self, bytes: Bytes) -> Result<(), StreamError> {
        self.send.write_bytes(bytes).await
    }
}

impl ReadHalf {
    /// As [`Stream::read_bytes`].
    ///
    /// # Errors
    /// Where the stream ended in any other way than cleanly.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub async fn read_bytes(&mut self) -> Result<Option<Bytes>, StreamError> {
        poll_fn(|cx| self.poll_read_bytes(cx, READ)).await
    }

    /// The next bytes, `max` at most; `None` at the clean end.
    ///
    /// # Errors
    /// Where the stream ended in any other way.
    pub fn poll_read_bytes(
        &mut self,
        cx: &mut Context<'_>,
        max: usize,
    ) -> Poll<Result<Option<Bytes>, StreamError>> {
        ready!(self.poll_answer(cx))?;
        if !self.received.is_empty() {
            let len = self.received.len().min(max);
            return Poll::Ready(Ok(Some(self.received.split_to(len))));
        }
        self.stream
            .poll_read_bytes(cx, max)
            .map_err(|error| into_stream_error(error, &self.slot))
    }

    fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        let awaited = match &mut self.answer {
            AnswerState::Accepted => return Poll::Ready(Ok(())),
            AnswerState::Failed(error) => return Poll::Ready(Err(error.clone())),
            AnswerState::Awaited(awaited) => awaited,
        };
        let result = match ready!(poll_receive_answer(awaited, self.stream.as_mut(), cx)) {
            Ok((Answer::Accepted, payload)) => {
                self.received = payload;
                self.answer = AnswerState::Accepted;
                return Poll::Ready(Ok(()));
            }
            Ok((Answer::Refused { code, reason }, _)) => StreamError::Refused { code, reason },
            Err(AnswerError::Decode(error)) => StreamError::BadAnswer(error),
            Err(AnswerError::Ended) => StreamError::Unanswered,
            Err(AnswerError::Stream(error)) => into_stream_error(error, &self.slot),
            Err(AnswerError::Timeout) => {
                self.slot.session().suspect();
                StreamError::NoAnswer(limits::ANSWER_TIME)
            }
        };
        self.answer = AnswerState::Failed(result.clone());
        Poll::Ready(Err(result))
    }
}

enum AnswerError {
    Decode(DecodeError),
    Ended,
    Timeout,
    Stream(HalfError),
}

fn poll_receive_answer(
    awaited: &mut Awaited,
    stream: &mut dyn RecvStream,
    cx: &mut Context<'_>,
) -> Poll<Result<(Answer, Bytes), AnswerError>> {
    loop {
        if let Some(raw) = awaited.reader.next().map_err(AnswerError::Decode)? {
            let answer = raw.decode().map_err(AnswerError::Decode)?;
            let reader = std::mem::replace(&mut awaited.reader, FrameReader::new(0));
            return Poll::Ready(Ok((answer, reader.into_rest())));
        }
        match stream.poll_read_bytes(cx, READ) {
            Poll::Ready(Ok(Some(bytes))) => awaited.reader.push(&bytes),
            Poll::Ready(Ok(None)) => return Poll::Ready(Err(AnswerError::Ended)),
            Poll::Ready(Err(error)) => return Poll::Ready(Err(AnswerError::Stream(error))),
            Poll::Pending => {
                ready!(awaited.deadline.as_mut().poll(cx));
                return Poll::Ready(Err(AnswerError::Timeout));
            }
        }
    }
}

impl ReadHalf {
    /// Reads no more, and tells the peer why: its writes fail with [`StreamError::Stopped`].
    pub fn stop(mut self, code: ResetCode) {
        self.stream.stop(code);
    }
}

impl WriteHalf {
    /// As [`Stream::write_bytes`].
    ///
    /// # Errors
    /// Where the peer takes no more.
    ///
    /// # Cancel safety
    /// A part may have been written.
    pub async fn write_bytes(&mut self, bytes: Bytes) -> Result<(), StreamError> {
        write_all(self.stream.as_mut(), bytes)
            .await
            .map_err(|error| self.error(error))
    }

    /// Ends this direction at once and tells the peer why. What it has not read may never arrive.
    pub fn reset(mut self, code: ResetCode) {
        self.stream.reset(code);
    }

    fn error(&self, error: HalfError) -> StreamError {
        into_stream_error(error, &self.slot)
    }
}

fn into_stream_error(error: HalfError, slot: &Slot) -> StreamError {
    match error {
        HalfError::Reset(code) => StreamError::Reset(code),
        HalfError::Stopped(code) => StreamError::Stopped(code),
        HalfError::Finished => StreamError::Finished,
        HalfError::Malformed(error) => StreamError::Malformed(error),
        HalfError::Transport(error) => StreamError::Session(slot.session().ending(error)),
    }
}

impl AsyncRead for ReadHalf {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        if let Some(bytes) = ready!(self.poll_read_bytes(cx, buf.remaining()))? {
            buf.put_slice(&bytes);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for WriteHalf {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        self.stream
            .poll_write(cx, buf)
            .map_err(|error| self.error(error).into())
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream
            .poll_flush(cx)
            .map_err(|error| self.error(error).into())
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream
            .poll_finish(cx)
            .map_err(|error| self.error(error).into())
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.recv).poll_read(cx, buf)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.send).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.send).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.send).poll_shutdown(cx)
    }
}

impl fmt::Debug for WriteHalf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WriteHalf")
            .field("id", &self.slot.id())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for ReadHalf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReadHalf")
            .field("id", &self.slot.id())
            .finish_non_exhaustive()
    }
}
