//! Where a run was made, and beside what.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::usage;

/// The machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Machine {
    /// The processor's name.
    pub(crate) processor: String,
    /// Cores that this process may use.
    pub(crate) cores: usize,
    /// The kernel's release.
    pub(crate) kernel: String,
    /// The congestion control of TCP, which the kernel chooses; that of QUIC is each system's own.
    #[serde(default)]
    pub(crate) congestion_control: String,
}

impl Machine {
    /// The one that this runs on.
    pub(crate) fn this() -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let unknown = || "unknown".to_owned();
        let information = read("/proc/cpuinfo");
        let mut lines = information.lines();
        let name =
            lines.find_map(|line| Some(line.strip_prefix("model name")?.split_once(": ")?.1));
        let release = read("/proc/sys/kernel/osrelease");
        // The text after the numbers is the builder's own.
        let kernel = release.trim().split('-').next().map(str::to_owned);
        let congestion_control = read("/proc/sys/net/ipv4/tcp_congestion_control");
        Self {
            congestion_control: congestion_control.trim().to_owned(),
            processor: name.map_or_else(unknown, str::to_owned),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            kernel: kernel.unwrap_or_else(unknown),
        }
    }
}

/// Processor time of processes outside of the run, in percent of all cores.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Others(pub(crate) f64);

impl Others {
    /// Begins to watch.
    ///
    /// # Errors
    /// Where the kernel does not tell.
    pub(crate) fn watch() -> Result<impl FnOnce() -> Result<Self>> {
        let begun = Instant::now();
        let before = (usage::machine()?, usage::own()?);
        Ok(move || {
            let after = (usage::machine()?, usage::own()?);
            let all = after.0.saturating_sub(before.0);
            let own = after.1.saturating_sub(before.1);
            Ok(Self::of(all, own, begun.elapsed(), Machine::this().cores))
        })
    }

    fn of(all: Duration, own: Duration, time: Duration, cores: usize) -> Self {
        let cores = cores as f64;
        let share = all.saturating_sub(own).as_secs_f64() / (time.as_secs_f64() * cores);
        Self(share * 100.0)
    }
}

/// The time (RFC 3339).
pub(super) fn now() -> String {
    let now = OffsetDateTime::now_utc();
    let now = now.replace_nanosecond(0).unwrap_or(now);
    now.format(&Rfc3339).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_are_what_is_not_ours() {
        let second = Duration::from_secs(1);
        let Others(share) = Others::of(second * 15, second * 5, second * 10, 2);
        assert!((share - 50.0).abs() < 1e-9, "{share}");
    }
}
