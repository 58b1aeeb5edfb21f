//! Whether the peer is still there, and how far away (PROTOCOL.md, "Keepalive").

use std::time::{Duration, Instant};

use super::limits;
use super::stream_id::Role;

/// Keepalive of one session: decides when a PING is due and when the peer counts as lost.
///
/// The connector sends a PING after each `interval` of silence, rarer where the link is [`Need::Spared`].
/// The acceptor waits half as long again, so that in the ordinary case only one side of each session does any work.
#[derive(Debug)]
pub struct Keepalive {
    role: Role,
    interval: Duration,
    answer_time: Duration,
    heard: Instant,
    ping: Option<Outstanding>,
    sent: u64,
    round_trip: Option<Duration>,
}

#[derive(Debug)]
struct Outstanding {
    opaque: [u8; 8],
    sent: Instant,
}

/// How much it matters that a link's path is alive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// The peer has something to acknowledge on it: silence is likely to be a path that has died.
    Owed,
    /// The session has no other way to the peer.
    Only,
    /// Another link answers as well. Whichever dies, the session goes on by the other one, so that both are asked less.
    Spared,
}

/// The action after a passed deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// Send a PING with these bytes.
    Ping([u8; 8]),
    /// The peer did not answer: it counts as lost.
    Lost,
}

impl Keepalive {
    /// Starts at `now`, having just heard from the peer.
    pub fn new(role: Role, interval: Duration, answer_time: Duration, now: Instant) -> Self {
        Self {
            role,
            interval,
            answer_time,
            heard: now,
            ping: None,
            sent: 0,
            round_trip: None,
        }
    }

    /// The peer sent something.
    pub fn heard(&mut self, now: Instant) {
        self.heard = self.heard.max(now);
    }

    /// The peer answered a PING. Gives the time that it took. An answer to a question that was not asked changes nothing.
    pub fn pong(&mut self, opaque: [u8; 8], now: Instant) -> Option<Duration> {
        let ping = self.ping.take_if(|ping| ping.opaque == opaque)?;
        Some(now.saturating_duration_since(ping.sent))
    }

    /// A time that an answer took, as the next ones may.
    pub fn measured(&mut self, round_trip: Duration) {
        self.round_trip = Some(round_trip);
    }

    /// A PING at once, unless one is under way already.
    pub fn probe(&mut self, now: Instant) -> Option<[u8; 8]> {
        if self.ping.is_some() {
            return None;
        }
        let opaque = self.sent.to_be_bytes();
        self.sent = self.sent.wrapping_add(1);
        self.ping = Some(Outstanding { opaque, sent: now });
        Some(opaque)
    }

    /// The silence after which this side asks.
    fn patience(&self, need: Need) -> Duration {
        let interval = match need {
            Need::Owed | Need::Only => self.interval,
            Need::Spared => (limits::KEEPALIVE_SPARED * self.interval)
                .min(limits::KEEPALIVE_MAX)
                .max(self.interval),
        };
        let patience = match self.role {
            Role::Connector => interval,
            Role::Acceptor => interval + interval / 2,
        };
        match need {
            Need::Owed => patience.min(limits::KEEPALIVE_OWING),
            Need::Only | Need::Spared => patience,
        }
    }

    /// When to call [`handle_timeout`](Self::handle_timeout) next.
    pub fn poll_timeout(&self, need: Need) -> Instant {
        match &self.ping {
            Some(ping) => self.heard.max(ping.sent) + self.answer_time,
            None => self.heard + self.patience(need),
        }
    }

    /// The action due at `now`, if any.
    pub fn handle_timeout(&mut self, need: Need, now: Instant) -> Option<Due> {
        if now < self.poll_timeout(need) {
            return None;
        }
        if self.ping.is_some() {
            return Some(Due::Lost);
        }
        self.probe(now).map(Due::Ping)
    }

    /// PINGs sent so far.
    pub fn asked(&self) -> u64 {
        self.sent
    }

    /// The last measured round trip, or `None` before the first.
    pub fn round_trip(&self) -> Option<Duration> {
        self.round_trip
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(10);
    const ANSWER: Duration = Duration::from_secs(4);

    fn start(role: Role) -> (Keepalive, Instant) {
        let now = Instant::now();
        (Keepalive::new(role, INTERVAL, ANSWER, now), now)
    }

    #[test]
    fn silence_asks_and_more_silence_loses() {
        let (mut keepalive, start) = start(Role::Connector);
        assert_eq!(
            keepalive.handle_timeout(Need::Only, start + INTERVAL / 2),
            None
        );
        let asked = keepalive.poll_timeout(Need::Only);
        assert_eq!(asked, start + INTERVAL);
        assert!(matches!(
            keepalive.handle_timeout(Need::Only, asked),
            Some(Due::Ping(_))
        ));
        assert_eq!(
            keepalive.handle_timeout(Need::Only, asked),
            None,
            "one question at a time"
        );
        assert_eq!(
            keepalive.handle_timeout(Need::Only, asked + ANSWER),
            Some(Due::Lost)
        );
    }

    #[test]
    fn an_answer_measures_the_round_trip() {
        let (mut keepalive, start) = start(Role::Connector);
        let opaque = keepalive.probe(start).unwrap();
        let now = start + Duration::from_millis(30);
        keepalive.heard(now);
        assert_eq!(keepalive.round_trip(), None);
        let took = keepalive.pong(opaque, now);
        assert_eq!(took, Some(Duration::from_millis(30)));
        assert_eq!(keepalive.poll_timeout(Need::Only), now + INTERVAL);
    }

    #[test]
    fn an_answer_that_nobody_asked_for_changes_nothing() {
        let (mut keepalive, start) = start(Role::Connector);
        assert_eq!(keepalive.pong([1; 8], start), None);
        keepalive.probe(start).unwrap();
        assert_eq!(keepalive.pong([0xff; 8], start), None);
        assert_eq!(
            keepalive.handle_timeout(Need::Only, start + ANSWER),
            Some(Due::Lost)
        );
    }

    #[test]
    fn a_peer_that_sends_other_things_meanwhile_is_not_lost() {
        let (mut keepalive, start) = start(Role::Connector);
        keepalive.probe(start).unwrap();
        keepalive.heard(start + ANSWER / 2);
        assert_eq!(keepalive.handle_timeout(Need::Only, start + ANSWER), None);
    }

    #[test]
    fn the_acceptor_lets_the_connector_ask_first() {
        let (connector, now) = start(Role::Connector);
        let acceptor = Keepalive::new(Role::Acceptor, INTERVAL, ANSWER, now);
        assert!(acceptor.poll_timeout(Need::Only) > connector.poll_timeout(Need::Only));
    }

    #[test]
    fn a_link_beside_another_is_asked_rarely() {
        let asked = |role, interval: u64, need| {
            let now = Instant::now();
            let keepalive = Keepalive::new(role, Duration::from_secs(interval), ANSWER, now);
            (keepalive.poll_timeout(need) - now).as_secs()
        };
        assert_eq!(asked(Role::Connector, 10, Need::Spared), 20);
        assert_eq!(asked(Role::Acceptor, 10, Need::Spared), 30);
        assert_eq!(asked(Role::Connector, 2, Need::Spared), 4);
        // No more rarely than what is on the way remembers a connection.
        assert_eq!(asked(Role::Connector, 15, Need::Spared), 20);
        assert_eq!(asked(Role::Connector, 20, Need::Spared), 20);
    }

    #[test]
    fn a_peer_that_owes_an_acknowledgement_is_asked_sooner() {
        let (mut keepalive, start) = start(Role::Connector);
        let asked = keepalive.poll_timeout(Need::Owed);
        assert_eq!(asked, start + limits::KEEPALIVE_OWING);
        assert!(matches!(
            keepalive.handle_timeout(Need::Owed, asked),
            Some(Due::Ping(_))
        ));
        let lost = keepalive.poll_timeout(Need::Owed);
        assert_eq!(lost, asked + ANSWER);
        assert_eq!(keepalive.handle_timeout(Need::Only, lost), Some(Due::Lost));
    }
}
