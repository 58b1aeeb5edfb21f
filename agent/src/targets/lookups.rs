//! Lookups that block a thread: names, and links of paths.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;

use futures_util::future::BoxFuture;
use tokio::sync::Semaphore;
use underpass_dial::Resolve;

use crate::limits;

/// Bounds the threads that they block, by [`limits::LOOKUPS`].
#[derive(Clone, Debug)]
pub(super) struct Lookups(Arc<Semaphore>);

impl Default for Lookups {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(limits::LOOKUPS)))
    }
}

impl Lookups {
    /// Runs `lookup` on a thread of its own. The lookup keeps its place until it has ended, whether its caller waits or not.
    ///
    /// # Cancel safety
    /// The future may be dropped: the lookup goes on, and its result is lost.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        lookup: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let place = Arc::clone(&self.0).acquire_owned().await;
        let place = place.map_err(io::Error::other)?;
        let blocking = tokio::task::spawn_blocking(move || {
            let found = lookup();
            drop(place);
            found
        });
        blocking.await.map_err(io::Error::other)?
    }
}

/// The system's resolver. Names are absolute: with the search domains of a pod, `db.example.org` could be a pod of the service
/// `example` in a namespace `org`, which is not the one that the policy names.
impl Resolve for Lookups {
    fn resolve<'a>(
        &'a self,
        host: &'a str,
        port: u16,
    ) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>> {
        let absolute = format!("{}.", host.trim_end_matches('.'));
        Box::pin(self.run(move || Ok((absolute, port).to_socket_addrs()?.collect())))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn rule_19_lookups_that_hang_block_a_bounded_number_of_threads() {
        let lookups = Lookups::default();
        let (release, held) = mpsc::channel::<()>();
        let held = Arc::new(std::sync::Mutex::new(held));
        for _ in 0..limits::LOOKUPS {
            let held = Arc::clone(&held);
            let hanging = lookups.run(move || {
                let held = held.lock().map_err(|_| io::Error::other("poisoned"))?;
                held.recv().map_err(io::Error::other)
            });
            // Its caller waits no longer once it has begun.
            let mut hanging = std::pin::pin!(hanging);
            assert!(futures_util::poll!(&mut hanging).is_pending());
        }
        assert_eq!(lookups.0.available_permits(), 0);
        let mut next = std::pin::pin!(lookups.run(|| Ok(7)));
        assert!(futures_util::poll!(&mut next).is_pending());
        drop(release);
        assert_eq!(next.await.unwrap(), 7);
    }
}
