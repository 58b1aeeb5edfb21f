//! The product's processes.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use underpass_testenv::{Assets, Programs, Transport, Underpass};

use crate::usage::Usage;

/// A server and its agent.
pub(super) struct Product {
    server: u32,
    agent: u32,
    underpass: Underpass,
}

impl Product {
    pub(super) fn start(
        programs: &Programs,
        assets: &Assets,
        agent: &Path,
        transport: Transport,
    ) -> Result<Self> {
        let find = || -> Result<_> {
            let [servers, agents] = [programs.server(), programs.agent()].map(processes_of);
            Ok((servers?, agents?))
        };
        let (servers, agents) = find()?;
        let underpass = Underpass::start(programs.clone(), assets.clone(), agent, transport)?;
        let (servers_after, agents_after) = find()?;
        let new = |after: HashSet<u32>, before| after.difference(before).copied().next();
        Ok(Self {
            server: new(servers_after, &servers).context("the server has ended")?,
            agent: new(agents_after, &agents).context("the agent has ended")?,
            underpass,
        })
    }

    /// Processor time of both so far.
    pub(super) fn cpu(&self) -> Result<Duration> {
        let (server, agent) = (Usage::of_tree(self.server)?, Usage::of_tree(self.agent)?);
        Ok((server + agent).cpu)
    }

    /// Memory of the agent, in MiB.
    pub(super) fn agent_resident(&self) -> Result<f64> {
        Ok(Usage::of_tree(self.agent)?.resident as f64 / f64::from(1024 * 1024))
    }

    /// A user's client for the API server.
    pub(super) fn kubeconfig(&self, user: &str) -> Result<PathBuf> {
        // By path: the connector of the client over HTTP/2 does not know `tls-server-name`.
        Ok(self
            .underpass
            .kubeconfig_of(user, &[], &["--style", "path"])?)
    }
}

/// The processes that run a program.
fn processes_of(program: &Path) -> Result<HashSet<u32>> {
    let mut found = HashSet::new();
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        let id: Option<u32> = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok());
        let runs = fs::read_link(entry.path().join("exe")).is_ok_and(|exe| exe == program);
        found.extend(id.filter(|_| runs));
    }
    Ok(found)
}
