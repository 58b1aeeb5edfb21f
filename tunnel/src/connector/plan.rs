//! When a session is to leave a transport that works.

use std::time::{Duration, Instant};

use super::{ConnectorConfig, Transports};
use crate::transport::TransportKind;

/// The longest wait between two probes for QUIC: a path that has dropped UDP for an hour will hardly carry it
/// in the next minute.
const PROBE_MAX: Duration = Duration::from_secs(10 * 60);

/// The wait until a transport that is too old is to be replaced after that has failed.
const RENEW_AGAIN: Duration = Duration::from_secs(60);

/// How long sessions stay where they are.
#[derive(Debug)]
pub(super) struct Plan {
    probe: Option<Duration>,
    max_age: Option<Duration>,
}

/// The next attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Move {
    /// To QUIC, if that gets through.
    ToQuic,
    /// To a new connection of any kind.
    Renew,
}

/// When one transport is to be left.
#[derive(Debug)]
pub(super) struct Moves {
    /// When to probe, and the wait that led there.
    probe: Option<(Instant, Duration)>,
    renew: Option<Instant>,
}

impl Plan {
    pub(super) fn new(config: &ConnectorConfig) -> Self {
        let set = |time: Duration| (!time.is_zero()).then_some(time);
        Self {
            probe: set(config.quic_probe).filter(|_| config.transports == Transports::Auto),
            max_age: set(config.websocket_max_age),
        }
    }

    /// For a transport of `kind` that carries a session since `now`. `random` is drawn evenly from all its
    /// values.
    pub(super) fn begin(&self, kind: TransportKind, now: Instant, random: u32) -> Moves {
        if kind != TransportKind::WebSocket {
            return Moves {
                probe: None,
                renew: None,
            };
        }
        Moves {
            probe: self.probe.map(|wait| (now + spread(wait, random), wait)),
            renew: self.age(random).map(|age| now + age),
        }
    }

    /// When a session that came without QUIC looks for it, and how long that wait may become; `None`: never.
    pub(super) fn probe(&self, random: u32) -> (Option<Duration>, Duration) {
        let first = self.probe.map(|wait| spread(wait, random));
        (first, PROBE_MAX.max(self.probe.unwrap_or_default()))
    }

    /// How old a WebSocket becomes; `None`: any age.
    pub(super) fn age(&self, random: u32) -> Option<Duration> {
        self.max_age.map(|age| spread(age, random))
    }
}

impl Moves {
    /// The next thing to try, and when; `None` where the session may stay.
    pub(super) fn next(&self) -> Option<(Instant, Move)> {
        let probe = self.probe.map(|(at, _)| (at, Move::ToQuic));
        let renew = self.renew.map(|at| (at, Move::Renew));
        probe.into_iter().chain(renew).min_by_key(|(at, _)| *at)
    }

    /// It came to nothing.
    pub(super) fn failed(&mut self, which: Move, now: Instant, random: u32) {
        match which {
            Move::ToQuic => {
                if let Some((at, wait)) = &mut self.probe {
                    *wait = (*wait * 2).min(PROBE_MAX.max(*wait));
                    *at = now + spread(*wait, random);
                }
            }
            Move::Renew => self.renew = Some(now + spread(RENEW_AGAIN, random)),
        }
    }
}

/// Between half of `wait` and the whole: agents that came together do not go together.
fn spread(wait: Duration, random: u32) -> Duration {
    wait.mul_f64(0.5 + f64::from(random) / f64::from(u32::MAX) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROBE: Duration = Duration::from_secs(30);
    const AGE: Duration = Duration::from_secs(3000);

    fn plan() -> Plan {
        Plan {
            probe: Some(PROBE),
            max_age: Some(AGE),
        }
    }

    #[test]
    fn quic_is_where_to_stay() {
        let moves = plan().begin(TransportKind::Quic, Instant::now(), 0);
        assert_eq!(moves.next(), None);
    }

    #[test]
    fn probes_become_rare() {
        let mut now = Instant::now();
        let mut moves = plan().begin(TransportKind::WebSocket, now, u32::MAX);
        moves.renew = None;
        let mut waits = Vec::new();
        for _ in 0..7 {
            let (at, which) = moves.next().unwrap();
            assert_eq!(which, Move::ToQuic);
            waits.push((at - now).as_secs());
            now = at;
            moves.failed(which, now, u32::MAX);
        }
        assert_eq!(waits, [30, 60, 120, 240, 480, 600, 600]);
    }

    #[test]
    fn an_old_connection_is_replaced_though_probes_go_on() {
        let start = Instant::now();
        let mut moves = plan().begin(TransportKind::WebSocket, start, u32::MAX);
        loop {
            let (at, which) = moves.next().unwrap();
            if which == Move::Renew {
                assert_eq!(at, start + AGE);
                moves.failed(which, at, u32::MAX);
                break;
            }
            moves.failed(which, at, u32::MAX);
        }
        assert_eq!(moves.renew, Some(start + AGE + RENEW_AGAIN));
    }

    #[test]
    fn agents_that_came_together_go_one_after_the_other() {
        let now = Instant::now();
        let at = |random| {
            plan()
                .begin(TransportKind::WebSocket, now, random)
                .renew
                .unwrap()
                - now
        };
        assert_eq!((at(0), at(u32::MAX)), (AGE / 2, AGE));
        assert!((AGE / 2..AGE).contains(&at(u32::MAX / 3)));
    }

    #[test]
    fn what_is_set_to_zero_never_happens() {
        let ca = rcgen::generate_simple_self_signed(["x".to_owned()]).unwrap();
        let key = crate::AgentKey::from_seed([7; 32]).unwrap();
        let mut config = ConnectorConfig::new("x", 1, ca.cert.pem().into_bytes(), key);
        config.quic_probe = Duration::ZERO;
        config.websocket_max_age = Duration::ZERO;
        let moves =
            |config: &_| Plan::new(config).begin(TransportKind::WebSocket, Instant::now(), 0);
        assert_eq!(moves(&config).next(), None);
        config.quic_probe = PROBE;
        assert!(moves(&config).next().is_some());
        config.transports = Transports::WebSocket;
        assert_eq!(moves(&config).next(), None, "QUIC is not wanted");
    }
}
