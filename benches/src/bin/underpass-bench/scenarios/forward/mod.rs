//! Ports on a user's machine that lead into a cluster: `underpass forward`, `kubectl port-forward`, and chisel without a cluster.

mod ways;

use anyhow::Result;

use self::ways::{Place, Way};
use super::turns::Figures;
use super::{Bench, bulk, requests};
use crate::load;
use crate::plan::Plan;
use crate::report::Metric;

const SCENARIO: &str = "forward";

/// One request after the other, each on a connection of its own.
const CONNECTIONS: &str = "a connection each";

/// Streams that carry what they can, as in the scenario bulk, and connections.
const CELLS: [&str; 5] = ["1 down", "1 up", "8 down", "8 up", CONNECTIONS];

/// Measures all ways of the systems that are chosen, in turns.
pub(super) async fn run(bench: &mut Bench<'_>) -> Result<()> {
    let mut place = match Place::start(bench).await {
        Ok(place) => place,
        Err(error) => {
            bench.report.fail(Some(SCENARIO), "all systems", &error);
            return Ok(());
        }
    };
    let ways = place.ways(bench).await;
    for entry in ways.iter().filter_map(Way::entry) {
        bench.report.describe(entry);
    }
    let plan = long_enough(bench.plan);
    for _ in 0..plan.repetitions {
        for cell in CELLS {
            for way in &ways {
                match measure(cell, way, &plan).await {
                    Ok(figures) => note(bench, cell, way.name(), &figures),
                    Err(error) => bench.report.fail(Some(SCENARIO), way.name(), &error),
                }
            }
        }
    }
    drop(ways);
    place.stop().await;
    Ok(())
}

/// In a short run, too: the first bytes of several connections through `kubectl port-forward` take longer than its samples.
fn long_enough(plan: &Plan) -> Plan {
    let full = Plan::full();
    Plan {
        warm_up: full.warm_up.max(plan.warm_up),
        bulk: full.bulk.max(plan.bulk),
        requests: full.requests.max(plan.requests),
        ..plan.clone()
    }
}

async fn measure(cell: &str, way: &Way<'_>, plan: &Plan) -> Result<Figures> {
    if cell == CONNECTIONS {
        let done = load::requests(way.door(), 1, plan.requests).await?;
        let mut figures = requests::percentiles(&done.times)?;
        figures.push((Metric::Rate, done.rate));
        return Ok(figures);
    }
    let carried = bulk::carried(cell, way.door(), plan, || Ok(())).await?;
    Ok(vec![(Metric::Throughput, carried.gigabits_per_second())])
}

fn note(bench: &mut Bench<'_>, cell: &str, way: &str, figures: &Figures) {
    let mut line = format!("{SCENARIO}, {cell}: {way:<36}");
    for (metric, sample) in figures {
        let (title, digits) = (metric.title(), metric.digits());
        line += &format!("  {title} {sample:.digits$}");
        bench.report.add(SCENARIO, cell, way, *metric, *sample);
    }
    eprintln!("{line}");
}
