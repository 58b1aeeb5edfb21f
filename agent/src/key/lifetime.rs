//! When a key is old enough for another one to take its place.

use std::str::FromStr;
use std::time::Duration;

use thiserror::Error;
use time::OffsetDateTime;

use super::record::KeyRecord;
use crate::limits;

/// How old a key becomes; none where it stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct KeyLifetime(Option<Duration>);

/// The text is no lifetime.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error(
    "a key's lifetime is `never`, or a time from {} s to {} days, such as 30d",
    limits::KEY_LIFETIME_LEAST.as_secs(),
    limits::KEY_LIFETIME_MOST.as_secs() / 86_400
)]
pub(crate) struct NoLifetime;

impl FromStr for KeyLifetime {
    type Err = NoLifetime;

    fn from_str(text: &str) -> Result<Self, NoLifetime> {
        if matches!(text, "never" | "0") {
            return Ok(Self(None));
        }
        let time = humantime::parse_duration(text).map_err(|_| NoLifetime)?;
        let bounds = limits::KEY_LIFETIME_LEAST..=limits::KEY_LIFETIME_MOST;
        match time {
            Duration::ZERO => Ok(Self(None)),
            time if bounds.contains(&time) => Ok(Self(Some(time))),
            _ => Err(NoLifetime),
        }
    }
}

impl KeyLifetime {
    /// The time from now on until the record's key is old enough; `None`: never.
    ///
    /// Its age is measured from the record, by the clock of this machine: a clock that is wrong by the same time then and now changes
    /// nothing. A key of the future, where the clock was put back, is a new one. From then on the caller measures with a monotonic
    /// clock.
    pub(crate) fn left(self, record: &KeyRecord, now: OffsetDateTime) -> Option<Duration> {
        let lifetime = self.0?.mul_f64(share(record));
        let age = record
            .since
            .map_or(time::Duration::ZERO, |since| now - since);
        let age = Duration::try_from(age).unwrap_or_default();
        Some(lifetime.saturating_sub(age))
    }
}

/// From a half up to the whole: the key decides, so that agents that joined together do not rotate together, and an agent that starts again
/// and again does not draw until it has the shortest one.
fn share(record: &KeyRecord) -> f64 {
    let text = record.key.public().to_string();
    // FNV-1a, of which any bits will do.
    let hash = text.bytes().fold(0x811c_9dc5_u32, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    });
    0.5 + f64::from(hash) / f64::from(u32::MAX) / 2.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::OwnKey;

    const DAY: Duration = Duration::from_secs(86_400);

    fn record(since: Option<OffsetDateTime>) -> KeyRecord {
        KeyRecord {
            since,
            ..KeyRecord::bare(OwnKey::generate().unwrap())
        }
    }

    fn lifetime(text: &str) -> KeyLifetime {
        text.parse().unwrap()
    }

    #[test]
    fn a_lifetime_has_bounds() {
        for never in ["never", "0", "0s"] {
            assert_eq!(lifetime(never), KeyLifetime(None));
        }
        assert_eq!(lifetime("30d"), KeyLifetime(Some(30 * DAY)));
        assert_eq!(lifetime("5s"), KeyLifetime(Some(Duration::from_secs(5))));
        for bad in ["", "soon", "999ms", "3651d", "30", "-1s"] {
            assert_eq!(bad.parse::<KeyLifetime>(), Err(NoLifetime), "{bad}");
        }
        assert!(NoLifetime.to_string().contains("1 s to 3650 days"));
    }

    #[test]
    fn ten_thousand_agents_that_joined_together_rotate_over_a_half_of_the_lifetime() {
        let now = OffsetDateTime::now_utc();
        let mut hours = vec![0_usize; 30 * 24];
        for _ in 0..10_000 {
            let left = lifetime("30d").left(&record(Some(now)), now).unwrap();
            assert!((15 * DAY..=30 * DAY).contains(&left), "{left:?}");
            let hour = usize::try_from(left.as_secs() / 3600).unwrap().min(719);
            hours[hour] += 1;
        }
        // 28 of them in an hour, on average.
        assert!(hours.iter().all(|agents| *agents < 80), "{hours:?}");
    }

    #[test]
    fn one_agent_draws_the_same_time_at_each_start() {
        let now = OffsetDateTime::now_utc();
        let record = record(Some(now - 10 * DAY));
        let left = lifetime("30d").left(&record, now).unwrap();
        assert!((5 * DAY..=20 * DAY).contains(&left));
        assert_eq!(lifetime("30d").left(&record, now), Some(left));
        let later = lifetime("30d").left(&record, now + DAY).unwrap();
        assert_eq!(left - later, DAY);
        assert_eq!(lifetime("never").left(&record, now), None);
    }

    #[test]
    fn a_clock_that_is_wrong_makes_no_key_old_and_none_eternal() {
        let now = OffsetDateTime::now_utc();
        // Off by an hour, then and now.
        let record = record(Some(now));
        let left = |now| lifetime("30d").left(&record, now).unwrap();
        let right = left(now);
        let off = KeyRecord {
            since: Some(now + Duration::from_secs(3600)),
            ..record.clone()
        };
        let shifted = lifetime("30d").left(&off, now + Duration::from_secs(3600));
        assert_eq!(shifted, Some(right));
        // Put back by an hour, or by years, since the key was made: it is as a new one.
        assert_eq!(left(now - Duration::from_secs(3600)), right);
        assert_eq!(left(now - 10_000 * DAY), right);
        // Put forward by years: the key is rotated now, and the next one is as old as that clock says.
        assert_eq!(left(now + 10_000 * DAY), Duration::ZERO);
        let unknown = KeyRecord {
            since: None,
            ..record.clone()
        };
        assert_eq!(lifetime("30d").left(&unknown, now), Some(right));
    }
}
