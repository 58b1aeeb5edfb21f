//! A system that runs.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::{Agents, Server, System, SystemKind};
use crate::load::{Door, Echo};
use crate::process::Process;
use crate::site::Site;
use crate::usage::Usage;

/// How long a system may take until an echo comes through it.
const DEADLINE: Duration = Duration::from_secs(30);

/// The pause between two tries.
const POLL: Duration = Duration::from_millis(20);

/// The processor time that shows whether a system still works off the last load.
const QUIET: Duration = Duration::from_millis(100);

/// How long that may take: load beyond it is the system's own.
const QUIET_DEADLINE: Duration = Duration::from_secs(3);

/// A system's processes. Dropping it ends them.
pub(crate) struct Running<'a> {
    system: &'a dyn System,
    /// The side that listens.
    pub(crate) server: Server,
    /// The side that dials.
    pub(crate) agents: Vec<Process>,
}

impl<'a> Running<'a> {
    /// Starts both sides, and waits until an echo comes through.
    ///
    /// # Errors
    /// Where none comes.
    pub(crate) async fn start(system: &'a dyn System, site: &Site) -> Result<Self> {
        let server = system.server(site)?;
        let dial = server.agents;
        Self::start_agent(system, site, server, dial).await
    }

    /// The same with the server's side started already, which the agent finds at `dial`.
    ///
    /// # Errors
    /// Where no echo comes.
    pub(crate) async fn start_agent(
        system: &'a dyn System,
        site: &Site,
        server: Server,
        dial: SocketAddr,
    ) -> Result<Self> {
        let mut running = Self {
            system,
            server,
            agents: Vec::new(),
        };
        running.add(site, dial, Agents::ONE)?;
        running.ready().await?;
        Ok(running)
    }

    /// Starts another agent process.
    ///
    /// # Errors
    /// Where it cannot be.
    pub(crate) fn add(&mut self, site: &Site, dial: SocketAddr, agents: Agents) -> Result<()> {
        let agent = self.system.agent(site, &self.server, dial, agents)?;
        self.agents.extend(agent);
        Ok(())
    }

    /// Waits until an echo comes through both doors.
    ///
    /// # Errors
    /// Where none comes in time, or a process ends.
    pub(crate) async fn ready(&mut self) -> Result<()> {
        let begun = Instant::now();
        for door in [self.server.door.clone(), self.server.keys.clone()] {
            while let Err(error) = try_echo(&door).await {
                self.check()?;
                if begun.elapsed() > DEADLINE {
                    let name = self.system.name();
                    return Err(error).with_context(|| format!("nothing comes through {name}"));
                }
                tokio::time::sleep(POLL).await;
            }
        }
        Ok(())
    }

    /// Fails where a process has ended.
    ///
    /// # Errors
    /// Its last words.
    pub(crate) fn check(&mut self) -> Result<()> {
        let processes = self.server.process.iter_mut().chain(&mut self.agents);
        for process in processes {
            process.check()?;
        }
        Ok(())
    }

    /// The system.
    pub(crate) fn system(&self) -> &'a dyn System {
        self.system
    }

    /// The system's name.
    pub(crate) fn kind(&self) -> SystemKind {
        self.system.kind()
    }

    /// As reports call it.
    pub(crate) fn name(&self) -> &'static str {
        self.system.name()
    }

    /// Where users connect.
    pub(crate) fn door(&self) -> &Door {
        &self.server.door
    }

    /// Where users connect who type.
    pub(crate) fn keys(&self) -> &Door {
        &self.server.keys
    }

    /// The server's usage.
    ///
    /// # Errors
    /// Where it has ended.
    pub(crate) fn server_usage(&self) -> Result<Usage> {
        self.server
            .process
            .as_ref()
            .map_or(Ok(Usage::default()), Process::usage)
    }

    /// The agents' usage.
    ///
    /// # Errors
    /// Where one has ended.
    pub(crate) fn agents_usage(&self) -> Result<Usage> {
        let each = self.agents.iter().map(Process::usage);
        each.sum::<Result<Usage>>()
    }

    /// Processor time of both sides.
    ///
    /// # Errors
    /// Where one has ended.
    pub(crate) fn cpu(&self) -> Result<Duration> {
        Ok(self.server_usage()?.cpu + self.agents_usage()?.cpu)
    }

    /// Waits until it takes no processor time any more: the rest of one measurement must not fall
    /// into the next one's.
    ///
    /// # Errors
    /// Where a process has ended.
    pub(crate) async fn quiet(&self) -> Result<()> {
        let begun = Instant::now();
        let mut before = self.cpu()?;
        while begun.elapsed() < QUIET_DEADLINE {
            tokio::time::sleep(QUIET).await;
            let now = self.cpu()?;
            if now == before {
                break;
            }
            before = now;
        }
        Ok(())
    }
}

async fn try_echo(door: &Door) -> Result<()> {
    let echo = tokio::time::timeout(Duration::from_secs(1), Echo::start(door));
    echo.await.context("no echo within a second")?.map(drop)
}
