//! Whether the path of the primary link still answers, asked at the scale of the path (PROTOCOL.md, "Silent
//! paths"). Keepalive is for paths on which nothing waits; it takes seconds.

use std::time::{Duration, Instant};

use super::{LinkId, Session};
use crate::frame::{Control, Ping};
use crate::limits;
use crate::stream_id::Role;

/// The watch over the primary link.
///
/// ```text
///           something waits            the peer has been silent for long enough
///   Idle ------------------> Watching ------------------------------------------> Asked
///    ^                        |   ^                                                | |
///    `---- nothing waits -----'   `------------- an answer ------------------------' |
///                                                                                    |
///                                  the link is silent <------- no answer in time ----'
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Probe {
    /// Nothing waits for the peer.
    #[default]
    Idle,
    /// Something waits; the next look at the clock begins the watch.
    Due,
    /// Something waits, and no answer has come since then.
    Watching {
        since: Instant,
        /// PINGs that were answered in this watch, though the bytes that wait were not: their reader reads no more.
        answered: u32,
    },
    /// A PING was sent then.
    Asked { at: Instant, answered: u32 },
}

/// The answers that came over one link.
#[derive(Debug)]
pub(super) struct PathHealth {
    /// When the peer last answered.
    answered: Instant,
    /// Since when it has not answered, though it was asked.
    silent: Option<Instant>,
    /// How often it answered soon after it counted as silent: its path, or one of the ends, is slower than it was
    /// taken for.
    false_alarms: u32,
}

impl PathHealth {
    /// Of a link that joins at `now`, beside one of the same session, whose patience it inherits.
    pub(super) fn new(now: Instant, beside: Option<&Self>) -> Self {
        Self {
            answered: now,
            silent: None,
            false_alarms: beside.map_or(0, |beside| beside.false_alarms),
        }
    }

    pub(super) fn is_silent(&self) -> bool {
        self.silent.is_some()
    }

    /// Gives whether that is news.
    pub(super) fn falls_silent(&mut self, now: Instant) -> bool {
        let news = self.silent.is_none();
        self.silent.get_or_insert(now);
        news
    }

    /// How long an answer may take on a path of that round trip.
    fn patience(&self, round_trip: Duration) -> Duration {
        (limits::PROBE_ANSWER + 3 * round_trip) * (1 << self.false_alarms)
    }

    /// A PING was answered after that time.
    fn answers_a_ping(&mut self, after: Duration, round_trip: Duration) {
        if after < limits::PROBE_ANSWER / 2 + round_trip {
            self.false_alarms = self.false_alarms.saturating_sub(1);
        }
    }

    /// The peer answered. Gives whether it had counted as silent.
    fn answers(&mut self, at: Instant, round_trip: Duration) -> bool {
        self.answered = self.answered.max(at);
        // A driver says what the transport heard last, which may be old.
        let Some(since) = self.silent.take_if(|since| at >= *since) else {
            return false;
        };
        let late = at.saturating_duration_since(since);
        if late < self.patience(round_trip) {
            self.false_alarms = (self.false_alarms + 1).min(limits::PROBE_FALSE_ALARMS);
        }
        true
    }
}

impl Session {
    /// Something waits for the peer's answer from now on.
    pub(super) fn await_answer(&mut self) {
        let watched = match self.probe {
            Probe::Due | Probe::Asked { .. } => true,
            Probe::Watching { answered, .. } => answered == 0,
            Probe::Idle => false,
        };
        if !watched && self.primary.is_some() {
            self.probe = Probe::Due;
            self.changed = true;
        }
    }

    /// Begins the watch that is due.
    pub(super) fn begin_watch(&mut self, now: Instant) {
        if self.probe == Probe::Due {
            self.probe = Probe::Watching {
                since: now,
                answered: 0,
            };
        }
    }

    /// The peer answered something over the link at `at`: its path carries both ways.
    pub(super) fn path_answers(&mut self, id: LinkId, at: Instant) {
        let round_trip = self.round_trip_of(id);
        let Some(link) = self.links.get_mut(&id) else {
            return;
        };
        let was_silent = link.health.answers(at, round_trip);
        if self.primary == Some(id) {
            if let Probe::Asked {
                at: asked,
                answered,
            } = self.probe
                && at >= asked
            {
                link.health.answers_a_ping(at - asked, round_trip);
                self.probe = Probe::Watching {
                    since: at,
                    answered: answered.saturating_add(1),
                };
                self.changed = true;
            }
        } else if was_silent && self.primary.is_some_and(|primary| self.is_silent(primary)) {
            self.use_standby(at);
        }
        self.links_changed |= was_silent;
    }

    /// Whether the peer has something to answer.
    fn awaits_answer(&self) -> bool {
        self.streams.unacked() > 0 || self.streams.unacked_ends() > 0 || self.outbox.len() > 0
    }

    /// Whether the connector, which has no other link, asks often all the same: the acceptor may have something to
    /// say, and no way to tell.
    fn is_lively(&self, now: Instant) -> bool {
        let recent = |at: Instant| now.saturating_duration_since(at) < limits::LIVELY_TIME;
        self.role == Role::Connector
            && self.answering_standby().is_none()
            && (self.streams.classes().interactive > 0 || self.opened.is_some_and(recent))
    }

    /// The time after which the peer is asked.
    fn ask_after(&self, link: LinkId, answered: u32) -> Duration {
        if !self.awaits_answer() {
            return limits::LIVELY_ASK;
        }
        let soon = limits::PROBE_DELAY + 2 * self.round_trip_of(link);
        soon.saturating_mul(1 << answered.min(16))
            .min(self.keepalive)
    }

    /// When the watch is to be looked at.
    pub(super) fn probe_at(&self) -> Option<Instant> {
        let id = self.primary?;
        let link = self.links.get(&id)?;
        match self.probe {
            Probe::Idle | Probe::Due => None,
            Probe::Watching { since, answered } => {
                Some(since.max(link.health.answered) + self.ask_after(id, answered))
            }
            Probe::Asked { at, .. } => Some(at + link.health.patience(self.round_trip_of(id))),
        }
    }

    pub(super) fn on_probe(&mut self, now: Instant) {
        let Some(id) = self.primary else { return };
        if !self.awaits_answer() && !self.is_lively(now) {
            self.probe = Probe::Idle;
            return;
        }
        let due = self.probe_at().unwrap_or(now);
        match self.probe {
            Probe::Idle | Probe::Due => {}
            // It is this side that was away: the answer may wait to be read.
            Probe::Asked { answered, .. }
                if now.saturating_duration_since(due) > limits::PROBE_LATE =>
            {
                self.probe = Probe::Asked { at: now, answered };
            }
            Probe::Watching { answered, .. } => {
                self.probe = Probe::Asked { at: now, answered };
                self.ask(id, now);
            }
            Probe::Asked { answered, .. } => {
                self.probe = Probe::Watching {
                    since: now,
                    // One that stays silent is asked no faster than its keepalive asks.
                    answered: answered.saturating_add(1),
                };
                self.falls_silent(id, now);
            }
        }
    }

    /// Sends a PING, unless one is under way.
    pub(super) fn ask(&mut self, id: LinkId, now: Instant) {
        if let Some(link) = self.links.get_mut(&id)
            && let Some(opaque) = link.keepalive.probe(now)
        {
            link.queue(&Control::Ping(Ping(opaque)));
            self.changed = true;
        }
    }

    /// The link's peer has not answered in time: the standby takes over, if there is one.
    fn falls_silent(&mut self, id: LinkId, now: Instant) {
        if let Some(link) = self.links.get_mut(&id) {
            self.links_changed |= link.health.falls_silent(now);
        }
        self.use_standby(now);
    }

    /// Whether the link's peer does not answer.
    pub fn is_silent(&self, link: LinkId) -> bool {
        let link = self.links.get(&link);
        link.is_some_and(|link| link.health.is_silent())
    }
}
