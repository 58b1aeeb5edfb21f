//! The protocol without I/O: the cost of encoding, decoding and the handshake.
#![allow(
    missing_docs,
    reason = "criterion's macros make undocumented functions"
)]
#![allow(
    clippy::expect_used,
    reason = "a benchmark that cannot be set up has nothing to measure"
)]

use std::hint::black_box;

use bytes::{Bytes, BytesMut};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use underpass_proto::VarInt;
use underpass_proto::frame::{Control, FrameReader, Ping};
use underpass_proto::handshake::{AwaitChallenge, AwaitHello, Local, NewSession};
use underpass_proto::limits;
use underpass_proto::settings::{ResumeWindow, StreamLimit};
use underpass_tunnel::AgentKey;

fn varints(c: &mut Criterion) {
    let mut group = c.benchmark_group("varint");
    for value in [37u64, 15_293, 494_878_333, 151_288_809_941_952_652] {
        let value = VarInt::try_from(value).expect("it is below 2^62");
        group.bench_function(format!("{} bytes", value.encoded_len()), |b| {
            let mut out = BytesMut::with_capacity(8);
            b.iter(|| {
                out.clear();
                black_box(value).encode(&mut out);
                VarInt::decode(&mut &out[..])
            });
        });
    }
    group.finish();
}

fn control_frames(c: &mut Criterion) {
    let mut group = c.benchmark_group("control frame");
    let ping = Control::Ping(Ping([7; 8]));
    group.bench_function("encode PING", |b| {
        let mut out = BytesMut::with_capacity(16);
        b.iter(|| {
            out.clear();
            black_box(&ping).encode(&mut out);
        });
    });
    let mut wire = BytesMut::new();
    for _ in 0..64 {
        ping.encode(&mut wire);
    }
    group.throughput(Throughput::Elements(64));
    group.bench_function("cut and decode 64 PINGs", |b| {
        b.iter(|| {
            let mut reader = FrameReader::new(limits::CONTROL_FRAME);
            reader.push(black_box(&wire));
            while let Ok(Some(frame)) = reader.next() {
                black_box(Control::decode(frame)).expect("it is a PING");
            }
        });
    });
    group.finish();
}

fn handshake(c: &mut Criterion) {
    let key = AgentKey::from_seed([7; 32]).expect("any seed makes a key");
    let local = Local {
        max_streams: StreamLimit::default(),
        resume_window: ResumeWindow::default(),
        software: "bench".to_owned(),
    };
    let cut = |bytes: &Bytes| {
        let mut reader = FrameReader::new(limits::CONTROL_FRAME);
        reader.push(bytes);
        reader.next().ok().flatten().expect("one frame")
    };
    c.bench_function("handshake, both ends", |b| {
        b.iter(|| {
            let (connector, hello) = AwaitChallenge::start(&local, &key, [1; 16], &NewSession);
            let (acceptor, challenge) = AwaitHello::start([2; 32])
                .handle_hello(cut(&hello))
                .expect("HELLO is good");
            let (_, proof) = connector
                .handle_challenge(cut(&challenge), &key)
                .expect("CHALLENGE is good");
            acceptor.handle_proof(cut(&proof)).expect("PROOF is good")
        });
    });
}

criterion_group!(benches, varints, control_frames, handshake);
criterion_main!(benches);
