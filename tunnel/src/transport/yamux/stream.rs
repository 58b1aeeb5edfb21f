//! One yamux stream, with the codes and the clean end that yamux lacks.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, Bytes, BytesMut};
use futures_util::{AsyncWrite, Stream as _};
use underpass_proto::DecodeError;
use underpass_proto::code::ResetCode;
use underpass_proto::frame::FrameReader;
use underpass_proto::yamux::{self as wire, Frame};

use super::link::{Link, Wakers};
use crate::limits;
use crate::transport::{BiStream, HalfError, RecvStream, SendStream, TransportError};

/// Unread bytes that a writer reads ahead, in search of a STOP.
const READ_AHEAD: usize = 64 * 1024;

/// The halves of a stream that yamux gave.
pub(super) fn bi_stream(stream: yamux::Stream, link: &Arc<Link>) -> BiStream {
    let wakers = Arc::new(Wakers::default());
    link.register(stream.id().val().into(), &wakers);
    let shared = Arc::new(Shared {
        core: Mutex::new(Core {
            stream,
            link: Arc::clone(link),
            waker: wakers.waker(),
            out: BytesMut::new(),
            send: SendState::Open,
            reader: FrameReader::new(wire::DATA_MAX),
            inbox: VecDeque::new(),
            inbox_len: 0,
            end: None,
            stopped: None,
            exhausted: false,
            dropped: 0,
        }),
        wakers,
    });
    BiStream {
        send: Box::new(YamuxSend(Arc::clone(&shared))),
        recv: Box::new(YamuxRecv(shared)),
    }
}

/// Shared by both halves. yamux resets the stream once both are dropped.
struct Shared {
    core: Mutex<Core>,
    wakers: Arc<Wakers>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Core> {
        // No code under the lock leaves the state half-changed, even if it panics.
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Both directions: a STOP for one comes among the frames of the other.
struct Core {
    stream: yamux::Stream,
    link: Arc<Link>,
    /// Wakes both halves.
    waker: Waker,
    /// Frames that yamux has not taken yet: one DATA frame and a few short ones at the most.
    out: BytesMut,
    send: SendState,
    reader: FrameReader,
    /// Payload that was received and not read yet.
    inbox: VecDeque<Bytes>,
    inbox_len: usize,
    /// How the receiving direction ended, once it has. A STOP for the other may still follow.
    end: Option<Result<(), HalfError>>,
    /// This side reads no more.
    stopped: Option<ResetCode>,
    /// Nothing more comes from yamux.
    exhausted: bool,
    /// How many halves are gone.
    dropped: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SendState {
    Open,
    Finished,
    Reset(ResetCode),
    Stopped(ResetCode),
}

impl Core {
    /// Hands pending frames to yamux, until it takes no more.
    fn poll_drain(&mut self) -> Poll<Result<(), HalfError>> {
        let waker = self.waker.clone();
        let cx = &mut Context::from_waker(&waker);
        while !self.out.is_empty() {
            let taken = match Pin::new(&mut self.stream).poll_write(cx, &self.out) {
                Poll::Ready(Ok(taken)) => taken,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(self.write_error(error))),
                Poll::Pending => match self.link.ended() {
                    Some(error) => return Poll::Ready(Err(HalfError::Transport(error))),
                    None => return Poll::Pending,
                },
            };
            self.out.advance(taken);
        }
        Poll::Ready(Ok(()))
    }

    /// As [`poll_drain`](Self::poll_drain), for a writer: waiting ends with a STOP, too.
    fn poll_room(&mut self) -> Poll<Result<(), HalfError>> {
        let drained = self.poll_drain();
        if drained.is_pending() {
            self.look_for_stop();
        }
        match self.send {
            SendState::Stopped(code) => Poll::Ready(Err(HalfError::Stopped(code))),
            _ => drained,
        }
    }

    /// Reads received frames, within bounds: the stream may have no other reader.
    fn look_for_stop(&mut self) {
        while !self.exhausted && self.inbox_len < READ_AHEAD {
            if self.poll_receive().is_pending() {
                return;
            }
        }
    }

    /// Takes one more frame, or the end.
    fn poll_receive(&mut self) -> Poll<()> {
        let frame = loop {
            match self.reader.next().and_then(decode) {
                Ok(Some(frame)) => break Ok(frame),
                Err(error) => break Err(HalfError::Malformed(error)),
                Ok(None) => {}
            }
            match ready!(self.poll_packet()) {
                Ok(packet) => self.reader.push(packet.as_ref()),
                Err(error) => break Err(error),
            }
        };
        match frame {
            Ok(frame) => self.handle(frame),
            Err(HalfError::Malformed(error)) => self.malformed(error),
            Err(error) => self.exhaust(error),
        }
        Poll::Ready(())
    }

    fn poll_packet(&mut self) -> Poll<Result<yamux::Packet, HalfError>> {
        let waker = self.waker.clone();
        let cx = &mut Context::from_waker(&waker);
        let packet = Pin::new(&mut self.stream).poll_next(cx);
        match (packet, self.link.ended()) {
            (Poll::Ready(Some(Ok(packet))), _) => Poll::Ready(Ok(packet)),
            (_, Some(error)) => Poll::Ready(Err(HalfError::Transport(error))),
            (Poll::Pending, None) => Poll::Pending,
            (Poll::Ready(Some(Err(error))), None) => {
                Poll::Ready(Err(HalfError::Transport(TransportError::lost(error))))
            }
            // yamux ends a reset stream like a finished one: without a FIN it was reset.
            (Poll::Ready(None), None) => Poll::Ready(Err(HalfError::Reset(ResetCode::Cancelled))),
        }
    }

    fn handle(&mut self, frame: Frame) {
        match (frame, &self.end) {
            (Frame::Stop(code), _) => {
                if self.send == SendState::Open {
                    self.send = SendState::Stopped(code);
                }
                self.waker.wake_by_ref();
            }
            (frame, Some(_)) => self.malformed(DecodeError::UnexpectedFrame(frame.kind())),
            (Frame::Data(_), None) if self.stopped.is_some() => {}
            (Frame::Data(bytes), None) => {
                self.inbox_len += bytes.len();
                self.inbox.push_back(bytes);
            }
            (Frame::Fin, None) => self.end = Some(Ok(())),
            (Frame::Reset(code), None) => self.end = Some(Err(HalfError::Reset(code))),
        }
    }

    fn malformed(&mut self, error: DecodeError) {
        self.exhaust(HalfError::Malformed(error));
        wire::put_stop(&mut self.out, ResetCode::Internal);
        let _ = self.poll_drain();
    }

    /// Nothing more comes; where the direction had not ended before, that is an error.
    fn exhaust(&mut self, error: HalfError) {
        self.exhausted = true;
        self.end.get_or_insert(Err(error));
        self.waker.wake_by_ref();
    }

    /// Payload from the inbox. An empty DATA frame is nothing, and no end.
    fn take(&mut self, max: usize) -> Option<Bytes> {
        loop {
            let front = self.inbox.front_mut()?;
            let bytes = front.split_to(front.len().min(max));
            if front.is_empty() {
                self.inbox.pop_front();
            }
            self.inbox_len -= bytes.len();
            if !bytes.is_empty() {
                return Some(bytes);
            }
        }
    }

    /// yamux fails a write where the peer dropped the stream, and where the connection is gone.
    fn write_error(&mut self, error: io::Error) -> HalfError {
        self.look_for_stop();
        match (self.send, self.link.ended()) {
            (SendState::Stopped(code), _) => HalfError::Stopped(code),
            (_, Some(error)) => HalfError::Transport(error),
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

fn decode(raw: Option<underpass_proto::frame::RawFrame>) -> Result<Option<Frame>, DecodeError> {
    raw.map(Frame::decode).transpose()
}

impl Drop for Core {
    fn drop(&mut self) {
        self.link.deregister(self.stream.id().val().into());
    }
}

/// One half is gone. A task sends the frames that the second leaves unsent, its RESET or STOP at the
/// end: yamux would drop them, and the peer see an end without a code.
fn let_go(shared: &Arc<Shared>) {
    let mut core = shared.lock();
    core.dropped += 1;
    let unsent = core.dropped == 2 && !core.out.is_empty();
    if !unsent || core.link.ended().is_some() {
        return;
    }
    let Ok(runtime) = tokio::runtime::Handle::try_current() else {
        return;
    };
    drop(core);
    let shared = Arc::clone(shared);
    runtime.spawn(async move {
        let sent = poll_fn(|cx| {
            shared.wakers.wait_to_write(cx);
            shared.lock().poll_drain()
        });
        // A peer that reads nothing gets yamux's reset, without a code.
        let _ = tokio::time::timeout(limits::LINGER_TIME, sent).await;
    });
}

struct YamuxSend(Arc<Shared>);

impl SendStream for YamuxSend {
    fn poll_write(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<Result<usize, HalfError>> {
        self.0.wakers.wait_to_write(cx);
        let mut core = self.0.lock();
        core.look_for_stop();
        core.writable()?;
        ready!(core.poll_room())?;
        let chunk = data.get(..wire::DATA_MAX).unwrap_or(data);
        wire::put_data(&mut core.out, chunk);
        // Bytes that yamux does not take now go with the next write or flush.
        match core.poll_room() {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            _ => Poll::Ready(Ok(chunk.len())),
        }
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
        self.0.wakers.wait_to_write(cx);
        let mut core = self.0.lock();
        // Once yamux has taken a frame, its driver sends it.
        core.poll_room()
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), HalfError>> {
        {
            let mut core = self.0.lock();
            match core.send {
                SendState::Open => {
                    wire::put_fin(&mut core.out);
                    core.send = SendState::Finished;
                }
                // A peer that stopped reading does not mind that nothing more comes.
                SendState::Stopped(_) => return Poll::Ready(Ok(())),
                SendState::Finished => {}
                SendState::Reset(code) => return Poll::Ready(Err(HalfError::Reset(code))),
            }
        }
        match ready!(self.poll_flush(cx)) {
            Err(HalfError::Stopped(_)) => Poll::Ready(Ok(())),
            flushed => Poll::Ready(flushed),
        }
    }

    fn reset(&mut self, code: ResetCode) {
        let mut core = self.0.lock();
        if core.send == SendState::Open {
            core.send = SendState::Reset(code);
            wire::put_reset(&mut core.out, code);
            // Where yamux has no room now, the reading half sends it, or the half dropped last.
            let _ = core.poll_drain();
        }
    }
}

impl Drop for YamuxSend {
    fn drop(&mut self) {
        self.reset(ResetCode::Cancelled);
        let_go(&self.0);
    }
}

struct YamuxRecv(Arc<Shared>);

impl RecvStream for YamuxRecv {
    fn poll_read_bytes(
        &mut self,
        cx: &mut Context<'_>,
        max: usize,
    ) -> Poll<Result<Option<Bytes>, HalfError>> {
        self.0.wakers.wait_to_read(cx);
        let mut core = self.0.lock();
        // A STOP or RESET that found no room is sent as soon as there is some.
        let _ = core.poll_drain();
        loop {
            if let Some(code) = core.stopped {
                return Poll::Ready(Err(HalfError::Reset(code)));
            }
            if let Some(bytes) = core.take(max) {
                return Poll::Ready(Ok(Some(bytes)));
            }
            if let Some(end) = &core.end {
                return Poll::Ready(end.clone().map(|()| None));
            }
            ready!(core.poll_receive());
        }
    }

    fn stop(&mut self, code: ResetCode) {
        let mut core = self.0.lock();
        core.inbox.clear();
        core.inbox_len = 0;
        if core.stopped.replace(code).is_some() || core.end.is_some() {
            return;
        }
        wire::put_stop(&mut core.out, code);
        // Where yamux has no room now, the writing half sends it, or the half dropped last.
        let _ = core.poll_drain();
    }
}

impl Drop for YamuxRecv {
    fn drop(&mut self) {
        self.stop(ResetCode::Cancelled);
        let_go(&self.0);
    }
}
