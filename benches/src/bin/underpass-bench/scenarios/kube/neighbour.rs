//! One user's GETs: alone, beside another user's watches, and beside another user's storm of GETs.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;

use super::calls::{self, Storm, Watches};
use super::{ApiRoute, Bench, client, note, percentiles, prepare};
use crate::report::{Metric, Report};

const SCENARIO: &str = "neighbour";

/// The figure of comparison.
const ALONE: &str = "alone";

/// Measures the ways that are chosen, each a system's, in turns.
pub(in super::super) async fn run(bench: &mut Bench<'_>) -> Result<()> {
    match prepare(bench, SCENARIO).await {
        Ok((cluster, ways)) => {
            for _ in 0..bench.plan.repetitions {
                for way in &ways {
                    if let Err(error) = measure(bench, way).await {
                        bench.report.fail(Some(SCENARIO), way.name, &error);
                    }
                }
            }
            compare(bench.report);
            drop(ways);
            cluster.stop().await;
        }
        Err(error) => bench.report.fail(Some(SCENARIO), "all systems", &error),
    }
    Ok(())
}

async fn measure(bench: &mut Bench<'_>, way: &ApiRoute) -> Result<()> {
    let plan = bench.plan;
    // Twice as long as other requests: beside a storm there are few.
    let time = plan.requests * 2;
    let alone = percentiles(&gets(&way.neighbour, time).await?);
    note(bench, SCENARIO, ALONE, way.name, alone);

    let watches = Watches::begin(std::slice::from_ref(&way.client), plan.watches).await?;
    tokio::time::sleep(plan.warm_up).await;
    let beside = percentiles(&gets(&way.neighbour, time).await?);
    watches.end().await;
    let cell = format!("beside {} watches", plan.watches);
    note(bench, SCENARIO, &cell, way.name, beside);
    tokio::time::sleep(plan.warm_up).await;

    let storm = Storm::begin(&way.client, plan.storm);
    tokio::time::sleep(plan.warm_up).await;
    let beside = percentiles(&gets(&way.neighbour, time).await?);
    let storm = storm.end().await?;
    let cell = format!("beside {} GETs", plan.storm);
    note(bench, SCENARIO, &cell, way.name, beside);
    let cell = format!("the storm of {} GETs", plan.storm);
    for (metric, sample) in [(Metric::Rate, storm.rate), (Metric::Refused, storm.refused)] {
        bench.report.add(SCENARIO, &cell, way.name, metric, sample);
    }
    tokio::time::sleep(plan.warm_up).await;
    Ok(())
}

/// GETs of the one who is measured, on a thread of their own: this process's other load must not be their wait.
async fn gets(kubeconfig: &Path, time: Duration) -> Result<Vec<f64>> {
    let kubeconfig = kubeconfig.to_owned();
    let gets = move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(async {
            let client = client::of(&kubeconfig).await?;
            calls::gets(&client, time).await
        })
    };
    tokio::task::spawn_blocking(gets).await?
}

/// Each repetition's figures, as ratios to the same user alone.
fn compare(report: &mut Report) {
    for (metric, ratio) in [
        (Metric::Median, Metric::MedianOverAlone),
        (Metric::Late, Metric::LateOverAlone),
    ] {
        let figures: Vec<_> = report
            .figures
            .iter()
            .filter(|figure| figure.scenario == SCENARIO && figure.metric == metric)
            .cloned()
            .collect();
        for figure in &figures {
            let alone = figures
                .iter()
                .find(|alone| alone.cell == ALONE && alone.system == figure.system);
            let Some(alone) = alone.filter(|alone| alone.cell != figure.cell) else {
                continue;
            };
            for (sample, alone) in figure.samples.iter().zip(&alone.samples) {
                let (cell, system) = (&figure.cell, &figure.system);
                report.add(SCENARIO, cell, system, ratio, sample / alone);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Plan;

    #[test]
    fn ratios_are_of_one_repetition() {
        let mut report = Report::new(Plan::short(), Vec::new());
        for (cell, samples) in [(ALONE, [100.0, 400.0]), ("beside", [150.0, 800.0])] {
            for sample in samples {
                report.add(SCENARIO, cell, "direct", Metric::Late, sample);
            }
        }
        compare(&mut report);
        let ratio = |cell| report.spread(SCENARIO, cell, "direct", Metric::LateOverAlone);
        let ratios = ratio("beside").unwrap();
        assert_eq!((ratios.min, ratios.max), (1.5, 2.0));
        assert_eq!(ratio(ALONE), None);
    }
}
