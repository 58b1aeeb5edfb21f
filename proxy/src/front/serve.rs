//! Serves one connection of the front.

use std::{
    convert::Infallible,
    pin::{Pin, pin},
    sync::Arc,
};

use http::{Request, Response};
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::{HttpService, service_fn},
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::watch,
};

use super::{
    Connection, ConnectionInfo, Front, Protocol,
    batch::{Batched, Held},
};
use crate::{
    Body, BoxError,
    body::{self, Guard, Guarded},
    limits,
};

/// A client's connection ended by an error: the client broke HTTP, or vanished.
#[derive(Debug, thiserror::Error)]
#[error("the client's connection failed")]
pub struct ServeError(#[source] hyper::Error);

impl Front {
    /// Serves a connection, after its TLS handshake, until it ends and its upgraded streams have ended.
    ///
    /// After [`Front::drain`] it returns once what is in flight is done. HTTP/1.1 requests may upgrade; HTTP/2 ones may
    /// not (RFC 9113, section 8.2.2: hyper resets a stream that tries).
    ///
    /// # Errors
    /// How the client broke the connection; worth a debug line.
    ///
    /// # Cancel safety
    /// Dropping the future closes the connection and ends its requests and upgraded streams at once.
    pub async fn serve_connection<I>(
        self: &Arc<Self>,
        io: I,
        info: ConnectionInfo,
    ) -> Result<(), ServeError>
    where
        I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let protocol = info.protocol;
        let connection = Arc::new(Connection::new(info));
        let _gone = connection.gone.clone().drop_guard();
        let served = match protocol {
            Protocol::Http1 => self.serve_http1(io, &connection).await,
            Protocol::Http2 => self.serve_http2(io, &connection).await,
        };
        connection.pipes.close();
        connection.pipes.wait().await;
        served.map_err(ServeError)
    }

    async fn serve_http1<I>(
        self: &Arc<Self>,
        io: I,
        connection: &Arc<Connection>,
    ) -> hyper::Result<()>
    where
        I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let service = service_fn(|request: Request<Incoming>| {
            let (front, connection) = (Arc::clone(self), Arc::clone(connection));
            async move { Ok::<_, Infallible>(front.handle(request, &connection).await) }
        });
        let serving = http1()
            .serve_connection(TokioIo::new(io), service)
            .with_upgrades();
        finish_or(serving, self.draining.cancelled()).await
    }

    async fn serve_http2<I>(
        self: &Arc<Self>,
        io: I,
        connection: &Arc<Connection>,
    ) -> hyper::Result<()>
    where
        I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (active, idle) = watch::channel(0);
        let active = Arc::new(active);
        let service = service_fn(|request: Request<Incoming>| {
            let (front, connection) = (Arc::clone(self), Arc::clone(connection));
            let active = Active::new(&active);
            async move { Ok::<_, Infallible>(active.hold(front.handle(request, &connection).await)) }
        });
        let (io, driven) = Held::pair(io);
        let serving = http2().serve_connection(TokioIo::new(io), service);
        let serving = Batched::new(driven, serving);
        let stop = async {
            tokio::select! {
                () = self.draining.cancelled() => {}
                () = idle_for_long(idle) => tracing::debug!("idle connection"),
            }
        };
        finish_or(serving, stop).await
    }
}

/// A connection that can be told to finish. (hyper-util's trait leaves out the one with upgrades.)
trait Graceful: Future<Output = hyper::Result<()>> {
    fn finish(self: Pin<&mut Self>);
}

impl<I, S> Graceful for http1::UpgradeableConnection<I, S>
where
    Self: Future<Output = hyper::Result<()>>,
    S: HttpService<Incoming, ResBody = Body>,
    S::Error: Into<BoxError>,
    I: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    fn finish(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

impl<I, S> Graceful for http2::Connection<I, S, TokioExecutor>
where
    Self: Future<Output = hyper::Result<()>>,
    S: HttpService<Incoming, ResBody = Body>,
    S::Error: Into<BoxError>,
    S::Future: Send + 'static,
    I: hyper::rt::Read + hyper::rt::Write + Unpin,
{
    fn finish(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

impl<I, C> Graceful for Batched<I, C, hyper::Result<()>>
where
    I: AsyncRead + AsyncWrite + Unpin,
    C: Graceful,
{
    fn finish(mut self: Pin<&mut Self>) {
        self.speaker().finish();
    }
}

/// Drives a connection; once `stop` is ready it takes no new requests and ends after those in flight.
async fn finish_or<C, S>(serving: C, stop: S) -> hyper::Result<()>
where
    C: Graceful,
    S: Future<Output = ()>,
{
    let mut serving = pin!(serving);
    tokio::select! {
        served = serving.as_mut() => return served,
        () = stop => serving.as_mut().finish(),
    }
    serving.await
}

fn http1() -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(limits::HEADER_READ_TIMEOUT)
        // A little more than passes: what is a little too much is then refused by us, with a Status,
        // and only what is far too much by hyper, without.
        .max_headers(2 * limits::HEADER_COUNT)
        .max_header_size(limits::HTTP1_BUFFER_BYTES)
        .max_buf_size(limits::HTTP1_BUFFER_BYTES);
    builder
}

fn http2() -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .keep_alive_interval(limits::FRONT_KEEPALIVE_INTERVAL)
        .keep_alive_timeout(limits::FRONT_KEEPALIVE_TIMEOUT)
        .max_concurrent_streams(limits::FRONT_STREAMS)
        .max_send_buf_size(limits::FRONT_SEND_BUFFER)
        .initial_stream_window_size(limits::FRONT_STREAM_WINDOW)
        .initial_connection_window_size(limits::FRONT_CONNECTION_WINDOW)
        .max_header_list_size(u32::try_from(limits::HTTP1_BUFFER_BYTES).unwrap_or(u32::MAX));
    builder
}

/// hyper bounds how long an HTTP/1.1 client may idle (the header timeout), but not an HTTP/2 one.
async fn idle_for_long(mut active: watch::Receiver<usize>) {
    loop {
        if active.wait_for(|count| *count == 0).await.is_err() {
            return;
        }
        let busy = active.wait_for(|count| *count > 0);
        if tokio::time::timeout(limits::FRONT_IDLE_TIMEOUT, busy)
            .await
            .is_err()
        {
            return;
        }
    }
}

/// A request in flight, until its response's body is gone.
struct Active(Arc<watch::Sender<usize>>);

impl Active {
    fn new(count: &Arc<watch::Sender<usize>>) -> Self {
        count.send_modify(|count| *count = count.saturating_add(1));
        Self(Arc::clone(count))
    }

    fn hold(self, response: Response<Body>) -> Response<Body> {
        response.map(|inner| body::boxed(Guarded::new(inner, self)))
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count = count.saturating_sub(1));
    }
}

impl Guard for Active {
    fn poll_abort(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<BoxError> {
        std::task::Poll::Pending
    }
}
