//! A network of its own for agents and target, and a link to it that is slow, long, and may lose packets.
//!
//! Two TUN devices, one of them in a network namespace, with a process of ours between them: Linux has the
//! same as `tc netem`, which not every kernel is built with.

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::process::{self, Process};

/// The network for benchmarks, 198.18.0.0/15 (RFC 2544, appendix C.2.2), has so many of four addresses.
const NETWORKS: u32 = 1 << 15;

/// The server's and users' address on it. Each process has a network of its own: runs beside each other do not meet.
pub(crate) fn here() -> Ipv4Addr {
    address(1)
}

/// The agents' and the target's.
pub(crate) fn there() -> Ipv4Addr {
    address(2)
}

fn address(host: u32) -> Ipv4Addr {
    let network = u32::from(Ipv4Addr::new(198, 18, 0, 0)) + std::process::id() % NETWORKS * 4;
    (network + host).into()
}

/// How long the network may take to be there.
const DEADLINE: Duration = Duration::from_secs(10);

/// The pause between two looks.
const POLL: Duration = Duration::from_millis(5);

/// How a link is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Shape {
    /// Mbit/s in each direction.
    pub(crate) megabits: u32,
    /// Milliseconds there and back, without a queue.
    pub(crate) round_trip_ms: u32,
    /// Percent of packets that are lost, in each direction.
    pub(crate) loss: f64,
}

/// A link that is up until this is dropped.
#[derive(Debug)]
pub(crate) struct Link {
    /// Between the devices, which go with it.
    carrier: Mutex<Process>,
    /// Its namespace is the network, which goes with the last process in it.
    network: Process,
}

/// The carrier's line once its devices are there.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Devices {
    pub(crate) here: String,
    pub(crate) there: String,
}

impl Link {
    /// Makes the network, and the link to it.
    ///
    /// # Errors
    /// Where this is not root, or the kernel has no TUN devices.
    pub(crate) fn up(folder: &Path, program: &Path, shape: Shape) -> Result<Self> {
        let sleep = ["--net", "sleep", "infinity"];
        let mut network = Process::start(folder, "network", Path::new("unshare"), sleep)?;
        let arguments = [
            "process",
            "link",
            "--megabits",
            &shape.megabits.to_string(),
            "--delay-ms",
            &(shape.round_trip_ms / 2).to_string(),
            "--loss",
            &shape.loss.to_string(),
        ];
        let mut carrier = Process::start(folder, "link", program, arguments)?;
        let Devices { here, there } = carrier
            .ask("devices")
            .context("a link needs root, and a kernel with TUN devices")?;
        let begun = Instant::now();
        while same_network(network.id()) {
            network.check()?;
            ensure!(
                begun.elapsed() < DEADLINE,
                "no network of its own for agents and target"
            );
            std::thread::sleep(POLL);
        }
        let namespace = network.id().to_string();
        ip(&["addr", "add", &format!("{}/30", self::here()), "dev", &here])?;
        ip(&["link", "set", &here, "up"])?;
        ip(&["link", "set", &there, "netns", &namespace])?;
        let inside = |words: &[&str]| {
            let enter = ["--target", &namespace, "--net", "ip"];
            process::run(Command::new("nsenter").args(enter).args(words))
        };
        inside(&[
            "addr",
            "add",
            &format!("{}/30", self::there()),
            "dev",
            &there,
        ])?;
        inside(&["link", "set", &there, "up"])?;
        inside(&["link", "set", "lo", "up"])?;
        Ok(Self {
            carrier: Mutex::new(carrier),
            network,
        })
    }

    /// Gives an order to the firewall on it.
    ///
    /// # Errors
    /// Where there is no such order, or the carrier has ended.
    pub(crate) fn firewall(&self, order: &str) -> Result<()> {
        let mut carrier = self.carrier.lock().unwrap_or_else(PoisonError::into_inner);
        carrier.ask::<Devices>(order).map(drop)
    }

    /// The command that runs another one in the network; it takes this one's place.
    pub(crate) fn enter(&self) -> [String; 5] {
        let namespace = self.network.id().to_string();
        let words = ["nsenter", "--target", &namespace, "--net", "--"];
        words.map(str::to_owned)
    }
}

/// Whether a process is in the network that this one is in, or has not got to its own yet.
fn same_network(id: u32) -> bool {
    let network = |process: &str| fs::read_link(format!("/proc/{process}/ns/net"));
    match (network("self"), network(&id.to_string())) {
        (Ok(here), Ok(there)) => here == there,
        _ => true,
    }
}

fn ip(words: &[&str]) -> Result<()> {
    process::run(Command::new("ip").args(words))
}
