//! Calls to a real API server: straight, and through the whole product.

mod calls;
mod client;
mod logs;
pub(super) mod neighbour;

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use kube::Client;
use serde_json::json;
use underpass_testenv::{
    Assets, Cluster, ClusterOptions, Programs, Transport, Underpass, progress_to_stderr,
};

use super::Bench;
use super::requests::{add_latency_over_direct, percentiles};
use crate::report::Metric;
use crate::usage::Usage;

const SCENARIO: &str = "kube";

/// Who calls, on every way: the cluster's RBAC lets them do everything.
const USER: &str = "bench";

/// Somebody else who may.
const NEIGHBOUR: &str = "neighbour";

/// A way to the API server.
struct Way {
    /// As the same is called elsewhere in a report.
    name: &'static str,
    client: Client,
    /// The other user's kubeconfig.
    neighbour: PathBuf,
    /// What it leads through.
    _underpass: Option<Underpass>,
}

/// Measures the ways that are chosen, each a system's, in turns.
pub(super) async fn run(bench: &mut Bench<'_>) -> Result<()> {
    match prepare(bench, SCENARIO).await {
        Ok((cluster, ways)) => {
            measure(bench, &cluster, &ways).await?;
            add_latency_over_direct(bench.report, SCENARIO);
            drop(ways);
            cluster.stop().await;
        }
        Err(error) => bench.report.fail(Some(SCENARIO), "all systems", &error),
    }
    Ok(())
}

async fn prepare(bench: &mut Bench<'_>, scenario: &str) -> Result<(Cluster, Vec<Way>)> {
    let assets = Assets::ensure(progress_to_stderr)?;
    let programs = Programs::build_release()?;
    let mut options = ClusterOptions::api_only().with_assets(assets.clone());
    // Pods, for their logs.
    options.node = scenario == SCENARIO;
    let cluster = Cluster::start(options).await?;
    cluster.apply(&binding())?;
    cluster.apply(&calls::config_map())?;
    let agent = cluster.agent_kubeconfig()?;
    let mut ways = Vec::new();
    let chosen: HashSet<_> = bench.systems.iter().map(|system| system.name()).collect();
    if chosen.contains("direct") {
        let client = client::of(&cluster.kubeconfig_for(USER, &[])?).await?;
        ways.push(Way {
            name: "direct",
            client,
            neighbour: cluster.kubeconfig_for(NEIGHBOUR, &[])?,
            _underpass: None,
        });
    }
    for (name, transport) in [
        ("underpass-websocket", Transport::WebSocket),
        ("underpass-quic", Transport::Quic),
    ] {
        if !chosen.contains(name) {
            continue;
        }
        let before = processes_of(programs.agent())?;
        let underpass = Underpass::start(programs.clone(), assets.clone(), &agent, transport)?;
        let after = processes_of(programs.agent())?;
        for id in after.difference(&before) {
            let mebibytes = Usage::of_tree(*id)?.resident as f64 / f64::from(1024 * 1024);
            let metric = Metric::AgentResident;
            bench
                .report
                .add(scenario, "idle agent", name, metric, mebibytes);
        }
        let client = client::of(&underpass.kubeconfig(USER, &[])?).await?;
        ways.push(Way {
            name,
            client,
            neighbour: underpass.kubeconfig(NEIGHBOUR, &[])?,
            _underpass: Some(underpass),
        });
    }
    Ok((cluster, ways))
}

fn binding() -> serde_json::Value {
    let group = "rbac.authorization.k8s.io";
    let subject = |name: &str| json!({ "apiGroup": group, "kind": "User", "name": name });
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": { "name": USER },
        "roleRef": { "apiGroup": group, "kind": "ClusterRole", "name": "cluster-admin" },
        "subjects": [subject(USER), subject(NEIGHBOUR)],
    })
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

async fn measure(bench: &mut Bench<'_>, cluster: &Cluster, ways: &[Way]) -> Result<()> {
    let plan = bench.plan;
    // Who writes does so straight, whichever way the watches go.
    let writer = ways.first().context("no way is chosen")?;
    let log = logs::prepare(cluster, &writer.client).await;
    if let Err(error) = &log {
        bench.report.fail(Some(SCENARIO), "a pod's log", error);
    }
    for _ in 0..plan.repetitions {
        for way in ways {
            let times = calls::gets(&way.client, plan.requests).await;
            note(bench, SCENARIO, "GET", way.name, times);
        }
        for way in ways.iter().filter(|_| log.is_ok()) {
            match logs::read(&way.client).await {
                Ok(speed) => {
                    eprintln!(
                        "{SCENARIO}, a pod's log: {:<20}  Gbit/s {speed:.2}",
                        way.name
                    );
                    let metric = Metric::Throughput;
                    bench
                        .report
                        .add(SCENARIO, "a pod's log", way.name, metric, speed);
                }
                Err(error) => bench.report.fail(Some(SCENARIO), way.name, &error),
            }
        }
        for way in ways {
            let delays =
                calls::watches(&way.client, &writer.client, plan.watches, plan.writes).await;
            note(
                bench,
                SCENARIO,
                &format!("{} watches", plan.watches),
                way.name,
                delays,
            );
        }
    }
    Ok(())
}

fn note(bench: &mut Bench<'_>, scenario: &str, cell: &str, way: &str, times: Result<Vec<f64>>) {
    match times.and_then(|times| percentiles(&times)) {
        Ok(figures) => {
            for (metric, sample) in figures {
                eprintln!(
                    "{scenario}, {cell}: {way:<20}  {} {sample:.0}",
                    metric.title()
                );
                bench.report.add(scenario, cell, way, metric, sample);
            }
        }
        Err(error) => bench.report.fail(Some(scenario), way, &error),
    }
}
