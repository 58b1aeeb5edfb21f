//! Small requests and their answers.

use anyhow::{Context as _, Result};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;

use super::turns::{Figures, Turns};
use crate::load::{ping_pong, requests};
use crate::plan::Plan;
use crate::report::{Metric, Report};
use crate::statistics::percentile;
use crate::systems::{Running, System, SystemKind};

pub(super) struct Requests;

/// One connection, one request after the other.
const ONE_CONNECTION: &str = "one connection";

impl Turns for Requests {
    fn name(&self) -> &'static str {
        "requests"
    }

    fn cells(&self) -> &'static [&'static str] {
        &[ONE_CONNECTION, "1 in flight", "64 in flight"]
    }

    fn suits(&self, system: &dyn System) -> bool {
        system.name() != "underpass-two-links"
    }

    fn measure<'a>(
        &'a self,
        cell: &'a str,
        running: &'a Running<'_>,
        plan: &'a Plan,
    ) -> BoxFuture<'a, Result<Figures>> {
        measure(cell, running, plan).boxed()
    }
}

async fn measure(cell: &str, running: &Running<'_>, plan: &Plan) -> Result<Figures> {
    let door = running.door();
    if cell == ONE_CONNECTION {
        return percentiles(&ping_pong(door, plan.requests).await?);
    }
    let in_flight = cell
        .split(' ')
        .next()
        .context("how many are in flight")?
        .parse()?;
    requests(door, in_flight, plan.warm_up).await?;
    let cpu = running.cpu()?;
    let done = requests(door, in_flight, plan.requests).await?;
    let cpu = running.cpu()? - cpu;
    let mut figures = percentiles(&done.times)?;
    figures.push((Metric::Rate, done.rate));
    if running.kind() != SystemKind::Direct {
        let thousands = done.times.len() as f64 / 1e3;
        figures.push((Metric::CpuPerThousand, cpu.as_secs_f64() / thousands));
    }
    Ok(figures)
}

/// The median and the 99th percentile.
pub(super) fn percentiles(times: &[f64]) -> Result<Figures> {
    let at = |percent| percentile(times, percent).context("nothing was answered");
    Ok(vec![(Metric::Median, at(50.0)?), (Metric::Late, at(99.0)?)])
}

/// Each repetition's median, less direct's in the same repetition.
pub(super) fn add_latency_over_direct(report: &mut Report, scenario: &str) {
    let medians: Vec<_> = report
        .figures
        .iter()
        .filter(|figure| figure.scenario == scenario && figure.metric == Metric::Median)
        .cloned()
        .collect();
    for figure in &medians {
        let direct = medians
            .iter()
            .find(|direct| direct.system == "direct" && direct.cell == figure.cell);
        let Some(direct) = direct.filter(|direct| direct.system != figure.system) else {
            continue;
        };
        for (sample, direct) in figure.samples.iter().zip(&direct.samples) {
            let (scenario, cell, system) = (&figure.scenario, &figure.cell, &figure.system);
            report.add(scenario, cell, system, Metric::Added, sample - direct);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latency_is_added_within_a_repetition() {
        let mut report = Report::new(Plan::short(), Vec::new());
        for (system, samples) in [("direct", [100.0, 900.0]), ("peer", [150.0, 960.0])] {
            for sample in samples {
                report.add("requests", "1 in flight", system, Metric::Median, sample);
            }
        }
        add_latency_over_direct(&mut report, "requests");
        let added = |system| report.spread("requests", "1 in flight", system, Metric::Added);
        assert_eq!(added("peer").unwrap().median, 55.0);
        assert_eq!(added("direct"), None);
    }
}
