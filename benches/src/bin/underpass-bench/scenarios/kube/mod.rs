//! Calls to a real API server: straight, and through the whole product.

mod calls;
mod client;
mod logs;
pub(super) mod neighbour;
mod product;

use std::collections::HashSet;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use kube::Client;
use serde_json::json;
use underpass_testenv::{Assets, Cluster, ClusterOptions, Programs, Transport, progress_to_stderr};

use self::calls::Watches;
use self::client::Protocol;
use self::product::Product;
use super::Bench;
use super::requests::{add_latency_over_direct, percentiles};
use super::turns::Figures;
use crate::plan::Plan;
use crate::report::Metric;

const SCENARIO: &str = "kube";

/// The caller on every way: the cluster's RBAC lets them do everything.
const USER: &str = "bench";

/// Somebody else who may.
const NEIGHBOUR: &str = "neighbour";

/// A way to the API server.
struct ApiRoute {
    /// As the same is called elsewhere in a report.
    name: &'static str,
    client: Client,
    kubeconfig: PathBuf,
    /// The other user's.
    neighbour: PathBuf,
    /// The system on the way.
    product: Option<Product>,
}

impl ApiRoute {
    /// The calls' microseconds, and the CPU time of server and agent for them.
    async fn figures(&self, calls: impl Future<Output = Result<Vec<f64>>>) -> Result<Figures> {
        let Some(product) = &self.product else {
            return percentiles(&calls.await?);
        };
        let before = product.cpu()?;
        let times = calls.await?;
        let cpu = product.cpu()? - before;
        let mut figures = percentiles(&times)?;
        let thousands = times.len() as f64 / 1e3;
        figures.push((Metric::CpuPerThousand, cpu.as_secs_f64() / thousands));
        Ok(figures)
    }
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

async fn prepare(bench: &mut Bench<'_>, scenario: &str) -> Result<(Cluster, Vec<ApiRoute>)> {
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
        let kubeconfig = cluster.kubeconfig_for(USER, &[])?;
        ways.push(ApiRoute {
            name: "direct",
            client: client::of(&kubeconfig).await?,
            kubeconfig,
            neighbour: cluster.kubeconfig_for(NEIGHBOUR, &[])?,
            product: None,
        });
    }
    for (name, transport) in [
        ("underpass-websocket", Transport::WebSocket),
        ("underpass-quic", Transport::Quic),
    ] {
        if !chosen.contains(name) {
            continue;
        }
        let product = Product::start(&programs, &assets, &agent, transport)?;
        let (metric, resident) = (Metric::AgentResident, product.agent_resident()?);
        bench
            .report
            .add(scenario, "idle agent", name, metric, resident);
        let kubeconfig = product.kubeconfig(USER)?;
        ways.push(ApiRoute {
            name,
            client: client::of(&kubeconfig).await?,
            kubeconfig,
            neighbour: product.kubeconfig(NEIGHBOUR)?,
            product: Some(product),
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

async fn measure(bench: &mut Bench<'_>, cluster: &Cluster, ways: &[ApiRoute]) -> Result<()> {
    let plan = bench.plan;
    // Writes go straight to the API server, on every way of the watches.
    let writer = ways.first().context("no way is chosen")?;
    let log = logs::prepare(cluster, &writer.client).await;
    if let Err(error) = &log {
        bench.report.fail(Some(SCENARIO), "a pod's log", error);
    }
    for _ in 0..plan.repetitions {
        for protocol in Protocol::ALL {
            for way in ways {
                let figures = gets(way, protocol, plan.requests).await;
                let cell = format!("GET{}", protocol.suffix());
                note(bench, SCENARIO, &cell, way.name, figures);
            }
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
        for protocol in Protocol::ALL {
            for way in ways {
                let figures = watches(way, protocol, plan, &writer.client).await;
                let cell = format!("{} watches{}", plan.watches, protocol.suffix());
                note(bench, SCENARIO, &cell, way.name, figures);
            }
        }
    }
    Ok(())
}

async fn gets(way: &ApiRoute, protocol: Protocol, time: Duration) -> Result<Figures> {
    let clients = client::for_many(&way.kubeconfig, protocol, 1).await?;
    let client = clients.first().context("no client")?;
    way.figures(calls::gets(client, time)).await
}

async fn watches(
    way: &ApiRoute,
    protocol: Protocol,
    plan: &Plan,
    writer: &Client,
) -> Result<Figures> {
    let clients = client::for_many(&way.kubeconfig, protocol, plan.watches).await?;
    let watches = Watches::begin(&clients, plan.watches).await?;
    way.figures(watches.writes(writer, plan.writes)).await
}

fn note(bench: &mut Bench<'_>, scenario: &str, cell: &str, way: &str, figures: Result<Figures>) {
    match figures {
        Ok(figures) => {
            let mut line = format!("{scenario}, {cell}: {way:<20}");
            for (metric, sample) in figures {
                let (title, digits) = (metric.title(), metric.digits());
                line += &format!("  {title} {sample:.digits$}");
                bench.report.add(scenario, cell, way, metric, sample);
            }
            eprintln!("{line}");
        }
        Err(error) => bench.report.fail(Some(scenario), way, &error),
    }
}
