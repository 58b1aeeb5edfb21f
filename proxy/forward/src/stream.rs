//! A stream to a target.

use std::{
    fmt, io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::{connection::Place, limits};

/// A byte stream to a target in a cluster.
///
/// Each half ends on its own: `poll_shutdown` is half-close. Dropping the stream before both have ended resets it, and a reset of the
/// other side is a read error, never a clean end.
pub struct Stream {
    send: SendStream<Bytes>,
    recv: RecvStream,
    /// Received, and not read.
    rest: Bytes,
    sent: u64,
    received: u64,
    finished: bool,
    ended: bool,
    _place: Place,
}

impl Stream {
    pub(crate) fn new(send: SendStream<Bytes>, recv: RecvStream, place: Place) -> Self {
        Self {
            send,
            recv,
            rest: Bytes::new(),
            sent: 0,
            received: 0,
            finished: false,
            ended: false,
            _place: place,
        }
    }

    /// Bytes that were written to it.
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// Bytes that were read from it.
    pub fn received(&self) -> u64 {
        self.received
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream")
            .field("sent", &self.sent)
            .field("received", &self.received)
            .finish_non_exhaustive()
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if !self.finished {
            // RFC 9113, section 8.5.
            self.send.send_reset(Reason::CONNECT_ERROR);
        }
    }
}

/// A stream that was reset for any reason has not come to its end.
fn reset(error: h2::Error) -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, error)
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        while this.rest.is_empty() && !this.ended {
            match ready!(this.recv.poll_data(cx)) {
                Some(Ok(bytes)) => this.rest = bytes,
                Some(Err(error)) => return Poll::Ready(Err(reset(error))),
                None => this.ended = true,
            }
        }
        let count = this.rest.len().min(buffer.remaining());
        buffer.put_slice(&this.rest.split_to(count));
        this.received = this.received.saturating_add(count as u64);
        // The connection may be gone, and what was received is read all the same.
        let _ = this.recv.flow_control().release_capacity(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if this.finished {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let wanted = bytes.len().min(limits::WRITE);
        this.send.reserve_capacity(wanted);
        let room = loop {
            match ready!(this.send.poll_capacity(cx)) {
                // It was given to others meanwhile.
                Some(Ok(0)) => {}
                Some(Ok(room)) => break room.min(wanted),
                Some(Err(error)) => return Poll::Ready(Err(reset(error))),
                None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            }
        };
        let piece = bytes.get(..room).unwrap_or(bytes);
        let sent = this.send.send_data(Bytes::copy_from_slice(piece), false);
        sent.map_err(reset)?;
        this.sent = this.sent.saturating_add(piece.len() as u64);
        Poll::Ready(Ok(piece.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.finished {
            self.send.send_data(Bytes::new(), true).map_err(reset)?;
            self.finished = true;
        }
        Poll::Ready(Ok(()))
    }
}
