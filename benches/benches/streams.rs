//! The cost of each layer over the one below it: a stream for each request, and bulk, both echoed.
#![allow(
    missing_docs,
    reason = "criterion's macros make undocumented functions"
)]
#![allow(
    clippy::expect_used,
    reason = "a benchmark whose stream fails has nothing to measure"
)]

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::runtime::Runtime;
use underpass_benches::{Carrier, Pair, bulk, quinn_streams, round_trip, tcp, tls};

const MESSAGE: [u8; 1024] = [7; 1024];
const CHUNK: usize = 64 * 1024;
const BULK: usize = 8 * 1024 * 1024;

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("a runtime")
}

/// 1 KiB there and back on a connection that is kept.
fn ping_pong<S: AsyncRead + AsyncWrite + Unpin>(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    runtime: &Runtime,
    mut stream: S,
) {
    let mut answer = [0; MESSAGE.len()];
    group.bench_function(name, |b| {
        b.iter(|| {
            runtime
                .block_on(round_trip(&mut stream, &MESSAGE, &mut answer))
                .expect("it echoes");
        });
    });
}

fn unacked(c: &mut Criterion) {
    let runtime = runtime();
    let mut group = c.benchmark_group("1 KiB echo, kept stream");
    ping_pong(&mut group, "bare tcp", &runtime, runtime.block_on(tcp()));
    ping_pong(&mut group, "bare tls", &runtime, runtime.block_on(tls()));
    let (_endpoint, connection) = runtime.block_on(quinn_streams());
    let (send, recv) = runtime
        .block_on(connection.open_bi())
        .expect("the connection lives");
    ping_pong(
        &mut group,
        "bare quinn",
        &runtime,
        tokio::io::join(recv, send),
    );
    for carrier in Carrier::ALL {
        let pair = runtime.block_on(Pair::connect(carrier));
        let stream = runtime.block_on(pair.open());
        ping_pong(
            &mut group,
            &format!("session over {}", carrier.name()),
            &runtime,
            stream,
        );
    }
    group.finish();
}

fn stream_per_request(c: &mut Criterion) {
    let runtime = runtime();
    let mut group = c.benchmark_group("1 KiB echo, stream per request");
    let (_endpoint, connection) = runtime.block_on(quinn_streams());
    group.bench_function("bare quinn", |b| {
        b.iter(|| {
            runtime.block_on(async {
                let (send, recv) = connection.open_bi().await.expect("the connection lives");
                let mut answer = [0; MESSAGE.len()];
                let mut stream = tokio::io::join(recv, send);
                round_trip(&mut stream, &MESSAGE, &mut answer)
                    .await
                    .expect("it echoes");
            });
        });
    });
    for carrier in Carrier::ALL {
        let pair = runtime.block_on(Pair::connect(carrier));
        group.bench_function(format!("session over {}", carrier.name()), |b| {
            b.iter(|| {
                runtime.block_on(async {
                    let mut answer = [0; MESSAGE.len()];
                    let mut stream = pair.open().await;
                    round_trip(&mut stream, &MESSAGE, &mut answer)
                        .await
                        .expect("it echoes");
                });
            });
        });
    }
    group.finish();
}

fn throughput(c: &mut Criterion) {
    let runtime = runtime();
    let chunk = vec![7; CHUNK];
    let mut group = c.benchmark_group("8 MiB echoed");
    group
        .sample_size(10)
        .throughput(Throughput::Bytes(BULK as u64));
    group.bench_function("bare tls", |b| {
        b.iter(|| {
            let sent = async { bulk(tls().await, &chunk, BULK).await };
            runtime.block_on(sent).expect("it echoes");
        });
    });
    let (_endpoint, connection) = runtime.block_on(quinn_streams());
    group.bench_function("bare quinn", |b| {
        b.iter(|| {
            runtime.block_on(async {
                let (send, recv) = connection.open_bi().await.expect("the connection lives");
                bulk(tokio::io::join(recv, send), &chunk, BULK)
                    .await
                    .expect("it echoes");
            });
        });
    });
    for carrier in Carrier::ALL {
        let pair = runtime.block_on(Pair::connect(carrier));
        group.bench_function(format!("session over {}", carrier.name()), |b| {
            b.iter(|| {
                runtime.block_on(async {
                    bulk(pair.open().await, &chunk, BULK)
                        .await
                        .expect("it echoes");
                });
            });
        });
    }
    group.finish();
}

criterion_group!(benches, unacked, stream_per_request, throughput);
criterion_main!(benches);
