//! The task that owns a connection: reads from it, and writes the streams' frames.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{oneshot, watch};
use tokio_util::io::{poll_read_buf, poll_write_buf};
use underpass_proto::mux::Chunks;
use underpass_proto::stream_id::Role;
use underpass_proto::websocket::{Closing, Decoder, Header, Mask, Opcode, Received};

use super::MuxError;
use super::shared::Shared;
use crate::buffer::ReadBuffer;
use crate::limits;
use crate::random::random;
use crate::transport::TransportError;
use crate::transport::heard::LastHeard;

/// Bytes of one message, header included, and of one write: exactly four TLS records, as many as
/// rustls takes at once. Later frames cannot overtake gathered ones.
const MESSAGE: usize = 64 * 1024;

/// A message's header, where its payload is longer than 125 bytes and shorter than 64 KiB.
const MESSAGE_HEADER: usize = 4;

/// Bytes that a mask adds to it.
const MASK: usize = 4;

/// Writes and reads in one poll, before other tasks run: a millisecond's worth. Fewer cost
/// more: at each yield the runtime wakes another thread to look for work.
const TURNS: usize = 32;

/// Why the driver ends.
enum Ending {
    /// This side wants to.
    Here(Closing),
    /// The peer does.
    There(Closing),
    /// Something went wrong.
    Broken(MuxError),
}

pub(super) struct Driver<S> {
    io: S,
    role: Role,
    shared: Arc<Shared>,
    heard: LastHeard,
    /// Gathered, and not yet taken by the connection.
    unsent: Chunks,
    /// Written, and not flushed.
    unflushed: bool,
    /// Where a message is put together that cannot be written as it lies: it is masked, or the
    /// connection knows no vectored writes.
    scratch: BytesMut,
    /// The last Ping's payload: earlier ones need no answer any more (RFC 6455, section 5.5.3).
    pong: Option<Bytes>,
    decoder: Decoder,
    received: ReadBuffer,
}

impl<S> Driver<S>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    pub(super) fn new(
        io: S,
        received: Bytes,
        role: Role,
        shared: Arc<Shared>,
        heard: LastHeard,
    ) -> Self {
        Self {
            io,
            role,
            shared,
            heard,
            unsent: Chunks::default(),
            unflushed: false,
            scratch: BytesMut::new(),
            pong: None,
            decoder: Decoder::new(role),
            received: ReadBuffer::new(received),
        }
    }

    /// Moves bytes until the connection has ended.
    pub(super) async fn run(
        mut self,
        closing: oneshot::Receiver<Closing>,
        ended: watch::Sender<bool>,
    ) {
        let ending = tokio::select! {
            biased;
            Ok(closing) = closing => Ending::Here(closing),
            ending = poll_fn(|cx| self.poll(cx)) => ending,
        };
        self.end(ending).await;
        // With the connection's socket, before any task hears that it is gone.
        drop(self);
        ended.send_replace(true);
    }

    async fn end(&mut self, ending: Ending) {
        let (error, last_words) = match ending {
            Ending::Here(closing) => (TransportError::ClosedHere, Some(closing)),
            Ending::There(closing) => {
                self.shared.end(closed_by_peer(&closing));
                // The peer waits for the end and for nothing else.
                let mut close = Some(closing.encode());
                let answer = poll_fn(|cx| self.poll_say(cx, &mut close, false));
                let _ = tokio::time::timeout(limits::CLOSE_TIME, answer).await;
                return;
            }
            Ending::Broken(error) => {
                let closing = match &error {
                    MuxError::Framing(error) => {
                        Some(Closing::with_status(error.status(), &error.to_string()))
                    }
                    MuxError::Violation(error) => {
                        Some(Closing::new(error.close_code(), &error.to_string()))
                    }
                    MuxError::Io(_) | MuxError::Eof | MuxError::Closed { .. } => None,
                };
                (TransportError::lost(error), closing)
            }
        };
        let gracefully = matches!(error, TransportError::ClosedHere);
        self.shared.end(error);
        if let Some(closing) = last_words {
            // A peer that reads nothing, or goes on for ever, must not keep the connection.
            let close = self.close(&closing, gracefully);
            let _ = tokio::time::timeout(limits::CLOSE_TIME, close).await;
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Ending> {
        for _ in 0..TURNS {
            let sent = self.poll_send(cx);
            if let Poll::Ready(Err(error)) = sent {
                return Poll::Ready(self.last_words(error, cx));
            }
            match self.poll_receive(cx) {
                Poll::Ready(Err(ending)) => return Poll::Ready(ending),
                Poll::Pending if sent.is_pending() => return Poll::Pending,
                _ => {}
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Nothing can be written any more; the peer may have said why.
    fn last_words(&mut self, error: io::Error, cx: &mut Context<'_>) -> Ending {
        for _ in 0..TURNS {
            match self.poll_receive(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(ending @ Ending::There(_))) => return ending,
                Poll::Ready(Err(_)) | Poll::Pending => break,
            }
        }
        Ending::Broken(MuxError::Io(error))
    }

    /// Sends one message. Pending where there is none, or the connection takes no more.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.unsent.is_empty() && !self.unflushed {
            self.gather(cx);
            if self.unsent.is_empty() {
                return Poll::Pending;
            }
        }
        self.poll_drain(cx)
    }

    /// Writes and flushes gathered bytes. Nothing more is gathered before: it would wait behind them
    /// in a queue, where nothing can overtake it.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.unsent.has_remaining() {
            self.unflushed = true;
            if ready!(poll_write_buf(Pin::new(&mut self.io), cx, &mut self.unsent))? == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
        }
        ready!(Pin::new(&mut self.io).poll_flush(cx))?;
        self.unflushed = false;
        Poll::Ready(Ok(()))
    }

    /// Takes the streams' next frames, one message of them; where there are none, `cx` is woken by
    /// the next one.
    fn gather(&mut self, cx: &Context<'_>) {
        let masked = self.role == Role::Connector;
        let header = MESSAGE_HEADER + if masked { MASK } else { 0 };
        let unsent = &mut self.unsent;
        let pong = self.pong.take();
        self.shared.with(|state| {
            state.mux.transmit(MESSAGE - header, unsent);
            if unsent.is_empty() && pong.is_none() {
                state.wait_to_send(cx);
            }
        });
        if !self.unsent.is_empty() {
            self.frame(Opcode::Binary);
        }
        if let Some(pong) = pong {
            self.append_control(Opcode::Pong, &pong);
        }
    }

    /// Makes a message of all that is unsent.
    fn frame(&mut self, opcode: Opcode) {
        let mut mask = self.mask();
        let header = Header::whole(opcode, self.unsent.len(), mask);
        if mask.is_none() && self.io.is_write_vectored() {
            let mut head = BytesMut::with_capacity(MESSAGE_HEADER);
            header.encode(&mut head);
            self.unsent.prepend(head.freeze());
            return;
        }
        // Gets the same allocation each time: the last message has been sent.
        self.scratch.reserve(MESSAGE);
        header.encode(&mut self.scratch);
        while let Some(bytes) = self.unsent.pop(usize::MAX) {
            match &mut mask {
                Some(mask) => mask.append(&bytes, &mut self.scratch),
                None => self.scratch.extend_from_slice(&bytes),
            }
        }
        self.unsent.push(self.scratch.split().freeze(), 0);
    }

    fn append_control(&mut self, opcode: Opcode, payload: &[u8]) {
        let mut mask = self.mask();
        let header = Header::whole(opcode, payload.len(), mask);
        self.unsent.encode(|out| {
            header.encode(out);
            match &mut mask {
                Some(mask) => mask.append(payload, out),
                None => out.extend_from_slice(payload),
            }
        });
    }

    fn mask(&self) -> Option<Mask> {
        (self.role == Role::Connector).then(|| Mask::new(random()))
    }

    /// Reads once and hands out the bytes. Pending where none came.
    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Ending>> {
        // Bytes behind the handshake count as read.
        if self.received.bytes.is_empty() || !self.decode()? {
            ready!(self.poll_read(cx))?;
            self.decode()?;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Ending>> {
        self.received.make_room();
        let Poll::Ready(read) = poll_read_buf(Pin::new(&mut self.io), cx, &mut self.received.bytes)
        else {
            self.received.rest();
            return Poll::Pending;
        };
        if let Ok(len) = read {
            self.received.filled(len);
        }
        Poll::Ready(match read {
            Ok(0) => Err(Ending::Broken(MuxError::Eof)),
            Ok(_) => {
                self.heard.touch();
                Ok(())
            }
            Err(error) => Err(Ending::Broken(MuxError::Io(error))),
        })
    }

    /// Hands out read bytes; tells whether there were any.
    fn decode(&mut self) -> Result<bool, Ending> {
        let mut any = false;
        while let Some(received) = self
            .decoder
            .decode(&mut self.received.bytes)
            .map_err(|error| Ending::Broken(MuxError::Framing(error)))?
        {
            any = true;
            match received {
                Received::Payload(bytes) => self
                    .shared
                    .with(|state| state.mux.receive(bytes))
                    .map_err(|error| Ending::Broken(MuxError::Violation(error)))?,
                Received::Ping(payload) => self.pong = Some(payload),
                Received::Pong => {}
                Received::Close(closing) => return Err(Ending::There(closing)),
            }
        }
        Ok(any)
    }

    /// Sends a Close, behind everything that the streams have left to send where it is done
    /// `gracefully`, and reads until the peer has closed, too. A socket that is closed with unread
    /// bytes in it sends RST, which destroys bytes that the peer has not read: the Close before all
    /// (RFC 9112, section 9.6).
    async fn close(&mut self, closing: &Closing, gracefully: bool) {
        let mut close = Some(closing.encode());
        let (mut said, mut over) = (false, false);
        poll_fn(|cx| {
            // Whether it was heard makes no difference any more.
            said = said || self.poll_say(cx, &mut close, gracefully).is_ready();
            over = over || self.poll_discard(cx).is_ready();
            if said && over {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
    }

    /// Sends gathered bytes, or, `gracefully`, those of all streams, then the Close in `close`,
    /// and ends the writing direction.
    fn poll_say(
        &mut self,
        cx: &mut Context<'_>,
        close: &mut Option<Bytes>,
        gracefully: bool,
    ) -> Poll<io::Result<()>> {
        if let Some(payload) = close {
            while gracefully && !matches!(self.poll_send(cx)?, Poll::Pending) {}
            if gracefully && (self.unsent.has_remaining() || self.unflushed) {
                return Poll::Pending;
            }
            let payload = std::mem::take(payload);
            self.append_control(Opcode::Close, &payload);
            *close = None;
        }
        ready!(self.poll_drain(cx))?;
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    /// Ready once the peer has closed.
    fn poll_discard(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut discarded = [0; 4096];
        loop {
            let mut buffer = ReadBuf::new(&mut discarded);
            match ready!(Pin::new(&mut self.io).poll_read(cx, &mut buffer)) {
                Ok(()) if !buffer.filled().is_empty() => {}
                _ => return Poll::Ready(()),
            }
        }
    }
}

fn closed_by_peer(closing: &Closing) -> TransportError {
    let reason = closing.reason.clone();
    match closing.code() {
        Some(code) => TransportError::ClosedByPeer { code, reason },
        None => TransportError::lost(MuxError::Closed {
            status: closing.status,
            reason,
        }),
    }
}
