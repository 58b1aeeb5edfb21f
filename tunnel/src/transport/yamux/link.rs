//! Shared by all streams of one connection: its end, and the wakers to call then.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::task::{Context, Wake, Waker};

use futures_util::task::AtomicWaker;

use crate::transport::TransportError;

/// The wakers of one stream, one at most for each half.
///
/// yamux keeps one waker per event and forgets the one before. Both halves act on both events (a
/// writer looks for a STOP among readable frames, a reader sends frames that found no room), so that
/// either would steal the other's. yamux is therefore always given this one, which wakes both.
#[derive(Debug, Default)]
pub(super) struct Wakers {
    reader: AtomicWaker,
    writer: AtomicWaker,
}

impl Wakers {
    pub(super) fn wait_to_read(&self, cx: &Context<'_>) {
        self.reader.register(cx.waker());
    }

    pub(super) fn wait_to_write(&self, cx: &Context<'_>) {
        self.writer.register(cx.waker());
    }

    pub(super) fn waker(self: &Arc<Self>) -> Waker {
        Waker::from(Arc::clone(self))
    }

    pub(super) fn wake_both(&self) {
        self.reader.wake();
        self.writer.wake();
    }
}

impl Wake for Wakers {
    fn wake(self: Arc<Self>) {
        self.wake_both();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.wake_both();
    }
}

/// The connection, as its streams see it.
///
/// yamux neither wakes nor ends the streams of a connection that this side closes.
#[derive(Debug, Default)]
pub(super) struct Link {
    ended: OnceLock<TransportError>,
    streams: Mutex<HashMap<u64, Weak<Wakers>>>,
}

impl Link {
    /// Makes sure that the stream hears of the connection's end. `id` is unique in it.
    pub(super) fn register(&self, id: u64, wakers: &Arc<Wakers>) {
        self.streams().insert(id, Arc::downgrade(wakers));
    }

    pub(super) fn deregister(&self, id: u64) {
        self.streams().remove(&id);
    }

    /// The connection has ended: the first reason stays.
    pub(super) fn end(&self, error: TransportError) {
        let _ = self.ended.set(error);
        let streams: Vec<_> = self.streams().values().filter_map(Weak::upgrade).collect();
        for wakers in streams {
            wakers.wake_both();
        }
    }

    pub(super) fn ended(&self) -> Option<TransportError> {
        self.ended.get().cloned()
    }

    fn streams(&self) -> MutexGuard<'_, HashMap<u64, Weak<Wakers>>> {
        // Nothing under the lock leaves the map half-changed.
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
