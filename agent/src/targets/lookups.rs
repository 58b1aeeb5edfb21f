//! Lookups that block a thread: names, and links of paths.

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use futures_util::future::BoxFuture;
use tokio::sync::Semaphore;
use underpass_dial::Resolve;

use crate::limits;

/// Bounds the threads that they block: by [`limits::LOOKUPS`], and those of one user by [`limits::LOOKUPS_OF_USER`].
#[derive(Clone, Debug)]
pub(super) struct Lookups {
    all: Arc<Semaphore>,
    /// Of users with lookups under way, or about to be.
    users: Arc<Mutex<HashMap<Box<str>, Weak<Semaphore>>>>,
}

/// The lookups of one user.
#[derive(Clone, Debug)]
pub(super) struct UserLookups {
    all: Arc<Semaphore>,
    own: Arc<Semaphore>,
}

impl Default for Lookups {
    fn default() -> Self {
        Self {
            all: Arc::new(Semaphore::new(limits::LOOKUPS)),
            users: Arc::default(),
        }
    }
}

impl Lookups {
    /// Those of this user, who waits for the user's own lookups that hang, and for nobody else's.
    pub(super) fn of(&self, user: &str) -> UserLookups {
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        let known = users.get(user).and_then(Weak::upgrade);
        let own = known.unwrap_or_else(|| {
            users.retain(|_, own| own.strong_count() > 0);
            let own = Arc::new(Semaphore::new(limits::LOOKUPS_OF_USER));
            users.insert(user.into(), Arc::downgrade(&own));
            own
        });
        let all = Arc::clone(&self.all);
        UserLookups { all, own }
    }
}

impl UserLookups {
    /// Runs `lookup` on a thread of its own. The lookup keeps its places until it has ended, whether its caller waits or not.
    ///
    /// # Cancel safety
    /// The future may be dropped: the lookup goes on, and its result is lost.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        lookup: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        // The user's own first: a caller that waits for it keeps no place of all.
        let own = Arc::clone(&self.own).acquire_owned().await;
        let all = Arc::clone(&self.all).acquire_owned().await;
        let places = (
            own.map_err(io::Error::other)?,
            all.map_err(io::Error::other)?,
        );
        let blocking = tokio::task::spawn_blocking(move || {
            let found = lookup();
            drop(places);
            found
        });
        blocking.await.map_err(io::Error::other)?
    }
}

/// The system's resolver. Names are absolute: with the search domains of a pod, `db.example.org` could be a pod of the service
/// `example` in a namespace `org`, which is not the one that the policy names.
impl Resolve for UserLookups {
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

    /// Begins lookups that hang until the sender is dropped.
    macro_rules! hang {
        ($lookups:expr, $count:expr) => {{
            let (release, held) = mpsc::channel::<()>();
            let held = Arc::new(Mutex::new(held));
            for _ in 0..$count {
                let held = Arc::clone(&held);
                let hanging = $lookups.run(move || {
                    let held = held.lock().map_err(|_| io::Error::other("poisoned"))?;
                    held.recv().map_err(io::Error::other)
                });
                // Its caller waits no longer once it has begun.
                let mut hanging = std::pin::pin!(hanging);
                assert!(futures_util::poll!(&mut hanging).is_pending());
            }
            release
        }};
    }

    #[tokio::test]
    async fn rule_19_lookups_that_hang_block_a_bounded_number_of_threads() {
        let lookups = Lookups::default();
        let users = limits::LOOKUPS / limits::LOOKUPS_OF_USER;
        let mut held = Vec::new();
        for user in 0..users {
            let user = lookups.of(&user.to_string());
            held.push(hang!(user, limits::LOOKUPS_OF_USER));
            // tokio has a task pause after so many permits, though there are more.
            tokio::task::yield_now().await;
        }
        assert_eq!(lookups.all.available_permits(), 0);
        let newcomer = lookups.of("newcomer");
        let mut next = std::pin::pin!(newcomer.run(|| Ok(7)));
        assert!(futures_util::poll!(&mut next).is_pending());
        drop(held);
        assert_eq!(next.await.unwrap(), 7);
    }

    #[tokio::test]
    async fn rule_19_one_users_lookups_that_hang_hold_up_nobody_elses() {
        let lookups = Lookups::default();
        let mallory = lookups.of("mallory");
        let held = hang!(mallory, limits::LOOKUPS_OF_USER);
        // However the same user asks again.
        drop(mallory);
        let again = lookups.of("mallory");
        let mut waiting = std::pin::pin!(again.run(|| Ok(1)));
        assert!(futures_util::poll!(&mut waiting).is_pending());
        assert_eq!(lookups.of("alice").run(|| Ok(2)).await.unwrap(), 2);
        drop(held);
        assert_eq!(waiting.await.unwrap(), 1);
        // Users without lookups are forgotten.
        lookups.of("bob");
        lookups.of("carol");
        assert!(lookups.users.lock().unwrap().len() <= 3);
    }
}
