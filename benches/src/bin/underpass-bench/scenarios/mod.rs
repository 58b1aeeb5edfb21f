//! The scenarios.

mod bulk;
mod crowd;
mod dead_path;
mod flood;
mod forward;
mod idle;
mod interactive;
mod kube;
mod link;
mod operator;
mod recovery;
mod relay;
mod requests;
mod stub_api;
mod turns;

use anyhow::Result;

use crate::plan::Plan;
use crate::report::Report;
use crate::site::Site;
use crate::systems::System;

/// A scenario.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Scenario {
    /// One and eight streams that carry what they can, both ways
    Bulk,
    /// Small requests: on one connection, and a connection for each
    Requests,
    /// A keystroke's echo, alone and beside copies
    Interactive,
    /// The same over a link of 100 Mbit/s and 40 ms that the copy fills; needs root
    Link,
    /// The same over a link that loses 1% of the packets; needs root
    Loss,
    /// Agents that do nothing: memory, processor time, and how they come back
    Idle,
    /// GETs and watches of a real API server, through the whole product
    Kube,
    /// One user's GETs of a real API server, alone and beside another user's watches and GETs
    Neighbour,
    /// A cut connection: when bytes flow again
    Recovery,
    /// A path that dies without a word, behind a link of 10 ms: when bytes flow again; needs root
    DeadPath,
    /// Ports on a user's machine that lead into a cluster, beside `kubectl port-forward` and chisel
    Forward,
    /// Agents on nodes of one cluster that start at once, join, and lose their server
    Crowd,
    /// Memory of an idle agent in each role
    Roles,
    /// Logins and calls of honest users, and the server's memory, beside one attacker
    Flood,
}

/// The means of a scenario.
pub(crate) struct Bench<'a> {
    /// Where everything runs.
    pub(crate) site: &'a Site,
    /// The systems.
    pub(crate) systems: &'a [Box<dyn System>],
    /// How long.
    pub(crate) plan: &'a Plan,
    /// The report.
    pub(crate) report: &'a mut Report,
}

impl Scenario {
    /// Measures it for all systems. A system's failure goes into the report.
    ///
    /// # Errors
    /// Where the benchmark itself cannot go on.
    pub(crate) async fn run(self, bench: &mut Bench<'_>) -> Result<()> {
        match self {
            Self::Bulk => turns::run(bench, &bulk::Bulk).await,
            Self::Requests => {
                turns::run(bench, &requests::Requests).await?;
                requests::add_latency_over_direct(bench.report, "requests");
                Ok(())
            }
            Self::Interactive => turns::run(bench, &interactive::Interactive).await,
            Self::Link => link::run(bench, &link::SHAPED).await,
            Self::Loss => link::run(bench, &link::LOSSY).await,
            Self::Idle => idle::run(bench).await,
            Self::Kube => kube::run(bench).await,
            Self::Neighbour => kube::neighbour::run(bench).await,
            Self::Recovery => recovery::run(bench).await,
            Self::DeadPath => dead_path::run(bench).await,
            Self::Forward => forward::run(bench).await,
            Self::Crowd => crowd::run(bench).await,
            Self::Roles => crowd::roles::run(bench).await,
            Self::Flood => flood::run(bench).await,
        }
    }
}
