//! What our multiplexer costs over bare TLS: throughput and CPU of one bulk stream, and how long a
//! keystroke takes beside it. Both ends run in this process: only ratios within one run mean
//! anything.
#![allow(
    clippy::expect_used,
    reason = "a benchmark whose stream fails has nothing to measure"
)]
#![allow(clippy::print_stdout, reason = "it reports to whoever runs it")]

use std::future::poll_fn;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, SinkExt, StreamExt};
use rustix::time::{ClockId, clock_gettime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Semaphore;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;
use underpass_benches::{
    Carrier, Certificate, Pair, SINK_CREDIT_UNIT, at_agent, tls_pair, websockets,
};
use underpass_tunnel::Class;
use underpass_tunnel::transport::websocket::Subprotocol;
use underpass_tunnel::transport::{BiStream, RecvStream, SendStream, Transport};

const CHUNK: usize = SINK_CREDIT_UNIT;
const TOTAL: usize = 512 * 1024 * 1024;
const ROUNDS: usize = 7;
/// What the session's credit lets be under way on one stream, at first. Here a semaphore stands in
/// for it.
const CREDIT: usize = 256 * 1024;
const KEYSTROKES: usize = 3000;

#[derive(Clone, Copy)]
enum Way {
    Down,
    Up,
}

/// Moves `TOTAL` bytes, after the connection is set up, and gives the time and CPU that it took.
type Run = fn() -> BoxFuture<'static, Cost>;

#[derive(Clone, Copy, Default)]
struct Cost {
    seconds: f64,
    cpu: f64,
}

/// CPU seconds of this process.
fn cpu() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(
        time.tv_sec.unsigned_abs(),
        u32::try_from(time.tv_nsec).unwrap_or(0),
    )
    .as_secs_f64()
}

async fn measure(work: impl Future<Output = ()>) -> Cost {
    let (start, before) = (Instant::now(), cpu());
    work.await;
    Cost {
        seconds: start.elapsed().as_secs_f64(),
        cpu: cpu() - before,
    }
}

/// Runs the writer's and the reader's end, each where it belongs.
async fn both<W, R>(way: Way, writing: W, reading: R) -> Cost
where
    W: Future<Output = ()> + Send + 'static,
    R: Future<Output = ()> + Send + 'static,
{
    measure(async {
        match way {
            Way::Down => tokio::join!(here(writing), at_agent(reading)),
            Way::Up => tokio::join!(at_agent(writing), here(reading)),
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
    both(Way::Down, writing, reading).await
}

async fn tungstenite(way: Way) -> Cost {
    let (client, server) = tls_pair(&Certificate::new()).await;
    let client = WebSocketStream::from_raw_socket(client, Role::Client, None).await;
    let server = WebSocketStream::from_raw_socket(server, Role::Server, None).await;
    let (mut reader, mut writer) = match way {
        Way::Down => (client, server),
        Way::Up => (server, client),
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
    both(way, writing, reading).await
}

async fn try_read(stream: &mut dyn RecvStream) -> Option<usize> {
    let bytes = poll_fn(|cx| stream.poll_read_bytes(cx, CHUNK)).await;
    Some(bytes.ok()??.len())
}

async fn read(stream: &mut dyn RecvStream) -> usize {
    try_read(stream).await.expect("no error and no end")
}

async fn write(stream: &mut dyn SendStream, mut bytes: Bytes) {
    while !bytes.is_empty() {
        poll_fn(|cx| stream.poll_write_bytes(cx, &mut bytes))
            .await
            .expect("it is taken");
    }
    poll_fn(|cx| stream.poll_flush(cx))
        .await
        .expect("it is taken");
}

/// Both ends of a stream, at the side that opens it first.
async fn open(opener: &dyn Transport, other: &dyn Transport) -> (BiStream, BiStream) {
    let mut here = opener.open().await.expect("it opens");
    write(here.send.as_mut(), Bytes::from_static(b"x")).await;
    let mut there = other.accept().await.expect("it comes");
    assert_eq!(read(there.recv.as_mut()).await, 1);
    (here, there)
}

async fn transport(way: Way, window: usize, offer: Subprotocol) -> Cost {
    let (agent, server) = websockets(&Certificate::new(), &[offer]).await;
    agent.authenticated();
    server.authenticated();
    // The first stream of a connection has a rank of its own.
    let _control = open(agent.as_ref(), server.as_ref()).await;
    let (mut writer, reader) = match way {
        Way::Down => open(server.as_ref(), agent.as_ref()).await,
        Way::Up => open(agent.as_ref(), server.as_ref()).await,
    };
    let outstanding = Arc::new(Semaphore::new(window / CHUNK));
    let credit = Arc::clone(&outstanding);
    let writing = async move {
        let chunk = Bytes::from(vec![7; CHUNK]);
        for _ in 0..TOTAL / CHUNK {
            credit.acquire().await.expect("it is open").forget();
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
            if total - granted >= window / 2 {
                outstanding.add_permits((total - granted) / CHUNK);
                granted += (total - granted) / CHUNK * CHUNK;
            }
        }
    };
    let cost = both(way, writing, reading).await;
    drop((agent, server));
    cost
}

async fn session(carrier: Carrier) -> Cost {
    let pair = Pair::connect(carrier).await;
    let (mut reader, mut writer, credit) = pair.open_sink().await;
    credit.add_permits(CREDIT / CHUNK);
    measure(async {
        let chunk = Bytes::from(vec![7; CHUNK]);
        for _ in 0..TOTAL / CHUNK {
            credit.acquire().await.expect("it is open").forget();
            writer
                .write_bytes(chunk.clone())
                .await
                .expect("it is taken");
        }
        writer.shutdown().await.expect("it ends");
        // The other end answers with its own end once it has read all.
        let end = reader.read_bytes().await.expect("no error");
        assert!(end.is_none());
    })
    .await
}

fn runs() -> Vec<(&'static str, Run)> {
    vec![
        ("bare TLS", || bare_tls().boxed()),
        ("tungstenite, down", || tungstenite(Way::Down).boxed()),
        ("tungstenite, up (masked)", || tungstenite(Way::Up).boxed()),
        ("underpass.v1, down", || {
            transport(Way::Down, CREDIT, Subprotocol::Underpass).boxed()
        }),
        ("underpass.v1, up (masked)", || {
            transport(Way::Up, CREDIT, Subprotocol::Underpass).boxed()
        }),
        ("underpass.v1, down, 1 MiB under way", || {
            transport(Way::Down, 4 * CREDIT, Subprotocol::Underpass).boxed()
        }),
        ("yamux, down", || {
            transport(Way::Down, CREDIT, Subprotocol::Yamux).boxed()
        }),
        ("session over underpass.v1, down", || {
            session(Carrier::WebSocket).boxed()
        }),
        ("session over yamux, down", || {
            session(Carrier::Yamux).boxed()
        }),
    ]
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn bulk(runtime: &tokio::runtime::Runtime, only: Option<&str>) {
    let runs: Vec<_> = runs()
        .into_iter()
        .filter(|(name, _)| only.is_none_or(|only| name.contains(only) || *name == "bare TLS"))
        .collect();
    let mut costs = vec![Vec::new(); runs.len()];
    // Interleaved: the machine's own moods hit all of them.
    for _ in 0..ROUNDS {
        for ((_, run), costs) in runs.iter().zip(&mut costs) {
            costs.push(runtime.block_on(async { tokio::spawn(run()).await.expect("it runs") }));
        }
    }
    let gib = TOTAL as f64 / f64::from(1 << 30);
    println!(
        "{:<40} {:>8} {:>10} {:>8} {:>8}",
        "one stream, median of rounds", "Gbit/s", "CPU s/GiB", "x speed", "x CPU"
    );
    let (mut bare_speed, mut bare_cpu) = (f64::NAN, f64::NAN);
    for ((name, _), costs) in runs.iter().zip(&costs) {
        let speed = median(
            costs
                .iter()
                .map(|cost| gib * 8.589_934_592 / cost.seconds)
                .collect(),
        );
        let cpu = median(costs.iter().map(|cost| cost.cpu / gib).collect());
        if bare_speed.is_nan() {
            (bare_speed, bare_cpu) = (speed, cpu);
        }
        println!(
            "{name:<40} {speed:>8.1} {cpu:>10.3} {:>8.2} {:>8.2}",
            speed / bare_speed,
            cpu / bare_cpu
        );
    }
}

/// A keystroke and its echo, beside a bulk stream in the keystroke's direction.
async fn keystrokes(offer: Subprotocol, beside_bulk: bool) -> (Vec<f64>, f64) {
    let (agent, server) = websockets(&Certificate::new(), &[offer]).await;
    agent.authenticated();
    server.authenticated();
    let _control = open(agent.as_ref(), server.as_ref()).await;
    let (mut bulk, mut sink) = open(server.as_ref(), agent.as_ref()).await;
    let (mut keys, mut echo) = open(server.as_ref(), agent.as_ref()).await;
    bulk.send.prioritize(Class::Bulk);
    keys.send.prioritize(Class::Interactive);
    echo.send.prioritize(Class::Interactive);
    let outstanding = Arc::new(Semaphore::new(if beside_bulk { CREDIT / CHUNK } else { 0 }));
    let credit = Arc::clone(&outstanding);
    let bulk = tokio::spawn(async move {
        let chunk = Bytes::from(vec![7; CHUNK]);
        loop {
            credit.acquire().await.expect("it is open").forget();
            write(bulk.send.as_mut(), chunk.clone()).await;
        }
    });
    let moved = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let so_far = Arc::clone(&moved);
    // These end with their connection.
    let sink = tokio::spawn(at_agent(async move {
        let mut total = 0;
        while let Some(len) = try_read(sink.recv.as_mut()).await {
            let before = total / CHUNK;
            total += len;
            outstanding.add_permits(total / CHUNK - before);
            so_far.store(total, std::sync::atomic::Ordering::Relaxed);
        }
    }));
    let echo = tokio::spawn(at_agent(async move {
        while let Some(len) = try_read(echo.recv.as_mut()).await {
            write(echo.send.as_mut(), Bytes::from(vec![7; len])).await;
        }
    }));
    let mut times = Vec::new();
    let all = Instant::now();
    for _ in 0..KEYSTROKES {
        tokio::time::sleep(Duration::from_micros(300)).await;
        let start = Instant::now();
        write(keys.send.as_mut(), Bytes::from_static(b"k")).await;
        assert_eq!(read(keys.recv.as_mut()).await, 1);
        times.push(start.elapsed().as_secs_f64() * 1e3);
    }
    let moved = moved.load(std::sync::atomic::Ordering::Relaxed);
    let gbits = moved as f64 * 8e-9 / all.elapsed().as_secs_f64();
    bulk.abort();
    drop((agent, server));
    for task in [sink, echo] {
        task.await.expect("it ends");
    }
    times.sort_by(f64::total_cmp);
    (times, gbits)
}

fn latency(runtime: &tokio::runtime::Runtime) {
    println!(
        "{:<40} {:>8} {:>8} {:>8} {:>8}",
        "keystroke and echo, ms", "p50", "p99", "max", "Gbit/s"
    );
    for (name, offer, beside_bulk) in [
        ("underpass.v1, alone", Subprotocol::Underpass, false),
        ("underpass.v1, beside bulk", Subprotocol::Underpass, true),
        ("yamux, alone", Subprotocol::Yamux, false),
        ("yamux, beside bulk", Subprotocol::Yamux, true),
    ] {
        let run = async move {
            tokio::spawn(keystrokes(offer, beside_bulk))
                .await
                .expect("it runs")
        };
        let (times, gbits) = runtime.block_on(run);
        let at = |percent: usize| {
            let index = (times.len() * percent / 100).min(times.len() - 1);
            times.get(index).copied().unwrap_or(f64::NAN)
        };
        println!(
            "{name:<40} {:>8.3} {:>8.3} {:>8.3} {gbits:>8.1}",
            at(50),
            at(99),
            at(100)
        );
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let only = arguments.iter().find(|argument| !argument.starts_with('-'));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    if only.is_none_or(|only| only != "keystroke") {
        bulk(&runtime, only.map(String::as_str));
    }
    if only.is_none_or(|only| only == "keystroke") {
        latency(&runtime);
    }
}
