//! The framing of bodies over HTTP/1.1.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, header};
use http_body::{Body, Frame};

use underpass_core::{Body as Boxed, BoxError, body};

/// Announces the chunks of a GET's or HEAD's body whose length is unknown. hyper's client takes such a request for one without a body
/// where no header says otherwise, and sends nothing of it.
pub fn announce_chunks<B: Body>(request: &mut Request<B>) {
    let asks = matches!(*request.method(), Method::GET | Method::HEAD);
    let body = request.body();
    let is_unknown = !body.is_end_stream() && body.size_hint().exact().is_none();
    if asks && is_unknown && !request.headers().contains_key(header::CONTENT_LENGTH) {
        let chunked = HeaderValue::from_static("chunked");
        request
            .headers_mut()
            .insert(header::TRANSFER_ENCODING, chunked);
    }
}

/// Takes the length from an answer that announces trailers. Over HTTP/2 both may be there; over HTTP/1.1 trailers follow chunks alone
/// (RFC 9112, section 7.1.2).
pub fn chunk_before_trailers(mut response: Response<Boxed>) -> Response<Boxed> {
    let announced = response.headers().contains_key(header::TRAILER);
    if !announced || response.body().is_end_stream() {
        return response;
    }
    response.headers_mut().remove(header::CONTENT_LENGTH);
    response.map(|inner| body::boxed(OfNoLength(inner)))
}

/// A body that does not tell its length.
struct OfNoLength(Boxed);

impl Body for OfNoLength {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Pin::new(&mut self.0).poll_frame(cx)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http_body_util::{Empty, Full, StreamBody};

    use super::*;

    fn announced<B: Body>(method: Method, body: B) -> Option<HeaderValue> {
        let mut request = Request::new(body);
        *request.method_mut() = method;
        announce_chunks(&mut request);
        request.headers().get(header::TRANSFER_ENCODING).cloned()
    }

    fn unknown() -> impl Body<Data = Bytes, Error = std::convert::Infallible> {
        StreamBody::new(futures_util::stream::empty())
    }

    #[test]
    fn a_body_of_unknown_length_is_announced() {
        let chunked = Some(HeaderValue::from_static("chunked"));
        assert_eq!(announced(Method::GET, unknown()), chunked);
        assert_eq!(announced(Method::HEAD, unknown()), chunked);
        // hyper does so by itself.
        assert_eq!(announced(Method::POST, unknown()), None);
        assert_eq!(announced(Method::GET, Empty::<Bytes>::new()), None);
        assert_eq!(announced(Method::GET, Full::<Bytes>::from("x")), None);
    }
}
