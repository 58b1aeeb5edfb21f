//! The client's end of a connection to a target, over both versions of HTTP.
//!
//! HTTP/2's streams end cleanly or are reset. hyper gives streams of a connection that it ends itself, because its client answers no PING,
//! to their readers as a clean end, and writes a clean end where its own user drops the stream. Through either, a transfer that was cut
//! would look complete. So both are told apart here, by the stream's frames where its head was read. (A stream that was reset alone hyper
//! is told of by another code than the client's; see `request_target`.)

use std::{
    convert::Infallible,
    future::pending,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
};

use futures_util::future::AbortHandle;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::oneshot,
};

use crate::strangers::UnreadBody;
use underpass_http::scheduling::in_task::{self, Child, Turns};
use underpass_http::serve::{Charge as _, ClientEnd};

/// The way to tell a clean end from a reset.
pub(super) enum Ends {
    /// TLS and TCP do.
    Connection,
    /// The stream's frames do.
    Stream(StreamEnds),
}

/// The ends of an HTTP/2 stream.
pub(super) struct StreamEnds {
    /// Ends hyper's writer of the stream, which is dropped then without an end of the stream.
    writer: Option<AbortHandle>,
    turns: Turns,
    /// Bytes of the stream that were read no longer count among those of the connection that are unread.
    unread: UnreadBody,
    /// The server's half is being ended cleanly. Shared with [`Presence`].
    closing: Arc<AtomicBool>,
    /// The client's end by its frames. Shared with [`Presence`].
    end: Option<Arc<ClientEnd>>,
    /// The server's half has ended cleanly.
    finished: bool,
}

/// Whether the client of a stream is there, while the relay waits for the target alone and looks at no end of the client's.
pub(super) struct Presence {
    /// hyper's writer of the stream ends with a reset, and with the connection.
    writer: Option<oneshot::Receiver<Infallible>>,
    closing: Arc<AtomicBool>,
    /// The client's end by its frames; `None` where its head could not be read.
    end: Option<Arc<ClientEnd>>,
}

impl Presence {
    /// Waits until the client has reset the stream; or until its connection is gone, unless the server's half is being ended: the
    /// writer ends with it, and the client may have sent all.
    pub(super) async fn ended(self) {
        if let Some(writer) = self.writer {
            // It sends nothing; an error is its end.
            let _ = writer.await;
            if !self.closing.load(Ordering::Acquire) {
                return;
            }
        }
        match self.end {
            Some(end) => end.reset().await,
            None => pending().await,
        }
    }
}

impl StreamEnds {
    /// Those of the stream whose request this task answers. It has to return the answer before it waits for anything.
    pub(super) fn of_this_task(
        turns: Turns,
        unread: UnreadBody,
        end: Option<ClientEnd>,
    ) -> (Self, Presence) {
        let (handle, ended) = match in_task::next_child() {
            Some(Child { handle, ended }) => (Some(handle), Some(ended)),
            None => (None, None),
        };
        let (closing, end) = (Arc::<AtomicBool>::default(), end.map(Arc::new));
        let presence = Presence {
            writer: ended,
            closing: Arc::clone(&closing),
            end: end.clone(),
        };
        let ends = Self {
            writer: handle,
            turns,
            unread,
            closing,
            end,
            finished: false,
        };
        (ends, presence)
    }
}

impl Drop for StreamEnds {
    fn drop(&mut self) {
        if let Some(writer) = self.writer.take_if(|_| !self.finished) {
            writer.abort();
        }
    }
}

/// A client that is about to get its 200.
pub(super) struct Answered {
    // Dropped before hyper's half is.
    ends: Ends,
    client: OnUpgrade,
}

impl Answered {
    pub(super) fn new(client: OnUpgrade, ends: Ends) -> Self {
        Self { ends, client }
    }

    /// Waits until the answer is written.
    pub(super) async fn written(mut self) -> hyper::Result<Client> {
        let io = (&mut self.client).await?;
        Ok(Client {
            ends: self.ends,
            io: TokioIo::new(io),
            doubt: None,
        })
    }
}

/// The client's end. Dropping it before the server's half has ended cleanly is a reset.
pub(super) struct Client {
    // Dropped before hyper's half is.
    ends: Ends,
    io: TokioIo<Upgraded>,
    /// hyper has said that no more comes; it may not be so.
    doubt: Option<Pin<Box<dyn Future<Output = bool> + Send>>>,
}

impl Client {
    /// Whether a clean end is one. hyper's writer of the stream learns of a reset in its next turn, which the reset has woken it for.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Ends::Stream(ends) = &self.ends else {
            return Poll::Ready(Ok(()));
        };
        if ends.end.as_ref().is_some_and(|end| end.is_open()) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        if ends.finished {
            // The writer is gone, and knows of nothing that came later.
            return Poll::Ready(Ok(()));
        }
        let turns = &ends.turns;
        let doubt = self.doubt.get_or_insert_with(|| {
            let turns = turns.clone();
            Box::pin(async move { turns.pass().await })
        });
        let lives = ready!(doubt.as_mut().poll(cx));
        self.doubt = None;
        if !lives {
            // The connection went away, and took the stream along before this half had ended.
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        // Pending: it lives, and its client has more to read.
        match Pin::new(&mut self.io).poll_flush(cx) {
            Poll::Ready(Err(error)) => {
                Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionReset, error)))
            }
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Ready(Ok(())),
        }
    }
}

impl AsyncRead for Client {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.doubt.is_some() {
            return self.poll_end(cx);
        }
        let (before, room) = (buffer.filled().len(), buffer.remaining());
        ready!(Pin::new(&mut self.io).poll_read(cx, buffer))?;
        let read = buffer.filled().len().saturating_sub(before);
        if read == 0 && room > 0 {
            return self.poll_end(cx);
        }
        if let Ends::Stream(ends) = &self.ends {
            ends.unread.read(read);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Client {
    underpass_core::pass_on!(io: poll_write, poll_flush);

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Ends::Stream(ends) = &self.ends {
            // Before hyper's writer can end by it.
            ends.closing.store(true, Ordering::Release);
        }
        ready!(Pin::new(&mut self.io).poll_shutdown(cx))?;
        if let Ends::Stream(ends) = &mut self.ends {
            ends.finished = true;
        }
        Poll::Ready(Ok(()))
    }
}
