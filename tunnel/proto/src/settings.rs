//! Settings of a session, each within the range that works.
//!
//! A configuration's value is checked once, when the type is made of it. A peer's value that is out of range
//! counts as the nearest that works (PROTOCOL.md, "Keepalive").

use std::time::Duration;

use thiserror::Error;

use super::limits;

/// A configured value that is out of its range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum OutOfRange {
    /// The time of silence after which a PING is sent.
    #[error(
        "the keepalive is {0:?}, and must be from {min:?} to {max:?}",
        min = limits::KEEPALIVE_MIN,
        max = limits::KEEPALIVE_MAX
    )]
    Keepalive(Duration),
    /// The time for which a session waits for a transport.
    #[error(
        "the resume window is {0:?}, and must be at most {max:?}",
        max = limits::RESUME_WINDOW_MAX
    )]
    ResumeWindow(Duration),
    /// The number of streams that a peer may have open at once.
    #[error(
        "the stream limit is {0}, and must be at most {max}",
        max = limits::STREAMS_MAX
    )]
    StreamLimit(u32),
}

/// The time of silence after which a PING is sent: 1 to 20 s, 10 s by default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeepaliveInterval(Duration);

impl KeepaliveInterval {
    /// The time in milliseconds that a peer asks for, or the nearest that works.
    pub fn of_peer(millis: u32) -> Self {
        let asked = Duration::from_millis(millis.into());
        Self(asked.clamp(limits::KEEPALIVE_MIN, limits::KEEPALIVE_MAX))
    }

    /// The time.
    pub fn time(self) -> Duration {
        self.0
    }

    /// The time in milliseconds, as frames have it.
    pub fn millis(self) -> u32 {
        millis(self.0)
    }
}

impl Default for KeepaliveInterval {
    fn default() -> Self {
        Self(limits::KEEPALIVE)
    }
}

impl TryFrom<Duration> for KeepaliveInterval {
    type Error = OutOfRange;

    fn try_from(time: Duration) -> Result<Self, OutOfRange> {
        let range = limits::KEEPALIVE_MIN..=limits::KEEPALIVE_MAX;
        let fits = range.contains(&time);
        fits.then_some(Self(time))
            .ok_or(OutOfRange::Keepalive(time))
    }
}

/// The time for which a session waits for a transport: an hour at the most, a minute by default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ResumeWindow(Duration);

impl ResumeWindow {
    /// The session ends with its transport.
    pub const ZERO: Self = Self(Duration::ZERO);

    /// The time in milliseconds that a peer asks for, or the longest there is.
    pub fn of_peer(millis: u32) -> Self {
        let asked = Duration::from_millis(millis.into());
        Self(asked.min(limits::RESUME_WINDOW_MAX))
    }

    /// The time.
    pub fn time(self) -> Duration {
        self.0
    }

    /// The time in milliseconds, as frames have it.
    pub fn millis(self) -> u32 {
        millis(self.0)
    }
}

impl Default for ResumeWindow {
    fn default() -> Self {
        Self(limits::RESUME_WINDOW)
    }
}

impl TryFrom<Duration> for ResumeWindow {
    type Error = OutOfRange;

    fn try_from(time: Duration) -> Result<Self, OutOfRange> {
        let fits = time <= limits::RESUME_WINDOW_MAX;
        fits.then_some(Self(time))
            .ok_or(OutOfRange::ResumeWindow(time))
    }
}

/// The number of streams that a peer may have open at once: [`limits::STREAMS_MAX`] at the most,
/// [`limits::STREAMS`] by default. Each costs about 4 KiB when idle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct StreamLimit(u32);

impl StreamLimit {
    /// The number.
    pub fn get(self) -> u32 {
        self.0
    }
}

impl Default for StreamLimit {
    fn default() -> Self {
        Self(limits::STREAMS)
    }
}

impl TryFrom<u32> for StreamLimit {
    type Error = OutOfRange;

    fn try_from(streams: u32) -> Result<Self, OutOfRange> {
        let fits = streams <= limits::STREAMS_MAX;
        fits.then_some(Self(streams))
            .ok_or(OutOfRange::StreamLimit(streams))
    }
}

fn millis(time: Duration) -> u32 {
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLISECOND: Duration = Duration::from_millis(1);

    #[test]
    fn a_configured_value_out_of_range_is_named_with_its_range() {
        let (min, max) = (limits::KEEPALIVE_MIN, limits::KEEPALIVE_MAX);
        for time in [min, max] {
            assert_eq!(KeepaliveInterval::try_from(time).unwrap().time(), time);
        }
        for time in [Duration::ZERO, min - MILLISECOND, max + MILLISECOND] {
            let error = KeepaliveInterval::try_from(time).unwrap_err();
            assert_eq!(error, OutOfRange::Keepalive(time));
            let expected = format!("the keepalive is {time:?}, and must be from 1s to 20s");
            assert_eq!(error.to_string(), expected);
        }
        let longest = limits::RESUME_WINDOW_MAX;
        assert_eq!(ResumeWindow::try_from(longest).unwrap().time(), longest);
        assert_eq!(
            ResumeWindow::try_from(2 * longest).unwrap_err().to_string(),
            "the resume window is 7200s, and must be at most 3600s"
        );
        assert_eq!(StreamLimit::try_from(0).unwrap().get(), 0);
        assert_eq!(
            StreamLimit::try_from(limits::STREAMS_MAX).unwrap().get(),
            8192
        );
        assert_eq!(
            StreamLimit::try_from(8193).unwrap_err().to_string(),
            "the stream limit is 8193, and must be at most 8192"
        );
    }

    #[test]
    fn a_peers_value_out_of_range_counts_as_the_nearest() {
        let keepalive = |millis| KeepaliveInterval::of_peer(millis).time();
        assert_eq!(keepalive(0), limits::KEEPALIVE_MIN);
        assert_eq!(keepalive(5000), Duration::from_secs(5));
        assert_eq!(keepalive(u32::MAX), limits::KEEPALIVE_MAX);
        let window = |millis| ResumeWindow::of_peer(millis).time();
        assert_eq!(window(0), Duration::ZERO);
        assert_eq!(window(u32::MAX), limits::RESUME_WINDOW_MAX);
        assert_eq!(ResumeWindow::of_peer(7).millis(), 7);
    }
}
