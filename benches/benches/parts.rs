//! The cost of each part of a request's way by itself: copying, keeping sent bytes, cleaning headers, writing an
//! identity, finding the cluster.
#![allow(
    missing_docs,
    reason = "criterion's macros make undocumented functions"
)]
#![allow(
    clippy::expect_used,
    reason = "a benchmark whose stream fails has nothing to measure"
)]

use std::future::poll_fn;
use std::hint::black_box;
use std::net::Ipv4Addr;
use std::sync::Arc;

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use underpass_benches::{Carrier, Certificate, Pair, SINK, at_agent, transports};
use underpass_core::{ClusterDomains, RequestInfo};
use underpass_gateway::parts::{Impersonation, clean_request, route};
use underpass_tunnel::transport::Transport;
use underpass_tunnel::{Class, copy_bidirectional};

const CHUNK: usize = 64 * 1024;
const BULK: usize = 8 * 1024 * 1024;

/// Both ends of a TCP connection.
async fn tcp_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .expect("loopback has a free port");
    let address = listener.local_addr().expect("it is bound");
    let (near, far) = tokio::join!(TcpStream::connect(address), listener.accept());
    (near.expect("it listens"), far.expect("it comes").0)
}

/// Somebody who has [`BULK`] bytes to say, and waits for the answer's end.
async fn user(mut connection: TcpStream) {
    let chunk = vec![7; CHUNK];
    for _ in 0..BULK / CHUNK {
        connection.write_all(&chunk).await.expect("it is taken");
    }
    connection.shutdown().await.expect("it is taken");
    let answer = connection.read(&mut [0]).await.expect("it ends");
    assert_eq!(answer, 0);
}

/// From a TCP connection into a stream of a session, whose other end drops it.
fn copy(c: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    let pair = runtime.block_on(Pair::connect(Carrier::Memory));
    let mut group = c.benchmark_group("8 MiB from TCP into a stream");
    group
        .sample_size(20)
        .throughput(Throughput::Bytes(BULK as u64));
    group.bench_function("tokio's copy_bidirectional", |b| {
        b.iter(|| {
            runtime.block_on(async {
                let (near, mut far) = tcp_pair().await;
                let user = tokio::spawn(user(near));
                let mut stream = pair.open_as(SINK, Class::Default).await;
                let copied = tokio::io::copy_bidirectional(&mut far, &mut stream).await;
                assert_eq!(copied.expect("nothing breaks").0, BULK as u64);
                drop(far);
                user.await.expect("nothing breaks");
            });
        });
    });
    group.bench_function("ours", |b| {
        b.iter(|| {
            runtime.block_on(async {
                let (near, far) = tcp_pair().await;
                let user = tokio::spawn(user(near));
                let stream = pair.open_as(SINK, Class::Default).await;
                let copied = copy_bidirectional(stream, far).await;
                assert_eq!(copied.expect("nothing breaks").to_stream, BULK as u64);
                user.await.expect("nothing breaks");
            });
        });
    });
    group.finish();
}

/// The same transport with a session, which keeps what was sent until the peer has it, and without.
fn retention(c: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    let chunk = Bytes::from(vec![7; CHUNK]);
    let mut group = c.benchmark_group("8 MiB over the transport in memory");
    group
        .sample_size(20)
        .throughput(Throughput::Bytes(BULK as u64));
    let (agent, server) = runtime.block_on(transports(Carrier::Memory, &Certificate::new()));
    agent.authenticated();
    server.authenticated();
    group.bench_function("without a session", |b| {
        b.iter(|| runtime.block_on(bare(&agent, server.as_ref(), &chunk)));
    });
    let pair = runtime.block_on(Pair::connect(Carrier::Memory));
    group.bench_function("a session, which keeps it", |b| {
        b.iter(|| {
            runtime.block_on(async {
                let mut stream = pair.open_as(SINK, Class::Default).await;
                for _ in 0..BULK / CHUNK {
                    let taken = stream.write_bytes(chunk.clone()).await;
                    taken.expect("it is taken");
                }
                stream.shutdown().await.expect("it ends");
                let end = stream.read_bytes().await.expect("it ends");
                assert!(end.is_none());
            });
        });
    });
    group.finish();
}

async fn bare(agent: &Arc<dyn Transport>, server: &dyn Transport, chunk: &Bytes) {
    let mut stream = server.open().await.expect("it opens");
    let agent = Arc::clone(agent);
    let reading = at_agent(async move {
        let mut stream = agent.accept().await.expect("it comes");
        let mut left = BULK;
        while left > 0 {
            let bytes = poll_fn(|cx| stream.recv.poll_read_bytes(cx, CHUNK)).await;
            left -= bytes.expect("no error").expect("no end before").len();
        }
    });
    let writing = async {
        for _ in 0..BULK / CHUNK {
            let mut bytes = chunk.clone();
            while !bytes.is_empty() {
                poll_fn(|cx| stream.send.poll_write_bytes(cx, &mut bytes))
                    .await
                    .expect("it is taken");
            }
        }
        poll_fn(|cx| stream.send.poll_flush(cx))
            .await
            .expect("it is taken");
    };
    tokio::join!(reading, writing);
}

fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
    lines
        .iter()
        .map(|(name, value)| {
            (
                HeaderName::from_static(name),
                HeaderValue::from_static(value),
            )
        })
        .collect()
}

const KUBECTL: &[(&str, &str)] = &[
    ("host", "underpass.example:8443"),
    (
        "user-agent",
        "kubectl/v1.34.2 (linux/amd64) kubernetes/abcdef0",
    ),
    (
        "accept",
        "application/json;as=Table;v=v1;g=meta.k8s.io,application/json",
    ),
    ("accept-encoding", "gzip"),
    (
        "authorization",
        "Bearer up_abcdefghijklmnopqrstuvwxyz0123456789",
    ),
    ("kubectl-command", "kubectl get"),
    ("kubectl-session", "00000000-0000-4000-8000-000000000000"),
];

const HOSTILE: &[(&str, &str)] = &[
    ("connection", "close, x-remote-user, impersonate-user"),
    ("impersonate-user", "system:admin"),
    ("impersonate-group", "system:masters"),
    ("impersonate-extra-scopes", "all"),
    ("x-remote-user", "root"),
    ("cookie", "session=1"),
    ("te", "trailers"),
    ("keep-alive", "timeout=5"),
];

fn cleaning(c: &mut Criterion) {
    let mut group = c.benchmark_group("clean a request's headers");
    for (name, headers) in [
        ("kubectl's", headers(KUBECTL)),
        ("an attacker's", headers(&[KUBECTL, HOSTILE].concat())),
    ] {
        group.bench_function(name, |b| {
            b.iter_batched_ref(|| headers.clone(), clean_request, BatchSize::SmallInput);
        });
    }
    group.finish();
}

fn impersonation(c: &mut Criterion) {
    let mut group = c.benchmark_group("write an identity");
    let mut clean = headers(KUBECTL);
    clean_request(&mut clean);
    for count in [3, 300] {
        let groups = (0..count).map(|n| format!("oidc:team-{n}")).collect();
        let identity = Impersonation::new("alice@example.com", groups).expect("it can be written");
        group.bench_function(format!("{count} groups"), |b| {
            b.iter_batched_ref(
                || clean.clone(),
                |headers| assert!(identity.write(headers)),
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

fn routing(c: &mut Criterion) {
    let domains = ClusterDomains::default();
    let path = "/apis/apps/v1/namespaces/shop/deployments?limit=500";
    let request = |target: &str| {
        let request = Request::get(target).header("host", "underpass.example.org:8443");
        request.body(()).expect("a request")
    };
    let by_path = request(&format!("/k8s/clusters/prod{path}"));
    let by_name = request(path);
    let name = Some("prod.clusters.underpass.internal");
    let mut group = c.benchmark_group("route a request");
    for (style, request, name) in [("path", &by_path, None), ("name", &by_name, name)] {
        group.bench_function(format!("the cluster, by {style}"), |b| {
            b.iter(|| route(black_box(request), name, &domains).expect("it is in one"));
        });
    }
    let (_, path) = route(&by_path, None, &domains).expect("it is in one");
    group.bench_function("what it asks for", |b| {
        b.iter(|| RequestInfo::parse(&Method::GET, black_box(path.path()), path.query(), false));
    });
    group.finish();
}

criterion_group!(benches, copy, retention, cleaning, impersonation, routing);
criterion_main!(benches);
