//! One yamux stream, with the codes and the clean end that yamux lacks.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, Bytes, BytesMut};
use futures_util::{AsyncWrite, Stream as _};

use super::wire::{self, Frame};
use crate::proto::code::ResetCode;
use crate::proto::frame::FrameReader;
use crate::transport::{BiStream, HalfError, RecvStream, SendStream, TransportError};

/// The halves of a stream that yamux gave.
pub(super) fn bi_stream(stream: yamux::Stream) -> BiStream {
    let shared = Arc::new(Mutex::new(Shared {
        stream,
        out: BytesMut::new(),
        send: SendState::Open,
        writer: None,
    }));
    BiStream {
        send: Box::new(YamuxSend {
            shared: Arc::clone(&shared),
        }),
        recv: Box::new(YamuxRecv {
            shared,
            reader: FrameReader::new(wire::DATA_MAX),
            data: Bytes::new(),
            end: None,
        }),
    }
}

/// What both halves use. yamux resets the stream once both are dropped.
struct Shared {
    stream: yamux::Stream,
    /// Frames that yamux has not taken yet: one DATA frame and a few short ones at the most.
    out: BytesMut,
    send: SendState,
    /// Who waits to write, to be told of a STOP.
    writer: Option<Waker>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SendState {
    Open,
    Finished,
    Reset(ResetCode),
    Stopped(ResetCode),
}

impl Shared {
    /// Hands pending frames to yamux, until it takes no more.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), HalfError>> {
        while !self.out.is_empty() {
            let taken = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.out))
                .map_err(|error| self.write_error(error))?;
            self.out.advance(taken);
        }
        Poll::Ready(Ok(()))
    }

    /// yamux fails a write where the peer dropped the stream, and where the connection is gone.
    fn write_error(&self, error: io::Error) -> HalfError {
        match self.send {
            SendState::Stopped(code) => HalfError::Stopped(code),
            _ if self.stream.is_closed() => HalfError::Stopped(ResetCode::Cancelled),
            _ => HalfError::Transport(TransportError::lost(error)),
        }
    }

    fn writable(&self) -> Result<(), HalfError> {
        match self.send {
            SendState::Open => Ok(()),
            SendState::Finished => Err(HalfError::Finished),
            SendState::Reset(code) => Err(HalfError::Reset(code)),
            SendState::Stopped(code) => Err(HalfError::Stopped(code)),
        }
    }
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    // No code under the lock leaves the state half-changed, even if it panics.
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

struct YamuxSend {
    shared: Arc<Mutex<Shared>>,
}

impl SendStream for YamuxSend {
    fn poll_write(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<Result<usize, HalfError>> {
        let mut shared = lock(&self.shared);
        shared.writable()?;
        shared.writer = Some(cx.waker().clone());
        ready!(shared.poll_drain(cx))?;
        let chunk = data.get(..wire::DATA_MAX).unwrap_or(data);
        wire::put_data(&mut shared.out, chunk);
        // What yamux does not take now goes with the next write or flush.
        if let Poll::Ready(Err(error)) = shared.poll_drain(cx) {
            return Poll::Ready(Err(error));
        }
        Poll::Ready(Ok(chunk.len()))
    }

    fn poll_write_bytes(
        &mut self,
        cx: &mut Context<'_>,
        data: &mut Bytes,
    ) -> Poll<Result<(), HalfError>> {
        let taken = ready!(self.poll_write(cx, data))?;
        data.advance(taken);
        Poll::Ready(Ok(()))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), HalfError>> {
        let mut shared = lock(&self.shared);
        shared.writer = Some(cx.waker().clone());
        ready!(shared.poll_drain(cx))?;
        Pin::new(&mut shared.stream)
            .poll_flush(cx)
            .map_err(|error| shared.write_error(error))
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), HalfError>> {
        {
            let mut shared = lock(&self.shared);
            match shared.send {
                SendState::Open => {
                    wire::put_fin(&mut shared.out);
                    shared.send = SendState::Finished;
                }
                // A peer that stopped reading does not mind that nothing more comes.
                SendState::Stopped(_) => return Poll::Ready(Ok(())),
                SendState::Finished => {}
                SendState::Reset(code) => return Poll::Ready(Err(HalfError::Reset(code))),
            }
        }
        self.poll_flush(cx)
    }

    fn reset(&mut self, code: ResetCode) {
        let mut shared = lock(&self.shared);
        if shared.send == SendState::Open {
            shared.send = SendState::Reset(code);
            wire::put_reset(&mut shared.out, code);
            // Where yamux has no room now, the reading half sends it on, or the stream's end says
            // it without the code.
            let _ = shared.poll_drain(&mut Context::from_waker(Waker::noop()));
        }
    }
}

impl Drop for YamuxSend {
    fn drop(&mut self) {
        self.reset(ResetCode::Cancelled);
    }
}

struct YamuxRecv {
    shared: Arc<Mutex<Shared>>,
    reader: FrameReader,
    data: Bytes,
    /// How this direction ended, once it has.
    end: Option<Result<(), HalfError>>,
}

impl YamuxRecv {
    /// The next DATA frame's bytes into `self.data`, or the end into `self.end`.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.data.is_empty() && self.end.is_none() {
            match self.reader.next() {
                Ok(Some(raw)) => match Frame::decode(raw) {
                    Ok(frame) => self.handle(frame),
                    Err(error) => self.end = Some(Err(malformed(error))),
                },
                Ok(None) => ready!(self.poll_receive(cx)),
                Err(error) => self.end = Some(Err(malformed(error))),
            }
        }
        Poll::Ready(())
    }

    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut shared = lock(&self.shared);
        // A STOP or RESET that found no room is sent as soon as there is some.
        let _ = shared.poll_drain(cx);
        match ready!(Pin::new(&mut shared.stream).poll_next(cx)) {
            Some(Ok(packet)) => self.reader.push(packet.as_ref()),
            Some(Err(error)) => {
                self.end = Some(Err(HalfError::Transport(TransportError::lost(error))));
            }
            // yamux ends a reset stream like a finished one: without a FIN frame it was reset.
            None => self.end = Some(Err(HalfError::Reset(ResetCode::Cancelled))),
        }
        Poll::Ready(())
    }

    fn handle(&mut self, frame: Frame) {
        match frame {
            Frame::Data(bytes) => self.data = bytes,
            Frame::Fin => self.end = Some(Ok(())),
            Frame::Reset(code) => self.end = Some(Err(HalfError::Reset(code))),
            Frame::Stop(code) => {
                let mut shared = lock(&self.shared);
                if shared.send == SendState::Open {
                    shared.send = SendState::Stopped(code);
                }
                if let Some(writer) = shared.writer.take() {
                    writer.wake();
                }
            }
        }
    }
}

fn malformed(error: crate::proto::DecodeError) -> HalfError {
    HalfError::Transport(TransportError::lost(error))
}

impl RecvStream for YamuxRecv {
    fn poll_read_bytes(
        &mut self,
        cx: &mut Context<'_>,
        max: usize,
    ) -> Poll<Result<Option<Bytes>, HalfError>> {
        ready!(self.poll_fill(cx));
        if !self.data.is_empty() {
            let len = self.data.len().min(max);
            return Poll::Ready(Ok(Some(self.data.split_to(len))));
        }
        match &self.end {
            Some(Err(error)) => Poll::Ready(Err(error.clone())),
            _ => Poll::Ready(Ok(None)),
        }
    }

    fn stop(&mut self, code: ResetCode) {
        if self.end.is_some() {
            return;
        }
        self.end = Some(Err(HalfError::Reset(code)));
        self.data = Bytes::new();
        let mut shared = lock(&self.shared);
        wire::put_stop(&mut shared.out, code);
        // Where yamux has no room now, the stream's end says it without the code.
        let _ = shared.poll_drain(&mut Context::from_waker(Waker::noop()));
    }
}

impl Drop for YamuxRecv {
    fn drop(&mut self) {
        self.stop(ResetCode::Cancelled);
    }
}
