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
///
/// Where nothing waits, and the session is lively, it is `Lively` and not `Idle`, and asks as well, but rarely.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Probe {
    /// Nothing waits for the peer.
    #[default]
    Idle,
    /// Nothing waits. The peer may have something to say, and be the only one that knows.
    Lively { since: Instant },
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
    silence: Option<Silence>,
    /// How often it answered soon after it counted as silent: its path, or one of the ends, is slower than it was
    /// taken for.
    false_alarms: u32,
}

/// A link does not answer.
#[derive(Debug, Clone, Copy)]
struct Silence {
    since: Instant,
    /// This side has asked and got no answer. Else the peer has left the link, for reasons of its own.
    found_here: bool,
    /// The peer has asked there since: its packets may have opened a path that had forgotten both.
    peer_asked: bool,
}

impl PathHealth {
    /// Of a link that joins at `now`, beside one of the same session, whose patience it inherits.
    pub(super) fn new(now: Instant, beside: Option<&Self>) -> Self {
        Self {
            answered: now,
            silence: None,
            false_alarms: beside.map_or(0, |beside| beside.false_alarms),
        }
    }

    pub(super) fn is_silent(&self) -> bool {
        self.silence.is_some()
    }

    fn silent_since(&self) -> Option<Instant> {
        self.silence.map(|silence| silence.since)
    }

    /// A PING was not answered. Gives whether that is news.
    fn falls_silent(&mut self, now: Instant) -> bool {
        self.is_left(now, true)
    }

    /// The peer has left the link. It may have had no answer there.
    pub(super) fn is_left_by_the_peer(&mut self, now: Instant) {
        self.is_left(now, false);
    }

    fn is_left(&mut self, since: Instant, found_here: bool) -> bool {
        let news = self.silence.is_none();
        self.silence.get_or_insert(Silence {
            since,
            found_here,
            peer_asked: false,
        });
        news
    }

    /// The peer asks whether this side is there.
    pub(super) fn is_asked(&mut self) {
        if let Some(silence) = &mut self.silence {
            silence.peer_asked = true;
        }
    }

    /// How long an answer may take on a path of that round trip.
    fn patience(&self, round_trip: Duration) -> Duration {
        (limits::PROBE_ANSWER + 3 * round_trip) * (1 << self.false_alarms)
    }

    /// A PING was answered after that time, on a path whose shortest round trip is the other.
    pub(super) fn answers_a_ping(&mut self, after: Duration, shortest: Duration) {
        if after < limits::PROBE_ANSWER / 2 + shortest {
            self.false_alarms = self.false_alarms.saturating_sub(1);
        }
    }

    /// The peer answered. Gives whether it had counted as silent.
    fn answers(&mut self, at: Instant, round_trip: Duration) -> bool {
        self.answered = self.answered.max(at);
        // A driver says what the transport heard last, which may be old.
        let Some(silence) = self.silence.take_if(|silence| at >= silence.since) else {
            return false;
        };
        let late = at.saturating_duration_since(silence.since);
        let is_slow = silence.found_here && !silence.peer_asked;
        if is_slow && late < self.patience(round_trip) {
            self.false_alarms = (self.false_alarms + 1).min(limits::PROBE_FALSE_ALARMS);
        }
        true
    }
}

impl Session {
    /// A caller wants to know soon when the peer is away, until as many calls of [`leave_be`](Self::leave_be): the peer is asked at the
    /// pace of a lively session, though nothing waits for it.
    pub fn attend(&mut self) {
        self.attentive = self.attentive.saturating_add(1);
        if self.probe == Probe::Idle {
            self.await_answer();
        }
    }

    /// A caller of [`attend`](Self::attend) wants to know no more.
    pub fn leave_be(&mut self) {
        self.attentive = self.attentive.saturating_sub(1);
    }

    /// Something waits for the peer's answer from now on.
    pub(super) fn await_answer(&mut self) {
        let watched = match self.probe {
            Probe::Due | Probe::Asked { .. } => true,
            Probe::Watching { answered, .. } => answered == 0,
            Probe::Idle | Probe::Lively { .. } => false,
        };
        if !watched && self.primary.is_some() {
            self.probe = Probe::Due;
            self.changed = true;
        }
    }

    /// Begins the watch that is due, and ends one that nothing needs any more, so that the next thing that waits begins
    /// another, which wakes the link's driver.
    pub(super) fn update_watch(&mut self, now: Instant) {
        match self.probe {
            Probe::Due => {
                self.probe = Probe::Watching {
                    since: now,
                    answered: 0,
                };
            }
            Probe::Watching { since, .. } | Probe::Lively { since } if !self.awaits_answer() => {
                self.probe = match self.is_lively(now) {
                    true => Probe::Lively { since },
                    false => Probe::Idle,
                };
            }
            _ => {}
        }
    }

    /// There is a reason to doubt that the peer has this session: asks it on the primary link, at the scale of the path.
    pub fn doubt(&mut self, now: Instant) {
        if !matches!(self.probe, Probe::Asked { .. }) {
            self.ask_primary(now);
            self.changed = true;
        }
    }

    /// Asks on the primary link, which has just become that.
    pub(super) fn ask_primary(&mut self, now: Instant) {
        if let Some(primary) = self.primary {
            self.probe = Probe::Asked {
                at: now,
                answered: 0,
            };
            self.ask(primary, now);
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
                self.probe = Probe::Watching {
                    since: at,
                    answered: answered.saturating_add(1),
                };
                self.changed = true;
            }
        } else if was_silent && self.primary.is_some_and(|primary| self.is_silent(primary)) {
            self.use_standby(at);
        } else if self
            .returning
            .is_some_and(|(to, asked)| to == id && at >= asked)
        {
            self.prefer(id, at);
        }
        self.links_changed |= was_silent;
    }

    /// A PING on that link was answered after that time.
    pub(super) fn answered_a_ping(&mut self, id: LinkId, after: Duration) {
        if let Some(link) = self.links.get_mut(&id) {
            let shortest = link.round_trip.unwrap_or_default();
            link.health.answers_a_ping(after, shortest);
        }
    }

    /// Whether the peer has something to answer.
    fn awaits_answer(&self) -> bool {
        self.streams.unacked() > 0 || self.streams.unacked_ends() > 0 || self.outbox.len() > 0
    }

    /// Whether this side asks often all the same. A caller may want to know. And the acceptor may have something to say and no way to
    /// tell, where its links have died together: only the connector can dial others.
    fn is_lively(&self, now: Instant) -> bool {
        let recent = |at: Instant| now.saturating_duration_since(at) < limits::LIVELY_TIME;
        let may_be_called = self.role == Role::Connector
            && (self.streams.classes().interactive > 0 || self.opened.is_some_and(recent));
        self.attentive > 0 || may_be_called
    }

    /// The time after which the peer is asked.
    fn ask_after(&self, link: LinkId, answered: u32) -> Duration {
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
            Probe::Lively { since } => Some(since.max(link.health.answered) + limits::LIVELY_ASK),
            Probe::Watching { since, answered } => {
                Some(since.max(link.health.answered) + self.ask_after(id, answered))
            }
            Probe::Asked { at, .. } => Some(at + link.health.patience(self.round_trip_of(id))),
        }
    }

    pub(super) fn on_probe(&mut self, now: Instant) {
        let Some(id) = self.primary else { return };
        self.update_watch(now);
        let due = match self.probe_at() {
            Some(due) if due <= now => due,
            _ => return,
        };
        match self.probe {
            Probe::Idle | Probe::Due => {}
            Probe::Lively { .. } => {
                self.probe = Probe::Asked {
                    at: now,
                    answered: 0,
                };
                self.ask(id, now);
            }
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
        self.silent_since(link).is_some()
    }

    pub(super) fn silent_since(&self, link: LinkId) -> Option<Instant> {
        self.links.get(&link)?.health.silent_since()
    }
}
