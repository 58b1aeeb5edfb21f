//! Resets of streams over HTTP/2 that hyper looks at no more.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio_util::sync::CancellationToken;

/// The streams of a connection whose resets are waited for, by number. Clones are of one connection.
#[derive(Clone, Debug, Default)]
pub(crate) struct Resets(Arc<Mutex<HashMap<u32, CancellationToken>>>);

impl Resets {
    /// The client has reset this stream.
    pub(crate) fn came(&self, stream: u32) {
        if let Some(reset) = self.lock().remove(&stream) {
            reset.cancel();
        }
    }

    /// The reset of this stream, if it has not come yet.
    pub(super) fn of(&self, stream: u32) -> Reset {
        let token = CancellationToken::new();
        self.lock().insert(stream, token.clone());
        Reset {
            resets: self.clone(),
            stream,
            token,
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u32, CancellationToken>> {
        // Nothing under the lock leaves it half-changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A stream's reset.
#[derive(Debug)]
pub(super) struct Reset {
    resets: Resets,
    stream: u32,
    token: CancellationToken,
}

impl Reset {
    /// Waits until it comes.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub(super) async fn came(&self) {
        self.token.cancelled().await;
    }
}

impl Drop for Reset {
    fn drop(&mut self) {
        self.resets.lock().remove(&self.stream);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn a_reset_is_its_streams_alone_and_leaves_nothing() {
        let resets = Resets::default();
        let [first, second] = [1, 3].map(|stream| resets.of(stream));
        resets.came(1);
        resets.came(5);
        assert!(first.came().now_or_never().is_some());
        assert!(second.came().now_or_never().is_none());
        drop((first, second));
        assert!(resets.lock().is_empty());
    }
}
