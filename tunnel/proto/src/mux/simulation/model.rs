//! The allowed behaviour of a stream between two multiplexers.

use std::collections::VecDeque;

use crate::code::ResetCode;
use crate::mux::{Ended, Key, Mux};

/// One direction of one stream, as its two ends know it.
#[derive(Debug, Default)]
pub(super) struct Direction {
    /// Written and not read.
    pub(super) under_way: VecDeque<u8>,
    /// The next byte that is written.
    pub(super) next: u8,
    pub(super) finished: bool,
    /// By its writer.
    pub(super) reset: Option<ResetCode>,
    /// By its reader.
    pub(super) stopped: Option<ResetCode>,
    /// The reader has seen its end.
    pub(super) over: bool,
    /// The writer was told of the stop.
    pub(super) told: bool,
}

/// Gives whether there was room, or an end.
pub(super) fn write(mux: &mut Mux, key: Key, outwards: &mut Direction, len: usize) -> bool {
    match mux.poll_writable(key) {
        Ok(0) => return false,
        Ok(writable) => {
            assert!(!outwards.finished && outwards.reset.is_none());
            let bytes: Vec<u8> = (0..len.min(writable))
                .map(|_| {
                    outwards.next = outwards.next.wrapping_add(1);
                    outwards.next
                })
                .collect();
            outwards.under_way.extend(&bytes);
            mux.write(key, bytes.into());
        }
        Err(Ended::Stopped(code)) => {
            assert_eq!(Some(code), outwards.stopped, "a STOP with its code");
            outwards.told = true;
        }
        Err(Ended::Finished) => assert!(outwards.finished),
        Err(Ended::Reset(code)) => assert_eq!(Some(code), outwards.reset),
    }
    true
}

pub(super) fn reset(outwards: &mut Direction, code: ResetCode) {
    // A finished or stopped direction stays that.
    if !outwards.finished && !outwards.told && outwards.reset.is_none() {
        outwards.reset = Some(code);
    }
}

/// Gives whether there was anything. The other end let go of a stream that is `lost`, whose name
/// went with a reset.
pub(super) fn read(
    mux: &mut Mux,
    key: Key,
    inwards: &mut Direction,
    max: usize,
    lost: bool,
) -> bool {
    match mux.poll_read(key, max) {
        Ok(None) => return false,
        Ok(Some(bytes)) => {
            assert!(!bytes.is_empty() && bytes.len() <= max);
            for byte in bytes {
                assert_eq!(Some(byte), inwards.under_way.pop_front(), "in order");
            }
        }
        Err(Ok(())) => {
            assert!(inwards.finished, "no clean end without a FIN");
            assert!(inwards.under_way.is_empty(), "the end is behind every byte");
            inwards.over = true;
        }
        Err(Err(Ended::Reset(code))) => {
            let lost = lost.then_some(ResetCode::Cancelled);
            let made = inwards.stopped.or(inwards.reset).or(lost);
            assert_eq!(Some(code), made, "a RESET with its code");
            inwards.over = true;
        }
        Err(Err(other)) => panic!("{other:?}"),
    }
    true
}
