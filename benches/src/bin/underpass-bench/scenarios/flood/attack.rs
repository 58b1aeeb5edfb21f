//! Attacks by a stranger, and by a user whose cluster hangs.

use std::time::Duration;

use anyhow::Result;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::Request;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http_body_util::Full;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::door::{ATTACKER, Door, Protocol};
use super::server::Server;

/// Connections that each hold a head without an end.
const HEADS: usize = 500;

/// Almost what the server takes.
const HEAD_BYTES: usize = 1_000_000;

/// HTTP/2 connections with logins that are no logins.
const BODIES: usize = 8;

/// Requests at once on each, and the body of one.
const STREAMS: usize = 250;
const BODY_BYTES: usize = 1_000_000;

/// Connections that say nothing: twice as many as the server once did handshakes.
const SILENT: usize = 2_000;

/// Passwords that are guessed at once.
const GUESSES: usize = 64;

/// Requests of one user to a cluster that hangs.
const HANGING: usize = 600;

/// Before something that failed is tried again. The attacker has the same processors as the server and its users: without
/// a pause that is all that would be measured.
const AGAIN: Duration = Duration::from_secs(2);

/// Between the first attempts: more at once than the kernel's queue holds would wait for it to ask again.
const NEXT: Duration = Duration::from_millis(1);

/// Between two guesses of one who guesses, for the same reason.
const NEXT_GUESS: Duration = Duration::from_millis(100);

#[derive(Debug, Clone, Copy)]
pub(super) enum Attack {
    Heads,
    Bodies,
    Silence,
    Guesses,
    Hanging,
}

/// Goes on until it is dropped.
pub(super) struct Flood(#[allow(dead_code, reason = "dropping it ends it")] JoinSet<()>);

impl Attack {
    pub(super) const ALL: [Self; 5] = [
        Self::Heads,
        Self::Bodies,
        Self::Silence,
        Self::Guesses,
        Self::Hanging,
    ];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Heads => "beside 500 heads of 1 MB",
            Self::Bodies => "beside 2,000 logins of 1 MB without a credential",
            Self::Silence => "beside 2,000 connections that say nothing",
            Self::Guesses => "beside 64 who guess with ever new names",
            Self::Hanging => "beside 600 requests of the same user to a cluster that hangs",
        }
    }

    pub(super) async fn begin(self, server: &Server) -> Result<Flood> {
        let mut flood = JoinSet::new();
        let door = server.door();
        match self {
            Self::Heads => again(&mut flood, HEADS, door, |door, _| head(door)),
            Self::Bodies => again(&mut flood, BODIES, door, |door, _| bodies(door)),
            Self::Silence => again(&mut flood, SILENT, door, |door, _| silence(door)),
            Self::Guesses => again(&mut flood, GUESSES, door, guesses),
            Self::Hanging => {
                let (path, bearer) = (server.path(Server::HANGS), server.bearer().to_owned());
                let connections = HANGING.div_ceil(STREAMS);
                again(&mut flood, connections, door, move |door, _| {
                    hanging(door, path.clone(), bearer.clone())
                });
            }
        }
        Ok(Flood(flood))
    }
}

/// So many at once, each of which begins anew when it ends.
fn again<F>(
    flood: &mut JoinSet<()>,
    count: usize,
    door: &Door,
    attempt: impl Fn(Door, usize) -> F + Clone + Send + 'static,
) where
    F: Future<Output = Result<()>> + Send + 'static,
{
    let begun = Instant::now();
    for (number, first) in (0..count).zip(1..) {
        let (door, attempt) = (door.clone(), attempt.clone());
        flood.spawn(async move {
            tokio::time::sleep_until(begun + NEXT * first).await;
            loop {
                let _ = attempt(door.clone(), number).await;
                tokio::time::sleep(AGAIN).await;
            }
        });
    }
}

async fn silence(door: Door) -> Result<()> {
    let mut socket = door.dial(ATTACKER).await?;
    socket.read_u8().await?;
    Ok(())
}

async fn head(door: Door) -> Result<()> {
    let mut socket = door.connect(ATTACKER, Protocol::Http1).await?;
    socket
        .write_all(b"GET / HTTP/1.1\r\nHost: x\r\nX: ")
        .await?;
    socket.write_all(&vec![b'x'; HEAD_BYTES]).await?;
    socket.flush().await?;
    socket.read_u8().await?;
    Ok(())
}

async fn http2(door: &Door) -> Result<SendRequest<Full<Bytes>>> {
    let io = TokioIo::new(door.connect(ATTACKER, Protocol::Http2).await?);
    let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await?;
    // It ends with the last request's end.
    tokio::spawn(connection);
    Ok(sender)
}

/// As many of one request as go over one connection, all at once.
async fn streams(door: &Door, request: Request<Full<Bytes>>) -> Result<()> {
    let sender = http2(door).await?;
    let mut asking = JoinSet::new();
    for _ in 0..STREAMS {
        let (mut sender, request) = (sender.clone(), request.clone());
        asking.spawn(async move { sender.send_request(request).await.map(drop) });
    }
    while let Some(answered) = asking.join_next().await {
        answered??;
    }
    Ok(())
}

async fn bodies(door: Door) -> Result<()> {
    let request = Request::post("https://localhost/v1/login")
        .header(CONTENT_TYPE, "application/json")
        .body(Full::from(vec![b' '; BODY_BYTES]))?;
    streams(&door, request).await
}

async fn hanging(door: Door, path: String, bearer: String) -> Result<()> {
    let request = Request::get(format!("https://localhost{path}"))
        .header(AUTHORIZATION, bearer)
        .body(Full::default())?;
    streams(&door, request).await
}

/// Guesses over one connection, until it fails.
async fn guesses(door: Door, number: usize) -> Result<()> {
    let mut sender = http2(&door).await?;
    for guess in 0_u64.. {
        let name = format!("guess-{number}-{guess}");
        let request = Request::post("https://localhost/v1/login")
            .header(AUTHORIZATION, basic(&name, "wrong"))
            .header(CONTENT_TYPE, "application/json")
            .body(Full::from("{}"))?;
        drop(sender.send_request(request).await?);
        tokio::time::sleep(NEXT_GUESS).await;
    }
    Ok(())
}

/// HTTP Basic (RFC 7617).
fn basic(name: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{name}:{password}")))
}
