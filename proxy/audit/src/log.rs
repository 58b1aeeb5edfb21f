//! Where events go.

use std::{
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    task::Poll,
    time::Duration,
};

use arc_swap::ArcSwap;
use tokio::time::Instant;

use super::{
    Backend, Call, Event, Level, Policy, Sink, Stage, shares::Shares, strangers::Strangers,
};
use underpass_core::limits;

/// How long a call waits for room in a backend that blocks. Longer, and clients give up by themselves without
/// a reason.
const PATIENCE: Duration = Duration::from_secs(10);

/// How often the program's log says that calls are refused: each of them would fill a disk that is full already.
const SAME_NEWS: Duration = Duration::from_secs(10);

/// A backend has no room, and calls are not to happen unwritten.
#[derive(Debug, thiserror::Error)]
#[error("the audit log takes no more events")]
pub struct Stuck;

/// The audit log of a front. Clones are the same one; the default one writes nothing.
#[derive(Clone, Debug, Default)]
pub struct AuditLog(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    policy: ArcSwap<Policy>,
    backends: Vec<Backend>,
    strangers: Strangers,
    /// Refused calls of known users.
    refused: Shares,
    /// Answers of the server's own API that change nothing.
    read: Shares,
    /// When the program's log last said that calls are refused.
    stuck_said: Mutex<Option<Instant>>,
}

impl Default for Inner {
    fn default() -> Self {
        Self {
            policy: ArcSwap::default(),
            backends: Vec::new(),
            strangers: Strangers::default(),
            refused: Shares::new("refused"),
            read: Shares::new("reads"),
            stuck_said: Mutex::default(),
        }
    }
}

/// The caller of an event, and the call's effect.
#[derive(Clone, Copy, Debug)]
pub enum EventKind<'a> {
    /// Of a caller without an identity, at this address: never in the main log.
    Stranger(IpAddr),
    /// Of a known user who was refused, or who went away before anything happened.
    Refused {
        /// The user.
        name: &'a str,
        /// The authority that vouches for the name ([`underpass_core::Authority`]), and not the credential's: a token of a
        /// login is the directory's, and its user may be a provider's.
        authority: &'a str,
    },
    /// Of a known user who read something of this server's own.
    Read {
        /// The user.
        name: &'a str,
        /// The authority that vouches for the name ([`underpass_core::Authority`]), and not the credential's: a token of a
        /// login is the directory's, and its user may be a provider's.
        authority: &'a str,
    },
    /// Of a call that did begin: it has waited for room ([`AuditLog::ready`]).
    Done,
}

/// An event may be told: in the log, and as an event.
#[derive(Clone, Copy, Debug)]
pub struct Told {
    stranger: bool,
    may_drop: bool,
    /// Nothing happened: the event has few facts of its users.
    brief: bool,
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

    /// The same of a name.
    pub fn name_chars(self) -> usize {
        self.text_chars().min(limits::AUDIT_NAME_BYTES)
    }

    /// How many bytes of JSON the groups and the extra of a user may take together.
    pub(super) fn user_bytes(self) -> usize {
        match self {
            Self { stranger: true, .. } => limits::STRANGER_TEXT_CHARS,
            Self { brief: true, .. } => limits::AUDIT_REFUSED_USER_BYTES,
            _ => limits::AUDIT_USER_BYTES,
        }
    }

    /// The most bytes that such an event has.
    pub fn event_bytes(self) -> usize {
        match self {
            Self { stranger: true, .. } => limits::STRANGER_EVENT_BYTES,
            Self { brief: true, .. } => limits::AUDIT_REFUSED_EVENT_BYTES,
            _ => limits::AUDIT_EVENT_BYTES,
        }
    }

    /// Events of the same source that were not told before this one.
    pub fn suppressed(self) -> u64 {
        self.suppressed
    }
}

impl AuditLog {
    /// Writes the events that `policy` selects to each of `backends`. Without any, nothing is written.
    pub fn new(policy: Policy, backends: Vec<Backend>) -> Self {
        Self(Arc::new(Inner {
            policy: ArcSwap::from_pointee(policy),
            backends,
            ..Inner::default()
        }))
    }

    /// Selects events by another policy from now on.
    pub fn select(&self, policy: Policy) {
        self.0.policy.store(Arc::new(policy));
    }

    /// The same with a sink of its own for events of callers without an identity, and of logins. Each network has a share of
    /// it; events beyond the share, or the queue, are dropped and counted. Without it they are not written at all.
    #[must_use]
    pub fn strangers(self, name: &'static str, sink: Box<dyn Sink>) -> Self {
        let inner = Arc::try_unwrap(self.0).unwrap_or_else(|shared| Inner {
            policy: ArcSwap::new(shared.policy.load_full()),
            backends: shared.backends.clone(),
            ..Inner::default()
        });
        let backend = Backend::start(name, sink, Strangers::config());
        Self(Arc::new(Inner {
            strangers: Strangers::to(backend),
            ..inner
        }))
    }

    /// Whether an event may be told: all kinds but [`EventKind::Done`] have shares (security rule 23).
    pub fn tell(&self, kind: EventKind<'_>) -> Option<Told> {
        let done = Told {
            stranger: false,
            may_drop: false,
            brief: false,
            suppressed: 0,
        };
        Some(match kind {
            EventKind::Stranger(client) => Told {
                stranger: true,
                may_drop: true,
                suppressed: self.0.strangers.admit(client)?,
                ..done
            },
            EventKind::Refused { name, authority } => Told {
                may_drop: true,
                brief: true,
                suppressed: self.0.refused.admit(name, authority)?,
                ..done
            },
            // It has waited for room, like a change.
            EventKind::Read { name, authority } => Told {
                brief: true,
                suppressed: self.0.read.admit(name, authority)?,
                ..done
            },
            EventKind::Done => done,
        })
    }

    /// Waits until a call may begin: until each backend that blocks has room.
    ///
    /// # Errors
    /// A backend had none for some seconds. The program's log says so now and then, and not for each call.
    pub async fn ready(&self) -> Result<(), Stuck> {
        for backend in &self.0.backends {
            let room = tokio::time::timeout(PATIENCE, backend.ready()).await;
            room.map_err(|_| self.stuck(backend))?;
        }
        Ok(())
    }

    /// The same for a call that may be a revocation: it has room of its own, so that a right can be revoked while other calls
    /// have filled the queue. Its event waits there like others.
    ///
    /// # Errors
    /// As [`AuditLog::ready`].
    pub async fn ready_to_revoke(&self) -> Result<(), Stuck> {
        for backend in &self.0.backends {
            let room = tokio::time::timeout(PATIENCE, backend.ready_to_revoke()).await;
            room.map_err(|_| self.stuck(backend))?;
        }
        Ok(())
    }

    fn stuck(&self, backend: &Backend) -> Stuck {
        let mut said = self
            .0
            .stuck_said
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if said.is_none_or(|said| said.elapsed() >= SAME_NEWS) {
            *said = Some(Instant::now());
            tracing::error!(
                sink = backend.name(),
                waiting = backend.waiting(),
                "{Stuck}: calls are refused"
            );
        }
        Stuck
    }

    /// Whether a new call would find room for its event: no backend that blocks fails or hangs.
    pub fn is_writable(&self) -> bool {
        let mut backends = self.0.backends.iter();
        backends.all(|backend| !backend.blocks() || backend.is_writable())
    }

    /// Sets the gauges of its backends.
    pub fn record(&self) {
        for backend in self.every_outlet() {
            let writable = if backend.is_writable() { 1.0 } else { 0.0 };
            metrics::gauge!("underpass_audit_writable", "sink" => backend.name()).set(writable);
        }
    }

    /// Writes the event that `event` makes for the policy's level of the call.
    pub fn write<'a>(
        &self,
        told: Told,
        stage: Stage,
        call: Call<'_>,
        event: impl FnOnce(Level) -> Event<'a>,
    ) {
        let backends = if told.stranger {
            self.0.strangers.backend.as_slice()
        } else {
            &self.0.backends
        };
        if backends.is_empty() {
            return;
        }
        let level = self.0.policy.load().level(stage, call);
        if level == Level::None {
            return;
        }
        let mut event = event(level);
        if told.suppressed > 0 {
            let key = "underpass.dev/suppressed";
            event.annotations.insert(key, told.suppressed.to_string());
        }
        event.shorten(told);
        let json = event.to_json();
        for backend in backends {
            backend.put(json.clone(), told.may_drop);
        }
    }

    /// Waits until all events are written, for `time` at the most; says how many were not.
    ///
    /// # Cancel safety
    /// The events are written all the same.
    pub async fn flush(&self, time: Duration) -> usize {
        let all = async {
            for backend in self.every_outlet() {
                backend.flushed().await;
            }
        };
        if tokio::time::timeout(time, all).await.is_ok() {
            return 0;
        }
        for backend in self.every_outlet().filter(|backend| backend.waiting() > 0) {
            tracing::warn!(
                sink = backend.name(),
                events = backend.waiting(),
                "audit events are lost"
            );
        }
        self.every_outlet().map(Backend::waiting).sum()
    }

    /// Waits until one of the tasks that write has ended: from then on events are lost. Pending where there is none.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub async fn ended(&self) {
        let mut backends: Vec<_> = self.every_outlet().map(|o| Box::pin(o.ended())).collect();
        std::future::poll_fn(|cx| {
            let mut backends = backends.iter_mut();
            match backends.any(|backend| backend.as_mut().poll(cx).is_ready()) {
                true => Poll::Ready(()),
                false => Poll::Pending,
            }
        })
        .await;
    }

    fn every_outlet(&self) -> impl Iterator<Item = &Backend> {
        self.0.backends.iter().chain(&self.0.strangers.backend)
    }
}
