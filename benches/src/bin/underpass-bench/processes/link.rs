//! A path between two networks: it passes packets on at a rate, with a delay and with loss.

use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rand::RngExt as _;
use tun_rs::{DeviceBuilder, SyncDevice};

use super::firewall::{Firewall, Way};
use super::questions;
use crate::link::Devices;

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    #[arg(long)]
    megabits: u32,
    #[arg(long)]
    delay_ms: u32,
    #[arg(long)]
    loss: f64,
}

/// Ethernet's.
const MTU: u16 = 1500;

/// The queue's length in time: the usual round trip.
const QUEUE: Duration = Duration::from_millis(40);

/// One direction's rate, delay and loss.
#[derive(Debug, Clone)]
struct Pipe {
    bytes_per_second: f64,
    delay: Duration,
    loss: f64,
    /// When the last packet so far will have left.
    busy_until: Instant,
}

pub(super) fn run(options: &Options) -> Result<()> {
    ensure!(
        (0.0..=100.0).contains(&options.loss),
        "loss is a percentage"
    );
    let id = std::process::id();
    let (here, there) = (format!("ub{id}a"), format!("ub{id}b"));
    let device = |name: &str| {
        let device = DeviceBuilder::new().name(name).mtu(MTU).build_sync();
        device.with_context(|| format!("cannot make the TUN device {name}"))
    };
    let (a, b) = (Arc::new(device(&here)?), Arc::new(device(&there)?));
    let pipe = Pipe {
        bytes_per_second: f64::from(options.megabits) * 125_000.0,
        delay: Duration::from_millis(options.delay_ms.into()),
        loss: options.loss / 100.0,
        busy_until: Instant::now(),
    };
    let devices = serde_json::to_value(Devices { here, there })?;
    let firewall = Arc::<Mutex<Firewall>>::default();
    let ordered = Arc::clone(&firewall);
    questions::answer_with(move |question| {
        if question != "devices" {
            let mut firewall = ordered.lock().unwrap_or_else(PoisonError::into_inner);
            firewall.order(question)?;
        }
        Ok(devices.clone())
    });
    let passes = |way, packet: &[u8]| {
        let mut firewall = firewall.lock().unwrap_or_else(PoisonError::into_inner);
        firewall.passes(way, packet)
    };
    // Threads, since a thread sleeps more precisely than a task.
    thread::scope(|scope| {
        scope.spawn(|| {
            carry(&a, Arc::clone(&b), pipe.clone(), |packet| {
                passes(Way::In, packet)
            })
        });
        carry(&b, Arc::clone(&a), pipe.clone(), |packet| {
            passes(Way::Out, packet)
        })
    })
}

fn carry(
    from: &SyncDevice,
    to: Arc<SyncDevice>,
    mut pipe: Pipe,
    passes: impl Fn(&[u8]) -> bool,
) -> Result<()> {
    let (send, receive) = mpsc::channel::<(Instant, Vec<u8>)>();
    thread::spawn(move || {
        for (when, packet) in receive {
            thread::sleep(when.saturating_duration_since(Instant::now()));
            // A device that is going down takes no packets.
            let _ = to.send(&packet);
        }
    });
    let mut buffer = vec![0; usize::from(MTU) + 64];
    loop {
        let Ok(length) = from.recv(&mut buffer) else {
            // It is not up yet, or moves to its network.
            thread::sleep(Duration::from_millis(1));
            continue;
        };
        let lost = rand::rng().random_bool(pipe.loss);
        if !passes(buffer.get(..length).unwrap_or_default()) {
            continue;
        }
        if let Some(arrival) = pipe.arrival(Instant::now(), length).filter(|_| !lost) {
            let packet = buffer.get(..length).unwrap_or_default().to_vec();
            send.send((arrival, packet))
                .context("nobody carries any more")?;
        }
    }
}

impl Pipe {
    /// When a packet that comes now arrives; `None` where the queue is full.
    fn arrival(&mut self, now: Instant, length: usize) -> Option<Instant> {
        let begins = self.busy_until.max(now);
        if begins - now > QUEUE {
            return None;
        }
        let takes = Duration::from_secs_f64(length as f64 / self.bytes_per_second);
        self.busy_until = begins + takes;
        Some(self.busy_until + self.delay)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_leave_one_after_the_other_and_a_full_queue_takes_none() {
        let now = Instant::now();
        let mut pipe = Pipe {
            bytes_per_second: 125_000.0,
            delay: Duration::from_millis(20),
            loss: 0.0,
            busy_until: now,
        };
        let after = |arrival: Option<Instant>| arrival.map(|arrival| arrival - now);
        let ms = Duration::from_millis;
        assert_eq!(after(pipe.arrival(now, 1250)), Some(ms(30)));
        assert_eq!(after(pipe.arrival(now, 1250)), Some(ms(40)));
        // Others wait for the first one only where they come before it has left.
        assert_eq!(after(pipe.arrival(now + ms(100), 1250)), Some(ms(130)));
        let taken = (0..100)
            .filter_map(|_| pipe.arrival(now + ms(100), 1250))
            .count();
        assert_eq!(taken, 4, "of 40 ms, and the one that fills it");
    }
}
