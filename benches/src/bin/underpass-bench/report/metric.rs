//! Metrics and their units.

use serde::{Deserialize, Serialize};

/// A kind of figure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Metric {
    /// Gbit/s of payload, all streams together.
    Throughput,
    /// Seconds of processor time that server and agent take for a Gbit of payload.
    CpuPerGbit,
    /// Answers in a second.
    Rate,
    /// Seconds of processor time that server and agent take for a thousand requests.
    CpuPerThousand,
    /// Microseconds of the median.
    Median,
    /// Microseconds of the 99th percentile.
    Late,
    /// Microseconds of the median above that of direct in the same repetition.
    Added,
    /// The median over that of the same system alone in the same repetition.
    MedianOverAlone,
    /// The same of the 99th percentile.
    LateOverAlone,
    /// Percent of the calls that were refused as too many.
    Refused,
    /// Most resident memory of the server so far, in MiB.
    ServerPeak,
    /// Most resident memory of the agent so far, in MiB.
    AgentPeak,
    /// Agents that were connected.
    Agents,
    /// Resident memory of the server for each agent, in KiB.
    PerAgent,
    /// Resident memory of a process that is one idle agent, in MiB.
    AgentResident,
    /// Processor time of the server while all agents are idle, in percent of one core.
    IdleCpu,
    /// Seconds until all agents were connected.
    Connected,
    /// Seconds until all agents were back, from the restart of a server that was killed.
    Back,
    /// Seconds until half of the agents were connected.
    HalfThere,
    /// Seconds until 99% of the agents were.
    NearlyThere,
    /// Requests to join, for each agent.
    Joins,
    /// Attempts to reach the server beside these, for each agent.
    Dials,
    /// The most session handshakes that ended at the server within a second.
    PeakHandshakes,
    /// Requests to join and connections that the server has refused.
    RefusedAttempts,
    /// Processor time of the server since its start, in seconds.
    ServerCpu,
    /// Microseconds of the median to open a stream to a random agent, and hear an echo on it.
    Opened,
    /// Milliseconds from the cut of a connection until bytes flow again.
    Flows,
    /// Milliseconds of these from when the agent dialled anew.
    FlowsSinceDial,
    /// Milliseconds from the silent death of a path until bytes flow again, of the median.
    FlowsAgain,
    /// The same of the 99th percentile.
    FlowsAgainLate,
    /// How many paths died.
    Deaths,
    /// Share of cuts, in percent, after which the user's connection went on.
    Survived,
}

impl Metric {
    /// A column's head.
    pub(crate) const fn title(self) -> &'static str {
        match self {
            Self::Throughput => "Gbit/s",
            Self::CpuPerGbit => "CPU s per Gbit",
            Self::Rate => "per second",
            Self::CpuPerThousand => "CPU s per 1,000",
            Self::Median => "p50, µs",
            Self::Late => "p99, µs",
            Self::Added => "p50 above direct, µs",
            Self::MedianOverAlone => "p50 over alone",
            Self::LateOverAlone => "p99 over alone",
            Self::Refused => "refused, %",
            Self::ServerPeak => "server's peak, MiB",
            Self::AgentPeak => "agent's peak, MiB",
            Self::Agents => "agents",
            Self::PerAgent => "server, KiB per agent",
            Self::AgentResident => "an agent process, MiB",
            Self::IdleCpu => "server idle, % of a core",
            Self::Connected => "all connected, s",
            Self::Back => "all back, s",
            Self::HalfThere => "p50 connected, s",
            Self::NearlyThere => "p99 connected, s",
            Self::Joins => "joins per agent",
            Self::Dials => "dials per agent",
            Self::PeakHandshakes => "handshakes in the busiest second",
            Self::RefusedAttempts => "refused attempts",
            Self::ServerCpu => "server, CPU s",
            Self::Opened => "stream opened and echoed, p50, µs",
            Self::Flows => "bytes flow after, ms",
            Self::FlowsSinceDial => "of these since the new dial, ms",
            Self::FlowsAgain => "bytes flow again, p50, ms",
            Self::FlowsAgainLate => "p99, ms",
            Self::Deaths => "deaths",
            Self::Survived => "connections that went on, %",
        }
    }

    /// Digits behind the point.
    pub(crate) const fn digits(self) -> usize {
        match self {
            Self::CpuPerGbit | Self::CpuPerThousand | Self::IdleCpu | Self::Back => 3,
            Self::Throughput | Self::Connected => 2,
            Self::HalfThere | Self::NearlyThere | Self::Joins | Self::Dials | Self::ServerCpu => 2,
            Self::MedianOverAlone | Self::LateOverAlone => 2,
            Self::Refused => 1,
            Self::ServerPeak | Self::AgentPeak | Self::AgentResident | Self::PerAgent => 1,
            Self::Flows | Self::FlowsSinceDial => 1,
            Self::Rate | Self::Median | Self::Late | Self::Added => 0,
            Self::FlowsAgain | Self::FlowsAgainLate | Self::Deaths => 0,
            Self::Agents | Self::Opened | Self::Survived => 0,
            Self::PeakHandshakes | Self::RefusedAttempts => 0,
        }
    }
}
