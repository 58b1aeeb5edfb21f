//! A refusal of a request over HTTP/2 whose body may still come: its head waits for its body.
//!
//! curl (7.88, and before) ends its upload where it reads a head of 300 or more, with fewer bytes than it has announced. `h2` takes
//! that for a malformed request, and resets the stream (RFC 9113, section 8.1.1) together with what it has not sent. A body that is
//! handed over with its head is sent with it, before the client has read either. An API server's is a Status of some hundred
//! bytes.

use std::{
    collections::VecDeque,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt;
use tokio::time::{Instant, timeout_at};

use underpass_core::{Body, BoxError, body, limits};

/// Waits for the body of a refusal, or for as much of it as is worth it.
///
/// # Cancel safety
/// Dropping the future drops the response.
pub(super) async fn with_body(response: Response<Body>) -> Response<Body> {
    let refuses = response.status() >= StatusCode::MULTIPLE_CHOICES;
    if !refuses || response.body().is_end_stream() {
        return response;
    }
    let (parts, rest) = response.into_parts();
    Response::from_parts(parts, body::boxed(Gathered::from(rest).await))
}

/// A body whose beginning is at hand.
struct Gathered {
    begun: VecDeque<Result<Frame<Bytes>, BoxError>>,
    /// `None` where that is all.
    rest: Option<Body>,
}

impl Gathered {
    async fn from(mut rest: Body) -> Self {
        let end = Instant::now() + limits::REFUSAL_TIME;
        let (mut begun, mut bytes) = (VecDeque::new(), 0);
        while bytes < limits::REFUSAL_BYTES {
            let Ok(frame) = timeout_at(end, rest.frame()).await else {
                break;
            };
            let Some(frame) = frame else {
                return Self { begun, rest: None };
            };
            let data = frame.as_ref().ok().and_then(Frame::data_ref);
            bytes += data.map_or(0, Bytes::len);
            let is_last = frame.is_err() || rest.is_end_stream();
            begun.push_back(frame);
            if is_last {
                return Self { begun, rest: None };
            }
        }
        let rest = Some(rest);
        Self { begun, rest }
    }
}

impl http_body::Body for Gathered {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Some(frame) = self.begun.pop_front() {
            return Poll::Ready(Some(frame));
        }
        match &mut self.rest {
            Some(rest) => Pin::new(rest).poll_frame(cx),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        let rest = self.rest.as_ref();
        self.begun.is_empty() && rest.is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let frames = self.begun.iter().filter_map(|frame| frame.as_ref().ok());
        let begun: usize = frames.filter_map(Frame::data_ref).map(Bytes::len).sum();
        let begun = u64::try_from(begun).unwrap_or(u64::MAX);
        let rest = self.rest.as_ref().map(http_body::Body::size_hint);
        let rest = rest.unwrap_or_else(|| SizeHint::with_exact(0));
        let mut all = SizeHint::new();
        all.set_lower(rest.lower().saturating_add(begun));
        // One that breaks off is no whole body of the bytes that came.
        let breaks_off = self.begun.iter().any(Result::is_err);
        if let Some(upper) = rest.upper().filter(|_| !breaks_off) {
            all.set_upper(upper.saturating_add(begun));
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, time::Duration};

    use futures_util::{FutureExt, StreamExt, stream};
    use http_body_util::StreamBody;

    use super::*;

    /// Pieces, each after a time.
    fn slow(code: u16, pieces: Vec<(u64, Bytes)>) -> Response<Body> {
        let frames = stream::iter(pieces).then(|(after, piece)| async move {
            tokio::time::sleep(Duration::from_millis(after)).await;
            Ok::<_, Infallible>(Frame::data(piece))
        });
        let body = body::boxed(StreamBody::new(Box::pin(frames)));
        let mut response = Response::new(body);
        *response.status_mut() = StatusCode::from_u16(code).unwrap();
        response
    }

    async fn whole(body: Body) -> Bytes {
        body.collect().await.unwrap().to_bytes()
    }

    #[tokio::test(start_paused = true)]
    async fn the_head_of_a_refusal_waits_for_its_body() {
        let pieces = vec![(50, Bytes::from("Sta")), (50, Bytes::from("tus"))];
        let refusal = with_body(slow(413, pieces)).await;
        assert_eq!(refusal.body().size_hint().exact(), Some(6));
        let body = whole(refusal.into_body()).now_or_never();
        assert_eq!(body.expect("it is at hand"), "Status");
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_else_waits() {
        let begun = Instant::now();
        let answer = with_body(slow(201, vec![(50, Bytes::from("made"))])).await;
        assert_eq!(begun.elapsed(), Duration::ZERO);
        assert_eq!(whole(answer.into_body()).await, "made");
        let mut empty = Response::new(underpass_core::empty());
        *empty.status_mut() = StatusCode::NOT_MODIFIED;
        assert!(with_body(empty).await.body().is_end_stream());
    }

    #[tokio::test(start_paused = true)]
    async fn a_long_or_slow_one_does_not_wait_for_ever() {
        let begun = Instant::now();
        let slowly = vec![(0, Bytes::from("a")), (60_000, Bytes::from("b"))];
        let refusal = with_body(slow(500, slowly)).await;
        assert_eq!(begun.elapsed().as_secs(), limits::REFUSAL_TIME.as_secs());
        assert!(!refusal.body().is_end_stream());
        assert_eq!(whole(refusal.into_body()).await, "ab");
        let piece = Bytes::from(vec![b'x'; limits::REFUSAL_BYTES]);
        let large = vec![(0, piece.clone()), (60_000, piece)];
        let begun = Instant::now();
        let refusal = with_body(slow(500, large)).await;
        assert!(begun.elapsed() < limits::REFUSAL_TIME);
        let body = whole(refusal.into_body()).await;
        assert_eq!(body.len(), 2 * limits::REFUSAL_BYTES);
    }

    #[tokio::test]
    async fn a_body_that_breaks_off_does_so_behind_its_beginning() {
        let frames = [
            Ok(Frame::data(Bytes::from("half"))),
            Err(BoxError::from("broken")),
        ];
        let body = body::boxed(StreamBody::new(stream::iter(frames)));
        let mut response = Response::new(body);
        *response.status_mut() = StatusCode::BAD_GATEWAY;
        let mut body = with_body(response).await.into_body();
        assert_eq!(
            body.size_hint().exact(),
            None,
            "nobody announces its length"
        );
        let first = body.frame().await.unwrap().unwrap();
        assert_eq!(first.into_data().unwrap(), "half");
        let error = body.frame().await.unwrap().unwrap_err();
        assert_eq!(error.to_string(), "broken");
        assert!(body.frame().await.is_none());
    }
}
