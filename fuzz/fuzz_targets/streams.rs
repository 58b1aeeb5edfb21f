//! Streams over yamux under any schedule of reads, writes and ends, against a model of what may
//! arrive.
#![no_main]

use std::collections::VecDeque;
use std::task::{Context, Poll, Waker};

use arbitrary::Arbitrary;
use futures_util::FutureExt;
use libfuzzer_sys::fuzz_target;
use underpass_tunnel::ResetCode;
use underpass_tunnel::transport::{HalfError, RecvStream, SendStream, Transport, memory};

#[derive(Debug, Arbitrary)]
enum Deed {
    Write(u16),
    Flush,
    Finish,
    Reset(u8),
    DropSend,
    Read(u16),
    Stop(u8),
    DropRecv,
    Wait(u8),
}

/// One direction: the bytes written, and its end on either side.
#[derive(Default)]
struct Direction {
    sent: VecDeque<u8>,
    next: u8,
    finished: bool,
    reset: Option<u64>,
    stopped: Option<u64>,
    over: bool,
}

struct End {
    send: Option<Box<dyn SendStream>>,
    recv: Option<Box<dyn RecvStream>>,
}

fuzz_target!(|deeds: Vec<(bool, Deed)>| {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(run(deeds));
});

async fn run(deeds: Vec<(bool, Deed)>) {
    let (connector, acceptor) = memory::pair();
    let mut here = connector.open().await.unwrap();
    // The other side sees a stream once something was written on it.
    std::future::poll_fn(|cx| here.send.poll_write(cx, &[0]))
        .await
        .unwrap();
    let mut there = acceptor.accept().await.unwrap();
    let first = std::future::poll_fn(|cx| there.recv.poll_read_bytes(cx, 1)).await;
    assert_eq!(first.unwrap().unwrap()[..], [0]);
    let mut ends = [here, there].map(|stream| End {
        send: Some(stream.send),
        recv: Some(stream.recv),
    });
    let mut directions = [Direction::default(), Direction::default()];
    for (which, deed) in deeds.into_iter().take(300) {
        let which = usize::from(which);
        let [first, second] = &mut directions;
        let (outwards, inwards) = if which == 0 {
            (first, second)
        } else {
            (second, first)
        };
        act(&mut ends[which], outwards, inwards, deed).await;
    }
    let bystander = connector.open().now_or_never();
    assert!(
        matches!(bystander, Some(Ok(_)) | None),
        "the connection is unharmed"
    );
}

async fn act(end: &mut End, outwards: &mut Direction, inwards: &mut Direction, deed: Deed) {
    let cx = &mut Context::from_waker(Waker::noop());
    match deed {
        Deed::Wait(times) => {
            for _ in 0..times {
                tokio::task::yield_now().await;
            }
        }
        Deed::Write(len) => write(end, outwards, len, cx),
        Deed::Flush => {
            if let Some(send) = &mut end.send {
                let _ = send.poll_flush(cx);
            }
        }
        Deed::Finish => {
            if let Some(send) = &mut end.send {
                let ready = send.poll_finish(cx);
                outwards.finished |= outwards.reset.is_none();
                if let Poll::Ready(Err(error)) = ready {
                    check_writer(outwards, &error);
                }
            }
        }
        Deed::Reset(code) => {
            if let Some(send) = &mut end.send {
                send.reset(ResetCode::from_wire(code.into()));
                reset(outwards, code.into());
            }
        }
        Deed::DropSend => {
            if end.send.take().is_some() {
                reset(outwards, 0);
            }
        }
        Deed::Read(max) => read(end, inwards, max, cx),
        Deed::Stop(code) => {
            if let Some(recv) = &mut end.recv {
                recv.stop(ResetCode::from_wire(code.into()));
                inwards.stopped.get_or_insert(code.into());
                inwards.over = true;
            }
        }
        Deed::DropRecv => {
            if end.recv.take().is_some() {
                inwards.stopped.get_or_insert(0);
                inwards.over = true;
            }
        }
    }
}

/// Only the first end of a half counts.
fn reset(direction: &mut Direction, code: u64) {
    if !direction.finished {
        direction.reset.get_or_insert(code);
    }
}

fn write(end: &mut End, outwards: &mut Direction, len: u16, cx: &mut Context<'_>) {
    let Some(send) = &mut end.send else { return };
    let data: Vec<u8> = (0..len.max(1))
        .scan(outwards.next, |next, _| {
            *next = next.wrapping_mul(5).wrapping_add(1);
            Some(*next)
        })
        .collect();
    match send.poll_write(cx, &data) {
        Poll::Ready(Ok(written)) => {
            assert!(written > 0, "ready without room");
            outwards.next = data[written - 1];
            outwards.sent.extend(&data[..written]);
        }
        Poll::Ready(Err(error)) => check_writer(outwards, &error),
        Poll::Pending => {}
    }
}

fn check_writer(outwards: &Direction, error: &HalfError) {
    match error {
        HalfError::Stopped(code) => {
            assert_eq!(
                Some(code.to_wire()),
                outwards.stopped,
                "a STOP with its code"
            );
        }
        HalfError::Finished => assert!(outwards.finished),
        HalfError::Reset(code) => assert_eq!(Some(code.to_wire()), outwards.reset),
        other => panic!("{other:?}"),
    }
}

fn read(end: &mut End, inwards: &mut Direction, max: u16, cx: &mut Context<'_>) {
    let Some(recv) = &mut end.recv else { return };
    if inwards.over {
        return;
    }
    match recv.poll_read_bytes(cx, usize::from(max.max(1))) {
        Poll::Ready(Ok(Some(bytes))) => {
            assert!(!bytes.is_empty() && bytes.len() <= usize::from(max.max(1)));
            for byte in bytes {
                assert_eq!(
                    Some(byte),
                    inwards.sent.pop_front(),
                    "what was written, in order"
                );
            }
        }
        Poll::Ready(Ok(None)) => {
            assert!(inwards.finished, "no clean end without a FIN");
            assert!(
                inwards.sent.is_empty(),
                "the clean end is behind every byte"
            );
            inwards.over = true;
        }
        Poll::Ready(Err(HalfError::Reset(code))) => {
            assert_eq!(Some(code.to_wire()), inwards.reset, "a RESET with its code");
            inwards.over = true;
        }
        Poll::Ready(Err(other)) => panic!("{other:?}"),
        Poll::Pending => {}
    }
}
