//! Connections that wait for the next question.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::oneshot,
    time::sleep,
};

use super::exchange::Exchange;
use underpass_core::limits;

/// Each has a task, which closes it when the directory closes it or sends something, and after [`limits::LDAP_IDLE_TIME`].
pub(super) struct Idle<S>(Mutex<Vec<Kept<S>>>);

/// Asks a connection's task for it.
type Kept<S> = oneshot::Sender<oneshot::Sender<Exchange<S>>>;

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> Idle<S> {
    pub(super) fn new() -> Self {
        Self(Mutex::default())
    }

    /// Takes a connection that has not ended as far as its task knows.
    ///
    /// # Cancel safety
    /// Dropping the future may end one connection.
    pub(super) async fn take(&self) -> Option<Exchange<S>> {
        loop {
            let kept = self.lock().pop()?;
            let (give, given) = oneshot::channel();
            if kept.send(give).is_ok()
                && let Ok(connection) = given.await
            {
                return Some(connection);
            }
        }
    }

    /// Keeps one whose last answer was read to its end. Closes it where [`limits::LDAP_IDLE`] are here.
    pub(super) fn keep(&self, connection: Exchange<S>) {
        let mut all = self.lock();
        all.retain(|kept| !kept.is_closed());
        if all.len() < limits::LDAP_IDLE {
            let (kept, taken) = oneshot::channel();
            all.push(kept);
            tokio::spawn(wait(connection, taken));
        }
    }

    /// Closes all.
    pub(super) fn clear(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Kept<S>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn wait<S: AsyncRead + AsyncWrite + Unpin>(
    mut connection: Exchange<S>,
    taken: oneshot::Receiver<oneshot::Sender<Exchange<S>>>,
) {
    tokio::select! {
        // First: a connection that has just ended must not be taken.
        biased;
        why = connection.idle() => {
            tracing::debug!(error = %why, "an idle connection to the directory has ended");
        }
        taken = taken => {
            // Otherwise all of them are being closed.
            if let Ok(give) = taken {
                let _ = give.send(connection);
            }
        }
        () = sleep(limits::LDAP_IDLE_TIME) => {}
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
        time::Instant,
    };

    use super::*;

    fn pair() -> (Exchange<DuplexStream>, DuplexStream) {
        let (near, far) = duplex(64);
        (Exchange::new(near), far)
    }

    async fn is_closed(far: &mut DuplexStream) -> bool {
        far.read(&mut [0]).await.unwrap() == 0
    }

    #[tokio::test(start_paused = true)]
    async fn rule_23_an_idle_connection_ends_when_its_time_is_over() {
        let idle = Idle::new();
        let (connection, mut far) = pair();
        let begin = Instant::now();
        idle.keep(connection);
        assert!(is_closed(&mut far).await);
        assert_eq!(begin.elapsed().as_secs(), limits::LDAP_IDLE_TIME.as_secs());
        assert!(idle.take().await.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn rule_23_an_idle_connection_ends_with_its_first_byte() {
        let idle = Idle::new();
        let (connection, mut far) = pair();
        idle.keep(connection);
        far.write_all(&[0x30]).await.unwrap();
        // Before its task has noticed.
        assert!(idle.take().await.is_none());
        assert!(is_closed(&mut far).await);
    }

    #[tokio::test(start_paused = true)]
    async fn rule_23_so_many_idle_connections_are_kept() {
        let idle = Idle::new();
        let mut others: Vec<_> = (0..=limits::LDAP_IDLE)
            .map(|_| {
                let (connection, far) = pair();
                idle.keep(connection);
                far
            })
            .collect();
        assert!(is_closed(&mut others[limits::LDAP_IDLE]).await);
        // One that is taken makes room, and so does one that ends.
        drop(idle.take().await.unwrap());
        drop(others.remove(0));
        tokio::task::yield_now().await;
        let (connection, _far) = pair();
        idle.keep(connection);
        assert_eq!(idle.lock().len(), limits::LDAP_IDLE - 1);
        idle.clear();
        assert!(is_closed(&mut others[0]).await);
        assert!(idle.take().await.is_none());
    }
}
