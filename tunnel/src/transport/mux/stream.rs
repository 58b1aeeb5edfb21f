//! A stream's halves.

use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use underpass_proto::code::ResetCode;
use underpass_proto::frame::Class;
use underpass_proto::mux::{Ended, Key};

use super::shared::{Shared, State};
use crate::limits;
use crate::transport::{BiStream, HalfError, RecvStream, SendStream};

/// The halves of `key`, which they release.
pub(super) fn bi_stream(shared: &Arc<Shared>, key: Key) -> BiStream {
    BiStream {
        send: Box::new(MuxSend {
            shared: Arc::clone(shared),
            key,
        }),
        recv: Box::new(MuxRecv {
            shared: Arc::clone(shared),
            key,
        }),
    }
}

impl From<Ended> for HalfError {
    fn from(ended: Ended) -> Self {
        match ended {
            Ended::Reset(code) => Self::Reset(code),
            Ended::Stopped(code) => Self::Stopped(code),
            Ended::Finished => Self::Finished,
        }
    }
}

struct MuxSend {
    shared: Arc<Shared>,
    key: Key,
}

impl MuxSend {
    /// Calls `write` with the room that there is: it tells how many bytes it handed over.
    fn poll_writable<T>(
        &self,
        cx: &Context<'_>,
        write: impl FnOnce(&mut State, usize) -> T,
    ) -> Poll<Result<T, HalfError>> {
        self.shared.with(|state| {
            // Under the lock, which the connection's end takes after it is set: no wakeup is
            // lost.
            if let Some(error) = self.shared.ended() {
                return Poll::Ready(Err(HalfError::Transport(error.clone())));
            }
            match state.mux.poll_writable(self.key)? {
                0 => {
                    state.wait_to_write(self.key, cx);
                    Poll::Pending
                }
                writable => Poll::Ready(Ok(write(state, writable))),
            }
        })
    }
}

impl SendStream for MuxSend {
    fn poll_write(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<Result<usize, HalfError>> {
        // This is the only writer: the room can only grow while the bytes are copied, which must
        // not hold up every other stream.
        let writable = std::task::ready!(self.poll_writable(cx, |_, writable| writable))?;
        let data = data.get(..writable).unwrap_or(data);
        let bytes = Bytes::copy_from_slice(data);
        self.shared.with(|state| state.mux.write(self.key, bytes));
        Poll::Ready(Ok(data.len()))
    }

    fn poll_write_bytes(
        &mut self,
        cx: &mut Context<'_>,
        data: &mut Bytes,
    ) -> Poll<Result<(), HalfError>> {
        self.poll_writable(cx, |state, writable| {
            let bytes = data.split_to(writable.min(data.len()));
            state.mux.write(self.key, bytes);
        })
    }

    fn poll_flush(&mut self, _: &mut Context<'_>) -> Poll<Result<(), HalfError>> {
        // The connection's driver sends taken bytes by itself.
        Poll::Ready(Ok(()))
    }

    fn poll_finish(&mut self, _: &mut Context<'_>) -> Poll<Result<(), HalfError>> {
        Poll::Ready(self.shared.with(|state| match self.shared.ended() {
            Some(error) if !state.mux.is_finished(self.key) => {
                Err(HalfError::Transport(error.clone()))
            }
            _ => state.mux.finish(self.key).map_err(HalfError::from),
        }))
    }

    fn reset(&mut self, code: ResetCode) {
        self.shared.with(|state| state.mux.reset(self.key, code));
    }

    fn prioritize(&mut self, class: Class) {
        self.shared
            .with(|state| state.mux.prioritize(self.key, class));
    }
}

impl Drop for MuxSend {
    fn drop(&mut self) {
        self.shared.with(|state| state.release_send(self.key));
    }
}

struct MuxRecv {
    shared: Arc<Shared>,
    key: Key,
}

impl MuxRecv {
    fn read(
        &self,
        state: &mut State,
        cx: &Context<'_>,
        max: usize,
    ) -> Poll<Result<Option<Bytes>, HalfError>> {
        match state.mux.poll_read(self.key, max) {
            Ok(Some(bytes)) => Poll::Ready(Ok(Some(bytes))),
            Err(Ok(())) => Poll::Ready(Ok(None)),
            Err(Err(ended)) => Poll::Ready(Err(ended.into())),
            // Bytes from before the connection's end are read first.
            Ok(None) => match self.shared.ended() {
                Some(error) => Poll::Ready(Err(HalfError::Transport(error.clone()))),
                None => {
                    state.wait_to_read(self.key, cx);
                    Poll::Pending
                }
            },
        }
    }
}

impl RecvStream for MuxRecv {
    fn poll_read_bytes(
        &mut self,
        cx: &mut Context<'_>,
        max: usize,
    ) -> Poll<Result<Option<Bytes>, HalfError>> {
        self.shared.with(|state| self.read(state, cx, max))
    }

    fn poll_read_chunks(
        &mut self,
        cx: &mut Context<'_>,
        chunks: &mut [Bytes],
    ) -> Poll<Result<Option<usize>, HalfError>> {
        self.shared.with(|state| {
            let mut filled = 0;
            for chunk in chunks {
                match self.read(state, cx, limits::READ_CHUNK) {
                    Poll::Ready(Ok(Some(bytes))) => *chunk = bytes,
                    // It is there the next time, too.
                    _ if filled > 0 => break,
                    Poll::Ready(end) => return Poll::Ready(end.map(|_| None)),
                    Poll::Pending => return Poll::Pending,
                }
                filled += 1;
            }
            Poll::Ready(Ok(Some(filled)))
        })
    }

    fn stop(&mut self, code: ResetCode) {
        self.shared.with(|state| state.mux.stop(self.key, code));
    }
}

impl Drop for MuxRecv {
    fn drop(&mut self) {
        self.shared.with(|state| state.release_recv(self.key));
    }
}
