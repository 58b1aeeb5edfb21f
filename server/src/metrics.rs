//! Metrics, at an address of their own: they name clusters and agents, which clients of the public port must
//! not see.

mod roles;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context, Result};
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use underpass_core::limits::STRANGER_BASE;
use underpass_core::{Body, full};
use underpass_gateway::{Budgets, Standing, StrangerBounds, Strangers};
use underpass_terminal::lost_log_lines;
use underpass_tunnel::record_sessions;
use underpass_tunnel::transport::TransportKind;

use crate::limits;
use crate::occasional::Occasional;
use crate::readiness::Readiness;
use crate::sessions::UserSessions;
use crate::supervise::Children;
use crate::tunnel::Tunnel;

/// The path that Prometheus asks for.
pub(crate) const PATH: &str = "/metrics";

/// The sources of the metrics.
#[derive(Clone)]
pub(crate) struct Metrics {
    pub(crate) tunnel: Tunnel,
    pub(crate) users: UserSessions,
    pub(crate) budgets: Budgets,
    pub(crate) strangers: Strangers,
    pub(crate) readiness: Readiness,
    /// `None`: nobody keeps metrics in this process.
    pub(crate) recorder: Option<PrometheusHandle>,
}

impl Metrics {
    /// Sets the gauges, and writes everything as Prometheus reads it.
    fn render(&self, recorder: &PrometheusHandle) -> String {
        let sessions = self.tunnel.sessions();
        for kind in [TransportKind::Quic, TransportKind::WebSocket] {
            let of_kind = sessions
                .iter()
                .filter(|session| session.transport() == Some(kind));
            let gauge =
                metrics::gauge!("underpass_agent_sessions", "transport" => kind.to_string());
            gauge.set(count(of_kind.count()));
        }
        let mut by_agent = BTreeMap::<_, Vec<_>>::new();
        for session in &sessions {
            let agent = session.info().agent.as_str();
            by_agent.entry(agent).or_default().push(session);
        }
        for (agent, sessions) in by_agent {
            record_sessions(agent, sessions);
        }
        roles::record(&self.tunnel);
        metrics::gauge!("underpass_user_sessions").set(count(self.users.count()));
        metrics::counter!("underpass_log_lines_lost_total").absolute(lost_log_lines());
        self.budgets.record();
        self.strangers.record();
        self.readiness.record();
        recorder.render()
    }

    /// Answers a request for [`PATH`].
    pub(crate) fn answer<B>(&self, request: &Request<B>) -> Response<Body> {
        let (status, body) = match (request.uri().path(), request.method(), &self.recorder) {
            (PATH, _, None) => (
                StatusCode::NOT_FOUND,
                "this server keeps no metrics\n".to_owned(),
            ),
            (PATH, &Method::GET | &Method::HEAD, Some(recorder)) => {
                (StatusCode::OK, self.render(recorder))
            }
            (PATH, ..) => (
                StatusCode::METHOD_NOT_ALLOWED,
                "only GET and HEAD here\n".to_owned(),
            ),
            _ => (StatusCode::NOT_FOUND, format!("only {PATH} is here\n")),
        };
        let mut response = Response::new(full(body));
        *response.status_mut() = status;
        let plain = HeaderValue::from_static("text/plain; charset=utf-8");
        response.headers_mut().insert(CONTENT_TYPE, plain);
        response
    }

    /// Listens at `address`. The future serves them there, as plain HTTP, and does not end.
    pub(crate) async fn listen(
        self,
        address: SocketAddr,
    ) -> Result<impl Future<Output = ()> + Send + 'static> {
        let listener = TcpListener::bind(address)
            .await
            .with_context(|| format!("cannot serve metrics at {address}"))?;
        tracing::info!(address = %listener.local_addr()?, "metrics");
        Ok(accept(listener, Arc::new(self)))
    }
}

/// Metrics need no credential: their clients are strangers to each other, with a share for each source.
fn visitors() -> Strangers {
    let bytes = limits::METRICS_CONNECTIONS * STRANGER_BASE;
    Strangers::new(StrangerBounds {
        bytes,
        unshared: bytes / 2,
        per_source: bytes / 4,
        per_connection: bytes,
    })
}

/// Answers requests; an interface, so that it can be tested without a server.
trait Answers: Send + Sync + 'static {
    fn answer<B>(&self, request: &Request<B>) -> Response<Body>;
}

impl Answers for Metrics {
    fn answer<B>(&self, request: &Request<B>) -> Response<Body> {
        Self::answer(self, request)
    }
}

async fn accept(listener: TcpListener, metrics: Arc<impl Answers>) {
    let visitors = visitors();
    let stuck = Occasional::default();
    let mut connections = Children::default();
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                let (metrics, standing) = (Arc::clone(&metrics), visitors.enter(peer.ip()));
                connections.spawn(serve_connection(stream, standing, metrics));
            }
            Err(error) => {
                if stuck.is_news() {
                    tracing::error!("cannot accept at the address of metrics: {error}");
                }
                tokio::time::sleep(limits::ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn serve_connection(stream: TcpStream, standing: Standing, metrics: Arc<impl Answers>) {
    let asked = CancellationToken::new();
    let service = service_fn(|request| {
        asked.cancel();
        let response = metrics.answer(&request);
        async move { Ok::<_, Infallible>(response) }
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits::METRICS_TIME)
        .serve_connection(TokioIo::new(stream), service);
    let silent = async {
        let first = tokio::time::timeout(limits::METRICS_FIRST, asked.cancelled()).await;
        if first.is_ok() {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        served = serving => if let Err(error) = served {
            tracing::debug!("a connection for metrics ended: {error}");
        },
        () = silent => tracing::debug!("a connection for metrics asked for nothing"),
        () = standing.closed() => tracing::debug!("a connection for metrics was closed to make room"),
    }
}

fn count(number: usize) -> f64 {
    u32::try_from(number).map_or(f64::MAX, f64::from)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::time::Duration;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpSocket;
    use tokio::time::Instant;

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(20);

    struct Yes;

    impl Answers for Yes {
        fn answer<B>(&self, _: &Request<B>) -> Response<Body> {
            Response::new(full("yes"))
        }
    }

    async fn listen() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        (listener, address)
    }

    async fn connect_from(from: [u8; 4], to: SocketAddr) -> TcpStream {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::from((from, 0))).unwrap();
        socket.connect(to).await.unwrap()
    }

    #[tokio::test]
    async fn rule_23_silent_connections_of_one_source_do_not_stop_metrics() {
        let (listener, address) = listen().await;
        let accepting = tokio::spawn(accept(listener, Arc::new(Yes)));
        let mut silent = Vec::new();
        for _ in 0..2 * limits::METRICS_CONNECTIONS {
            silent.push(connect_from([127, 0, 0, 2], address).await);
        }
        let mut prometheus = connect_from([127, 0, 0, 1], address).await;
        let ask = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n";
        prometheus.write_all(ask).await.unwrap();
        let answer = &mut [0; 12];
        let answered = tokio::time::timeout(DEADLINE, prometheus.read_exact(answer)).await;
        answered.expect("an answer").unwrap();
        assert_eq!(&answer[..], b"HTTP/1.1 200");
        // The oldest went for the newest.
        let read = tokio::time::timeout(DEADLINE, silent[0].read(&mut [0])).await;
        assert!(matches!(read.expect("closed"), Ok(0) | Err(_)));
        accepting.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn rule_23_who_asks_for_no_metrics_is_cut_off_soon() {
        let (listener, address) = listen().await;
        let _client = TcpStream::connect(address).await.unwrap();
        let (stream, peer) = listener.accept().await.unwrap();
        let begun = Instant::now();
        serve_connection(stream, visitors().enter(peer.ip()), Arc::new(Yes)).await;
        assert_eq!(begun.elapsed(), limits::METRICS_FIRST);
    }
}
