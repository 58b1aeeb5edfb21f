//! Ends watches when a front or an agent drains, when access to them is revoked, and when their sender is lost.
//!
//! A watch that ends cleanly is resumed from where it was; one that ends with an error, or in the middle of an
//! event, makes its informer list everything again: a storm, if every watch of a server does it. So a front, or an
//! agent, that drains ends each one between two events, at its own random moment, and without an event of its own, as kube-apiserver does.
//!
//! A caller who loses the right to watch, or the API server, gets a last event with a `metav1.Status`: of a stream that only fails, kubectl prints
//! HTTP/2's INTERNAL_ERROR, and informers say nothing of the reason.

use std::{
    sync::{Arc, OnceLock},
    task::{Context, Poll},
    time::Duration,
};

use aws_lc_rs::rand;
use bytes::Bytes;
use http::{Response, StatusCode, header};
use tokio_util::sync::CancellationToken;

use crate::scheduling::on_wake::Condition;
use underpass_core::{Rejection, limits::DRAIN_SPREAD};

/// Whether a front, or an agent's session, drains. Clones are of one of them.
#[derive(Clone, Debug, Default)]
pub struct Draining {
    begun: CancellationToken,
    /// How long its watches may go on then.
    spread: Arc<OnceLock<Duration>>,
}

impl Draining {
    /// Watches end from now on, spread over [`DRAIN_SPREAD`], or over half of the time until `deadline` where that is shorter.
    pub fn begin(&self, deadline: Duration) {
        self.spread.get_or_init(|| DRAIN_SPREAD.min(deadline / 2));
        self.begun.cancel();
    }

    /// Waits until that begins.
    ///
    /// # Cancel safety
    /// May be dropped.
    pub async fn begun(&self) {
        self.begun.cancelled().await;
    }

    /// Waits for a watch's own moment.
    async fn due(self) {
        self.begun().await;
        let spread = self.spread.get().copied().unwrap_or(DRAIN_SPREAD);
        tokio::time::sleep(random_part(spread)).await;
    }
}

/// The end of one watch.
pub struct WatchEnd {
    due: Condition<()>,
    is_due: bool,
    events: Events,
}

impl WatchEnd {
    /// Watches for `draining`, and over the events of a response.
    pub fn new<B>(draining: Draining, response: &Response<B>) -> Self {
        Self {
            due: Condition::boxed(draining.due()),
            is_due: false,
            events: Events::of(response),
        }
    }

    /// Follows the events.
    pub fn passed(&mut self, data: &Bytes) {
        self.events.passed(data);
    }

    /// The last bytes of a watch that may not go on, if no event is in the middle.
    pub fn last_words(&self, why: &Rejection) -> Option<Bytes> {
        let between = self.events.complete();
        between.then(|| match self.events {
            Events::Lines(_) => why.to_watch_event(),
            Events::Frames { .. } | Events::Unknown => Bytes::new(),
        })
    }

    /// Ready when the watch is to end here.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
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
    /// JSON: one line each, an object.
    Lines(Line),
    /// Protobuf: each after its length in four bytes, big-endian (apimachinery's `LengthDelimitedFramer`).
    Frames { length: u32, digits: u8, left: u32 },
    /// CBOR, or compressed, or something new: only the API server ends it.
    Unknown,
}

impl Events {
    fn of<B>(response: &Response<B>) -> Self {
        let headers = response.headers();
        let kind = headers
            .get(header::CONTENT_TYPE)
            .and_then(|kind| kind.to_str().ok());
        let kind = kind.unwrap_or_default();
        let compressed = headers.contains_key(header::CONTENT_ENCODING);
        if compressed || response.status() != StatusCode::OK {
            Self::Unknown
        } else if kind.starts_with("application/json") {
            Self::Lines(Line::default())
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
            Self::Lines(line) => line.is_complete(),
            Self::Frames { digits, left, .. } => *digits == 0 && *left == 0,
            Self::Unknown => false,
        }
    }

    fn passed(&mut self, mut data: &[u8]) {
        match self {
            Self::Lines(line) => line.passed(data),
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

/// The last line of JSON events. A line that is a part of an object, as in indented JSON, is told from a whole one.
#[derive(Debug, Default, PartialEq, Eq)]
struct Line {
    /// Its first byte; before any byte, none.
    first: Option<u8>,
    /// Its last two bytes.
    last: [u8; 2],
}

impl Line {
    fn is_complete(&self) -> bool {
        matches!(
            (self.first, self.last),
            (None, _) | (Some(b'{'), [b'}', b'\n'])
        )
    }

    fn passed(&mut self, data: &[u8]) {
        let Some((&end, before)) = data.split_last() else {
            return;
        };
        let begins = match memchr::memrchr(b'\n', before) {
            Some(at) => data.get(at.saturating_add(1)),
            None if self.first.is_none() || self.last[1] == b'\n' => data.first(),
            None => None,
        };
        self.first = begins.copied().or(self.first);
        self.last = [before.last().copied().unwrap_or(self.last[1]), end];
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
    use super::*;

    fn response(kind: &str) -> Response<()> {
        let response = Response::builder().header(header::CONTENT_TYPE, kind);
        response.body(()).unwrap()
    }

    fn events(kind: &str) -> Events {
        Events::of(&response(kind))
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
    fn a_line_of_an_indented_event_is_no_event() {
        let wire = b"{\n  \"type\": \"ADDED\",\n  \"object\": {\n  }\n}\n{\"type\":\"ADDED\"}\n";
        let indented = wire.len() - "{\"type\":\"ADDED\"}\n".len();
        for size in [1, 2, 3, 7, wire.len()] {
            let mut events = events("application/json");
            let mut at = 0;
            for piece in wire.chunks(size) {
                events.passed(piece);
                at += piece.len();
                assert!(at > indented || !events.complete(), "{size} {at}");
            }
            assert!(events.complete(), "{size}");
        }
    }

    #[test]
    fn who_may_watch_no_longer_is_told_between_events_only() {
        let end = |kind| WatchEnd::new(Draining::default(), &response(kind));
        let mut json = end("application/json");
        let told = json.last_words(&Rejection::Revoked).unwrap();
        let event: serde_json::Value = serde_json::from_slice(&told).unwrap();
        assert_eq!(event["type"], "ERROR");
        assert_eq!(event["object"]["kind"], "Status");
        assert_eq!(event["object"]["code"], 403);
        assert!(told.ends_with(b"}\n"));
        json.passed(&Bytes::from_static(b"{\"type\""));
        assert_eq!(json.last_words(&Rejection::Unauthorized), None);
        let protobuf = end("application/vnd.kubernetes.protobuf;stream=watch");
        assert_eq!(protobuf.last_words(&Rejection::Revoked), Some(Bytes::new()));
        assert_eq!(end("text/plain").last_words(&Rejection::Revoked), None);
        // A refusal of the API server's is no watch.
        let mut refused = response("application/json");
        *refused.status_mut() = StatusCode::FORBIDDEN;
        let refused = WatchEnd::new(Draining::default(), &refused);
        assert_eq!(refused.last_words(&Rejection::Revoked), None);
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

    /// A server that has two seconds must not cut watches off after them.
    #[tokio::test(start_paused = true)]
    async fn watches_end_before_the_deadline() {
        for deadline in [
            Duration::ZERO,
            Duration::from_secs(2),
            Duration::from_secs(3600),
        ] {
            let draining = Draining::default();
            draining.begin(deadline);
            let begun = tokio::time::Instant::now();
            for _ in 0..100 {
                let mut watch = WatchEnd::new(draining.clone(), &response("application/json"));
                std::future::poll_fn(|cx| watch.poll(cx)).await;
            }
            let most = 100 * DRAIN_SPREAD.min(deadline / 2);
            assert!(begun.elapsed() <= most, "{deadline:?}");
        }
    }

    #[test]
    fn what_is_not_understood_is_left_alone() {
        assert!(!events("application/cbor-seq").complete());
    }
}
