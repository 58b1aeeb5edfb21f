//! One HTTP/2 request on one byte stream, to a server of which it is known that it speaks HTTP/2 there (RFC 9113, section 3.3).

use std::{future::poll_fn, pin::pin};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::task::AbortOnDropHandle;

use super::{Answered, Driver, Exchange, ExchangeError, Stopped, heading::Heading};
use crate::scheduling::in_task::{InTask, Spawner};
use underpass_core::{BoxError, limits};

/// Sends `request` on `io`, whose URI is absolute, and waits for the response's head. Both bodies stream, and both may have trailers.
/// A body of the response ends where its stream does: [`Whole`](super::Whole) tells it from a reset.
///
/// # Errors
/// There is no response.
///
/// # Cancel safety
/// Dropping the future drops `io`.
pub async fn send_http2<I, B>(
    io: I,
    request: Request<B>,
) -> Result<(Response<Answered>, Exchange), ExchangeError>
where
    I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    let (io, head) = Heading::of_http2(io);
    let spawner = Spawner::default();
    let opening = builder(spawner.clone()).handshake(TokioIo::new(io));
    let (mut sender, connection) = opening.await.map_err(failed)?;
    let mut work = InTask::new(connection, spawner);
    let driving = tokio::spawn(async move {
        // It ends with its last request's sending, and what hyper has spawned for it goes on.
        if let Err(error) = (&mut work).await {
            tracing::debug!(
                error = &error as &dyn std::error::Error,
                "exchange ended early"
            );
        }
        work.finish_tasks().await;
    });
    let exchange = Exchange {
        driver: Some(Driver::Task(AbortOnDropHandle::new(driving))),
        stopped: Stopped::default(),
        kept: None,
    };
    poll_fn(|cx| sender.poll_ready(cx)).await.map_err(failed)?;
    let sending = pin!(sender.send_request(request));
    let response = sending.await.map_err(failed)?;
    head.has_come();
    let answered = |incoming| Answered {
        incoming,
        inline: None,
    };
    Ok((response.map(answered), exchange))
}

fn builder(spawner: Spawner) -> http2::Builder<Spawner> {
    let mut builder = http2::Builder::new(spawner);
    builder
        .timer(TokioTimer::new())
        .initial_stream_window_size(limits::UPSTREAM_STREAM_WINDOW)
        // It has one stream.
        .initial_connection_window_size(limits::UPSTREAM_STREAM_WINDOW)
        .max_send_buf_size(limits::FRONT_SEND_BUFFER)
        .max_header_list_size(u32::try_from(limits::HEADER_BYTES).unwrap_or(u32::MAX));
    builder
}

/// The fault of a server that does not speak HTTP/2 is its own library's to find, and ours.
fn failed(error: hyper::Error) -> ExchangeError {
    let source = std::error::Error::source(&error);
    let found = source.and_then(|source| source.downcast_ref::<h2::Error>());
    match found.is_some_and(h2::Error::is_library) {
        true => ExchangeError::Malformed(error),
        false => error.into(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::HeaderMap;
    use http_body_util::{BodyExt, Empty, Full};
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

    use super::{super::Whole, *};

    fn get() -> Request<Empty<Bytes>> {
        Request::get("http://x/").body(Empty::new()).unwrap()
    }

    async fn soon<F: Future>(what: F) -> F::Output {
        let soon = tokio::time::timeout(Duration::from_secs(20), what);
        soon.await.expect("did not happen in time")
    }

    /// A server that answers its first request with a head, and gives the rest of the stream.
    async fn answering(io: DuplexStream) -> (h2::SendStream<Bytes>, tokio::task::JoinHandle<()>) {
        let mut connection = h2::server::handshake(io).await.unwrap();
        let (_, mut respond) = connection.accept().await.unwrap().unwrap();
        let send = respond.send_response(Response::new(()), false).unwrap();
        let driving =
            tokio::spawn(async move { while let Some(Ok(_)) = connection.accept().await {} });
        (send, driving)
    }

    async fn body_of(answer: Response<Answered>) -> Result<(Bytes, Option<HeaderMap>), BoxError> {
        let version = answer.version();
        let whole = Whole::new(answer.into_body(), version);
        let collected = soon(whole.collect()).await?;
        let trailers = collected.trailers().cloned();
        Ok((collected.to_bytes(), trailers))
    }

    #[tokio::test]
    async fn an_answer_comes_with_its_trailers() {
        let (near, far) = tokio::io::duplex(16 * 1024);
        let serving = tokio::spawn(answering(far));
        let (response, _exchange) = soon(send_http2(near, get())).await.unwrap();
        let (mut send, driving) = soon(serving).await.unwrap();
        send.send_data("hello".into(), false).unwrap();
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", "0".parse().unwrap());
        send.send_trailers(trailers.clone()).unwrap();
        let got = body_of(response).await.unwrap();
        assert_eq!(got, ("hello".into(), Some(trailers)));
        driving.abort();
    }

    /// hyper takes some of these resets for an end.
    #[tokio::test]
    async fn rule_1_a_reset_is_no_end_of_a_body() {
        use h2::Reason;

        for reason in [Reason::CANCEL, Reason::NO_ERROR, Reason::INTERNAL_ERROR] {
            let (near, far) = tokio::io::duplex(16 * 1024);
            let serving = tokio::spawn(answering(far));
            let (response, _exchange) = soon(send_http2(near, get())).await.unwrap();
            let (mut send, driving) = soon(serving).await.unwrap();
            send.send_data("half".into(), false).unwrap();
            send.send_reset(reason);
            assert!(body_of(response).await.is_err(), "{reason}: a clean end");
            driving.abort();
        }
        // And so does a connection that ends.
        let (near, far) = tokio::io::duplex(16 * 1024);
        let serving = tokio::spawn(answering(far));
        let (response, _exchange) = soon(send_http2(near, get())).await.unwrap();
        let (mut send, driving) = soon(serving).await.unwrap();
        send.send_data("half".into(), false).unwrap();
        driving.abort();
        assert!(body_of(response).await.is_err(), "a clean end");
    }

    #[tokio::test]
    async fn rule_11_interim_heads_have_an_end() {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let flooding = tokio::spawn(async move {
            let (mut read, mut write) = tokio::io::split(far);
            let reading =
                tokio::spawn(
                    async move { tokio::io::copy(&mut read, &mut tokio::io::sink()).await },
                );
            // SETTINGS, and then `:status: 103` with `a: xxx…` in HEADERS (RFC 7541, section 6.2.2).
            write.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
            let mut block = b"\x08\x03103\x00\x01a\x64".to_vec();
            block.extend([b'x'; 100]);
            let length = u8::try_from(block.len()).unwrap();
            let mut frame = vec![0, 0, length, 1, 4, 0, 0, 0, 1];
            frame.extend(block);
            let mut sent: usize = 0;
            while write.write_all(&frame).await.is_ok() {
                sent += frame.len();
            }
            reading.abort();
            sent
        });
        let error = soon(send_http2(near, get())).await.map(|_| ()).unwrap_err();
        assert!(!matches!(error, ExchangeError::NotTaken(_)), "{error:?}");
        let sent = soon(flooding).await.unwrap();
        assert!(sent < 4 * limits::HTTP1_BUFFER_BYTES, "{sent}");
    }

    #[tokio::test]
    async fn a_server_that_speaks_something_else_is_told_from_one_that_is_gone() {
        let (near, mut far) = tokio::io::duplex(16 * 1024);
        let answering = tokio::spawn(async move {
            far.read_u8().await.unwrap();
            let answer = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n";
            far.write_all(answer).await.unwrap();
            far
        });
        let error = soon(send_http2(near, get())).await.map(|_| ()).unwrap_err();
        assert!(matches!(error, ExchangeError::Malformed(_)), "{error:?}");
        answering.await.unwrap();
        let (near, far) = tokio::io::duplex(16 * 1024);
        drop(far);
        let error = soon(send_http2(near, get())).await.map(|_| ()).unwrap_err();
        assert!(matches!(error, ExchangeError::Lost(_)), "{error:?}");
    }

    /// Dropping the exchange ends the connection, in the midst of the request's body as well.
    #[tokio::test]
    async fn an_exchange_that_is_dropped_leaves_nothing() {
        let (near, far) = tokio::io::duplex(16 * 1024);
        let serving = tokio::spawn(async move {
            let mut connection = h2::server::handshake(far).await.unwrap();
            let (_request, mut respond) = connection.accept().await.unwrap().unwrap();
            let _send = respond.send_response(Response::new(()), false).unwrap();
            while let Some(Ok(_)) = connection.accept().await {}
        });
        // More than the server has room for.
        let body = Full::new(Bytes::from(vec![b'x'; 1 << 20]));
        let post = Request::post("http://x/").body(body).unwrap();
        let (response, exchange) = soon(send_http2(near, post)).await.unwrap();
        drop((response, exchange));
        soon(serving).await.unwrap();
    }
}
