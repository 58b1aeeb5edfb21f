//! The course of a crowd over time, read from the server's metrics.

use std::time::{Duration, Instant};

/// The server's metrics at one moment.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Sample {
    /// Since the crowd was let loose.
    pub(super) at: Duration,
    /// Agents on nodes that are connected.
    pub(super) connected: f64,
    /// Agents of the role `cluster` that are.
    pub(super) serving: f64,
    /// Session handshakes that are over, with any outcome.
    pub(super) handshakes: f64,
    /// Requests to join, and connections, that were refused.
    pub(super) refused: f64,
}

impl Sample {
    pub(super) fn of(metrics: &str, begun: Instant) -> Self {
        let sum_of = |name: &str, label: &str| sum(metrics, name, label);
        Self {
            at: begun.elapsed(),
            connected: sum_of("underpass_agents_connected", "role=\"node\""),
            serving: sum_of("underpass_agents_connected", "role=\"cluster\""),
            handshakes: sum_of("underpass_tunnel_handshake_seconds_count", ""),
            refused: sum_of("underpass_join_refusals_total", "")
                + sum_of("underpass_agents_refused_total", ""),
        }
    }
}

/// The sum of a metric's series that have the label.
pub(super) fn sum(metrics: &str, name: &str, label: &str) -> f64 {
    let values = metrics.lines().filter_map(|line| {
        let (series, value) = line.rsplit_once(' ')?;
        let labels = series.strip_prefix(name)?;
        let is_it = labels.is_empty() || labels.starts_with('{');
        (is_it && labels.contains(label)).then(|| value.parse::<f64>().ok())?
    });
    // The sum of none is -0 otherwise.
    values.fold(0.0, |sum, value| sum + value)
}

/// Samples in order of time.
#[derive(Debug, Default)]
pub(super) struct Course(Vec<Sample>);

/// The width of the window in which the busiest second is looked for.
const SECOND: Duration = Duration::from_secs(1);

impl Course {
    pub(super) fn add(&mut self, sample: Sample) {
        self.0.push(sample);
    }

    pub(super) fn last(&self) -> Option<&Sample> {
        self.0.last()
    }

    /// When so much of `count` agents was connected first.
    pub(super) fn when(&self, share: f64, count: u32) -> Option<Duration> {
        let wanted = (f64::from(count) * share).ceil();
        let first = self.0.iter().find(|sample| sample.connected >= wanted)?;
        Some(first.at)
    }

    /// The most handshakes that ended within one second.
    pub(super) fn busiest_second(&self) -> f64 {
        let from = |sample: &Sample| {
            let end = sample.at + SECOND;
            let within = self.0.iter().take_while(|later| later.at <= end);
            let last = within.last().unwrap_or(sample);
            last.handshakes - sample.handshakes
        };
        self.0.iter().map(from).fold(0.0, f64::max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(tenths: u32, connected: f64, handshakes: f64) -> Sample {
        Sample {
            at: Duration::from_millis(100) * tenths,
            connected,
            serving: 0.0,
            handshakes,
            refused: 0.0,
        }
    }

    #[test]
    fn series_of_a_name_are_added_up_and_those_of_longer_names_are_not() {
        let metrics =
            "# TYPE a counter\na{role=\"node\",x=\"1\"} 2\na{role=\"cluster\"} 4\na_b 8\na 16\n";
        assert!((sum(metrics, "a", "") - 22.0).abs() < 1e-9);
        assert!((sum(metrics, "a", "role=\"node\"") - 2.0).abs() < 1e-9);
        assert!(sum(metrics, "c", "").abs() < 1e-9);
    }

    #[test]
    fn a_course_says_when_how_many_were_there() {
        let mut course = Course::default();
        for (tenths, connected) in [(0, 0.0), (10, 5.0), (20, 4.0), (30, 10.0)] {
            course.add(sample(tenths, connected, 0.0));
        }
        assert_eq!(course.when(0.5, 10), Some(Duration::from_secs(1)));
        assert_eq!(course.when(0.99, 10), Some(Duration::from_secs(3)));
        assert_eq!(course.when(1.0, 11), None);
    }

    #[test]
    fn the_busiest_second_may_begin_anywhere() {
        let mut course = Course::default();
        for (tenths, handshakes) in [(0, 0.0), (8, 1.0), (12, 9.0), (18, 20.0), (30, 24.0)] {
            course.add(sample(tenths, 0.0, handshakes));
        }
        assert!((course.busiest_second() - 19.0).abs() < 1e-9);
    }
}
