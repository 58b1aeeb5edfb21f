//! The times at which a session is to be called.

use std::time::Instant;

use super::{LinkId, Session};

/// A part of a session. Each has a driver, which watches the timers of the part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The session, with and without transports.
    Session,
    /// One of its links.
    Link(LinkId),
}

/// The reason for a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Timer {
    /// Delayed acknowledgements are due, and bytes that wait for more. The primary link's driver watches it.
    Acknowledge,
    /// Delayed lasting frames are due. The primary link's driver watches it.
    Flush,
    /// A link's PING is due, or the answer to it. The link's driver watches it.
    Keepalive(LinkId),
    /// The peer has been silent, or has not answered, for long enough. The primary link's driver watches it.
    Probe,
    /// No transport came in the resume window. The session's driver watches it.
    Resume,
}

/// The timers that are set. [`Timer::Keepalive`] is not among them: its time follows from the last packet on
/// the link.
#[derive(Debug, Default)]
pub(super) struct Timers {
    pub(super) acknowledge: Option<Instant>,
    pub(super) flush: Option<Instant>,
    pub(super) resume: Option<Instant>,
}

impl Session {
    /// When to call [`handle_timeout`](Self::handle_timeout) for a part; `None` while it waits for
    /// nothing.
    pub fn next_timeout(&mut self, part: Part, now: Instant) -> Option<Instant> {
        self.update_watch(now);
        let timers = self.timers_of(part).into_iter().flatten();
        timers.filter_map(|timer| self.time_of(timer)).min()
    }

    /// Handles the timers of a part that are due at `now`.
    pub fn handle_timeout(&mut self, part: Part, now: Instant) {
        for timer in self.timers_of(part).into_iter().flatten() {
            // One of them may stop the next.
            if self.time_of(timer).is_some_and(|at| now >= at) {
                self.handle_timer(timer, now);
            }
        }
    }

    /// The timers of a part, in the order in which they are handled.
    fn timers_of(&self, part: Part) -> [Option<Timer>; 4] {
        match part {
            _ if self.is_closed() => [None; 4],
            Part::Session => [Some(Timer::Resume), None, None, None],
            Part::Link(link) if self.is_over(link) => [None; 4],
            Part::Link(link) => {
                let primary = self.primary == Some(link);
                [
                    primary.then_some(Timer::Acknowledge),
                    primary.then_some(Timer::Flush),
                    primary.then_some(Timer::Probe),
                    Some(Timer::Keepalive(link)),
                ]
            }
        }
    }

    fn time_of(&self, timer: Timer) -> Option<Instant> {
        match timer {
            Timer::Acknowledge => self.timers.acknowledge,
            Timer::Flush => self.timers.flush,
            Timer::Keepalive(link) => self.keepalive_at(link),
            Timer::Probe => self.probe_at(),
            Timer::Resume => self.timers.resume,
        }
    }

    fn handle_timer(&mut self, timer: Timer, now: Instant) {
        match timer {
            Timer::Acknowledge => self.on_acknowledge(),
            Timer::Flush => self.flush_delayed(),
            Timer::Keepalive(link) => self.on_keepalive(link, now),
            Timer::Probe => self.on_probe(now),
            Timer::Resume => self.on_resume_window(),
        }
    }
}
