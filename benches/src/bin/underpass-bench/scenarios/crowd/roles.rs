//! Memory of one idle agent in each role, as a process of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use underpass_testenv::Programs;

use super::super::Bench;
use super::super::stub_api::Api;
use super::site::Site;
use super::{DEADLINE, chosen_transports};
use crate::process::Process;
use crate::report::Metric;
use crate::usage::Usage;

const SCENARIO: &str = "roles";

/// A policy with an operation, as a node has one.
const POLICY: &str = "operations:\n- {name: uptime, command: /usr/bin/uptime, timeLimit: 1m}\n";

/// An agent, and the flags of its role.
struct Agent {
    cell: &'static str,
    role: &'static str,
    /// Agents on nodes that are there already.
    nodes_before: f64,
    flags: Vec<(&'static str, PathBuf)>,
}

/// Measures each role over each transport that is chosen.
pub(in super::super) async fn run(bench: &mut Bench<'_>) -> Result<()> {
    let transports = chosen_transports(bench);
    if transports.is_empty() {
        return Ok(());
    }
    let programs = if bench.plan.is_short() {
        Programs::build()
    } else {
        Programs::build_release()
    }?;
    for (system, transport) in transports {
        if let Err(error) = measure(bench, &programs, system, transport).await {
            bench.report.fail(Some(SCENARIO), system, &error);
        }
    }
    Ok(())
}

async fn measure(
    bench: &mut Bench<'_>,
    programs: &Programs,
    system: &str,
    transport: &str,
) -> Result<()> {
    let mut site = Site::start(programs, 2).await?;
    let api = Api::start().await?;
    let (policy, state) = (
        site.folder().join("policy.yaml"),
        site.folder().join("state"),
    );
    fs::write(&policy, POLICY)?;
    let kubeconfig = api.kubeconfig(site.folder())?;
    let agents = [
        Agent {
            cell: "cluster",
            role: "cluster",
            nodes_before: 0.0,
            flags: vec![("--kubeconfig", kubeconfig)],
        },
        Agent {
            cell: "node",
            role: "node",
            nodes_before: 0.0,
            flags: Vec::new(),
        },
        Agent {
            cell: "node with operations",
            role: "node",
            nodes_before: 1.0,
            flags: vec![("--policy", policy), ("--state-dir", state)],
        },
    ];
    // None ends before the last: the server would count it for a while.
    let mut running = Vec::new();
    for agent in agents {
        let mut process = agent.start(programs.agent(), &site, transport)?;
        agent.connected(&mut site, &mut process).await?;
        // Buffers of the beginning are let go.
        tokio::time::sleep(bench.plan.idle).await;
        let usage = Usage::of_tree(process.id()).context("the agent has ended")?;
        let resident = usage.resident as f64 / f64::from(1024 * 1024);
        eprintln!(
            "{SCENARIO}, {}: {system:<20}  MiB {resident:.1}",
            agent.cell
        );
        let metric = Metric::AgentResident;
        bench
            .report
            .add(SCENARIO, agent.cell, system, metric, resident);
        running.push(process);
    }
    Ok(())
}

impl Agent {
    fn start(&self, program: &Path, site: &Site, transport: &str) -> Result<Process> {
        let name = self.cell.replace(' ', "-");
        let key = site.folder().join(format!("{name}.key"));
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let own = [
            ("--server", site.url().to_owned()),
            ("--ca-file", text(&site.ca())),
            ("--join-token-file", text(&site.token(self.role))),
            ("--key-file", text(&key)),
            ("--role", self.role.to_owned()),
            ("--node-name", name.clone()),
            ("--transport", transport.to_owned()),
        ];
        let more = self.flags.iter().map(|(flag, path)| (*flag, text(path)));
        let flags = own.into_iter().chain(more);
        let arguments = flags.flat_map(|(flag, value)| [flag.to_owned(), value]);
        Process::start(site.folder(), &name, program, arguments)
    }

    async fn connected(&self, site: &mut Site, process: &mut Process) -> Result<()> {
        let begun = std::time::Instant::now();
        let most = DEADLINE.min(Duration::from_secs(60));
        let is_there = |sample: &super::figures::Sample| match self.role {
            "cluster" => sample.serving > 0.0,
            _ => sample.connected > self.nodes_before,
        };
        let course = site.watch(begun, most, is_there).await?;
        process.check()?;
        match course.last().is_some_and(is_there) {
            true => Ok(()),
            false => bail!("the agent in the role {} is not connected", self.role),
        }
    }
}
