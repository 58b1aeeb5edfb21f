//! Serves one connection of the front.

use std::{
    convert::Infallible,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use http::{HeaderValue, Method, Request, Version, header};
use http_body::Body as _;
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::{HttpService, service_fn},
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

use super::{
    Connection, Front, RequestBody, Standing,
    admit::Revoked,
    cut::Cuttable,
    forward::becomes_bytes,
    head_clock::HeadClock,
    idle::{Active, Activity},
    linger::Lingering,
    refusal,
    request_target::{Heads, Place, Targets},
    strangers::frames,
    unreadable::Explained,
};
use underpass_core::{Body, BoxError, ConnectionInfo, Protocol, limits};
use underpass_http::{
    broken_off,
    scheduling::{
        deferred_flush::{Batched, DeferredFlush},
        in_task::{InTask, Spawner},
    },
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
        self.serve_stranger(io, info, Standing::default()).await
    }

    /// The same of a connection that counts as a stranger's until a request on it is authenticated. The caller has
    /// charged the bytes read so far, and ends the future when [`Standing::closed`] is ready.
    ///
    /// # Errors
    /// As [`Front::serve_connection`].
    ///
    /// # Cancel safety
    /// As [`Front::serve_connection`].
    pub async fn serve_stranger<I>(
        self: &Arc<Self>,
        io: I,
        info: ConnectionInfo,
        standing: Standing,
    ) -> Result<(), ServeError>
    where
        I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let protocol = info.protocol;
        let connection = Arc::new(Connection::of_stranger(info, standing));
        let _gone = connection.gone.clone().drop_guard();
        let serving = async {
            match protocol {
                Protocol::Http1 => self.serve_http1(io, &connection).await,
                Protocol::Http2 => self.serve_http2(io, &connection).await,
            }
        };
        let served = tokio::select! {
            served = serving => served,
            () = connection.sendings.stalled() => {
                tracing::debug!("the client does not read");
                metrics::counter!("underpass_stalled_clients_total").increment(1);
                Ok(())
            }
        };
        connection.pipes.close();
        if matches!(protocol, Protocol::Http2) {
            // Its streams are gone. Of those that had ended, bytes may still be on their way to a target, which may never read them.
            let passing = tokio::time::timeout(limits::SHUTDOWN_GRACE, connection.pipes.wait());
            if passing.await.is_err() {
                connection.gone.cancel();
            }
        }
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
        let upgraded = Arc::<AtomicBool>::default();
        let (clock, activity) = (HeadClock::new(), Arc::clone(&connection.activity));
        let io = clock.clone().watch(Lingering::new(
            io,
            Arc::clone(&upgraded),
            connection.standing().clone(),
        ));
        let place = Place::default();
        let io = Cuttable::new(Targets::new(io, place.clone()), Arc::clone(&connection.cut));
        let io = Explained::new(io, Arc::clone(&activity), Arc::clone(&upgraded));
        let (sender, io) = broken_off::Sender::new(io);
        let builder = http1(clock.clone());
        let service = service_fn(|request: Request<Incoming>| {
            let (front, connection) = (Arc::clone(self), Arc::clone(connection));
            let upgraded = Arc::clone(&upgraded);
            let next_has_begun = place.head_ended(&request);
            let body_follows = !request.body().is_end_stream();
            clock.head_ended(body_follows, next_has_begun);
            let active = Active::new(&activity);
            let connects = request.method() == Method::CONNECT;
            let chunks = request.version() == Version::HTTP_11;
            let expects = request.headers().contains_key(header::EXPECT);
            let (parts, body) = request.into_parts();
            let (body, rest) = RequestBody::new(body, &connection).followed();
            let request = Request::from_parts(parts, body);
            let sender = &sender;
            async move {
                let mut response = front.handle(request, &connection).await;
                if rest.ends_its_connection(expects).await {
                    let close = HeaderValue::from_static("close");
                    response.headers_mut().insert(header::CONNECTION, close);
                }
                let framed = chunks || response.body().size_hint().exact().is_some();
                let response = sender.answer(response, framed, is_revoked);
                if becomes_bytes(connects, response.status()) {
                    upgraded.store(true, Ordering::Release);
                }
                Ok::<_, Infallible>(active.hold(response))
            }
        });
        let serving = builder
            .serve_connection(TokioIo::new(io), service)
            .with_upgrades();
        let served = self.finish_in_time(serving, connection).await;
        if let Err(error) = &served {
            // An error of the connection means that the client is gone.
            if let Some(mut io) = sender.broken_off() {
                let _ = io.shutdown().await;
            } else if let Some(io) = sender.left().filter(|_| error.is_parse()) {
                let _ = io.refuse_http2().await;
            }
        }
        served
    }

    async fn serve_http2<I>(
        self: &Arc<Self>,
        io: I,
        connection: &Arc<Connection>,
    ) -> hyper::Result<()>
    where
        I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let activity = Arc::clone(&connection.activity);
        let service = service_fn(|request: Request<Incoming>| {
            let (front, connection) = (Arc::clone(self), Arc::clone(connection));
            let active = Active::new(&activity);
            let body_follows = !request.body().is_end_stream();
            // At once, and not when its task runs: until then the end of another request must not forgive its body.
            let request = request.map(|body| RequestBody::new(body, &connection));
            async move {
                let mut response = front.handle(request, &connection).await;
                if body_follows {
                    response = refusal::with_body(response).await;
                }
                let response = broken_off::answer_http2(response, is_revoked);
                Ok::<_, Infallible>(active.hold(response))
            }
        });
        let io = frames::charged(io, connection.standing().clone());
        let io = Targets::new(io, Heads::new(connection.client_ends.clone()));
        let io = Cuttable::new(io, Arc::clone(&connection.cut));
        let (io, driven) = DeferredFlush::pair(io);
        let spawner = Spawner::default();
        connection.turns.get_or_init(|| spawner.turns());
        let serving = http2(spawner.clone()).serve_connection(TokioIo::new(io), service);
        let serving = Batched::new(driven, InTask::new(serving, spawner));
        self.finish_in_time(serving, connection).await
    }

    /// Drives a connection. Once the front drains, or nothing has been asked for long, it takes no new requests and ends after those in
    /// flight, or when it is cut.
    async fn finish_in_time(
        &self,
        serving: impl Graceful,
        connection: &Connection,
    ) -> hyper::Result<()> {
        let mut serving = pin!(serving);
        tokio::select! {
            served = serving.as_mut() => return served,
            () = self.drained_or_idle(&connection.activity) => serving.as_mut().finish(),
        }
        tokio::select! {
            served = serving.as_mut() => return served,
            () = self.cut.cancelled() => {}
        }
        connection.cut.store(true, Ordering::Release);
        // It is polled as if it had been woken.
        serving.as_mut().finish();
        serving.await
    }

    async fn drained_or_idle(&self, activity: &Activity) {
        tokio::select! {
            () = self.draining.begun() => {}
            () = activity.idle_for(self.config.idle_timeout) => tracing::debug!("idle connection"),
        }
    }
}

/// Bytes that are on their way belong to nobody any more.
fn is_revoked(error: &BoxError) -> bool {
    error.is::<Revoked>()
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

impl<I, S> Graceful for InTask<http2::Connection<I, S, Spawner>>
where
    Self: Future<Output = hyper::Result<()>>,
    S: HttpService<Incoming, ResBody = Body>,
    S::Error: Into<BoxError>,
    S::Future: Send + 'static,
    I: hyper::rt::Read + hyper::rt::Write + Unpin,
{
    fn finish(mut self: Pin<&mut Self>) {
        Pin::new(self.connection_mut()).graceful_shutdown();
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

fn http1(clock: HeadClock) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(clock)
        .header_read_timeout(limits::HEADER_READ_TIMEOUT)
        // A little more than passes: we refuse a small excess, and hyper only a large one.
        .max_headers(2 * limits::HEADER_COUNT)
        .max_header_size(limits::HTTP1_BUFFER_BYTES)
        // A copy of the bytes to be sent would not keep their seat.
        .writev(true)
        .max_buf_size(limits::HTTP1_BUFFER_BYTES);
    builder
}

fn http2(spawner: Spawner) -> http2::Builder<Spawner> {
    let mut builder = http2::Builder::new(spawner);
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

#[cfg(test)]
pub(crate) mod tests;
