//! When to dial again (PROTOCOL.md, "Reconnecting").

use std::time::Duration;

/// Exponential backoff with full jitter: each wait is drawn evenly from zero to a ceiling that
/// doubles with every failure.
///
/// Full jitter spreads a thousand agents that lost the same server over the whole of the ceiling,
/// where equal waits would bring them back together.
#[derive(Debug, Clone)]
pub struct Backoff {
    initial: Duration,
    max: Duration,
    failures: u32,
}

impl Backoff {
    /// Ceilings of `initial`, doubling up to `max`.
    pub const fn new(initial: Duration, max: Duration) -> Self {
        Self {
            initial,
            max,
            failures: 0,
        }
    }

    /// The wait after one more failure. `random` is drawn evenly from all its values.
    pub fn failed(&mut self, random: u32) -> Duration {
        let ceiling = self
            .initial
            .saturating_mul(1 << self.failures.min(16))
            .min(self.max);
        self.failures = self.failures.saturating_add(1);
        ceiling.mul_f64(f64::from(random) / f64::from(u32::MAX))
    }

    /// A connection has been stable: the next failure starts from the beginning.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INITIAL: Duration = Duration::from_millis(500);
    const MAX: Duration = Duration::from_secs(30);

    #[test]
    fn ceilings_double_up_to_the_maximum() {
        let mut backoff = Backoff::new(INITIAL, MAX);
        let waits: Vec<_> = (0..40)
            .map(|_| backoff.failed(u32::MAX).as_millis())
            .collect();
        assert_eq!(
            waits[..8],
            [500, 1000, 2000, 4000, 8000, 16000, 30000, 30000]
        );
        assert_eq!(
            *waits.last().unwrap(),
            30000,
            "and stay there, without overflow"
        );
        backoff.reset();
        assert_eq!(backoff.failed(u32::MAX), INITIAL);
    }

    #[test]
    fn jitter_is_full() {
        let mut backoff = Backoff::new(INITIAL, MAX);
        assert_eq!(backoff.failed(0), Duration::ZERO);
        let half = backoff.failed(u32::MAX / 2).as_secs_f64();
        assert!((half - 0.5).abs() < 0.001, "{half}");
    }
}
