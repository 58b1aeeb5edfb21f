//! One connection, from hyper's side.

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
    Active, Heads, Lingering, Owner, RequestBody, becomes_bytes,
    cut::Cuttable,
    head_clock::HeadClock,
    refusal,
    request_target::{Place, Targets},
    unreadable::Explained,
};
use crate::{
    broken_off,
    scheduling::{
        deferred_flush::{Batched, DeferredFlush},
        in_task::{InTask, Spawner},
    },
};
use underpass_core::{Body, BoxError, limits};

/// Serves an HTTP/1.1 connection until it ends. Its requests may upgrade.
///
/// # Errors
/// The client broke HTTP, or vanished.
///
/// # Cancel safety
/// Dropping the future closes the connection, and ends its requests.
pub async fn http1<I, O>(io: I, owner: &Arc<O>) -> hyper::Result<()>
where
    I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    O: Owner,
{
    let upgraded = Arc::<AtomicBool>::default();
    let (clock, activity) = (HeadClock::new(), Arc::clone(owner.served().activity()));
    let discarding = Arc::clone(owner);
    let discards = move || discarding.discards();
    let io = Lingering::new(io, Arc::clone(&upgraded), discards);
    let place = Place::default();
    let io = Targets::new(clock.clone().watch(io), place.clone());
    let io = Cuttable::new(io, Arc::clone(&owner.served().cut));
    let io = Explained::new(io, Arc::clone(&activity), Arc::clone(&upgraded));
    let (sender, io) = broken_off::Sender::new(io);
    let builder = http1_builder(clock.clone());
    let service = service_fn(|request: Request<Incoming>| {
        let (owner, upgraded) = (Arc::clone(owner), Arc::clone(&upgraded));
        let next_has_begun = place.head_ended(&request);
        let body_follows = !request.body().is_end_stream();
        clock.head_ended(body_follows, next_has_begun);
        let active = Active::new(&activity);
        let connects = request.method() == Method::CONNECT;
        let chunks = request.version() == Version::HTTP_11;
        let expects = request.headers().contains_key(header::EXPECT);
        let (parts, body) = request.into_parts();
        let body = RequestBody::new(body, owner.served(), || owner.charge());
        let (body, rest) = body.followed();
        let request = Request::from_parts(parts, body);
        let sender = &sender;
        async move {
            let mut response = owner.handle(request).await;
            if rest.ends_its_connection(expects).await {
                let close = HeaderValue::from_static("close");
                response.headers_mut().insert(header::CONNECTION, close);
            }
            let framed = chunks || response.body().size_hint().exact().is_some();
            let response = sender.answer(response, framed, O::breaks_off_at_once);
            if becomes_bytes(connects, response.status()) {
                upgraded.store(true, Ordering::Release);
            }
            Ok::<_, Infallible>(active.hold(response))
        }
    });
    let serving = builder
        .serve_connection(TokioIo::new(io), service)
        .with_upgrades();
    let served = finish_in_time(serving, &**owner).await;
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

/// Serves an HTTP/2 connection until it ends. Its requests may not upgrade (RFC 9113, section 8.2.2: hyper resets a stream that tries).
///
/// # Errors
/// The client broke HTTP, or vanished.
///
/// # Cancel safety
/// Dropping the future closes the connection, and ends its requests.
pub async fn http2<I, O>(io: I, owner: &Arc<O>) -> hyper::Result<()>
where
    I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    O: Owner,
{
    let served = owner.served();
    let activity = Arc::clone(served.activity());
    let service = service_fn(|request: Request<Incoming>| {
        let owner = Arc::clone(owner);
        let active = Active::new(&activity);
        let body_follows = !request.body().is_end_stream();
        // At once, and not when its task runs: until then the end of another request must not forgive its body.
        let request = request.map(|body| RequestBody::new(body, owner.served(), || owner.charge()));
        async move {
            let mut response = owner.handle(request).await;
            if body_follows {
                response = refusal::with_body(response).await;
            }
            let response = broken_off::answer_http2(response, O::breaks_off_at_once);
            Ok::<_, Infallible>(active.hold(response))
        }
    });
    let io = Targets::new(io, Heads::new(served.client_ends().clone()));
    let io = Cuttable::new(io, Arc::clone(&served.cut));
    let (io, driven) = DeferredFlush::pair(io);
    let spawner = Spawner::default();
    served.turns.get_or_init(|| spawner.turns());
    let serving = http2_builder(spawner.clone()).serve_connection(TokioIo::new(io), service);
    let serving = Batched::new(driven, InTask::new(serving, spawner));
    finish_in_time(serving, &**owner).await
}

/// Drives a connection. Once its owner says so, it takes no new requests and ends after those in flight, or when it is cut.
async fn finish_in_time<O: Owner>(serving: impl Graceful, owner: &O) -> hyper::Result<()> {
    let mut serving = pin!(serving);
    tokio::select! {
        served = serving.as_mut() => return served,
        () = owner.finish() => serving.as_mut().finish(),
    }
    tokio::select! {
        served = serving.as_mut() => return served,
        () = owner.cut() => {}
    }
    owner.served().cut.store(true, Ordering::Release);
    // It is polled as if it had been woken.
    serving.as_mut().finish();
    serving.await
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

fn http1_builder(clock: HeadClock) -> http1::Builder {
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

fn http2_builder(spawner: Spawner) -> http2::Builder<Spawner> {
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
