//! The operator's socket: the API for whoever owns the data directory, without a token.
//!
//! It lies in a folder that only its owner can enter, so that whoever connects could as well change the files themselves.

use std::convert::Infallible;
use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{UnixListener, UnixStream};

use crate::api::{Api, Requester};
use crate::data_dir::DataDir;
use crate::limits;

/// Its name in the data directory.
const NAME: &str = "api.sock";

/// What `sockaddr_un` holds on every system.
const PATH_BYTES: usize = 100;

/// The socket's path, and what keeps it valid.
struct Path {
    path: PathBuf,
    _folder: Option<File>,
}

impl Path {
    /// A path that is too long for a socket's address is shortened by way of the open folder.
    fn of(data: &DataDir) -> io::Result<Self> {
        Self::within(&data.path(""))
    }

    fn within(folder: &std::path::Path) -> io::Result<Self> {
        let path = folder.join(NAME);
        if path.as_os_str().len() <= PATH_BYTES {
            let _folder = None;
            return Ok(Self { path, _folder });
        }
        let folder = File::open(folder)?;
        let path = PathBuf::from(format!("/proc/self/fd/{}/{NAME}", folder.as_raw_fd()));
        Ok(Self {
            path,
            _folder: Some(folder),
        })
    }
}

/// Connects to the server that runs on this data directory, if one does.
pub(crate) async fn connect(data: &DataDir) -> io::Result<Option<UnixStream>> {
    let path = Path::of(data)?;
    match UnixStream::connect(&path.path).await {
        Ok(stream) => Ok(Some(stream)),
        // There is none, or one that was left behind by a crash.
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
            ) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// The listening socket. Dropping it removes the file.
pub(crate) struct Socket {
    listener: UnixListener,
    path: Path,
}

impl Socket {
    /// Binds it. Whoever holds the directory's file is the only server here: what lies there is nobody's.
    pub(crate) fn bind(data: &DataDir) -> io::Result<Self> {
        let path = Path::of(data)?;
        match fs::remove_file(&path.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        // Bound in a folder of its own and moved from there once it is its owner's: between bind and chmod it has what the
        // umask leaves.
        let folder = tempfile::Builder::new()
            .prefix(".socket-")
            .permissions(Permissions::from_mode(0o700))
            .tempdir_in(data.path(""))?;
        let fresh = Path::within(folder.path())?;
        let listener = UnixListener::bind(&fresh.path)?;
        fs::set_permissions(&fresh.path, Permissions::from_mode(0o600))?;
        fs::rename(&fresh.path, data.path(NAME))?;
        Ok(Self { listener, path })
    }

    /// Answers, for as long as the future lives.
    pub(crate) async fn serve(self, api: Api) {
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    tokio::spawn(serve_connection(stream, api.clone()));
                }
                Err(error) => {
                    tracing::error!("cannot accept at {NAME}: {error}");
                    tokio::time::sleep(limits::ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path.path);
    }
}

async fn serve_connection(stream: UnixStream, api: Api) {
    let service = service_fn(|request| {
        let api = api.clone();
        async move { Ok::<_, Infallible>(api.answer(request, Requester::Operator, None).await) }
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits::TLS_TIME)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = serving.await {
        tracing::debug!("operator's connection ended: {error}");
    }
}
