//! Users who want to work.

use std::time::{Duration, Instant};

use anyhow::Result;
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;

use super::door::{Door, HONEST, Protocol};
use super::server::Server;

/// A longer request has failed.
const PATIENCE: Duration = Duration::from_secs(10);

/// The completed work of one user.
#[derive(Debug, Clone, Copy)]
pub(super) struct Done {
    /// In a second.
    pub(super) rate: f64,
    /// Percent that were refused, or were not answered.
    pub(super) refused: f64,
}

/// Logins with a right password, one after the other, each on a connection of its own.
pub(super) async fn logins(server: &Server, time: Duration) -> Done {
    attempts(time, || async {
        let answer = log_in(server.door(), server.login(), 1).await?;
        Ok(answer.status() == StatusCode::CREATED)
    })
    .await
}

/// GETs of a cluster that answers, the same way.
pub(super) async fn calls(server: &Server, time: Duration) -> Done {
    attempts(time, || async {
        let request = Request::get(server.path(Server::ANSWERS))
            .header(AUTHORIZATION, server.bearer())
            .header(HOST, "localhost")
            .body(Full::default())?;
        let answer = send(server.door(), request).await?;
        Ok(answer.status() == StatusCode::OK)
    })
    .await
}

async fn attempts<F>(time: Duration, attempt: impl Fn() -> F) -> Done
where
    F: Future<Output = Result<bool>>,
{
    let begun = Instant::now();
    let (mut good, mut bad) = (0_u32, 0_u32);
    while begun.elapsed() < time {
        match tokio::time::timeout(PATIENCE, attempt()).await {
            Ok(Ok(true)) => good += 1,
            _ => bad += 1,
        }
    }
    Done {
        rate: f64::from(good) / begun.elapsed().as_secs_f64(),
        refused: 100.0 * f64::from(bad) / f64::from(good + bad).max(1.0),
    }
}

/// The answer to a login for a token of so many seconds.
pub(super) async fn log_in(door: &Door, basic: &str, seconds: u32) -> Result<Response<Bytes>> {
    let body = format!("{{\"expiresInSeconds\":{seconds}}}");
    let request = Request::post("/v1/login")
        .header(AUTHORIZATION, basic)
        .header(CONTENT_TYPE, "application/json")
        .header(HOST, "localhost")
        .body(Full::from(body))?;
    send(door, request).await
}

async fn send(door: &Door, request: Request<Full<Bytes>>) -> Result<Response<Bytes>> {
    let io = TokioIo::new(door.connect(HONEST, Protocol::Http1).await?);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await?;
    let serving = tokio::spawn(connection);
    let (head, body) = sender.send_request(request).await?.into_parts();
    let body = body.collect().await?.to_bytes();
    serving.abort();
    Ok(Response::from_parts(head, body))
}
