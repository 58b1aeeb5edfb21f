//! A keystroke and its echo, alone and beside a stream that always has more to send.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::Runtime;
use tokio::sync::Semaphore;
use underpass_benches::{
    Carrier, Certificate, ECHO, Pair, SINK, at_agent, round_trip, tls_pair, transports,
};
use underpass_tunnel::Class;

use super::{CHUNK, CREDIT, open, read, try_read, write};

const KEYSTROKES: usize = 3000;

/// Somebody types fast, so that it does not take long.
const PAUSE: Duration = Duration::from_micros(300);

/// How long each took in ms, and what the bulk stream moved beside them in Gbit/s.
struct Typed {
    times: Vec<f64>,
    gbits: f64,
}

pub(crate) fn report(runtime: &Runtime) {
    println!(
        "{:<44} {:>8} {:>8} {:>8} {:>8}",
        "keystroke and echo, ms", "p50", "p99", "max", "Gbit/s"
    );
    for beside_bulk in [false, true] {
        let words = if beside_bulk { "beside bulk" } else { "alone" };
        let typed = runtime.block_on(async { tokio::spawn(apart(beside_bulk)).await });
        line(&format!("two TLS connections, {words}"), typed);
        for (carrier, name) in [
            (Carrier::WebSocket, "underpass.v1"),
            (Carrier::Yamux, "yamux"),
            (Carrier::Quic, "QUIC"),
        ] {
            if carrier == Carrier::WebSocket {
                let typed = runtime.block_on(async { tokio::spawn(below(beside_bulk)).await });
                line(&format!("{name}, {words}"), typed);
            }
            let typed =
                runtime.block_on(async { tokio::spawn(session(carrier, beside_bulk)).await });
            line(&format!("session over {name}, {words}"), typed);
        }
    }
}

fn line(name: &str, typed: Result<Typed, tokio::task::JoinError>) {
    let Typed { mut times, gbits } = typed.expect("it runs");
    times.sort_by(f64::total_cmp);
    let at = |percent: usize| {
        let index = (times.len() * percent / 100).min(times.len() - 1);
        times.get(index).copied().unwrap_or(f64::NAN)
    };
    let (median, late, latest) = (at(50), at(99), at(100));
    println!("{name:<44} {median:>8.3} {late:>8.3} {latest:>8.3} {gbits:>8.1}");
}

/// Takes the time of each keystroke.
struct Typist {
    begun: Instant,
    pressed: Instant,
    times: Vec<f64>,
}

impl Typist {
    fn new() -> Self {
        let now = Instant::now();
        Self {
            begun: now,
            pressed: now,
            times: Vec::new(),
        }
    }

    /// Waits until the next key is pressed; false once it was the last.
    async fn presses(&mut self) -> bool {
        tokio::time::sleep(PAUSE).await;
        self.pressed = Instant::now();
        self.times.len() < KEYSTROKES
    }

    fn sees_the_echo(&mut self) {
        self.times.push(self.pressed.elapsed().as_secs_f64() * 1e3);
    }

    /// `moved` bytes went beside.
    fn done(self, moved: &AtomicUsize) -> Typed {
        let bits = moved.load(Ordering::Relaxed) as f64 * 8e-9;
        Typed {
            times: self.times,
            gbits: bits / self.begun.elapsed().as_secs_f64(),
        }
    }
}

/// The floor: keystroke and bulk have a connection each, and the scheduler between them.
async fn apart(beside_bulk: bool) -> Typed {
    let certificate = Certificate::new();
    let (mut sink, mut bulk) = tls_pair(&certificate).await;
    let (mut echo, mut keys) = tls_pair(&certificate).await;
    let moved = Arc::new(AtomicUsize::new(0));
    let so_far = Arc::clone(&moved);
    let bulk = tokio::spawn(async move {
        let chunk = vec![7; CHUNK];
        while beside_bulk && bulk.write_all(&chunk).await.is_ok() {}
    });
    let sink = tokio::spawn(at_agent(async move {
        let mut buffer = vec![0; CHUNK];
        while let Ok(len @ 1..) = sink.read(&mut buffer).await {
            so_far.fetch_add(len, Ordering::Relaxed);
        }
    }));
    let echo = tokio::spawn(at_agent(async move {
        let mut key = [0];
        while echo.read_exact(&mut key).await.is_ok() && echo.write_all(&key).await.is_ok() {}
    }));
    let mut typist = Typist::new();
    while typist.presses().await {
        let echoed = round_trip(&mut keys, b"k", &mut [0]).await;
        echoed.expect("it echoes");
        typist.sees_the_echo();
    }
    let typed = typist.done(&moved);
    bulk.abort();
    drop(keys);
    for task in [sink, echo] {
        task.await.expect("it ends");
    }
    typed
}

/// On two streams of a multiplexer, without a session.
async fn below(beside_bulk: bool) -> Typed {
    let (agent, server) = transports(Carrier::WebSocket, &Certificate::new()).await;
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
    let moved = Arc::new(AtomicUsize::new(0));
    let so_far = Arc::clone(&moved);
    // These end with their connection.
    let sink = tokio::spawn(at_agent(async move {
        let mut total = 0;
        while let Some(len) = try_read(sink.recv.as_mut()).await {
            let before = total / CHUNK;
            total += len;
            outstanding.add_permits(total / CHUNK - before);
            so_far.store(total, Ordering::Relaxed);
        }
    }));
    let echo = tokio::spawn(at_agent(async move {
        while let Some(len) = try_read(echo.recv.as_mut()).await {
            write(echo.send.as_mut(), Bytes::from(vec![7; len])).await;
        }
    }));
    let mut typist = Typist::new();
    while typist.presses().await {
        write(keys.send.as_mut(), Bytes::from_static(b"k")).await;
        assert_eq!(read(keys.recv.as_mut()).await, 1);
        typist.sees_the_echo();
    }
    let typed = typist.done(&moved);
    bulk.abort();
    drop((agent, server));
    for task in [sink, echo] {
        task.await.expect("it ends");
    }
    typed
}

/// On two streams of a session.
async fn session(carrier: Carrier, beside_bulk: bool) -> Typed {
    let pair = Pair::connect(carrier).await;
    let (_sink, mut bulk) = pair.open_as(SINK, Class::Bulk).await.into_split();
    let mut keys = pair.open_as(ECHO, Class::Interactive).await;
    let moved = Arc::new(AtomicUsize::new(0));
    let so_far = Arc::clone(&moved);
    let bulk = tokio::spawn(async move {
        let chunk = Bytes::from(vec![7; CHUNK]);
        while beside_bulk && bulk.write_bytes(chunk.clone()).await.is_ok() {
            so_far.fetch_add(CHUNK, Ordering::Relaxed);
        }
    });
    let mut typist = Typist::new();
    while typist.presses().await {
        let echoed = round_trip(&mut keys, b"k", &mut [0]).await;
        echoed.expect("it echoes");
        typist.sees_the_echo();
    }
    let typed = typist.done(&moved);
    bulk.abort();
    typed
}
