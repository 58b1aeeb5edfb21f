//! A path that dies without a word: when bytes flow again.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rand::RngExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::Bench;
use crate::link::Shape;
use crate::load::{Door, Echo, Order};
use crate::report::Metric;
use crate::site::Site;
use crate::statistics::percentile;
use crate::systems::{Carriers, Running, System, SystemKind};

const SCENARIO: &str = "dead-path";

const SHAPE: Shape = Shape {
    megabits: 1000,
    round_trip_ms: 10,
    loss: 0.0,
};

/// A user who has waited that long gives the connection up, and makes another one.
const PATIENCE: Duration = Duration::from_secs(5);

/// A longer time counts as this.
const DEADLINE: Duration = Duration::from_secs(60);

/// Users try again after such a pause.
const POLL: Duration = Duration::from_millis(20);

/// The pause between two events of a watch.
const EVENTS: Duration = Duration::from_millis(20);

/// Bytes that a copy carries in a second.
const COPY: u64 = 10_000_000;

/// Bytes that were under way when the path died have arrived after that.
const UNDER_WAY: Duration = Duration::from_millis(50);

/// How the path in use dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Death {
    UdpForgotten,
    UdpDropped,
    TcpForgotten,
}

impl Death {
    const ALL: [Self; 3] = [Self::UdpForgotten, Self::UdpDropped, Self::TcpForgotten];

    const fn name(self) -> &'static str {
        match self {
            Self::UdpForgotten => "UDP flows forgotten",
            Self::UdpDropped => "UDP dropped",
            Self::TcpForgotten => "TCP connections forgotten",
        }
    }

    /// As the firewall hears it.
    const fn order(self) -> &'static str {
        match self {
            Self::UdpForgotten => "forget-udp",
            Self::UdpDropped => "drop-udp",
            Self::TcpForgotten => "forget-tcp",
        }
    }

    /// Whether it hits the path in use, and the system has another way.
    fn suits(self, carriers: Carriers) -> bool {
        match self {
            Self::UdpForgotten => carriers != Carriers::Tcp,
            Self::UdpDropped => carriers == Carriers::UdpThenTcp,
            Self::TcpForgotten => carriers == Carriers::Tcp,
        }
    }
}

/// The bytes that a user waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Waits {
    Keystroke,
    Request,
    Event,
    Copy,
}

impl Waits {
    const ALL: [Self; 4] = [Self::Keystroke, Self::Request, Self::Event, Self::Copy];

    const fn name(self) -> &'static str {
        match self {
            Self::Keystroke => "keystroke",
            Self::Request => "new request",
            Self::Event => "watch event",
            Self::Copy => "copy",
        }
    }
}

/// Each system's paths die in each way, each time with a server and an agent that have just started.
pub(super) async fn run(bench: &mut Bench<'_>) -> Result<()> {
    let site = match Site::behind(SHAPE) {
        Ok(site) => site,
        Err(error) => {
            bench.report.fail(Some(SCENARIO), "all systems", &error);
            return Ok(());
        }
    };
    for system in bench.systems {
        let kind = system.kind();
        if !matches!(kind, SystemKind::Underpass | SystemKind::Peer) {
            continue;
        }
        for death in Death::ALL
            .into_iter()
            .filter(|death| death.suits(system.carriers()))
        {
            for waits in Waits::ALL {
                let samples = sample(bench, &site, system.as_ref(), death, waits).await;
                if let Err(error) =
                    samples.and_then(|times| note(bench, system.name(), death, waits, &times))
                {
                    bench.report.fail(Some(SCENARIO), system.name(), &error);
                }
            }
        }
    }
    Ok(())
}

/// As many deaths as the plan says, or as there is time for.
async fn sample(
    bench: &Bench<'_>,
    site: &Site,
    system: &dyn System,
    death: Death,
    waits: Waits,
) -> Result<Vec<f64>> {
    let begun = Instant::now();
    let mut times = Vec::new();
    while times.len() < bench.plan.deaths
        && (times.is_empty() || begun.elapsed() < bench.plan.dying)
    {
        // The server as well: some keep the port of an agent that is gone for the next one's users.
        let server = system.server(site)?;
        let dial = server.agents;
        let mut running = Running::start_agent(system, site, server, dial).await?;
        system.settled(&mut running).await?;
        let calm = Duration::from_millis(rand::rng().random_range(200..400));
        let took = one(site, &running, death, waits, calm).await;
        site.firewall("heal")?;
        times.push(took?.as_secs_f64() * 1e3);
    }
    Ok(times)
}

fn note(
    bench: &mut Bench<'_>,
    system: &str,
    death: Death,
    waits: Waits,
    times: &[f64],
) -> Result<()> {
    let cell = format!("{}, {}", waits.name(), death.name());
    let of = |percent| percentile(times, percent).context("no sample");
    let (median, late) = (of(50.0)?, of(99.0)?);
    let deaths = times.len();
    eprintln!("{SCENARIO}, {cell}: {system:<20}  p50 {median:.0} ms, p99 {late:.0} ms of {deaths}");
    for (metric, sample) in [
        (Metric::FlowsAgain, median),
        (Metric::FlowsAgainLate, late),
        (Metric::Deaths, deaths as f64),
    ] {
        bench.report.add(SCENARIO, &cell, system, metric, sample);
    }
    Ok(())
}

/// How long a user waits from the path's death on.
async fn one(
    site: &Site,
    running: &Running<'_>,
    death: Death,
    waits: Waits,
    calm: Duration,
) -> Result<Duration> {
    match waits {
        Waits::Keystroke => {
            let mut echo = Echo::start(running.keys()).await?;
            tokio::time::sleep(calm).await;
            echo.round_trip(&mut [b'k']).await?;
            site.firewall(death.order())?;
            let died = Instant::now();
            let same = tokio::time::timeout(PATIENCE, echo.round_trip(&mut [b'k'])).await;
            if !matches!(same, Ok(Ok(()))) {
                on_another(running.keys(), died).await;
            }
            Ok(died.elapsed())
        }
        Waits::Request => {
            Echo::start(running.door()).await?;
            tokio::time::sleep(calm).await;
            site.firewall(death.order())?;
            let died = Instant::now();
            on_another(running.door(), died).await;
            Ok(died.elapsed())
        }
        Waits::Event => gap(site, running, death, Order::Tick(EVENTS), calm).await,
        Waits::Copy => gap(site, running, death, Order::Pour(COPY), calm).await,
    }
}

/// A user whose connection is dead, or who makes one, tries until somebody is there.
async fn on_another(door: &Door, died: Instant) {
    while died.elapsed() < DEADLINE {
        let tried = tokio::time::timeout(PATIENCE, Echo::start(door)).await;
        if let Ok(Ok(_)) = tried {
            return;
        }
        tokio::time::sleep(POLL).await;
    }
}

/// From a path's death until bytes of the target arrive again.
async fn gap(
    site: &Site,
    running: &Running<'_>,
    death: Death,
    order: Order,
    calm: Duration,
) -> Result<Duration> {
    let (arrivals, mut arrived) = mpsc::unbounded_channel();
    let door = running.door().clone();
    let mut reading = JoinSet::new();
    reading.spawn(async move {
        // As a watch does whose connection breaks or stands still.
        loop {
            let _ = read(&door, order, &arrivals).await;
            tokio::time::sleep(POLL).await;
        }
    });
    let first = tokio::time::timeout(DEADLINE, arrived.recv()).await;
    ensure!(matches!(first, Ok(Some(_))), "nothing arrives");
    tokio::time::sleep(calm).await;
    site.firewall(death.order())?;
    let died = Instant::now();
    loop {
        let left = DEADLINE.saturating_sub(died.elapsed());
        match tokio::time::timeout(left, arrived.recv()).await {
            Ok(Some(at)) if at < died + UNDER_WAY => {}
            Ok(Some(at)) => return Ok(at - died),
            Ok(None) | Err(_) => return Ok(DEADLINE),
        }
    }
}

async fn read(door: &Door, order: Order, arrivals: &mpsc::UnboundedSender<Instant>) -> Result<()> {
    let mut connection = door.connect().await?;
    connection.write_all(&order.encode()).await?;
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let read = tokio::time::timeout(PATIENCE, connection.read(&mut buffer));
        ensure!(read.await?? > 0, "the target sends no more");
        arrivals.send(Instant::now())?;
    }
}
