//! The socket of a server's operator.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use tokio::net::UnixStream;

/// The bytes that `sockaddr_un` holds on every system.
const PATH_BYTES: usize = 100;

/// The address of a socket in a folder. A path that is too long for `sockaddr_un` goes by way of the open folder.
#[derive(Debug)]
pub struct SocketAddress {
    path: PathBuf,
    /// Keeps the path valid.
    _folder: Option<File>,
}

impl SocketAddress {
    /// The address of the socket at `path`.
    ///
    /// # Errors
    /// The folder of a long path cannot be opened.
    pub fn new(path: &Path) -> io::Result<Self> {
        let (folder, name) = (path.parent(), path.file_name());
        if path.as_os_str().len() <= PATH_BYTES {
            return Ok(Self {
                path: path.to_owned(),
                _folder: None,
            });
        }
        let (Some(folder), Some(name)) = (folder, name) else {
            return Err(io::ErrorKind::InvalidFilename.into());
        };
        let folder = File::open(folder)?;
        let open = PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd()));
        Ok(Self {
            path: open.join(name),
            _folder: Some(folder),
        })
    }

    /// A path to the socket of at most 100 bytes, for as long as this lives.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Connects to the server that listens there; `None` where none does.
    ///
    /// # Errors
    /// The system's: most often, that this user may not.
    pub async fn connect(&self) -> io::Result<Option<UnixStream>> {
        match UnixStream::connect(&self.path).await {
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
}
