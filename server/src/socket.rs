//! The operator's socket: the API for the owner of the data directory, without a token.
//!
//! It lies in a folder that only its owner can enter, and the owner could change the files as well.

use std::convert::Infallible;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{UnixListener, UnixStream};
use underpass_api::client::SocketAddress;

use crate::api::{Api, Requester};
use crate::data_dir::DataDir;
use crate::limits;
use crate::metrics::{self, Metrics};
use crate::occasional::Occasional;
use crate::supervise::Children;

/// Its name in the data directory.
pub(crate) const NAME: &str = "api.sock";

/// Its name while it is made.
const NEW: &str = "api.sock.new";

/// Connections that wait to be accepted.
const BACKLOG: i32 = 128;

/// The listening socket. Dropping it removes the file.
pub(crate) struct Socket {
    listener: UnixListener,
    address: SocketAddress,
}

impl Socket {
    /// Binds it. The server holds the directory's file and is the only one here, so that an old socket is left over.
    pub(crate) fn bind(data: &DataDir) -> io::Result<Self> {
        let address = SocketAddress::new(&data.path(NAME))?;
        let first = SocketAddress::new(&data.path(NEW))?;
        // Of a start that was cut off.
        match fs::remove_file(first.path()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = listen(first.path())?;
        fs::set_permissions(first.path(), Permissions::from_mode(0o600))?;
        fs::rename(first.path(), address.path())?;
        Ok(Self { listener, address })
    }

    /// Answers, for as long as the future lives. Its connections end with it.
    pub(crate) async fn serve(self, api: Api, metrics: Metrics) {
        let stuck = Occasional::default();
        let mut connections = Children::default();
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    connections.spawn(serve_connection(stream, api.clone(), metrics.clone()));
                }
                Err(error) => {
                    if stuck.is_news() {
                        tracing::error!("cannot accept at {NAME}: {error}");
                    }
                    tokio::time::sleep(limits::ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let _ = fs::remove_file(self.address.path());
    }
}

/// Listens at a path, for its owner only. A full disk has room for that: a socket takes no block.
fn listen(path: &Path) -> io::Result<UnixListener> {
    let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    // Linux makes the file with the permissions that the socket has, less the umask. Elsewhere it has the umask's for a moment, in
    // a folder that its owner alone can enter.
    let _ = rustix::fs::fchmod(&socket, rustix::fs::Mode::from_raw_mode(0o600));
    socket.bind(&socket2::SockAddr::unix(path)?)?;
    socket.listen(BACKLOG)?;
    UnixListener::from_std(std::os::unix::net::UnixListener::from(
        std::os::fd::OwnedFd::from(socket),
    ))
}

async fn serve_connection(stream: UnixStream, api: Api, metrics: Metrics) {
    let service = service_fn(|request: Request<Incoming>| {
        let (api, metrics) = (api.clone(), metrics.clone());
        async move {
            Ok::<_, Infallible>(if request.uri().path() == metrics::PATH {
                metrics.answer(&request)
            } else {
                api.answer(request, Requester::Operator, None).await
            })
        }
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits::TLS_TIME)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = serving.await {
        tracing::debug!("operator's connection ended: {error}");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    /// Another thread looks all the time; a socket that has the umask's permissions even for a moment is seen sooner or
    /// later.
    #[tokio::test]
    async fn rule_9_the_socket_is_never_open_to_others() {
        let folder = tempfile::tempdir().unwrap();
        let data = DataDir::open(folder.path()).unwrap();
        let (path, done) = (data.path(NAME), Arc::new(AtomicBool::new(false)));
        let ended = Arc::clone(&done);
        let looking = std::thread::spawn(move || {
            let mut seen = std::collections::BTreeSet::new();
            while !ended.load(Ordering::Relaxed) {
                if let Ok(found) = fs::metadata(&path) {
                    seen.insert(found.permissions().mode() & 0o777);
                }
            }
            seen
        });
        for _ in 0..1000 {
            let socket = Socket::bind(&data).unwrap();
            assert!(socket.address.connect().await.unwrap().is_some());
        }
        done.store(true, Ordering::Relaxed);
        let seen = looking.join().unwrap();
        assert!(seen.iter().all(|mode| *mode == 0o600), "{seen:?}");
        let left = fs::read_dir(folder.path()).unwrap().count();
        assert_eq!(left, 0, "it leaves nothing behind");
    }
}
