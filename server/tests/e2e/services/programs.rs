//! curl, and the services that it asks.

use std::ffi::OsStr;
use std::process::Stdio;

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::{Request, Response, header};
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::process::Command;
use tokio_util::task::AbortOnDropHandle;
use underpass_testenv::testing::DEADLINE;

type Body = UnsyncBoxBody<Bytes, std::convert::Infallible>;

/// The RFC's own key, and the answer to it (RFC 6455, section 1.3).
pub(super) const WEBSOCKET_KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const WEBSOCKET_ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// A curl without the settings of this machine.
pub(crate) fn curl<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> Command {
    let mut curl = Command::new("curl");
    curl.env_clear()
        .args(["--disable", "--silent", "--show-error", "--max-time", "30"])
        .args(arguments)
        .stdin(Stdio::null())
        .kill_on_drop(true);
    curl
}

/// Its standard output; it must succeed.
pub(crate) async fn output(mut command: Command) -> String {
    let output = tokio::time::timeout(DEADLINE, command.output()).await;
    let output = output.expect("it ends in time").unwrap();
    let (said, printed) = (
        String::from_utf8_lossy(&output.stderr).into_owned(),
        String::from_utf8_lossy(&output.stdout).into_owned(),
    );
    assert!(output.status.success(), "{command:?}: {said}{printed}");
    printed
}

/// Serves a site with pages over HTTP/1.1.
pub(super) fn serve_pages(listener: TcpListener) -> AbortOnDropHandle<()> {
    AbortOnDropHandle::new(tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            serve_page(tcp);
        }
    }))
}

/// The same at a socket, as container runtimes serve their API.
pub(super) fn serve_pages_at(listener: UnixListener) -> AbortOnDropHandle<()> {
    AbortOnDropHandle::new(tokio::spawn(async move {
        while let Ok((unix, _)) = listener.accept().await {
            serve_page(unix);
        }
    }))
}

fn serve_page(io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
    let serving = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(io), service_fn(page))
        .with_upgrades();
    tokio::spawn(serving);
}

async fn page(mut request: Request<Incoming>) -> Result<Response<Body>, http::Error> {
    let text = |text: String| Full::new(Bytes::from(text)).boxed_unsync();
    let cookies = request.headers().get(header::COOKIE);
    let cookies = cookies.map_or("", |line| line.to_str().unwrap()).to_owned();
    match request.uri().path() {
        "/login" => Response::builder()
            .status(302)
            .header(header::LOCATION, "/app/home?from=login")
            .header(header::SET_COOKIE, "session=1; Path=/; HttpOnly")
            .body(text(String::new())),
        "/elsewhere" => Response::builder()
            .status(302)
            .header(header::LOCATION, "https://evil.example/")
            .body(text(String::new())),
        "/app/home" => Response::builder().body(text(format!("at home with {cookies}"))),
        "/events" => {
            let event = |number: u32| Ok(Frame::data(format!("data: {number}\n\n").into()));
            // And then nothing, and no end.
            let events = stream::iter((0..3).map(event)).chain(stream::pending());
            Response::builder()
                .header(header::CONTENT_TYPE, "text/event-stream")
                .body(StreamBody::new(events).boxed_unsync())
        }
        "/live" => {
            let upgraded = hyper::upgrade::on(&mut request);
            tokio::spawn(async move {
                let (mut read, mut write) = tokio::io::split(TokioIo::new(upgraded.await.unwrap()));
                let _ = tokio::io::copy(&mut read, &mut write).await;
                let _ = tokio::io::AsyncWriteExt::shutdown(&mut write).await;
            });
            Response::builder()
                .status(101)
                .header(header::CONNECTION, "Upgrade")
                .header(header::UPGRADE, "websocket")
                .header(header::SEC_WEBSOCKET_ACCEPT, WEBSOCKET_ACCEPT)
                .body(text(String::new()))
        }
        _ => {
            let (method, uri) = (request.method().clone(), request.uri().clone());
            let body = request.into_body().collect().await;
            let body = body.map(|body| body.to_bytes()).unwrap_or_default();
            let answer = format!("{method} {uri} {}", String::from_utf8_lossy(&body));
            Response::builder().body(text(answer))
        }
    }
}
