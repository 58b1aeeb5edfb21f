//! Streams that carry what they can.

use std::time::Instant;

use anyhow::{Context as _, Result};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;

use super::turns::{Figures, Turns};
use crate::load::{self, Direction};
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
    let (streams, direction) = cell.split_once(' ').context("streams, then a direction")?;
    let direction = match direction {
        "up" => Direction::Up,
        _ => Direction::Down,
    };
    let mut bulk = load::Bulk::start(running.door(), streams.parse()?, direction, 0).await?;
    tokio::time::sleep(plan.warm_up).await;
    let (begun, cpu, moved) = (Instant::now(), running.cpu()?, bulk.moved());
    tokio::time::sleep(plan.bulk).await;
    let (time, cpu, moved) = (begun.elapsed(), running.cpu()? - cpu, bulk.moved() - moved);
    bulk.check()?;
    let gigabits = moved as f64 * 8e-9;
    anyhow::ensure!(moved > 0, "nothing was carried");
    let mut figures = vec![(Metric::Throughput, gigabits / time.as_secs_f64())];
    if running.kind() != SystemKind::Direct {
        figures.push((Metric::CpuPerGbit, cpu.as_secs_f64() / gigabits));
    }
    Ok(figures)
}
