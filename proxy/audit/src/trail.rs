//! Where events go.

use std::{net::IpAddr, sync::Arc, time::Duration};

use super::{Call, Event, Level, Outlet, Policy, Sink, Stage, User, strangers::Strangers};
use underpass_core::{
    limits,
    rate::{Rate, RateLimiter},
};

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

#[derive(Debug)]
struct Inner {
    policy: Policy,
    outlets: Vec<Outlet>,
    strangers: Strangers,
    /// Refused calls of known users, by name.
    refused: RateLimiter<String>,
}

impl Default for Inner {
    fn default() -> Self {
        Self {
            policy: Policy::default(),
            outlets: Vec::new(),
            strangers: Strangers::default(),
            refused: RateLimiter::new(Rate {
                burst: limits::REFUSED_EVENTS,
                every: limits::REFUSED_EVENT_EVERY,
                sources: limits::REFUSED_USERS,
            }),
        }
    }
}

/// Whose event it is, and whether anything came of the call.
#[derive(Clone, Copy, Debug)]
pub enum Kind<'a> {
    /// Of a caller without an identity, at this address: never in the main log.
    Stranger(IpAddr),
    /// Of a known user who was refused: nothing happened.
    Refused(&'a User),
    /// Of a call that did begin.
    Done,
}

/// An event may be told: in the log, and as an event.
#[derive(Clone, Copy, Debug)]
pub struct Told {
    stranger: bool,
    may_drop: bool,
    /// Events of the same source that were not told before this one.
    suppressed: u64,
}

impl Told {
    /// How much of a text from the caller is kept.
    pub fn text_chars(self) -> usize {
        if self.stranger {
            limits::STRANGER_TEXT_CHARS
        } else {
            limits::AUDIT_TEXT_CHARS
        }
    }

    /// Events of the same source that were not told before this one.
    pub fn suppressed(self) -> u64 {
        self.suppressed
    }
}

impl Trail {
    /// What `policy` says goes to each of `outlets`. Without any, nothing is written.
    pub fn new(policy: Policy, outlets: Vec<Outlet>) -> Self {
        Self(Arc::new(Inner {
            policy,
            outlets,
            ..Inner::default()
        }))
    }

    /// The same with a sink of its own for events of callers without an identity, and of logins. Each network has a
    /// share of it; what exceeds it, or the queue, is dropped and counted. Without it they are not written at all.
    #[must_use]
    pub fn strangers(self, name: &'static str, sink: Box<dyn Sink>) -> Self {
        let inner = Arc::try_unwrap(self.0).unwrap_or_else(|shared| Inner {
            policy: shared.policy.clone(),
            outlets: shared.outlets.clone(),
            ..Inner::default()
        });
        let outlet = Outlet::start(name, sink, Strangers::config());
        Self(Arc::new(Inner {
            strangers: Strangers::to(outlet),
            ..inner
        }))
    }

    /// Whether an event may be told: whoever did nothing but be refused has a share (security rule 23).
    pub fn tell(&self, kind: Kind<'_>) -> Option<Told> {
        let (stranger, may_drop, suppressed) = match kind {
            Kind::Stranger(client) => (true, true, self.0.strangers.admit(client)),
            Kind::Refused(user) => (false, true, self.admit_refused(user)),
            Kind::Done => (false, false, Some(0)),
        };
        Some(Told {
            stranger,
            may_drop,
            suppressed: suppressed?,
        })
    }

    fn admit_refused(&self, user: &User) -> Option<u64> {
        let admitted = self.0.refused.take(user.name().to_owned());
        if admitted.is_none() {
            metrics::counter!("underpass_audit_suppressed_total", "of" => "refused").increment(1);
        }
        admitted
    }

    /// Waits until a call may begin: until each outlet that blocks has room.
    pub async fn ready(&self) -> Result<(), Stuck> {
        for outlet in &self.0.outlets {
            tokio::time::timeout(PATIENCE, outlet.ready())
                .await
                .map_err(|_| Stuck)?;
        }
        Ok(())
    }

    /// Writes what `event` makes of the level that the policy gives the call.
    pub fn write<'a>(
        &self,
        told: Told,
        stage: Stage,
        call: Call<'_>,
        event: impl FnOnce(Level) -> Event<'a>,
    ) {
        let outlets = if told.stranger {
            self.0.strangers.outlet.as_slice()
        } else {
            &self.0.outlets
        };
        if outlets.is_empty() {
            return;
        }
        let level = self.0.policy.level(stage, call);
        if level == Level::None {
            return;
        }
        let mut event = event(level);
        if told.suppressed > 0 {
            let key = "underpass.dev/suppressed";
            event.annotations.insert(key, told.suppressed.to_string());
        }
        let json = event.to_json();
        for outlet in outlets {
            outlet.put(json.clone(), told.may_drop);
        }
    }

    /// Waits until all events are written, for `time` at the most; says how many were not.
    ///
    /// # Cancel safety
    /// The events are written all the same.
    pub async fn flush(&self, time: Duration) -> usize {
        let all = async {
            for outlet in self.every_outlet() {
                outlet.flushed().await;
            }
        };
        if tokio::time::timeout(time, all).await.is_ok() {
            return 0;
        }
        for outlet in self.every_outlet().filter(|outlet| outlet.waiting() > 0) {
            tracing::warn!(
                sink = outlet.name(),
                events = outlet.waiting(),
                "audit events are lost"
            );
        }
        self.every_outlet().map(Outlet::waiting).sum()
    }

    fn every_outlet(&self) -> impl Iterator<Item = &Outlet> {
        self.0.outlets.iter().chain(&self.0.strangers.outlet)
    }
}
