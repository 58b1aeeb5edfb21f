//! Ends of credentials as dates.

use std::time::SystemTime;

use time::macros::datetime;
use time::{Duration, OffsetDateTime};

/// The last second that a date can name: RFC 3339 (section 5.6) has four digits for a year.
const LAST: OffsetDateTime = datetime!(9999-12-31 23:59:59 UTC);

/// The date of `moment`, or the calendar's last where `moment` is beyond it. Identity providers choose the ends of their
/// tokens, and [`OffsetDateTime::from`] panics there.
pub(super) fn date(moment: SystemTime) -> OffsetDateTime {
    let Ok(after) = moment.duration_since(SystemTime::UNIX_EPOCH) else {
        // No credential ends before 1970 that could still be used.
        return OffsetDateTime::UNIX_EPOCH;
    };
    let after = Duration::try_from(after).unwrap_or(Duration::MAX);
    OffsetDateTime::UNIX_EPOCH
        .checked_add(after)
        .map_or(LAST, |date| date.min(LAST))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_moment_has_a_date() {
        let after = |seconds| SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
        assert_eq!(date(after(7)).unix_timestamp(), 7);
        assert_eq!(date(after(253_402_300_799)), LAST);
        assert_eq!(date(after(253_402_300_798)) + Duration::SECOND, LAST);
        for beyond in [253_402_300_800, 4_102_444_800_000, i64::MAX.unsigned_abs()] {
            assert_eq!(date(after(beyond)), LAST, "{beyond}");
        }
        let before = SystemTime::UNIX_EPOCH - std::time::Duration::from_secs(1);
        assert_eq!(date(before), OffsetDateTime::UNIX_EPOCH);
    }
}
