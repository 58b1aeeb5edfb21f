//! A keystroke's echo over a link that a copy fills, and over one that loses packets.

use std::time::Duration;

use anyhow::Result;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;

use super::Bench;
use super::interactive::{self, ALONE};
use super::turns::{self, Figures, Turns};
use crate::link::Shape;
use crate::plan::Plan;
use crate::site::Site;
use crate::systems::Running;

/// The time for a copy to fill the link.
const FILL: Duration = Duration::from_secs(2);

/// A variant of it.
pub(super) struct Over {
    name: &'static str,
    shape: Shape,
}

/// 100 Mbit/s and 40 ms.
pub(super) const SHAPED: Over = Over {
    name: "link",
    shape: Shape {
        megabits: 100,
        round_trip_ms: 40,
        loss: 0.0,
    },
};

/// The same, which loses one packet of a hundred.
pub(super) const LOSSY: Over = Over {
    name: "loss",
    shape: Shape {
        megabits: 100,
        round_trip_ms: 40,
        loss: 1.0,
    },
};

/// Measures it on a site of its own, whose agents are behind the link.
pub(super) async fn run(bench: &mut Bench<'_>, over: &Over) -> Result<()> {
    let site = match Site::behind(over.shape) {
        Ok(site) => site,
        Err(error) => {
            bench.report.fail(Some(over.name), "all systems", &error);
            return Ok(());
        }
    };
    let mut behind = Bench {
        site: &site,
        systems: bench.systems,
        plan: bench.plan,
        report: bench.report,
    };
    turns::run(&mut behind, over).await
}

impl Turns for Over {
    fn name(&self) -> &'static str {
        self.name
    }

    fn cells(&self) -> &'static [&'static str] {
        &[ALONE, "beside a copy"]
    }

    fn measure<'a>(
        &'a self,
        cell: &'a str,
        running: &'a Running<'_>,
        plan: &'a Plan,
    ) -> BoxFuture<'a, Result<Figures>> {
        async move {
            let fill = FILL.min(plan.warm_up * 4);
            interactive::measure(cell, running, fill, plan.distant_keystrokes).await
        }
        .boxed()
    }
}
