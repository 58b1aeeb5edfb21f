//! Where events go.

use std::{sync::Arc, time::Duration};

use super::{Call, Event, Level, Outlet, Policy, Stage};

/// How long a call waits for room in an outlet that blocks. Longer, and clients give up by themselves without
/// a reason.
const PATIENCE: Duration = Duration::from_secs(10);

/// An outlet has no room, and calls are not to happen unwritten.
#[derive(Debug, thiserror::Error)]
#[error("the audit log takes no more events")]
pub struct Stuck;

/// The audit log of a front. Clones are the same one; the default one writes nothing.
#[derive(Clone, Debug, Default)]
pub struct Trail(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    policy: Policy,
    outlets: Vec<Outlet>,
}

impl Trail {
    /// What `policy` says goes to each of `outlets`. Without any, nothing is written.
    pub fn new(policy: Policy, outlets: Vec<Outlet>) -> Self {
        Self(Arc::new(Inner { policy, outlets }))
    }

    /// Waits until a call may begin: until each outlet that blocks has room.
    pub(crate) async fn ready(&self) -> Result<(), Stuck> {
        for outlet in &self.0.outlets {
            tokio::time::timeout(PATIENCE, outlet.ready())
                .await
                .map_err(|_| Stuck)?;
        }
        Ok(())
    }

    /// Writes what `event` makes of the level that the policy gives the call.
    pub(crate) fn write<'a>(
        &self,
        stage: Stage,
        call: Call<'_>,
        event: impl FnOnce(Level) -> Event<'a>,
    ) {
        if self.0.outlets.is_empty() {
            return;
        }
        let level = self.0.policy.level(stage, call);
        if level == Level::None {
            return;
        }
        let json = event(level).to_json();
        for outlet in &self.0.outlets {
            outlet.put(json.clone());
        }
    }

    /// Waits until all events are written, for `time` at the most; says how many were not.
    ///
    /// # Cancel safety
    /// The events are written all the same.
    pub async fn flush(&self, time: Duration) -> usize {
        let all = async {
            for outlet in &self.0.outlets {
                outlet.flushed().await;
            }
        };
        if tokio::time::timeout(time, all).await.is_ok() {
            return 0;
        }
        for outlet in self.0.outlets.iter().filter(|outlet| outlet.waiting() > 0) {
            tracing::warn!(
                sink = outlet.name(),
                events = outlet.waiting(),
                "audit events are lost"
            );
        }
        self.0.outlets.iter().map(Outlet::waiting).sum()
    }
}
