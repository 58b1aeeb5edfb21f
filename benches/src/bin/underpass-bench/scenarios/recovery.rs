//! From a cut connection to bytes that flow again.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::Bench;
use super::relay::Relay;
use crate::load::{Door, Echo};
use crate::report::Metric;
use crate::site::Site;
use crate::systems::{Running, System};

const SCENARIO: &str = "recovery";
const CELL: &str = "connection cut";

/// The deadline for a system to come back.
const DEADLINE: Duration = Duration::from_secs(30);

/// How long a byte may be on its way before the user takes the connection for dead.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long a connection lasts before it is cut: Underpass's agents come back at once where it was stable,
/// and none of the others wait because of that.
const STABLE: Duration = Duration::from_secs(11);

/// Users try again after such a pause.
const POLL: Duration = Duration::from_millis(2);

/// Cuts the connections of all systems whose agents dial over TCP. They take turns, but are stable at
/// the same time.
pub(super) async fn run(bench: &mut Bench<'_>) -> Result<()> {
    let mut running = Vec::new();
    for system in bench
        .systems
        .iter()
        .map(AsRef::as_ref)
        .filter(|system| system.relays())
    {
        match start(system, bench.site).await {
            Ok(started) => running.push(started),
            Err(error) => bench.report.fail(Some(SCENARIO), system.name(), &error),
        }
    }
    for _ in 0..bench.plan.cuts {
        tokio::time::sleep(STABLE.min(bench.plan.idle * 2)).await;
        let mut left = Vec::new();
        for (system, relay) in running {
            match cut(&system, &relay).await {
                Ok(back) => {
                    note(bench, system.name(), &back);
                    left.push((system, relay));
                }
                Err(error) => bench.report.fail(Some(SCENARIO), system.name(), &error),
            }
        }
        running = left;
    }
    Ok(())
}

async fn start<'a>(system: &'a dyn System, site: &Site) -> Result<(Running<'a>, Relay)> {
    let server = system.server(site)?;
    let relay = Relay::start(server.agents).await?;
    let dial = relay.address();
    let running = Running::start_agent(system, site, server, dial).await?;
    Ok((running, relay))
}

/// The outcome of a user.
struct Back {
    /// From the cut until the echo.
    flows: Duration,
    /// From when the agent dialled until the echo.
    since_dial: Duration,
    /// On the same connection.
    survived: bool,
}

fn note(bench: &mut Bench<'_>, system: &str, back: &Back) {
    let millis = |time: Duration| time.as_secs_f64() * 1e3;
    let survived = if back.survived { 100.0 } else { 0.0 };
    let (flows, since_dial) = (millis(back.flows), millis(back.since_dial));
    eprintln!(
        "{SCENARIO}: {system:<20}  {flows:.1} ms, {since_dial:.1} since the dial, {survived}%"
    );
    for (metric, sample) in [
        (Metric::Flows, flows),
        (Metric::FlowsSinceDial, since_dial),
        (Metric::Survived, survived),
    ] {
        bench.report.add(SCENARIO, CELL, system, metric, sample);
    }
}

async fn cut(system: &Running<'_>, relay: &Relay) -> Result<Back> {
    let mut echo = Echo::start(system.door()).await?;
    echo.round_trip(&mut [b'k']).await?;
    relay.cut();
    let cut = Instant::now();
    let on_the_same = tokio::time::timeout(PATIENCE, echo.round_trip(&mut [b'k'])).await;
    let survived = matches!(on_the_same, Ok(Ok(())));
    if !survived {
        on_another(system.door(), cut).await?;
    }
    let flows = cut.elapsed();
    let dialled = relay
        .dialled()
        .context("bytes flow, and nobody has dialled")?;
    Ok(Back {
        flows,
        since_dial: dialled.elapsed(),
        survived,
    })
}

/// A user whose connection is dead connects again, until somebody is there.
async fn on_another(door: &Door, cut: Instant) -> Result<()> {
    loop {
        let tried = tokio::time::timeout(PATIENCE, Echo::start(door)).await;
        if let Ok(Ok(_)) = tried {
            return Ok(());
        }
        ensure!(cut.elapsed() < DEADLINE, "it does not come back");
        tokio::time::sleep(POLL).await;
    }
}
