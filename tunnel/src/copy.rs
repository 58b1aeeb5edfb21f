//! Between a stream and a connection.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::io::{poll_read_buf, poll_write_buf};
use underpass_proto::code::ResetCode;
use underpass_proto::mux::Chunks;

use crate::buffer::ReadBuffer;
use crate::stream::{ReadHalf, Stream, StreamError, WriteHalf};

/// Chunks of the stream that are written to the connection at once: a batch of QUIC's datagrams.
const CHUNKS: usize = 16;

/// Chunks below this size are copied together: a slice of each costs a vectored write more than its bytes do.
const COPY_BELOW: usize = 256;

/// Bytes that were copied, in each direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Copied {
    /// From the connection to the stream.
    pub to_stream: u64,
    /// From the stream to the connection.
    pub from_stream: u64,
}

/// Which side broke, and how. The other one is ended with a reset, or closed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CopyError {
    /// The stream.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// The connection.
    #[error("the connection broke")]
    Connection(#[from] io::Error),
    /// Neither: the copy was given up ([`copy_until`]).
    #[error("given up: {0}")]
    GivenUp(ResetCode),
}

/// Passes bytes on in both directions, until both have ended: an end of one is passed on as a half-close, and the
/// other goes on.
///
/// It does what [`tokio::io::copy_bidirectional`] does, for less: bytes go from the connection into buffers
/// that the stream keeps until the peer has them, and from the stream to the connection as they came, several chunks
/// with one vectored write, so that nothing is copied between the two.
///
/// # Errors
/// Where either side breaks. Both are dropped then: the stream's peer gets a reset.
///
/// # Cancel safety
/// Dropping the future drops both sides. Bytes read from one and not written to the other are lost.
pub async fn copy_bidirectional<C>(stream: Stream, mut connection: C) -> Result<Copied, CopyError>
where
    C: AsyncRead + AsyncWrite + Unpin,
{
    let (recv, send) = stream.into_split();
    let (mut into, mut out_of) = (Into::new(send), OutOf::new(recv));
    poll_fn(|cx| poll_both(cx, &mut into, &mut out_of, &mut connection))
        .await
        .map(|()| Copied {
            to_stream: into.copied,
            from_stream: out_of.copied,
        })
}

/// [`copy_bidirectional`], until `given_up` ends: both sides end at once then, with its code. It counts the bytes however it
/// ends. Where the connection breaks, the stream's peer gets a reset with [`ResetCode::TargetFailed`].
///
/// # Cancel safety
/// As [`copy_bidirectional`]; the connection stays the caller's.
pub async fn copy_until<C>(
    stream: Stream,
    connection: &mut C,
    given_up: impl Future<Output = ResetCode>,
) -> (Copied, Result<(), CopyError>)
where
    C: AsyncRead + AsyncWrite + Unpin,
{
    let (recv, send) = stream.into_split();
    let (mut into, mut out_of) = (Into::new(send), OutOf::new(recv));
    let mut given_up = pin!(given_up);
    let ended = poll_fn(|cx| {
        if let Poll::Ready(code) = given_up.as_mut().poll(cx) {
            return Poll::Ready(Err(CopyError::GivenUp(code)));
        }
        poll_both(cx, &mut into, &mut out_of, connection)
    })
    .await;
    let copied = Copied {
        to_stream: into.copied,
        from_stream: out_of.copied,
    };
    let code = match &ended {
        Ok(()) | Err(CopyError::Stream(_)) => None,
        Err(CopyError::Connection(_)) => Some(ResetCode::TargetFailed),
        Err(CopyError::GivenUp(code)) => Some(*code),
    };
    if let Some(code) = code {
        into.stream.reset(code);
        out_of.stream.stop(code);
    }
    (copied, ended)
}

fn poll_both<C>(
    cx: &mut Context<'_>,
    into: &mut Into,
    out_of: &mut OutOf,
    connection: &mut C,
) -> Poll<Result<(), CopyError>>
where
    C: AsyncRead + AsyncWrite + Unpin,
{
    let to_stream = into.poll(cx, connection)?;
    let from_stream = out_of.poll(cx, connection)?;
    if to_stream.is_ready() && from_stream.is_ready() {
        return Poll::Ready(Ok(()));
    }
    // Nothing else would notice that the peer has gone, where the connection neither takes bytes nor gives any.
    let gone = match out_of.phase {
        Phase::Ended => into.stream.poll_stopped(cx),
        // The stream was read from just now, which would have told.
        Phase::Open if !out_of.unsent.has_remaining() => Poll::Pending,
        Phase::Open | Phase::Ending => out_of.stream.poll_reset(cx),
    };
    gone.map(|error| Err(error.into()))
}

/// How far a direction is.
enum Phase {
    Open,
    /// Everything was read.
    Ending,
    Ended,
}

/// From the connection into the stream.
struct Into {
    stream: WriteHalf,
    buffer: ReadBuffer,
    /// Read, and not yet taken by the stream.
    unsent: Bytes,
    /// The stream has bytes that may wait for a flush.
    unflushed: bool,
    phase: Phase,
    copied: u64,
}

impl Into {
    fn new(stream: WriteHalf) -> Self {
        Self {
            stream,
            buffer: ReadBuffer::new(Bytes::new()),
            unsent: Bytes::new(),
            unflushed: false,
            phase: Phase::Open,
            copied: 0,
        }
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        connection: &mut (impl AsyncRead + Unpin),
    ) -> Poll<Result<(), CopyError>> {
        while let Phase::Open = self.phase {
            while !self.unsent.is_empty() {
                ready!(self.stream.poll_write_bytes(cx, &mut self.unsent))?;
                self.unflushed = true;
            }
            self.buffer.make_room();
            match poll_read_buf(Pin::new(&mut *connection), cx, &mut self.buffer.bytes)? {
                Poll::Ready(0) => self.phase = Phase::Ending,
                Poll::Ready(len) => {
                    self.buffer.filled(len);
                    self.unsent = self.buffer.bytes.split().freeze();
                    self.copied += len as u64;
                }
                Poll::Pending => {
                    self.buffer.rest();
                    if self.unflushed {
                        ready!(self.stream.poll_flush_bytes(cx))?;
                        self.unflushed = false;
                    }
                    return Poll::Pending;
                }
            }
        }
        if let Phase::Ending = self.phase {
            ready!(self.stream.poll_finish(cx))?;
            self.phase = Phase::Ended;
        }
        Poll::Ready(Ok(()))
    }
}

/// From the stream to the connection.
struct OutOf {
    stream: ReadHalf,
    /// Read, and not yet written to the connection.
    unsent: Chunks,
    unflushed: bool,
    phase: Phase,
    copied: u64,
}

impl OutOf {
    fn new(stream: ReadHalf) -> Self {
        Self {
            stream,
            unsent: Chunks::default(),
            unflushed: false,
            phase: Phase::Open,
            copied: 0,
        }
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        connection: &mut (impl AsyncWrite + Unpin),
    ) -> Poll<Result<(), CopyError>> {
        while let Phase::Open = self.phase {
            while self.unsent.has_remaining() {
                let written = poll_write_buf(Pin::new(&mut *connection), cx, &mut self.unsent);
                if ready!(written)? == 0 {
                    return Poll::Ready(Err(io::Error::from(io::ErrorKind::WriteZero).into()));
                }
                self.unflushed = true;
            }
            let mut chunks = [const { Bytes::new() }; CHUNKS];
            match self.stream.poll_read_chunks(cx, &mut chunks)? {
                Poll::Ready(Some(filled)) => {
                    for chunk in chunks.into_iter().take(filled) {
                        self.copied += chunk.len() as u64;
                        self.unsent.push(chunk, COPY_BELOW);
                    }
                }
                Poll::Ready(None) => self.phase = Phase::Ending,
                Poll::Pending => {
                    if self.unflushed {
                        ready!(Pin::new(&mut *connection).poll_flush(cx))?;
                        self.unflushed = false;
                    }
                    return Poll::Pending;
                }
            }
        }
        if let Phase::Ending = self.phase {
            ready!(Pin::new(&mut *connection).poll_shutdown(cx))?;
            self.phase = Phase::Ended;
        }
        Poll::Ready(Ok(()))
    }
}
