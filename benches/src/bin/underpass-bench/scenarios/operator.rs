//! The operator of a server of the product's, in its data directory.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use bytes::Bytes;
use http::Request;
use http::header::HOST;
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;

/// The operator's socket in the data directory.
const SOCKET: &str = "api.sock";

/// How long the server may take to be there.
const DEADLINE: Duration = Duration::from_secs(20);

/// The pause between two looks.
const POLL: Duration = Duration::from_millis(20);

/// The port of the server with this data directory, once it listens: it writes its URL then, and serves its operator's socket a
/// little later.
///
/// # Errors
/// It is not there within [`DEADLINE`].
pub(super) async fn port(data: &Path) -> Result<u16> {
    let begun = Instant::now();
    while begun.elapsed() < DEADLINE {
        let url = fs::read_to_string(data.join("url")).unwrap_or_default();
        let operators = data.join(SOCKET).exists();
        if let Some((_, port)) = url.trim().rsplit_once(':')
            && operators
        {
            return Ok(port.parse()?);
        }
        tokio::time::sleep(POLL).await;
    }
    bail!("the server does not listen")
}

/// Runs the command line, `program`, as the operator.
///
/// # Errors
/// It fails; with its last words.
pub(super) fn administer(
    program: &Path,
    data: &Path,
    arguments: impl IntoIterator<Item = impl AsRef<OsStr>>,
) -> Result<()> {
    let mut command = Command::new(program);
    command
        .env_clear()
        .arg("--socket")
        .arg(data.join(SOCKET))
        .args(arguments);
    let done = command.stdin(Stdio::null()).output()?;
    let said = String::from_utf8_lossy(&done.stderr);
    ensure!(done.status.success(), "{command:?}: {said}");
    Ok(())
}

/// The server's metrics, as Prometheus reads them.
///
/// # Errors
/// The server does not answer.
pub(super) async fn metrics(data: &Path) -> Result<String> {
    let path: PathBuf = data.join(SOCKET);
    let stream = UnixStream::connect(path).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::get("/metrics")
        .header(HOST, "localhost")
        .body(Empty::<Bytes>::new())?;
    let asking = async {
        let response = sender.send_request(request).await?;
        anyhow::Ok(response.into_body().collect().await?.to_bytes())
    };
    let body = tokio::select! {
        body = asking => body?,
        ended = connection => {
            ended?;
            bail!("the server closed its operator's connection")
        }
    };
    Ok(String::from_utf8(body.to_vec())?)
}
