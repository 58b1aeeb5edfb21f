//! Agents that do nothing.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize;

use super::Bench;
use super::requests::percentiles;
use crate::plan::Plan;
use crate::process::Process;
use crate::report::Metric;
use crate::site::Site;
use crate::systems::{Agents, Running, System, SystemKind};

const SCENARIO: &str = "idle";

/// How long it may take until all are connected.
const DEADLINE: Duration = Duration::from_secs(300);

/// The pause between two looks.
const POLL: Duration = Duration::from_millis(20);

/// Streams that are opened to random agents.
const OPENED: usize = 300;

/// Crowds of agents where a process can be several; else as many processes as the plan says.
pub(super) async fn run(bench: &mut Bench<'_>) -> Result<()> {
    let systems = bench.systems;
    for system in systems.iter().map(AsRef::as_ref) {
        let measured = match system.kind() {
            SystemKind::Direct | SystemKind::Floor => continue,
            _ => match system.crowd() {
                Some(most) => crowds(bench, system, most).await,
                None => processes(bench, system).await,
            },
        };
        if let Err(error) = measured {
            bench.report.fail(Some(SCENARIO), system.name(), &error);
        }
    }
    Ok(())
}

fn note(bench: &mut Bench<'_>, system: &dyn System, cell: &str, metric: Metric, sample: f64) {
    let digits = metric.digits();
    eprintln!(
        "{SCENARIO}, {cell}: {:<20}  {} {sample:.digits$}",
        system.name(),
        metric.title()
    );
    bench
        .report
        .add(SCENARIO, cell, system.name(), metric, sample);
}

async fn crowds(bench: &mut Bench<'_>, system: &dyn System, most: u32) -> Result<()> {
    let mut counts: Vec<_> = bench
        .plan
        .crowds
        .iter()
        .map(|&count| count.min(most))
        .collect();
    counts.dedup();
    for count in counts {
        crowd(bench, system, count).await?;
    }
    Ok(())
}

async fn crowd(bench: &mut Bench<'_>, system: &dyn System, count: u32) -> Result<()> {
    let cell = format!("{count} agents");
    let (site, plan) = (bench.site, bench.plan);
    // The first one alone says what a server is without the others.
    let mut running = Running::start(system, site).await?;
    let dial = running.server.agents;
    settle(&running, plan).await?;
    let resident = |running: &Running<'_>| anyhow::Ok(running.server_usage()?.resident as f64);
    let (alone, agent) = (resident(&running)?, running.agents_usage()?.resident as f64);
    note(
        bench,
        system,
        &cell,
        Metric::AgentResident,
        agent / f64::from(1024 * 1024),
    );
    let others = Agents {
        first: 1,
        count: count - 1,
    };
    let begun = Instant::now();
    running.add(site, dial, others)?;
    all_connected(&mut running, count).await?;
    note(
        bench,
        system,
        &cell,
        Metric::Connected,
        begun.elapsed().as_secs_f64(),
    );
    settle(&running, plan).await?;
    let each = (resident(&running)? - alone) / f64::from(others.count) / 1024.0;
    note(bench, system, &cell, Metric::PerAgent, each);
    note(
        bench,
        system,
        &cell,
        Metric::IdleCpu,
        idle_cpu(&running, plan).await?,
    );
    let opened: Opened = ask(&mut running, &format!("open {OPENED}"))?;
    for (metric, sample) in percentiles(&opened.opened_us)? {
        if metric == Metric::Median {
            note(bench, system, &cell, Metric::Opened, sample);
        }
    }
    let back = restarted(site, running, count).await?;
    note(bench, system, &cell, Metric::Back, back.as_secs_f64());
    note(bench, system, &cell, Metric::Agents, f64::from(count));
    Ok(())
}

/// Kills the server, starts another one in its place, and says how long it took from then until all
/// agents were back.
async fn restarted(site: &Site, mut running: Running<'_>, count: u32) -> Result<Duration> {
    let mut process = running
        .server
        .process
        .take()
        .context("there is no server")?;
    process.kill();
    let begun = Instant::now();
    running.server.process = Some(process.again(site.path())?);
    all_connected(&mut running, count).await?;
    Ok(begun.elapsed())
}

async fn processes(bench: &mut Bench<'_>, system: &dyn System) -> Result<()> {
    let count = bench.plan.processes;
    let cell = format!("{count} agent processes");
    let (site, plan) = (bench.site, bench.plan);
    let mut running = Running::start(system, site).await?;
    let dial = running.server.agents;
    settle(&running, plan).await?;
    let (alone, agent) = (running.server_usage()?, running.agents_usage()?);
    note(
        bench,
        system,
        &cell,
        Metric::AgentResident,
        agent.resident as f64 / f64::from(1024 * 1024),
    );
    for first in 1..count {
        running.add(site, dial, Agents { first, count: 1 })?;
    }
    if system.relays() {
        all_dialled(&mut running, count).await?;
    }
    settle(&running, plan).await?;
    running.check()?;
    let more = running.server_usage()?.resident as f64 - alone.resident as f64;
    note(
        bench,
        system,
        &cell,
        Metric::PerAgent,
        more / f64::from(count - 1) / 1024.0,
    );
    note(bench, system, &cell, Metric::Agents, f64::from(count));
    Ok(())
}

/// Until the server has as many connections: it is not asked, but the kernel.
async fn all_dialled(running: &mut Running<'_>, count: u32) -> Result<()> {
    let begun = Instant::now();
    let port = running.server.agents.port();
    while established(&fs::read_to_string("/proc/net/tcp")?, port) < usize::try_from(count)? {
        running.check()?;
        ensure!(
            begun.elapsed() < DEADLINE,
            "not all of {count} agents have dialled"
        );
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}

/// Connections to a port of this machine in `proc_pid_net(5)`'s list of IPv4.
fn established(list: &str, port: u16) -> usize {
    let port = format!(":{port:04X}");
    let lines = list.lines().skip(1);
    let to_port = lines.filter(|line| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let local = fields.next().unwrap_or_default();
        // Behind the remote address stands the state, 01 being ESTABLISHED.
        local.ends_with(&port) && fields.nth(1) == Some("01")
    });
    to_port.count()
}

/// Until nobody has anything to do any more, and then some.
async fn settle(running: &Running<'_>, plan: &Plan) -> Result<()> {
    running.quiet().await?;
    tokio::time::sleep(plan.idle / 4).await;
    Ok(())
}

async fn idle_cpu(running: &Running<'_>, plan: &Plan) -> Result<f64> {
    let (begun, before) = (Instant::now(), running.server_usage()?.cpu);
    tokio::time::sleep(plan.idle).await;
    let taken = running.server_usage()?.cpu - before;
    Ok(taken.as_secs_f64() / begun.elapsed().as_secs_f64() * 100.0)
}

#[derive(Deserialize)]
struct Sessions {
    sessions: u32,
}

#[derive(Deserialize)]
struct Opened {
    opened_us: Vec<f64>,
}

fn ask<T: serde::de::DeserializeOwned>(running: &mut Running<'_>, question: &str) -> Result<T> {
    let process: &mut Process = running
        .server
        .process
        .as_mut()
        .context("there is no server")?;
    process.ask(question)
}

async fn all_connected(running: &mut Running<'_>, count: u32) -> Result<()> {
    let begun = Instant::now();
    loop {
        let Sessions { sessions } = ask(running, "sessions")?;
        if sessions >= count {
            return Ok(());
        }
        running.check()?;
        if begun.elapsed() > DEADLINE {
            bail!("{sessions} of {count} agents are connected after {DEADLINE:?}");
        }
        tokio::time::sleep(POLL).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_counted_at_the_servers_end() {
        let list = "  sl  local_address rem_address   st\n\
                    0: 0100007F:4E20 00000000:0000 0A 0\n\
                    1: 0100007F:4E20 0100007F:C350 01 0\n\
                    2: 0100007F:C350 0100007F:4E20 01 0\n\
                    3: 0100007F:4E20 0100007F:C351 06 0\n";
        assert_eq!(established(list, 20_000), 1);
        assert_eq!(established(list, 50_000), 1);
        assert_eq!(established(list, 1), 0);
    }
}
