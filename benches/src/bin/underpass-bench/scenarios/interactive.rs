//! A keystroke's echo, alone and beside copies through the same agent.

use std::time::{Duration, Instant};

use anyhow::Result;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;

use super::requests::percentiles;
use super::turns::{Figures, Turns};
use crate::load::{Bulk, Direction, Echo, type_keys};
use crate::plan::Plan;
use crate::report::Metric;
use crate::systems::Running;

pub(super) struct Interactive;

pub(super) const ALONE: &str = "alone";
const BESIDE_RATED: &str = "beside 1 Gbit/s";

/// 1 Gbit/s.
const RATE: u64 = 125_000_000;

/// Somebody types fast, so that it does not take long.
const PAUSE: Duration = Duration::from_millis(1);

impl Turns for Interactive {
    fn name(&self) -> &'static str {
        "interactive"
    }

    fn cells(&self) -> &'static [&'static str] {
        &[ALONE, "beside a copy", BESIDE_RATED]
    }

    fn measure<'a>(
        &'a self,
        cell: &'a str,
        running: &'a Running<'_>,
        plan: &'a Plan,
    ) -> BoxFuture<'a, Result<Figures>> {
        measure(cell, running, plan.warm_up, plan.keystrokes).boxed()
    }
}

/// Types so many keystrokes, once a copy has run for `warm_up`.
///
/// # Errors
/// Where one does not come back, or the copy ends.
pub(super) async fn measure(
    cell: &str,
    running: &Running<'_>,
    warm_up: Duration,
    keystrokes: usize,
) -> Result<Figures> {
    let mut keys = Echo::start(running.keys()).await?;
    let rate = if cell == BESIDE_RATED { RATE } else { 0 };
    let streams = if cell == ALONE { 0 } else { 1 };
    let mut copy = Bulk::start(running.door(), streams, Direction::Down, rate).await?;
    tokio::time::sleep(warm_up).await;
    let (begun, moved) = (Instant::now(), copy.moved());
    let times = type_keys(&mut keys, keystrokes, PAUSE).await?;
    let gigabits = (copy.moved() - moved) as f64 * 8e-9;
    copy.check()?;
    let mut figures = percentiles(&times)?;
    if streams > 0 {
        figures.push((Metric::Throughput, gigabits / begun.elapsed().as_secs_f64()));
    }
    Ok(figures)
}
