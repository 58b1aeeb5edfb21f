//! How long everything is measured.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How often and how long.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Plan {
    /// Each system has its turn in each of them.
    pub(crate) repetitions: usize,
    /// Load that is not measured yet.
    pub(crate) warm_up: Duration,
    /// The time over which a copy is measured.
    pub(crate) bulk: Duration,
    /// The time over which requests are measured.
    pub(crate) requests: Duration,
    /// Keystrokes in a sample.
    pub(crate) keystrokes: usize,
    /// Keystrokes in a sample over a long link.
    pub(crate) distant_keystrokes: usize,
    /// How many agents a process of them is, in the scenario of idle agents.
    pub(crate) crowds: Vec<u32>,
    /// How many agent processes there are, of systems that have one agent in each.
    pub(crate) processes: u32,
    /// Watches at once.
    pub(crate) watches: usize,
    /// Writes that they all see, in a sample.
    pub(crate) writes: usize,
    /// GETs at once of a user who knows no measure.
    #[serde(default)]
    pub(crate) storm: usize,
    /// How long agents are watched being idle.
    pub(crate) idle: Duration,
    /// Cuts in a repetition.
    pub(crate) cuts: usize,
    /// Paths that die without a word, of each kind.
    #[serde(default)]
    pub(crate) deaths: usize,
    /// How long that may take for a system.
    #[serde(default)]
    pub(crate) dying: Duration,
}

impl Plan {
    /// For figures that mean something.
    pub(crate) fn full() -> Self {
        Self {
            repetitions: 5,
            warm_up: Duration::from_millis(500),
            bulk: Duration::from_secs(2),
            requests: Duration::from_millis(1500),
            keystrokes: 1000,
            distant_keystrokes: 100,
            crowds: vec![10, 1000, 10_000],
            processes: 25,
            watches: 1000,
            writes: 10,
            storm: 256,
            // Twice the longest time between two PINGs.
            idle: Duration::from_secs(40),
            cuts: 3,
            deaths: 50,
            dying: Duration::from_secs(90),
        }
    }

    /// To see that everything runs.
    pub(crate) fn short() -> Self {
        Self {
            repetitions: 1,
            warm_up: Duration::from_millis(50),
            bulk: Duration::from_millis(200),
            requests: Duration::from_millis(200),
            keystrokes: 30,
            distant_keystrokes: 5,
            crowds: vec![5, 20],
            processes: 2,
            watches: 20,
            writes: 2,
            storm: 16,
            idle: Duration::from_millis(300),
            cuts: 1,
            deaths: 1,
            dying: Duration::ZERO,
        }
    }

    /// Whether it is [`short`](Self::short), however often.
    pub(crate) fn is_short(&self) -> bool {
        let short = Self {
            repetitions: self.repetitions,
            ..Self::short()
        };
        *self == short
    }
}
