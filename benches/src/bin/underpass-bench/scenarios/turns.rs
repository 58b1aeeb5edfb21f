//! Systems take turns in everything, so that a noisy moment meets all of them.

use anyhow::Result;
use futures_util::future::BoxFuture;

use super::Bench;
use crate::plan::Plan;
use crate::report::Metric;
use crate::systems::{Running, System};

/// The samples of a turn.
pub(super) type Figures = Vec<(Metric, f64)>;

/// Something that is measured in turns.
pub(super) trait Turns: Sync {
    /// In reports.
    fn name(&self) -> &'static str;

    /// Its variants.
    fn cells(&self) -> &'static [&'static str];

    /// Whether the system has a part in it.
    fn suits(&self, system: &dyn System) -> bool {
        // That one is for requests only.
        // The second link of the other one stands by, and carries nothing.
        !matches!(system.name(), "floor-tls-kept" | "underpass-two-links")
    }

    /// Measures a system once.
    fn measure<'a>(
        &'a self,
        cell: &'a str,
        running: &'a Running<'_>,
        plan: &'a Plan,
    ) -> BoxFuture<'a, Result<Figures>>;
}

/// Measures all systems in all cells, in each repetition. All of them run all the time, and are idle when
/// it is not their turn; each round begins with another one.
pub(super) async fn run(bench: &mut Bench<'_>, turns: &impl Turns) -> Result<()> {
    let mut running = start(bench, turns).await;
    for repetition in 0..bench.plan.repetitions {
        for cell in turns.cells() {
            let next = 1.min(running.len());
            running.rotate_left(next);
            let mut left = Vec::new();
            for system in running {
                left.extend(turn_or_again(bench, turns, cell, system, repetition).await);
            }
            running = left;
        }
    }
    for system in &running {
        let (server, agents) = (system.server_usage()?, system.agents_usage()?);
        for (metric, usage) in [(Metric::ServerPeak, server), (Metric::AgentPeak, agents)] {
            if usage.peak > 0 {
                let mebibytes = usage.peak as f64 / f64::from(1024 * 1024);
                bench
                    .report
                    .add(turns.name(), "memory", system.name(), metric, mebibytes);
            }
        }
    }
    Ok(())
}

async fn start<'a>(bench: &mut Bench<'a>, turns: &impl Turns) -> Vec<Running<'a>> {
    let mut running = Vec::new();
    let systems = bench.systems.iter().map(AsRef::as_ref);
    for system in systems.filter(|&system| turns.suits(system)) {
        match Running::start(system, bench.site).await {
            Ok(system) => running.push(system),
            Err(error) => bench.report.fail(Some(turns.name()), system.name(), &error),
        }
    }
    running
}

/// A system that fails is told of, and started anew for its next turn.
async fn turn_or_again<'a>(
    bench: &mut Bench<'_>,
    turns: &impl Turns,
    cell: &str,
    running: Running<'a>,
    repetition: usize,
) -> Option<Running<'a>> {
    let Err(error) = turn(bench, turns, cell, &running, repetition).await else {
        return Some(running);
    };
    let system = running.system();
    let error = error.context(cell.to_owned());
    bench.report.fail(Some(turns.name()), system.name(), &error);
    drop(running);
    match Running::start(system, bench.site).await {
        Ok(again) => Some(again),
        Err(error) => {
            bench.report.fail(Some(turns.name()), system.name(), &error);
            None
        }
    }
}

async fn turn(
    bench: &mut Bench<'_>,
    turns: &impl Turns,
    cell: &str,
    system: &Running<'_>,
    repetition: usize,
) -> Result<()> {
    let figures = turns.measure(cell, system, bench.plan).await?;
    let mut line = String::new();
    for (metric, sample) in figures {
        let digits = metric.digits();
        line.push_str(&format!("  {} {sample:.digits$}", metric.title()));
        bench
            .report
            .add(turns.name(), cell, system.name(), metric, sample);
    }
    let (turn, turns_in_all) = (repetition + 1, bench.plan.repetitions);
    let (scenario, name) = (turns.name(), system.name());
    eprintln!("{turn}/{turns_in_all} {scenario}, {cell}: {name:<20}{line}");
    system.quiet().await
}
