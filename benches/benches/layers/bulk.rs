//! One stream that always has more to send.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::Runtime;
use tokio::sync::Semaphore;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;
use underpass_benches::{
    Carrier, Certificate, Pair, SINK, at_agent, cpu_time, tls_pair, transports,
};
use underpass_tunnel::Class;

use super::{CHUNK, CREDIT, open, read, write};

const TOTAL: usize = 512 * 1024 * 1024;
const ROUNDS: usize = 7;

#[derive(Clone, Copy)]
enum Direction {
    /// From the server to the agent.
    Down,
    Up,
}

#[derive(Clone, Copy, Default)]
struct Cost {
    seconds: f64,
    cpu: f64,
}

/// Moves `TOTAL` bytes, after the connection is set up, and gives the time and CPU that it took.
struct Run {
    name: String,
    /// The run whose layer is the next one below.
    below: Option<usize>,
    run: Box<dyn Fn() -> BoxFuture<'static, Cost>>,
}

fn runs() -> Vec<Run> {
    let mut runs = Vec::new();
    let mut add = |name: String, below, run: Box<dyn Fn() -> BoxFuture<'static, Cost>>| {
        runs.push(Run { name, below, run });
        Some(runs.len() - 1)
    };
    let tls = add("bare TLS".into(), None, Box::new(|| bare_tls().boxed()));
    for (direction, words) in [(Direction::Down, "down"), (Direction::Up, "up, masked")] {
        let name = format!("tungstenite, {words}");
        add(name, tls, Box::new(move || tungstenite(direction).boxed()));
    }
    for (carrier, name, up) in [
        (Carrier::WebSocket, "underpass.v1", ", masked"),
        (Carrier::Yamux, "yamux", ", masked"),
        (Carrier::Quic, "QUIC", ""),
    ] {
        for (direction, words) in [
            (Direction::Down, "down".to_owned()),
            (Direction::Up, format!("up{up}")),
        ] {
            let bare = add(
                format!("{name}, {words}"),
                tls,
                Box::new(move || transport(direction, carrier).boxed()),
            );
            add(
                format!("session over {name}, {words}"),
                bare,
                Box::new(move || session(direction, carrier).boxed()),
            );
        }
    }
    runs
}

pub(crate) fn report(runtime: &Runtime, only: Option<&str>) {
    let runs = runs();
    let mut costs: Vec<_> = runs.iter().map(|_| Vec::new()).collect();
    // Interleaved: the machine's own moods hit all of them.
    for _ in 0..ROUNDS {
        for (run, costs) in runs.iter().zip(&mut costs) {
            if run.below.is_none() || only.is_none_or(|only| run.name.contains(only)) {
                costs.push(runtime.block_on(async { tokio::spawn((run.run)()).await }));
            }
        }
    }
    let gib = TOTAL as f64 / f64::from(1 << 30);
    let medians: Vec<_> = costs
        .into_iter()
        .map(|costs| {
            let costs: Vec<_> = costs
                .into_iter()
                .map(|cost| cost.expect("it runs"))
                .collect();
            let speeds = costs.iter().map(|cost| gib * 8.589_934_592 / cost.seconds);
            let cpu = costs.iter().map(|cost| cost.cpu / gib);
            (median(speeds.collect()), median(cpu.collect()))
        })
        .collect();
    println!(
        "{:<38} {:>7} {:>9}   {:>7} {:>7}   over which layer",
        "one stream, median of rounds", "Gbit/s", "CPU s/GiB", "x speed", "x CPU"
    );
    for (run, (speed, cpu)) in runs.iter().zip(&medians) {
        if speed.is_nan() {
            continue;
        }
        print!("{:<38} {speed:>7.1} {cpu:>9.3}", run.name);
        let below = run
            .below
            .and_then(|below| Some((runs.get(below)?, medians.get(below)?)));
        match below {
            Some((below, (below_speed, below_cpu))) if !below_speed.is_nan() => println!(
                "   {:>7.2} {:>7.2}   {}",
                speed / below_speed,
                cpu / below_cpu,
                below.name
            ),
            _ => println!(),
        }
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

async fn measure(work: impl Future<Output = ()>) -> Cost {
    let (start, before) = (Instant::now(), cpu_time());
    work.await;
    Cost {
        seconds: start.elapsed().as_secs_f64(),
        cpu: (cpu_time() - before).as_secs_f64(),
    }
}

/// Runs the writer's and the reader's end, each where it belongs.
async fn both<W, R>(direction: Direction, writing: W, reading: R) -> Cost
where
    W: Future<Output = ()> + Send + 'static,
    R: Future<Output = ()> + Send + 'static,
{
    measure(async {
        match direction {
            Direction::Down => tokio::join!(here(writing), at_agent(reading)),
            Direction::Up => tokio::join!(at_agent(writing), here(reading)),
        };
    })
    .await
}

async fn here(work: impl Future<Output = ()> + Send + 'static) {
    tokio::spawn(work).await.expect("it runs");
}

async fn bare_tls() -> Cost {
    let (mut reader, mut writer) = tls_pair(&Certificate::new()).await;
    let writing = async move {
        let chunk = vec![7; CHUNK];
        for _ in 0..TOTAL / CHUNK {
            writer.write_all(&chunk).await.expect("it is taken");
        }
        writer.flush().await.expect("it is taken");
        // Kept until the other end has read everything.
        let _ = writer.read(&mut [0]).await;
    };
    let reading = async move {
        let mut buffer = vec![0; CHUNK];
        let mut left = TOTAL;
        while left > 0 {
            left -= reader.read(&mut buffer).await.expect("it comes");
        }
    };
    both(Direction::Down, writing, reading).await
}

async fn tungstenite(direction: Direction) -> Cost {
    let (client, server) = tls_pair(&Certificate::new()).await;
    let client = WebSocketStream::from_raw_socket(client, Role::Client, None).await;
    let server = WebSocketStream::from_raw_socket(server, Role::Server, None).await;
    let (mut reader, mut writer) = match direction {
        Direction::Down => (client, server),
        Direction::Up => (server, client),
    };
    let writing = async move {
        let chunk = Bytes::from(vec![7; CHUNK]);
        for _ in 0..TOTAL / CHUNK {
            let message = Message::Binary(chunk.clone());
            writer.send(message).await.expect("it is taken");
        }
        let _ = writer.next().await;
    };
    let reading = async move {
        let mut left = TOTAL;
        while left > 0 {
            let message = reader.next().await.expect("no end").expect("no error");
            left -= message.len();
        }
    };
    both(direction, writing, reading).await
}

async fn transport(direction: Direction, carrier: Carrier) -> Cost {
    let (agent, server) = transports(carrier, &Certificate::new()).await;
    agent.authenticated();
    server.authenticated();
    // The first stream of a connection has a rank of its own.
    let _control = open(agent.as_ref(), server.as_ref()).await;
    let (mut writer, reader) = match direction {
        Direction::Down => open(server.as_ref(), agent.as_ref()).await,
        Direction::Up => open(agent.as_ref(), server.as_ref()).await,
    };
    let outstanding = Arc::new(Semaphore::new(CREDIT / CHUNK));
    let credit = Arc::clone(&outstanding);
    // These have windows of their own.
    let bounded = carrier == Carrier::WebSocket;
    let writing = async move {
        let chunk = Bytes::from(vec![7; CHUNK]);
        for _ in 0..TOTAL / CHUNK {
            if bounded {
                credit.acquire().await.expect("it is open").forget();
            }
            write(writer.send.as_mut(), chunk.clone()).await;
        }
        // Kept until the other end has read everything.
        let _ = poll_fn(|cx| writer.recv.poll_read_bytes(cx, 1)).await;
    };
    let reading = async move {
        // Both halves: they are dropped with it.
        let mut reader = reader;
        let (mut total, mut granted) = (0, 0);
        while total < TOTAL {
            total += read(reader.recv.as_mut()).await;
            // As a session does: a window's half at a time.
            if total - granted >= CREDIT / 2 {
                outstanding.add_permits((total - granted) / CHUNK);
                granted += (total - granted) / CHUNK * CHUNK;
            }
        }
    };
    let cost = both(direction, writing, reading).await;
    drop((agent, server));
    cost
}

async fn session(direction: Direction, carrier: Carrier) -> Cost {
    let pair = Pair::connect(carrier).await;
    let chunks = TOTAL / CHUNK;
    match direction {
        Direction::Down => {
            let stream = pair.open_as(SINK, Class::Bulk).await;
            let (mut reader, mut writer) = stream.into_split();
            measure(async {
                let chunk = Bytes::from(vec![7; CHUNK]);
                for _ in 0..chunks {
                    let taken = writer.write_bytes(chunk.clone()).await;
                    taken.expect("it is taken");
                }
                writer.shutdown().await.expect("it ends");
                // The other end answers with its own end once it has read all.
                let end = reader.read_bytes().await.expect("no error");
                assert!(end.is_none());
            })
            .await
        }
        Direction::Up => {
            let mut stream = pair.open_source(TOTAL, Class::Bulk).await;
            measure(async {
                let mut left = TOTAL;
                while left > 0 {
                    let bytes = stream.read_bytes().await.expect("no error");
                    left -= bytes.expect("no end before").len();
                }
            })
            .await
        }
    }
}
