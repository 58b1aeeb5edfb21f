//! How long a client's connection may be idle.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use http::Response;
use tokio::time::Instant;

use underpass_core::{
    Body, BoxError,
    body::{self, Guard, Guarded},
    limits,
};

/// How long a connection without any request in flight is kept, over HTTP/1.1 and HTTP/2.
///
/// It has to be longer than the time for which a load balancer in front keeps its connections: the one that ends a connection first
/// must be the one that sends requests on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdleTimeout(Duration);

/// A time that is too short or too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an idle timeout of {0:?} is not from 1s to 1h")]
pub struct IdleTimeoutError(Duration);

impl IdleTimeout {
    /// The time.
    pub fn get(self) -> Duration {
        self.0
    }
}

impl Default for IdleTimeout {
    fn default() -> Self {
        Self(limits::FRONT_IDLE_TIMEOUT)
    }
}

impl TryFrom<Duration> for IdleTimeout {
    type Error = IdleTimeoutError;

    fn try_from(time: Duration) -> Result<Self, IdleTimeoutError> {
        let range = Duration::from_secs(1)..=limits::FRONT_IDLE_TIMEOUT_MOST;
        match range.contains(&time) {
            true => Ok(Self(time)),
            false => Err(IdleTimeoutError(time)),
        }
    }
}

/// A connection's activity.
#[derive(Debug)]
pub struct Activity(Mutex<InFlight>);

#[derive(Debug)]
struct InFlight {
    requests: usize,
    /// How many there ever were.
    begun: u64,
    /// When there last was none.
    idle_since: Instant,
}

impl Default for Activity {
    fn default() -> Self {
        Self(Mutex::new(InFlight {
            requests: 0,
            begun: 0,
            idle_since: Instant::now(),
        }))
    }
}

impl Activity {
    fn lock(&self) -> MutexGuard<'_, InFlight> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many requests there were, where all of them have been answered.
    pub fn all_answered(&self) -> Option<u64> {
        let now = self.lock();
        (now.requests == 0).then_some(now.begun)
    }

    /// Waits until there was no request for this time. It looks again when that may be so: to be told of each request would be a turn for each.
    pub async fn idle_for(&self, time: IdleTimeout) {
        let mut left = time.0;
        while !left.is_zero() {
            tokio::time::sleep(left).await;
            let now = self.lock();
            left = match now.requests {
                0 => time.0.saturating_sub(now.idle_since.elapsed()),
                _ => time.0,
            };
        }
    }
}

/// A request in flight, until its response's body is gone, or the stream that it has opened.
#[derive(Debug)]
pub struct Active(Arc<Activity>);

impl Active {
    /// One more request of this connection.
    pub fn new(activity: &Arc<Activity>) -> Self {
        let mut now = activity.lock();
        now.requests = now.requests.saturating_add(1);
        now.begun = now.begun.saturating_add(1);
        drop(now);
        Self(Arc::clone(activity))
    }

    /// A response that is in flight until its body is gone.
    pub fn hold(self, response: Response<Body>) -> Response<Body> {
        response.map(|inner| body::boxed(Guarded::new(inner, self)))
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        let mut now = self.0.lock();
        now.requests = now.requests.saturating_sub(1);
        now.idle_since = Instant::now();
    }
}

impl Guard for Active {
    fn poll_abort(&mut self, _: &mut Context<'_>) -> Poll<BoxError> {
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_timeout_has_a_range() {
        let seconds = |seconds| IdleTimeout::try_from(Duration::from_secs(seconds));
        assert_eq!(seconds(620), Ok(IdleTimeout::default()));
        assert!(seconds(0).is_err());
        assert!(seconds(3600).is_ok());
        let error = seconds(3601).unwrap_err().to_string();
        assert_eq!(error, "an idle timeout of 3601s is not from 1s to 1h");
    }
}
