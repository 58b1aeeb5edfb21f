//! A DaemonSet of agents on nodes: they start at once, join, lose their server, and come back.

mod figures;
pub(super) mod roles;
mod site;

use std::time::Duration;

use anyhow::{Result, ensure};
use underpass_testenv::Programs;

use self::figures::Course;
use self::site::{Attempts, Site};
use super::Bench;
use crate::report::{Entry, Metric};
use crate::systems::SystemKind;

const SCENARIO: &str = "crowd";

/// As many agents as one join token registers.
const MOST: u32 = 1000;

/// How long it may take until all are connected.
const DEADLINE: Duration = Duration::from_secs(20 * 60);

/// How long agents that are too many are watched, and those that are there with them.
const TOO_MANY: Duration = Duration::from_secs(10);

/// The agents' default, in reports and as the agent's flag has it.
const DEFAULT: (&str, &str) = ("underpass-auto", "auto");

/// The transports by themselves, each under a system's name.
const TRANSPORTS: [(&str, &str); 2] = [
    ("underpass-websocket", "websocket"),
    ("underpass-quic", "quic"),
];

/// Crowds of each size over each transport that is chosen.
pub(super) async fn run(bench: &mut Bench<'_>) -> Result<()> {
    let transports = chosen_transports(bench);
    if transports.is_empty() {
        return Ok(());
    }
    let programs = if bench.plan.is_short() {
        Programs::build()
    } else {
        Programs::build_release()
    }?;
    let mut counts: Vec<_> = bench.plan.crowds.iter().map(|&n| n.min(MOST)).collect();
    counts.dedup();
    for (name, transport) in transports {
        for &count in &counts {
            if let Err(error) = measure(bench, &programs, name, transport, count).await {
                bench.report.fail(Some(SCENARIO), name, &error);
            }
        }
    }
    Ok(())
}

/// The transports of those systems that are chosen, and their default where both are.
fn chosen_transports(bench: &mut Bench<'_>) -> Vec<(&'static str, &'static str)> {
    let names: Vec<_> = bench.systems.iter().map(|system| system.name()).collect();
    let alone = TRANSPORTS.iter().filter(|(name, _)| names.contains(name));
    let mut chosen: Vec<_> = alone.copied().collect();
    if chosen.len() == TRANSPORTS.len() {
        bench.report.describe(Entry {
            name: DEFAULT.0.to_owned(),
            kind: SystemKind::Underpass,
            settings: "an agent's default: QUIC, and WebSocket stands by".to_owned(),
        });
        chosen.insert(0, DEFAULT);
    }
    chosen
}

async fn measure(
    bench: &mut Bench<'_>,
    programs: &Programs,
    system: &str,
    transport: &str,
    count: u32,
) -> Result<()> {
    let all = f64::from(count);
    let mut site = Site::start(programs, count).await?;
    let mut crowd = site.crowd(transport, 0, count)?;
    let are_there = |sample: &figures::Sample| sample.connected >= all;
    let course = site.watch(crowd.begun(), DEADLINE, are_there).await?;
    let joined = crowd.attempts()?;
    let cell = format!("{count} agents join");
    note_course(bench, system, &cell, &course, count)?;
    note_attempts(bench, system, &cell, joined, count);
    note_server(bench, system, &cell, &site)?;

    let before = crowd.attempts()?;
    let begun = site.restart().await?;
    let course = site.watch(begun, DEADLINE, are_there).await?;
    let after = crowd.attempts()?;
    let cell = format!("{count} agents, the server killed");
    note_course(bench, system, &cell, &course, count)?;
    note_attempts(bench, system, &cell, after.since(before), count);
    note_server(bench, system, &cell, &site)?;

    too_many(bench, &mut site, system, transport, count).await
}

/// More agents than may join hear that, and disturb no others.
async fn too_many(
    bench: &mut Bench<'_>,
    site: &mut Site,
    system: &str,
    transport: &str,
    count: u32,
) -> Result<()> {
    let more = (count / 10).max(1);
    let mut crowd = site.crowd(transport, count, more)?;
    let mut least = f64::INFINITY;
    let begun = crowd.begun();
    let course = site
        .watch(begun, TOO_MANY, |sample| {
            least = least.min(sample.connected);
            false
        })
        .await?;
    let most = course.last().map_or(0.0, |sample| sample.connected);
    let told = crowd.attempts()?;
    ensure!(
        least >= f64::from(count) && most <= f64::from(count),
        "beside {more} agents that are too many, {least} to {most} of {count} were connected"
    );
    ensure!(
        told.refused >= f64::from(more),
        "{} of {more} agents that are too many were told so",
        told.refused
    );
    let cell = format!("{more} agents too many");
    note(bench, system, &cell, Metric::RefusedAttempts, told.refused);
    note_attempts(bench, system, &cell, told, more);
    Ok(())
}

impl Attempts {
    fn since(self, before: Self) -> Self {
        Self {
            joins: self.joins - before.joins,
            refused: self.refused - before.refused,
            dials: self.dials - before.dials,
        }
    }
}

fn note_course(
    bench: &mut Bench<'_>,
    system: &str,
    cell: &str,
    course: &Course,
    count: u32,
) -> Result<()> {
    for (metric, share) in [
        (Metric::HalfThere, 0.5),
        (Metric::NearlyThere, 0.99),
        (Metric::Connected, 1.0),
    ] {
        let Some(when) = course.when(share, count) else {
            let there = course.last().map_or(0.0, |sample| sample.connected);
            anyhow::bail!("{there} of {count} agents are connected after {DEADLINE:?}");
        };
        note(bench, system, cell, metric, when.as_secs_f64());
    }
    let peak = course.busiest_second();
    note(bench, system, cell, Metric::PeakHandshakes, peak);
    let refused = course.last().map_or(0.0, |sample| sample.refused);
    note(bench, system, cell, Metric::RefusedAttempts, refused);
    Ok(())
}

fn note_attempts(bench: &mut Bench<'_>, system: &str, cell: &str, attempts: Attempts, count: u32) {
    let each = |attempts: f64| attempts / f64::from(count);
    note(bench, system, cell, Metric::Joins, each(attempts.joins));
    note(bench, system, cell, Metric::Dials, each(attempts.dials));
}

fn note_server(bench: &mut Bench<'_>, system: &str, cell: &str, site: &Site) -> Result<()> {
    let usage = site.usage()?;
    let (cpu, peak) = (
        usage.cpu.as_secs_f64(),
        usage.peak as f64 / f64::from(1024 * 1024),
    );
    note(bench, system, cell, Metric::ServerCpu, cpu);
    note(bench, system, cell, Metric::ServerPeak, peak);
    Ok(())
}

fn note(bench: &mut Bench<'_>, system: &str, cell: &str, metric: Metric, sample: f64) {
    let digits = metric.digits();
    eprintln!(
        "{SCENARIO}, {cell}: {system:<20}  {} {sample:.digits$}",
        metric.title()
    );
    bench.report.add(SCENARIO, cell, system, metric, sample);
}
