//! A Status for a client whose head hyper cannot read.
//!
//! hyper answers such a head by itself over HTTP/1.1, with a code and no body, and ends the connection. Its answer is known by its
//! moment, and not by its bytes, which an API server may have sent as well: no request is unanswered, and since the last one was
//! answered, hyper has flushed everything that it had. Where a client reads so slowly that its last answer is still on its way, the code
//! goes without a body.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use http::StatusCode;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

use super::{idle::Activity, written};
use underpass_core::Rejection;

const WHY: Rejection = Rejection::BadRequest(
    "its head is not as RFC 9112 has it; look for a space in the target (write %20), a space before a header's colon, a header \
     folded over two lines, a control character, or a version of HTTP other than 1.0 and 1.1",
);

/// For the preface of HTTP/2, to which hyper says nothing. The protocol that TLS has agreed on is the connection's (RFC 7301, section 3.2), so
/// that HTTP/1.1 is the one to answer in.
const HTTP2: Rejection = Rejection::BadRequest(
    "the connection is for HTTP/1.1, as TLS has agreed on, and the client speaks HTTP/2: let it offer h2 in its TLS handshake (ALPN)",
);

/// A connection over HTTP/1.1 on which hyper's own answers get a body.
#[derive(Debug)]
pub(super) struct Explained<I> {
    io: I,
    activity: Arc<Activity>,
    upgraded: Arc<AtomicBool>,
    /// So many requests had come when hyper last had flushed the answers to all of them.
    flushed: Option<u64>,
    /// The rest of the answer in the place of hyper's.
    answer: Bytes,
    /// hyper has ended it.
    ended: bool,
}

impl<I> Explained<I> {
    /// `activity` hears of each request before anything is written for it, and of its end once all of its answer is in hyper's buffers.
    /// `upgraded` is set before another protocol's bytes are written.
    pub(super) fn new(io: I, activity: Arc<Activity>, upgraded: Arc<AtomicBool>) -> Self {
        Self {
            io,
            flushed: activity.all_answered(),
            activity,
            upgraded,
            answer: Bytes::new(),
            ended: false,
        }
    }

    /// The answer in the place of these bytes, where they are hyper's own.
    fn explains(&self, bytes: &[u8]) -> Option<Bytes> {
        let why = why(bytes)?;
        let own = self.flushed.is_some() && self.flushed == self.activity.all_answered();
        if !own || self.upgraded.load(Ordering::Acquire) {
            return None;
        }
        tracing::debug!("a head cannot be read: {}", why.code());
        Some(written::refusal(&why, false).into())
    }
}

/// The reason behind an answer of hyper's own.
fn why(bytes: &[u8]) -> Option<Rejection> {
    // hyper answers in the version of the connection's last head.
    let versions = [b"HTTP/1.1 ", b"HTTP/1.0 "];
    let code = versions
        .iter()
        .find_map(|version| bytes.strip_prefix(*version))?
        .get(..3)?;
    match StatusCode::from_bytes(code).ok()? {
        StatusCode::BAD_REQUEST => Some(WHY),
        StatusCode::URI_TOO_LONG => Some(Rejection::TargetTooLong),
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => Some(Rejection::HeadersTooLarge),
        _ => None,
    }
}

impl<I: AsyncWrite + Unpin> Explained<I> {
    /// Answers a client that speaks HTTP/2, which hyper has dropped the connection for without an end of it.
    pub(super) async fn refuse_http2(mut self) -> io::Result<()> {
        if self.ended || !self.answer.is_empty() {
            return Ok(());
        }
        self.answer = written::refusal(&HTTP2, false).into();
        self.shutdown().await
    }

    /// Writes what is left of the answer.
    fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.answer.is_empty() {
            match ready!(Pin::new(&mut self.io).poll_write(cx, &self.answer))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => self.answer.advance(count),
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Explained<I> {
    underpass_core::pass_on!(io: poll_read);
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Explained<I> {
    underpass_core::pass_on!(io: is_write_vectored);

    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_answer(cx))?;
        if let Some(answer) = self.explains(buf) {
            self.answer = answer;
            return Poll::Ready(Ok(buf.len()));
        }
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_answer(cx))?;
        let first = bufs.iter().find(|buf| !buf.is_empty());
        if let Some(answer) = first.and_then(|buf| self.explains(buf)) {
            self.answer = answer;
            // All of it is one answer.
            return Poll::Ready(Ok(bufs.iter().map(|buf| buf.len()).sum()));
        }
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_answer(cx))?;
        ready!(Pin::new(&mut self.io).poll_flush(cx))?;
        // hyper flushes when it has handed over all it had.
        self.flushed = self.activity.all_answered();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.ended = true;
        ready!(self.poll_answer(cx))?;
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests;
