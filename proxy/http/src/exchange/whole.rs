//! Bodies over HTTP/2 that end where they say so, and nowhere else.
//!
//! hyper gives a body whose stream was reset with CANCEL or NO_ERROR to its reader as one that has ended. Passed on like that, an
//! upload or a download that was cut would look whole (security rule 1).

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::Version;
use http_body::{Body, Frame, SizeHint};

use underpass_core::BoxError;

/// A body of hyper's. Over HTTP/2 its end is an error, unless the peer has ended the stream, has sent trailers, or has sent as many
/// bytes as it had announced.
#[derive(Debug)]
pub struct Whole<B> {
    body: B,
    checked: bool,
    ended: bool,
}

impl<B: Body<Data = Bytes> + Unpin> Whole<B> {
    /// Of a message of this version.
    pub fn new(body: B, version: Version) -> Self {
        Self {
            body,
            checked: version == Version::HTTP_2,
            ended: false,
        }
    }

    /// hyper counts down a length that was announced.
    fn is_complete(&self) -> bool {
        self.ended || self.body.is_end_stream() || self.body.size_hint().exact() == Some(0)
    }
}

impl<B> Body for Whole<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let polled = ready!(Pin::new(&mut self.body).poll_frame(cx));
        Poll::Ready(match polled {
            Some(Ok(frame)) => {
                self.ended |= frame.is_trailers();
                Some(Ok(frame))
            }
            Some(Err(error)) => Some(Err(error.into())),
            None if self.checked && !self.is_complete() => {
                Some(Err(io::Error::from(io::ErrorKind::ConnectionReset).into()))
            }
            None => None,
        })
    }

    fn is_end_stream(&self) -> bool {
        self.ended || self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
