//! How clients end their half of a CONNECT's stream over HTTP/2, by its frames: hyper looks at no reset once its own half has ended, and
//! tells of an end where there was none.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio_util::sync::CancellationToken;
use underpass_core::limits;

/// The streams of a connection that are followed, by number. Clones are of one connection.
#[derive(Clone, Debug, Default)]
pub struct ClientEnds(Arc<Mutex<Streams>>);

#[derive(Debug, Default)]
struct Streams {
    all: HashMap<u32, Arc<Stream>>,
    /// Of those, the ones of which nothing has asked yet, the oldest first; and some that are gone.
    unasked: VecDeque<u32>,
}

/// The state of a stream.
#[derive(Debug, Default)]
struct Stream {
    reset: CancellationToken,
    /// The end of the client's half.
    ended: AtomicBool,
    /// From its head on.
    is_whole: bool,
}

impl ClientEnds {
    /// The head of this stream has come.
    pub fn begins(&self, stream: u32) {
        let mut streams = self.lock();
        if streams.unasked.len() >= limits::FOLLOWED_CONNECTS
            && let Some(oldest) = streams.unasked.pop_front()
        {
            // A holder of its end keeps its state.
            streams.all.remove(&oldest);
        }
        let state = Stream {
            is_whole: true,
            ..Stream::default()
        };
        streams.unasked.push_back(stream);
        streams.all.insert(stream, Arc::new(state));
    }

    /// The client has reset this stream.
    pub fn reset_came(&self, stream: u32) {
        if let Some(state) = self.lock().all.remove(&stream) {
            state.reset.cancel();
        }
    }

    /// The last frame of the client's half of this stream has come, whole.
    pub fn end_came(&self, stream: u32) {
        if let Some(state) = self.lock().all.get(&stream) {
            state.ended.store(true, Ordering::Release);
        }
    }

    /// The end of this stream, if it was not reset yet.
    pub fn of(&self, stream: u32) -> ClientEnd {
        let mut streams = self.lock();
        streams.unasked.retain(|unasked| *unasked != stream);
        let state = streams.all.entry(stream).or_default();
        ClientEnd {
            all: self.clone(),
            stream,
            state: Arc::clone(state),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Streams> {
        // Nothing under the lock leaves it half-changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The client's end of a stream.
#[derive(Debug)]
pub struct ClientEnd {
    all: ClientEnds,
    stream: u32,
    state: Arc<Stream>,
}

impl ClientEnd {
    /// Waits until the client resets the stream.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub async fn reset(&self) {
        self.state.reset.cancelled().await;
    }

    /// Whether it is known that the client's half has not ended.
    pub fn is_open(&self) -> bool {
        self.state.is_whole && !self.state.ended.load(Ordering::Acquire)
    }
}

impl Drop for ClientEnd {
    fn drop(&mut self) {
        self.all.lock().all.remove(&self.stream);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn a_reset_is_its_streams_alone_and_leaves_nothing() {
        let ends = ClientEnds::default();
        let [first, second] = [1, 3].map(|stream| ends.of(stream));
        ends.reset_came(1);
        ends.reset_came(5);
        assert!(first.reset().now_or_never().is_some());
        assert!(second.reset().now_or_never().is_none());
        drop((first, second));
        assert!(ends.lock().all.is_empty());
    }

    #[test]
    fn a_stream_is_open_until_its_end_has_come() {
        let ends = ClientEnds::default();
        // The second one's end comes before anything asks.
        ends.begins(1);
        ends.begins(3);
        ends.end_came(3);
        let [first, second] = [1, 3].map(|stream| ends.of(stream));
        assert!(first.is_open() && !second.is_open());
        ends.end_came(1);
        assert!(!first.is_open());
        // Of one whose head was not read nothing is known.
        assert!(!ends.of(5).is_open());
        drop((first, second));
        let streams = ends.lock();
        assert!(streams.all.is_empty() && streams.unasked.is_empty());
    }

    #[test]
    fn rule_23_streams_of_which_nothing_asks_are_few() {
        let ends = ClientEnds::default();
        ends.begins(1);
        let asked = ends.of(1);
        for stream in 1..10_000 {
            ends.begins(2 * stream + 1);
        }
        assert_eq!(ends.lock().all.len(), limits::FOLLOWED_CONNECTS + 1);
        assert!(asked.is_open());
        ends.end_came(1);
        assert!(!asked.is_open());
    }
}
