//! Metrics for whoever watches the server, at an address of their own: they name clusters and agents, which is nothing
//! for whoever reaches the public port.

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
use tokio::sync::Semaphore;
use underpass_core::{Body, full};
use underpass_gateway::{Budgets, Strangers};
use underpass_tunnel::record_sessions;
use underpass_tunnel::transport::Kind;

use crate::limits;
use crate::tunnel::Tunnel;

/// The path that Prometheus asks for.
pub(crate) const PATH: &str = "/metrics";

/// What there is to tell.
#[derive(Clone)]
pub(crate) struct Metrics {
    pub(crate) tunnel: Tunnel,
    pub(crate) budgets: Budgets,
    pub(crate) strangers: Strangers,
    pub(crate) recorder: PrometheusHandle,
}

impl Metrics {
    /// Sets the gauges, and writes everything as Prometheus reads it.
    fn render(&self) -> String {
        let sessions = self.tunnel.sessions();
        for kind in [Kind::Quic, Kind::WebSocket] {
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
        self.budgets.record();
        self.strangers.record();
        self.recorder.render()
    }

    /// Answers a request for [`PATH`].
    pub(crate) fn answer<B>(&self, request: &Request<B>) -> Response<Body> {
        let (status, body) = match (request.uri().path(), request.method()) {
            (PATH, &Method::GET | &Method::HEAD) => (StatusCode::OK, self.render()),
            (PATH, _) => (
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
        Ok(self.accept(listener))
    }

    async fn accept(self, listener: TcpListener) {
        let places = Arc::new(Semaphore::new(limits::METRICS_CONNECTIONS));
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else {
                return;
            };
            match listener.accept().await {
                Ok((stream, _)) => {
                    let metrics = self.clone();
                    tokio::spawn(async move {
                        metrics.serve_connection(stream).await;
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::error!("cannot accept at the address of metrics: {error}");
                    tokio::time::sleep(limits::ACCEPT_PAUSE).await;
                }
            }
        }
    }

    async fn serve_connection(&self, stream: TcpStream) {
        let service =
            service_fn(|request| async move { Ok::<_, Infallible>(self.answer(&request)) });
        let serving = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(limits::METRICS_TIME)
            .serve_connection(TokioIo::new(stream), service);
        if let Err(error) = serving.await {
            tracing::debug!("a connection for metrics ended: {error}");
        }
    }
}

fn count(number: usize) -> f64 {
    u32::try_from(number).map_or(f64::MAX, f64::from)
}
