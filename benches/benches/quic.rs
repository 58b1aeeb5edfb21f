//! The gain of QUIC's settings, as ratios to quinn's defaults in the same run.
//!
//! Bulk is echoed, so that both ends send and receive; processor time is of both. The rounds take
//! turns, and their median is shown: a machine's mood changes by the second.
#![allow(
    clippy::expect_used,
    reason = "a benchmark whose stream fails has nothing to measure"
)]
#![allow(clippy::print_stdout, reason = "the table is what it is for")]

use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::runtime::Runtime;
use underpass_benches::{Carrier, Pair, Tuned, bulk, cpu_time, round_trip};

const MIB: usize = 1024 * 1024;
/// Bytes there, and as many back.
const BULK: usize = 128 * MIB;
/// Warm-up: finds the path's datagram size and fills the windows before anything counts.
const WARM_UP: usize = 32 * MIB;
const ROUNDS: usize = 9;
const ECHOES: usize = 1000;

const DEFAULT: Tuned = Tuned {
    no_offload: false,
    max_datagram: None,
    socket_buffer: None,
    unacknowledged: None,
    stream_window: None,
    send_window: None,
};

/// The library's settings, without its sessions.
const OURS: Tuned = Tuned {
    max_datagram: Some(6550),
    socket_buffer: Some(2 * MIB),
    stream_window: Some(8704 * 1024),
    send_window: Some(16 * 1024 * 1024),
    ..DEFAULT
};

enum What {
    Quinn(Tuned),
    Session,
}

fn rows() -> Vec<(&'static str, What)> {
    let quinn = |name, tuned| (name, What::Quinn(tuned));
    vec![
        quinn("quinn's defaults", DEFAULT),
        quinn(
            "without offload (GSO)",
            Tuned {
                no_offload: true,
                ..DEFAULT
            },
        ),
        quinn(
            "socket buffers of 2 MiB",
            Tuned {
                socket_buffer: Some(2 * MIB),
                ..DEFAULT
            },
        ),
        quinn(
            "datagrams up to 6,550 bytes",
            Tuned {
                max_datagram: Some(6550),
                ..DEFAULT
            },
        ),
        quinn(
            "the same, buffers of 2 MiB",
            Tuned {
                max_datagram: Some(6550),
                socket_buffer: Some(2 * MIB),
                ..DEFAULT
            },
        ),
        quinn(
            "one ACK for 20 packets",
            Tuned {
                unacknowledged: Some(20),
                ..DEFAULT
            },
        ),
        quinn(
            "stream window of 8.5 MiB",
            Tuned {
                stream_window: OURS.stream_window,
                ..DEFAULT
            },
        ),
        quinn(
            "send window of 32 MiB",
            Tuned {
                send_window: Some(32 * 1024 * 1024),
                ..DEFAULT
            },
        ),
        quinn("all that Underpass sets", OURS),
        ("a session of Underpass", What::Session),
    ]
}

/// Of one round.
#[derive(Clone, Copy)]
struct Figures {
    gbit_per_s: f64,
    cpu_s_per_gib: f64,
    echo: Duration,
}

async fn measure<S: AsyncRead + AsyncWrite + Unpin>(open: impl AsyncFn() -> S) -> Figures {
    let chunk = vec![7; 64 * 1024];
    bulk(open().await, &chunk, WARM_UP)
        .await
        .expect("it echoes");
    let (start, cpu) = (Instant::now(), cpu_time());
    bulk(open().await, &chunk, BULK).await.expect("it echoes");
    let (took, cpu) = (start.elapsed(), cpu_time().saturating_sub(cpu));
    let bytes = 2.0 * BULK as f64;
    Figures {
        gbit_per_s: bytes * 8.0 / 1e9 / took.as_secs_f64(),
        cpu_s_per_gib: cpu.as_secs_f64() * 1024.0 * MIB as f64 / bytes,
        echo: echo(open().await).await,
    }
}

/// The median of 1 KiB there and back.
async fn echo<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S) -> Duration {
    let (message, mut answer) = ([7; 1024], [0; 1024]);
    let mut times = Vec::with_capacity(ECHOES);
    for _ in 0..ECHOES {
        let start = Instant::now();
        round_trip(&mut stream, &message, &mut answer)
            .await
            .expect("it echoes");
        times.push(start.elapsed());
    }
    median(times)
}

fn median<T: PartialOrd>(mut values: Vec<T>) -> T {
    values.sort_by(|a, b| a.partial_cmp(b).expect("numbers"));
    let middle = values.len() / 2;
    values.swap_remove(middle)
}

fn round(what: &What) -> Figures {
    let runtime = Runtime::new().expect("a runtime");
    runtime.block_on(async {
        match what {
            What::Quinn(tuned) => {
                let (_endpoint, connection) = tuned.connect().await;
                measure(async || {
                    let (send, recv) = connection.open_bi().await.expect("it lives");
                    tokio::io::join(recv, send)
                })
                .await
            }
            What::Session => {
                let pair = Pair::connect(Carrier::Quic).await;
                measure(async || pair.open().await).await
            }
        }
    })
}

fn main() {
    let rows = rows();
    let mut rounds = vec![Vec::new(); rows.len()];
    for _ in 0..ROUNDS {
        for ((_, what), rounds) in rows.iter().zip(&mut rounds) {
            rounds.push(round(what));
        }
    }
    let of = |rounds: &[Figures], figure: fn(&Figures) -> f64| {
        median(rounds.iter().map(figure).collect::<Vec<_>>())
    };
    let base = rounds.first().expect("there are rows").clone();
    println!("| setting | Gbit/s | ratio | CPU s per GiB | ratio | 1 KiB echo, us |");
    println!("|---|---|---|---|---|---|");
    for ((name, _), rounds) in rows.iter().zip(&rounds) {
        let speed = of(rounds, |figures| figures.gbit_per_s);
        let cpu = of(rounds, |figures| figures.cpu_s_per_gib);
        let echo = of(rounds, |figures| figures.echo.as_secs_f64() * 1e6);
        println!(
            "| {name} | {speed:.1} | {:.2} | {cpu:.2} | {:.2} | {echo:.0} |",
            speed / of(&base, |figures| figures.gbit_per_s),
            cpu / of(&base, |figures| figures.cpu_s_per_gib),
        );
    }
}
