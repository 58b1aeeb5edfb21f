//! Ends watches when the front drains.
//!
//! A watch that ends cleanly is resumed from where it was; one that ends with an error, or in the middle of an
//! event, makes its informer list everything again: a storm, if every watch of a server does it. So a draining front
//! ends each one between two events, at its own random moment.

use std::{
    task::{Context, Poll},
    time::Duration,
};

use aws_lc_rs::rand;
use bytes::Bytes;
use http::{HeaderMap, header};
use tokio_util::sync::CancellationToken;

use underpass_core::limits::DRAIN_SPREAD;
use underpass_http::scheduling::on_wake::Condition;

/// The end of one watch.
pub(super) struct WatchEnd {
    due: Condition<()>,
    is_due: bool,
    events: Events,
}

impl WatchEnd {
    /// Watches for `draining`, and over the events of a response with these headers.
    pub(super) fn new(draining: CancellationToken, headers: &HeaderMap) -> Self {
        let due = Condition::boxed(async move {
            draining.cancelled().await;
            tokio::time::sleep(random_part(DRAIN_SPREAD)).await;
        });
        Self {
            due,
            is_due: false,
            events: Events::of(headers),
        }
    }

    /// Follows the events.
    pub(super) fn passed(&mut self, data: &Bytes) {
        self.events.passed(data);
    }

    /// Ready when the watch is to end here.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.is_due = self.is_due || self.due.poll(cx).is_ready();
        if self.is_due && self.events.complete() {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }
}

/// How the events of a watch follow each other on the wire.
#[derive(Debug, PartialEq, Eq)]
enum Events {
    /// JSON: one line each.
    Lines { complete: bool },
    /// Protobuf: each after its length in four bytes, big-endian (apimachinery's `LengthDelimitedFramer`).
    Frames { length: u32, digits: u8, left: u32 },
    /// CBOR, or compressed, or something new: only the API server ends it.
    Unknown,
}

impl Events {
    fn of(headers: &HeaderMap) -> Self {
        let kind = headers
            .get(header::CONTENT_TYPE)
            .and_then(|kind| kind.to_str().ok());
        let kind = kind.unwrap_or_default();
        if headers.contains_key(header::CONTENT_ENCODING) {
            Self::Unknown
        } else if kind.starts_with("application/json") {
            Self::Lines { complete: true }
        } else if kind.starts_with("application/vnd.kubernetes.protobuf") {
            Self::Frames {
                length: 0,
                digits: 0,
                left: 0,
            }
        } else {
            Self::Unknown
        }
    }

    fn complete(&self) -> bool {
        match self {
            Self::Lines { complete } => *complete,
            Self::Frames { digits, left, .. } => *digits == 0 && *left == 0,
            Self::Unknown => false,
        }
    }

    fn passed(&mut self, mut data: &[u8]) {
        match self {
            Self::Lines { complete } => *complete = data.last().map_or(*complete, |&b| b == b'\n'),
            Self::Unknown => {}
            Self::Frames {
                length,
                digits,
                left,
            } => {
                while let Some((&first, rest)) = data.split_first() {
                    if *left > 0 {
                        let step = usize::try_from(*left).unwrap_or(usize::MAX).min(data.len());
                        *left = left.saturating_sub(u32::try_from(step).unwrap_or(u32::MAX));
                        data = data.get(step..).unwrap_or_default();
                        continue;
                    }
                    *length = (*length << 8) | u32::from(first);
                    *digits += 1;
                    data = rest;
                    if *digits == 4 {
                        (*left, *length, *digits) = (*length, 0, 0);
                    }
                }
            }
        }
    }
}

fn random_part(of: Duration) -> Duration {
    let mut byte = [0; 2];
    // Without randomness the watch ends at once.
    let _ = rand::fill(&mut byte);
    of.mul_f64(f64::from(u16::from_be_bytes(byte)) / f64::from(u16::MAX))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn events(kind: &'static str) -> Events {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        Events::of(&headers)
    }

    #[test]
    fn json_events_are_lines() {
        let mut events = events("application/json;stream=watch");
        assert!(events.complete());
        events.passed(b"{\"type\":");
        assert!(!events.complete());
        events.passed(b"");
        assert!(!events.complete());
        events.passed(b"\"ADDED\"}\n");
        assert!(events.complete());
    }

    #[test]
    fn protobuf_events_are_counted_however_they_are_cut() {
        let wire = [
            &[0, 0, 1, 4][..],
            &[7; 260],
            &[0, 0, 0, 0],
            &[0, 0, 0, 1, 9],
        ]
        .concat();
        let ends = [0, 264, 268, 273];
        for size in [1, 3, 100, 273] {
            let mut events = events("application/vnd.kubernetes.protobuf;stream=watch");
            let mut at = 0;
            assert!(events.complete());
            for piece in wire.chunks(size) {
                events.passed(piece);
                at += piece.len();
                assert_eq!(events.complete(), ends.contains(&at), "{size} {at}");
            }
        }
    }

    #[test]
    fn what_is_not_understood_is_left_alone() {
        assert!(!events("application/cbor-seq").complete());
    }
}
