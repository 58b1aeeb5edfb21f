//! Streams that an application reads and writes.

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
use underpass_proto::DecodeError;
use underpass_proto::code::ResetCode;
use underpass_proto::frame::{Answer, FrameReader};
use underpass_proto::stream_id::StreamId;

use crate::limits;
use crate::session::{SessionError, Shared, StreamIo};

/// Bytes copied at once, and kept as one chunk.
const COPY: usize = 64 * 1024;

/// A bidirectional byte stream of a session.
///
/// Each half ends on its own: [`poll_shutdown`](AsyncWrite::poll_shutdown) is half-close, the
/// reader of the other end then sees the end of file. Dropping the stream before both ends were
/// reached resets it with [`ResetCode::Cancelled`]: the peer gets an error, never a clean end
/// that is none.
///
/// It goes on when the session's transport is lost and another one takes its place: reads and
/// writes wait meanwhile, and no byte is lost or repeated.
///
/// Written bytes may wait until [`poll_flush`](AsyncWrite::poll_flush) or the next write.
#[derive(Debug)]
pub struct Stream {
    send: WriteHalf,
    recv: ReadHalf,
}

/// The half of a [`Stream`] that writes.
pub struct WriteHalf {
    hold: Arc<Hold>,
    /// The clean end is on its way: nothing is left to do.
    finished: bool,
}

/// The half of a [`Stream`] that reads.
pub struct ReadHalf {
    hold: Arc<Hold>,
    answer: AnswerState,
    /// Bytes that came behind the peer's answer.
    received: Bytes,
    /// How it ended, once it has.
    end: Option<Result<(), StreamError>>,
}

/// Shared by both halves; the session keeps the stream until both are dropped.
struct Hold {
    shared: Arc<Shared>,
    io: Arc<StreamIo>,
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.shared.with(|core| core.release(self.io.id()));
    }
}

/// Whether the peer has answered our OPEN yet.
enum AnswerState {
    Awaited(Box<Awaited>),
    Accepted,
    Failed(StreamError),
}

struct Awaited {
    target: String,
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
    /// Only after the latter is it certain that the written bytes had no effect.
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
    pub(crate) fn opened(
        shared: Arc<Shared>,
        io: Arc<StreamIo>,
        target: String,
        deadline: Instant,
    ) -> Self {
        let awaited = Awaited {
            target,
            reader: FrameReader::new(limits::CONTROL_FRAME),
            deadline: Box::pin(tokio::time::sleep_until(deadline)),
        };
        Self::new(shared, io, AnswerState::Awaited(Box::new(awaited)))
    }

    /// A stream that the peer opened.
    pub(crate) fn accepted_from(shared: Arc<Shared>, io: Arc<StreamIo>) -> Self {
        Self::new(shared, io, AnswerState::Accepted)
    }

    fn new(shared: Arc<Shared>, io: Arc<StreamIo>, answer: AnswerState) -> Self {
        let hold = Arc::new(Hold { shared, io });
        Self {
            send: WriteHalf {
                hold: Arc::clone(&hold),
                finished: false,
            },
            recv: ReadHalf {
                hold,
                answer,
                received: Bytes::new(),
                end: None,
            },
        }
    }

    /// Takes bytes from the front of `bytes`, which may wait for others for a while.
    pub(crate) fn poll_write_coalesced(
        &self,
        cx: &mut Context<'_>,
        bytes: &mut Bytes,
    ) -> Poll<Result<(), StreamError>> {
        let Hold { shared, io } = &*self.send.hold;
        io.poll_write_coalesced(shared, cx, bytes)
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
        self.send.hold.io.id()
    }

    /// Ends both directions at once and tells the peer why.
    pub fn reset(self, code: ResetCode) {
        let Self { send, recv } = self;
        send.reset(code);
        recv.stop(code);
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
        poll_fn(|cx| self.poll_read_bytes(cx, limits::READ_CHUNK)).await
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
        self.poll_received(cx, max)
    }

    /// Received chunks, uncopied: fills `chunks` from the first one on, and gives how many; `None` at the clean
    /// end. Over QUIC chunks are as small as datagrams, so several at once make vectored writes
    /// worthwhile.
    ///
    /// # Errors
    /// Where the stream ended in any other way.
    pub fn poll_read_chunks(
        &mut self,
        cx: &mut Context<'_>,
        chunks: &mut [Bytes],
    ) -> Poll<Result<Option<usize>, StreamError>> {
        ready!(self.poll_answer(cx))?;
        let Some(first) = chunks.first_mut() else {
            return Poll::Ready(Ok(Some(0)));
        };
        if !self.received.is_empty() {
            *first = std::mem::take(&mut self.received);
            return Poll::Ready(Ok(Some(1)));
        }
        self.poll_to_end(|hold| hold.io.poll_read_chunks(&hold.shared, cx, chunks))
    }

    fn poll_received(
        &mut self,
        cx: &mut Context<'_>,
        max: usize,
    ) -> Poll<Result<Option<Bytes>, StreamError>> {
        self.poll_to_end(|hold| hold.io.poll_read(&hold.shared, cx, max))
    }

    /// Passes on `read`'s results, and keeps the end.
    fn poll_to_end<T>(
        &mut self,
        read: impl FnOnce(&Hold) -> Poll<Result<Option<T>, StreamError>>,
    ) -> Poll<Result<Option<T>, StreamError>> {
        if let Some(end) = &self.end {
            return Poll::Ready(end.clone().map(|()| None));
        }
        let result = ready!(read(&self.hold));
        match &result {
            Ok(Some(_)) => {}
            Ok(None) => self.end = Some(Ok(())),
            Err(error) => self.end = Some(Err(error.clone())),
        }
        Poll::Ready(result)
    }

    fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        match &self.answer {
            AnswerState::Accepted => return Poll::Ready(Ok(())),
            AnswerState::Failed(error) => return Poll::Ready(Err(error.clone())),
            AnswerState::Awaited(_) => {}
        }
        let result = ready!(self.poll_receive_answer(cx));
        if let (AnswerState::Awaited(awaited), Err(StreamError::Refused { .. })) =
            (&mut self.answer, &result)
        {
            let target = std::mem::take(&mut awaited.target);
            self.hold.shared.note_refusal(target);
        }
        self.answer = match &result {
            Ok(()) => AnswerState::Accepted,
            Err(error) => AnswerState::Failed(error.clone()),
        };
        Poll::Ready(result)
    }

    fn poll_receive_answer(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        loop {
            let AnswerState::Awaited(awaited) = &mut self.answer else {
                return Poll::Ready(Ok(()));
            };
            if let Some(raw) = awaited.reader.next().map_err(StreamError::BadAnswer)? {
                let Answer = raw.decode().map_err(StreamError::BadAnswer)?;
                let reader = std::mem::replace(&mut awaited.reader, FrameReader::new(0));
                self.received = reader.into_rest();
                return Poll::Ready(Ok(()));
            }
            match self.poll_received(cx, limits::READ_CHUNK) {
                Poll::Ready(Ok(Some(bytes))) => self.push_answer(&bytes),
                Poll::Ready(Ok(None)) => return Poll::Ready(Err(StreamError::Unanswered)),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return self.poll_deadline(cx),
            }
        }
    }

    fn push_answer(&mut self, bytes: &[u8]) {
        if let AnswerState::Awaited(awaited) = &mut self.answer {
            awaited.reader.push(bytes);
        }
    }

    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        if let AnswerState::Awaited(awaited) = &mut self.answer {
            ready!(awaited.deadline.as_mut().poll(cx));
        }
        self.hold.shared.suspect();
        Poll::Ready(Err(StreamError::NoAnswer(limits::ANSWER_TIME)))
    }
}

impl ReadHalf {
    /// Reads no more, and tells the peer why: its writes fail with [`StreamError::Stopped`].
    pub fn stop(mut self, code: ResetCode) {
        self.stop_now(code);
    }

    pub(crate) fn poll_reset(&self, cx: &mut Context<'_>) -> Poll<StreamError> {
        self.hold.io.poll_reset(&self.hold.shared, cx)
    }

    fn stop_now(&mut self, code: ResetCode) {
        if self.end.is_none() {
            self.end = Some(Err(StreamError::Finished));
            self.hold.io.stop(&self.hold.shared, code);
        }
    }
}

impl Drop for ReadHalf {
    fn drop(&mut self) {
        self.stop_now(ResetCode::Cancelled);
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
    pub async fn write_bytes(&mut self, mut bytes: Bytes) -> Result<(), StreamError> {
        while !bytes.is_empty() {
            poll_fn(|cx| self.poll_write_bytes(cx, &mut bytes)).await?;
        }
        poll_fn(|cx| self.poll_flush_bytes(cx)).await
    }

    /// Takes bytes from the front of `bytes`, without a copy; at least one.
    ///
    /// # Errors
    /// Where the peer takes no more.
    pub fn poll_write_bytes(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &mut Bytes,
    ) -> Poll<Result<(), StreamError>> {
        if bytes.is_empty() {
            return Poll::Ready(Ok(()));
        }
        let Hold { shared, io } = &*self.hold;
        let take = |writable: usize| bytes.split_to(bytes.len().min(writable));
        io.poll_write(shared, cx, take).map_ok(drop)
    }

    pub(crate) fn poll_stopped(&self, cx: &mut Context<'_>) -> Poll<StreamError> {
        self.hold.io.poll_stopped(&self.hold.shared, cx)
    }

    pub(crate) fn poll_flush_bytes(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), StreamError>> {
        self.hold.io.poll_flush(&self.hold.shared, cx)
    }

    pub(crate) fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        if !self.finished {
            ready!(self.hold.io.poll_finish(&self.hold.shared, cx))?;
            self.finished = true;
        }
        Poll::Ready(Ok(()))
    }

    /// Ends this direction at once and tells the peer why. Bytes it has not read may never arrive.
    pub fn reset(mut self, code: ResetCode) {
        self.reset_now(code);
    }

    fn reset_now(&mut self, code: ResetCode) {
        if !std::mem::replace(&mut self.finished, true) {
            self.hold.io.reset(&self.hold.shared, code);
        }
    }
}

impl Drop for WriteHalf {
    fn drop(&mut self) {
        self.reset_now(ResetCode::Cancelled);
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
        let before = buf.filled().len();
        // Chunks may be much smaller than the room.
        while buf.remaining() > 0 {
            match self.poll_read_bytes(cx, buf.remaining()) {
                Poll::Ready(Ok(Some(bytes))) => buf.put_slice(&bytes),
                // An end is there the next time, too.
                _ if buf.filled().len() > before => break,
                Poll::Ready(Ok(None)) => break,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error.into())),
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for WriteHalf {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let Hold { shared, io } = &*self.hold;
        let take = |writable: usize| {
            let len = buf.len().min(writable).min(COPY);
            Bytes::copy_from_slice(buf.get(..len).unwrap_or_default())
        };
        io.poll_write(shared, cx, take).map_err(io::Error::from)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flush_bytes(cx).map_err(io::Error::from)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_finish(cx).map_err(io::Error::from)
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
            .field("id", &self.hold.io.id())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for ReadHalf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReadHalf")
            .field("id", &self.hold.io.id())
            .finish_non_exhaustive()
    }
}
