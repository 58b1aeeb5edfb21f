//! The connections to the API server that ordinary requests share.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use http::{Request, Response, Version, request};
use hyper::body::Incoming;

use super::{
    connection::{Http2, Slot},
    endpoint::{ConnectError, Connected, Endpoint, Offer},
    error::SendError,
    http1::{Idle, Lane},
    replay::{Replay, Room},
};
use underpass_core::{
    Body,
    body::{self, Guarded},
    limits,
};

/// HTTP/2 connections, spread over so that no one carries everything, or HTTP/1.1 ones where there is no HTTP/2.
///
/// A connection is opened when every other is full. Only one is being opened at a time, and those who wait for it
/// share its failure: an API server that is down is not asked once for every request in the queue.
#[derive(Debug)]
pub(super) struct Pool {
    endpoint: Arc<Endpoint>,
    connections: Mutex<Arc<Connections>>,
    /// The protocol of the last connection.
    http1_only: AtomicBool,
    opening: tokio::sync::Mutex<Option<Failure>>,
    /// For bodies that may have to be sent again.
    room: Room,
}

/// Connections with the same client certificate.
#[derive(Debug, Default)]
struct Connections {
    http2: Mutex<Vec<Http2>>,
    idle: Idle,
}

#[derive(Debug)]
struct Failure {
    at: Instant,
    error: Arc<ConnectError>,
}

/// A connection for one request.
enum Checkout {
    Http2(Slot),
    Http1(Lane),
}

impl Pool {
    pub(super) fn new(endpoint: Arc<Endpoint>) -> Self {
        let (connections, http1_only, opening, room) = Default::default();
        Self {
            endpoint,
            connections,
            http1_only,
            opening,
            room,
        }
    }

    /// New requests take new connections, with another client certificate. Those under way end on theirs.
    pub(super) fn renew(&self) {
        *self.lock() = Arc::default();
    }

    /// Sends a request whose headers are complete, but for those of the HTTP version.
    ///
    /// It is sent again, on another connection, only if the API server provably did not act on it and its body is
    /// whole or was kept ([`limits::REPLAY_BYTES`]); and once, if it reads only and a connection of HTTP/1.1 that was idle had ended.
    ///
    /// # Cancel safety
    /// Dropping the future, or the response's body, cancels the request.
    pub(super) async fn send(
        &self,
        head: request::Parts,
        body: Body,
    ) -> Result<Response<Body>, SendError> {
        let replay = Replay::new(body, self.room.clone());
        let mut last = SendError::Full;
        let mut repeated = false;
        for _ in 0..limits::UPSTREAM_ATTEMPTS {
            let checkout = self.check_out().await?;
            let Some(attempt) = replay.attempt() else {
                return Err(last);
            };
            let request = Request::from_parts(head.clone(), attempt);
            match self.send_by(checkout, request).await {
                Err(SendError::Unprocessed(error)) => {
                    tracing::debug!(error = &error as &dyn std::error::Error, "sending again");
                    metrics::counter!("underpass_proxy_upstream_retries_total").increment(1);
                    last = SendError::Unprocessed(error);
                }
                Err(SendError::Stale(error)) if !std::mem::replace(&mut repeated, true) => {
                    tracing::debug!(
                        error = &error as &dyn std::error::Error,
                        "sending once more"
                    );
                    metrics::counter!("underpass_proxy_upstream_retries_total").increment(1);
                    self.lock().idle.close();
                    last = SendError::Stale(error);
                }
                sent => return sent,
            }
        }
        Err(last)
    }

    async fn send_by(
        &self,
        checkout: Checkout,
        mut request: Request<super::replay::Attempt>,
    ) -> Result<Response<Body>, SendError> {
        match checkout {
            Checkout::Http2(mut slot) => {
                *request.version_mut() = Version::HTTP_2;
                let response = slot.send(request).await?;
                Ok(response.map(|body| body::boxed(Guarded::<Incoming, _>::new(body, slot))))
            }
            Checkout::Http1(mut lane) => {
                *request.version_mut() = Version::HTTP_11;
                self.endpoint.write_host(request.headers_mut());
                origin_form(&mut request);
                let response = lane.send(request).await?;
                Ok(response.map(|body| body::boxed(Guarded::<Incoming, _>::new(body, lane))))
            }
        }
    }

    async fn check_out(&self) -> Result<Checkout, SendError> {
        let arrived = Instant::now();
        if let Some(checkout) = self.ready() {
            return Ok(checkout);
        }
        if self.http1_only.load(Ordering::Relaxed) {
            // HTTP/1.1 connections are not shared: nothing to wait for.
            return self
                .open()
                .await
                .map_err(|error| SendError::Connect(Arc::new(error)));
        }
        let mut failure = self.opening.lock().await;
        if let Some(checkout) = self.ready() {
            return Ok(checkout);
        }
        if let Some(shared) = failure.as_ref().filter(|failure| failure.at >= arrived) {
            return Err(SendError::Connect(Arc::clone(&shared.error)));
        }
        if self.connections().http2().len() >= limits::UPSTREAM_CONNECTIONS {
            return Err(SendError::Full);
        }
        match self.open().await {
            Ok(checkout) => Ok(checkout),
            Err(error) => {
                let error = Arc::new(error);
                *failure = Some(Failure {
                    at: Instant::now(),
                    error: Arc::clone(&error),
                });
                Err(SendError::Connect(error))
            }
        }
    }

    fn ready(&self) -> Option<Checkout> {
        let connections = self.connections();
        let slot = connections.reserve().map(Checkout::Http2);
        slot.or_else(|| connections.idle.take().map(Checkout::Http1))
    }

    async fn open(&self) -> Result<Checkout, ConnectError> {
        // First: where the certificate changes meanwhile, the connection belongs to the old ones.
        let connections = self.connections();
        let Connected { io, http2 } = self.endpoint.connect(Offer::Both).await?;
        self.http1_only.store(!http2, Ordering::Relaxed);
        if !http2 {
            return connections.idle.open(io).await.map(Checkout::Http1);
        }
        let connection = Http2::open(io).await?;
        let slot = connection.reserve();
        connections.http2().push(connection);
        slot.map(Checkout::Http2).ok_or(ConnectError::Closed)
    }

    fn connections(&self) -> Arc<Connections> {
        Arc::clone(&self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, Arc<Connections>> {
        self.connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Connections {
    /// A place on the least loaded connection: watches end up spread over all of them.
    fn reserve(&self) -> Option<Slot> {
        let mut connections = self.http2();
        connections.retain(|connection| !connection.is_closed());
        let loads = connections
            .iter()
            .filter_map(|one| one.room().map(|load| (load, one)));
        let (_, least) = loads.min_by_key(|(load, _)| *load)?;
        least.reserve()
    }

    fn http2(&self) -> MutexGuard<'_, Vec<Http2>> {
        self.http2.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// HTTP/1.1 to an origin names it in `Host` only (RFC 9112, section 3.2.1).
pub(super) fn origin_form<B>(request: &mut Request<B>) {
    if let Some(target) = request.uri().path_and_query().cloned() {
        *request.uri_mut() = target.into();
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http_body_util::BodyExt as _;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

    use super::*;

    const DATA: u8 = 0x0;
    const RST_STREAM: u8 = 0x3;
    const SETTINGS: u8 = 0x4;
    const GOAWAY: u8 = 0x7;
    const PREFACE: usize = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".len();

    /// A pool whose connections these are the other ends of.
    async fn pool(connections: usize) -> (Pool, Vec<DuplexStream>) {
        crate::tls::install_crypto();
        let tls = rustls::ClientConfig::builder()
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        let config = kube::Config::new("https://api.invalid".parse().unwrap());
        let pool = Pool::new(Arc::new(Endpoint::new(&config, tls, None).unwrap()));
        let mut ends = Vec::new();
        for _ in 0..connections {
            let (ours, theirs) = tokio::io::duplex(1 << 20);
            let opened = Http2::open(Box::new(ours)).await.unwrap();
            pool.connections().http2().push(opened);
            ends.push(theirs);
        }
        (pool, ends)
    }

    /// A POST of a body whose end comes when it is told.
    fn post(body: Body) -> (request::Parts, Body) {
        let request = Request::post("https://api.invalid/api/v1/pods");
        request.body(body).unwrap().into_parts()
    }

    async fn write_frame(end: &mut DuplexStream, kind: u8, stream: u32, payload: &[u8]) {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let head = [&length[1..], &[kind, 0], &stream.to_be_bytes()].concat();
        end.write_all(&[&head, payload].concat()).await.unwrap();
    }

    /// The stream of the first frame of a body.
    async fn read_until_data(end: &mut DuplexStream) -> u32 {
        end.read_exact(&mut [0; PREFACE]).await.unwrap();
        write_frame(end, SETTINGS, 0, &[]).await;
        loop {
            let mut head = [0; 9];
            end.read_exact(&mut head).await.unwrap();
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let mut payload = vec![0; usize::try_from(length).unwrap()];
            end.read_exact(&mut payload).await.unwrap();
            if head[3] == DATA {
                return u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
            }
        }
    }

    /// Takes the next request, and answers with its body.
    async fn serve(end: DuplexStream) {
        let mut connection = h2::server::handshake(end).await.unwrap();
        while let Some(accepted) = connection.accept().await {
            let (request, mut answer) = accepted.unwrap();
            tokio::spawn(async move {
                let mut body = request.into_body();
                let mut all = Vec::new();
                while let Some(data) = body.data().await {
                    let data = data.unwrap();
                    body.flow_control().release_capacity(data.len()).unwrap();
                    all.extend_from_slice(&data);
                }
                let mut sending = answer.send_response(Response::default(), false).unwrap();
                sending.send_data(all.into(), true).unwrap();
            });
        }
    }

    async fn answer(sent: Result<Response<Body>, SendError>) -> Result<Bytes, SendError> {
        Ok(sent?.into_body().collect().await.unwrap().to_bytes())
    }

    /// As a kube-apiserver with `--goaway-chance` does.
    #[tokio::test]
    async fn a_body_that_a_goaway_leaves_unprocessed_is_sent_again() {
        let (pool, mut ends) = pool(2).await;
        let (good, mut leaving) = (ends.remove(1), ends.remove(0));
        tokio::spawn(serve(good));
        let (head, body) = post(underpass_core::full("a body"));
        let leave = async {
            assert_eq!(read_until_data(&mut leaving).await, 1);
            // NO_ERROR; the last stream that is processed is none.
            write_frame(&mut leaving, GOAWAY, 0, &[0; 8]).await;
        };
        let (sent, ()) = tokio::join!(pool.send(head, body), leave);
        assert_eq!(answer(sent).await.unwrap(), "a body");
    }

    #[tokio::test]
    async fn a_body_of_a_refused_stream_is_sent_again() {
        let (pool, mut ends) = pool(2).await;
        let (good, mut refusing) = (ends.remove(1), ends.remove(0));
        tokio::spawn(serve(good));
        let (head, body) = post(underpass_core::full("a body"));
        let sending = tokio::spawn(async move { answer(pool.send(head, body).await).await });
        let stream = read_until_data(&mut refusing).await;
        let refused = 7_u32.to_be_bytes();
        write_frame(&mut refusing, RST_STREAM, stream, &refused).await;
        // It may come again on the same connection, which goes away then.
        let again = async {
            let mut rest = Vec::new();
            write_frame(&mut refusing, GOAWAY, 0, &[0; 8]).await;
            let _ = refusing.read_to_end(&mut rest).await;
        };
        let (sent, ()) = tokio::join!(sending, again);
        assert_eq!(sent.unwrap().unwrap(), "a body");
    }

    /// The API server may have acted on it.
    #[tokio::test]
    async fn a_body_that_a_goaway_may_have_left_processed_is_not_sent_again() {
        let (pool, mut ends) = pool(2).await;
        let (good, mut leaving) = (ends.remove(1), ends.remove(0));
        tokio::spawn(serve(good));
        let (head, body) = post(underpass_core::full("a body"));
        let leave = async {
            let stream = read_until_data(&mut leaving).await;
            let last = [stream.to_be_bytes(), [0; 4]].concat();
            write_frame(&mut leaving, GOAWAY, 0, &last).await;
            drop(leaving);
        };
        let (sent, ()) = tokio::join!(pool.send(head, body), leave);
        let error = answer(sent).await.unwrap_err();
        assert!(matches!(error, SendError::Failed(_)), "{error}");
    }
}
