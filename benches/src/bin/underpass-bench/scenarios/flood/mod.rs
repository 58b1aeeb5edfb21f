//! One attacker against honest users of one server: their work beside a flood, and the server's memory.

mod attack;
mod door;
mod honest;
mod server;

use std::time::Duration;

use anyhow::Result;
use underpass_testenv::Programs;

use self::attack::Attack;
use self::honest::Done;
use self::server::Server;
use super::Bench;
use crate::report::Metric;

const SCENARIO: &str = "flood";

/// Under which the server's figures stand: nothing here goes through an agent.
const SYSTEM: &str = "underpass-websocket";

/// How long a flood goes on before the others are measured: until all of it is there.
const RISING: Duration = Duration::from_secs(4);

/// In a short run, too.
const SHORTEST: Duration = Duration::from_secs(2);

/// Each flood against a server of its own, after the same without.
pub(super) async fn run(bench: &mut Bench<'_>) -> Result<()> {
    if !bench.systems.iter().any(|system| system.name() == SYSTEM) {
        return Ok(());
    }
    let programs = if bench.plan.is_short() {
        Programs::build()
    } else {
        Programs::build_release()
    }?;
    for _ in 0..bench.plan.repetitions {
        for attack in [None].into_iter().chain(Attack::ALL.map(Some)) {
            if let Err(error) = measure(bench, &programs, attack).await {
                bench.report.fail(Some(SCENARIO), SYSTEM, &error);
            }
        }
    }
    Ok(())
}

async fn measure(bench: &mut Bench<'_>, programs: &Programs, attack: Option<Attack>) -> Result<()> {
    let server = Server::start(programs).await?;
    let flood = match attack {
        Some(attack) => Some(attack.begin(&server).await?),
        None => None,
    };
    if flood.is_some() {
        tokio::time::sleep(RISING).await;
    }
    // Twice as long as other requests: beside a flood there are few.
    let time = (bench.plan.requests * 2).max(SHORTEST);
    let (logins, calls) = tokio::join!(honest::logins(&server, time), honest::calls(&server, time));
    let peak = server.peak()?;
    let beside = attack.map_or("alone", Attack::name);
    for (what, Done { rate, refused }) in [("logins", logins), ("calls", calls)] {
        let cell = format!("{what}, {beside}");
        note(bench, &cell, Metric::Rate, rate);
        note(bench, &cell, Metric::Refused, refused);
    }
    note(
        bench,
        &format!("server, {beside}"),
        Metric::ServerPeak,
        peak,
    );
    drop(flood);
    Ok(())
}

fn note(bench: &mut Bench<'_>, cell: &str, metric: Metric, sample: f64) {
    let digits = metric.digits();
    eprintln!("{SCENARIO}, {cell}: {} {sample:.digits$}", metric.title());
    bench.report.add(SCENARIO, cell, SYSTEM, metric, sample);
}
