//! Streams that carry what they can.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;

use super::turns::{Figures, Turns};
use crate::load::{self, Direction, Door};
use crate::plan::Plan;
use crate::report::Metric;
use crate::systems::{Running, SystemKind};

pub(super) struct Bulk;

impl Turns for Bulk {
    fn name(&self) -> &'static str {
        "bulk"
    }

    fn cells(&self) -> &'static [&'static str] {
        &["1 down", "1 up", "8 down", "8 up"]
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
    let carried = carried(cell, running.door(), plan, || running.cpu()).await?;
    let mut figures = vec![(Metric::Throughput, carried.gigabits_per_second())];
    if running.kind() != SystemKind::Direct {
        let cpu = carried.after - carried.before;
        figures.push((Metric::CpuPerGbit, cpu.as_secs_f64() / carried.gigabits));
    }
    Ok(figures)
}

/// The bytes that streams carried, and a reading before and after.
pub(super) struct Carried<T> {
    gigabits: f64,
    time: Duration,
    before: T,
    after: T,
}

impl<T> Carried<T> {
    pub(super) fn gigabits_per_second(&self) -> f64 {
        self.gigabits / self.time.as_secs_f64()
    }
}

/// Lets as many streams as the cell says carry what they can, in its direction.
pub(super) async fn carried<T>(
    cell: &str,
    door: &Door,
    plan: &Plan,
    read: impl Fn() -> Result<T>,
) -> Result<Carried<T>> {
    let (streams, direction) = cell.split_once(' ').context("streams, then a direction")?;
    let direction = match direction {
        "up" => Direction::Up,
        _ => Direction::Down,
    };
    let mut bulk = load::Bulk::start(door, streams.parse()?, direction, 0).await?;
    tokio::time::sleep(plan.warm_up).await;
    let (begun, before, moved) = (Instant::now(), read()?, bulk.moved());
    tokio::time::sleep(plan.bulk).await;
    let (time, after, moved) = (begun.elapsed(), read()?, bulk.moved() - moved);
    bulk.check()?;
    anyhow::ensure!(moved > 0, "nothing was carried");
    Ok(Carried {
        gigabits: moved as f64 * 8e-9,
        time,
        before,
        after,
    })
}
