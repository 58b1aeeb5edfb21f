//! A bound on the bytes before an answer's head.
//!
//! Interim answers (1xx) have no end of their own: hyper reads them for as long as there are any, in one turn, and a bound in
//! time does not get its turn.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use underpass_core::limits;

/// The largest head, and as many interim ones as go into another.
const MOST: usize = 2 * limits::HTTP1_BUFFER_BYTES;

/// There is no bound any more.
const NONE: usize = usize::MAX;

/// A stream whose answer's head has not come.
pub(super) struct Heading<I> {
    io: I,
    /// Bytes that may still come before the head.
    left: Arc<AtomicUsize>,
    /// Over HTTP/2, the frames: only heads are kept, and other frames come for as long as a request has a body.
    frames: Option<Frames>,
}

/// A place in the frames of HTTP/2 (RFC 9113, section 4.1).
#[derive(Default)]
struct Frames {
    header: [u8; FRAME_HEADER],
    /// Bytes of `header` that are there.
    have: usize,
    /// Bytes of the payload that have yet to come.
    left: usize,
}

/// Length of a frame's header, and where its type stands there.
const FRAME_HEADER: usize = 9;
const FRAME_TYPE: usize = 3;

/// Types of frames: HEADERS and CONTINUATION.
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;

impl Frames {
    /// Follows the bytes that came. Gives how many of them are of heads.
    fn came(&mut self, mut bytes: &[u8]) -> usize {
        let mut heads: usize = 0;
        while !bytes.is_empty() {
            if self.left == 0 {
                bytes = self.header_came(bytes);
                heads = heads.saturating_add(match self.is_head() && self.have == 0 {
                    true => FRAME_HEADER,
                    false => 0,
                });
                continue;
            }
            let (payload, rest) = bytes.split_at(self.left.min(bytes.len()));
            bytes = rest;
            self.left = self.left.saturating_sub(payload.len());
            if self.is_head() {
                heads = heads.saturating_add(payload.len());
            }
        }
        heads
    }

    fn header_came<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let room = self.header.get_mut(self.have..).unwrap_or_default();
        let (came, rest) = bytes.split_at(room.len().min(bytes.len()));
        if let Some(room) = room.get_mut(..came.len()) {
            room.copy_from_slice(came);
        }
        self.have = self.have.saturating_add(came.len());
        if self.have == FRAME_HEADER {
            self.have = 0;
            let [high, middle, low, ..] = self.header;
            self.left = u32::from_be_bytes([0, high, middle, low]) as usize;
        }
        rest
    }

    fn is_head(&self) -> bool {
        matches!(self.header.get(FRAME_TYPE), Some(&(HEADERS | CONTINUATION)))
    }
}

/// Says when the head has come.
pub(super) struct Head(Arc<AtomicUsize>);

impl Head {
    pub(super) fn has_come(self) {
        self.0.store(NONE, Ordering::Release);
    }
}

impl<I> Heading<I> {
    pub(super) fn new(io: I) -> (Self, Head) {
        let left = Arc::new(AtomicUsize::new(MOST));
        let head = Head(Arc::clone(&left));
        let frames = None;
        (Self { io, left, frames }, head)
    }

    /// The same over HTTP/2, where the bytes of heads count.
    pub(super) fn of_http2(io: I) -> (Self, Head) {
        let (mut heading, head) = Self::new(io);
        heading.frames = Some(Frames::default());
        (heading, head)
    }

    /// How many of the bytes that came count.
    fn counted(&mut self, came: &[u8]) -> usize {
        match &mut self.frames {
            Some(frames) => frames.came(came),
            None => came.len(),
        }
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Heading<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let left = self.left.load(Ordering::Acquire);
        if left == 0 {
            let error = "too much before the answer's head";
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, error)));
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buf))?;
        if left != NONE {
            let read = self.counted(buf.filled().get(before..).unwrap_or_default());
            let after = left.saturating_sub(read);
            // The head may have come meanwhile.
            let _ = self
                .left
                .compare_exchange(left, after, Ordering::AcqRel, Ordering::Acquire);
        }
        Poll::Ready(Ok(()))
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Heading<I> {
    underpass_core::pass_on!(io: poll_write, poll_write_vectored, is_write_vectored, poll_flush, poll_shutdown);
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::Request;
    use http_body_util::{BodyExt, Empty};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::super::{ExchangeError, send};
    use super::*;

    fn get() -> Request<Empty<bytes::Bytes>> {
        let get = Request::get("/").header("host", "x");
        get.body(Empty::new()).unwrap()
    }

    const EARLY: &[u8] = b"HTTP/1.1 103 Early Hints\r\n\r\n";

    /// An agent that, once it is asked, always has something to say, and never anything that matters.
    #[derive(Default)]
    struct Endless {
        asked: bool,
        waker: Option<std::task::Waker>,
        next: usize,
    }

    impl AsyncRead for Endless {
        fn poll_read(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buf: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            if !self.asked {
                self.waker = Some(cx.waker().clone());
                return Poll::Pending;
            }
            while buf.remaining() > 0 {
                buf.put_slice(&EARLY[self.next..=self.next]);
                self.next = (self.next + 1) % EARLY.len();
            }
            Poll::Ready(Ok(()))
        }
    }

    impl AsyncWrite for Endless {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buf: &[u8],
        ) -> Poll<io::Result<usize>> {
            self.asked = true;
            if let Some(waker) = self.waker.take() {
                waker.wake();
            }
            Poll::Ready(Ok(buf.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn rule_11_interim_answers_have_an_end() {
        let answered =
            tokio::time::timeout(Duration::from_secs(20), send(Endless::default(), get())).await;
        let error = answered.expect("it ends").map(|_| ()).unwrap_err();
        assert!(matches!(error, ExchangeError::Malformed(_)), "{error:?}");
    }

    #[test]
    fn frames_of_heads_are_told_from_others_in_pieces_of_any_size() {
        let mut bytes = Vec::new();
        for (kind, len) in [
            (4, 18),
            (HEADERS, 300),
            (0, 5),
            (CONTINUATION, 0),
            (6, 8),
            (HEADERS, 7),
        ] {
            let [_, high, middle, low] = u32::try_from(len).unwrap().to_be_bytes();
            bytes.extend([high, middle, low, kind, 0, 0, 0, 0, 1]);
            bytes.resize(bytes.len() + len, 0xab);
        }
        for piece in [1, 2, 7, 9, 10, 64, bytes.len()] {
            let mut frames = Frames::default();
            let heads: usize = bytes.chunks(piece).map(|piece| frames.came(piece)).sum();
            assert_eq!(heads, 3 * FRAME_HEADER + 307, "in pieces of {piece}");
        }
    }

    #[tokio::test]
    async fn what_comes_behind_the_head_has_no_bound() {
        let (near, mut far) = tokio::io::duplex(64 * 1024);
        let size = 3 * MOST;
        let answering = tokio::spawn(async move {
            let mut asked = [0; 1024];
            let _ = far.read(&mut asked).await.unwrap();
            far.write_all(EARLY).await.unwrap();
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {size}\r\n\r\n");
            far.write_all(head.as_bytes()).await.unwrap();
            far.write_all(&vec![b'x'; size]).await.unwrap();
            far
        });
        let (response, _exchange) = send(near, get()).await.unwrap();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body.len(), size);
        answering.await.unwrap();
    }
}
