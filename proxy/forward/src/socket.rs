//! A Unix socket of this machine, as a file that only its user can open.
//!
//! The file is made in a folder that nobody else can enter, and linked to its path once its mode is set. So nobody connects before, and
//! a file that is there is never replaced, whenever it came.

use std::{
    fs::{self, Metadata},
    io,
    os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use tokio::net::{UnixListener, UnixStream};

/// Why there is no socket at a path.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SocketError {
    /// Something of somebody's.
    #[error("there is a file that is no socket: remove it, or name another path")]
    NoSocket,
    /// Another user's.
    #[error("there is a socket of another user: name another path")]
    OtherUsers,
    /// A program listens there: perhaps another run of this one.
    #[error("a program listens there already: end it, or name another path")]
    InUse,
    /// The system refuses.
    #[error("the socket cannot be made")]
    Io(#[from] io::Error),
}

/// A socket that is listened on. Its file is removed when it is dropped.
#[derive(Debug)]
pub(crate) struct Socket {
    listener: UnixListener,
    path: PathBuf,
    /// Which file is ours.
    file: (u64, u64),
}

impl Socket {
    /// Listens at `path`. A socket there that nobody listens on is what a program left that was killed: it is replaced, where it is
    /// this user's.
    pub(crate) async fn bind(path: &Path) -> Result<Self, SocketError> {
        let folder = match path.parent() {
            Some(folder) if folder != Path::new("") => folder,
            _ => Path::new("."),
        };
        // Of mode 0700. Its names are short: a socket's path has 108 bytes at the most.
        let private = tempfile::Builder::new().prefix(".").tempdir_in(folder)?;
        remove_stale(path, private.path()).await?;
        let made = private.path().join("s");
        let listener = UnixListener::bind(&made)?;
        fs::set_permissions(&made, fs::Permissions::from_mode(0o600))?;
        fs::hard_link(&made, path).map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => SocketError::InUse,
            _ => error.into(),
        })?;
        let file = identity(&fs::symlink_metadata(&made)?);
        Ok(Self {
            listener,
            path: path.to_owned(),
            file,
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) async fn accept(&self) -> io::Result<UnixStream> {
        Ok(self.listener.accept().await?.0)
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let found = fs::symlink_metadata(&self.path);
        // Another file there is not ours to remove.
        if found.is_ok_and(|found| identity(&found) == self.file) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn identity(found: &Metadata) -> (u64, u64) {
    (found.dev(), found.ino())
}

/// Moves a socket that nobody listens on into the folder `away`.
async fn remove_stale(path: &Path, away: &Path) -> Result<(), SocketError> {
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    if !found.file_type().is_socket() {
        return Err(SocketError::NoSocket);
    }
    if found.uid() != fs::metadata(away)?.uid() {
        return Err(SocketError::OtherUsers);
    }
    let refused = UnixStream::connect(path).await;
    if !refused.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused) {
        return Err(SocketError::InUse);
    }
    let stale = away.join("stale");
    fs::rename(path, &stale)?;
    if identity(&fs::symlink_metadata(&stale)?) == identity(&found) {
        return Ok(());
    }
    // Another program has put its own there meanwhile, which goes back.
    fs::hard_link(&stale, path)?;
    Err(SocketError::InUse)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener as Left;

    use super::*;

    #[tokio::test]
    async fn rule_9_a_forwarded_socket_is_its_users_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("docker.sock");
        let socket = Socket::bind(&path).await.unwrap();
        let found = fs::symlink_metadata(&path).unwrap();
        assert!(found.file_type().is_socket());
        assert_eq!(found.mode() & 0o777, 0o600);
        let connecting = UnixStream::connect(&path);
        let (client, accepted) = tokio::join!(connecting, socket.accept());
        assert!(client.is_ok() && accepted.is_ok());
        // The folder that it was made in is gone.
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        drop(socket);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn a_socket_that_nobody_listens_on_is_replaced_and_nothing_else_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        // Closed, with its file left, as by a program that was killed.
        drop(Left::bind(&path).unwrap());
        let socket = Socket::bind(&path).await.unwrap();
        let second = Socket::bind(&path).await.unwrap_err();
        assert!(matches!(second, SocketError::InUse), "{second}");
        assert!(
            UnixStream::connect(&path).await.is_ok(),
            "the first one stays"
        );
        drop(socket);
        for content in ["", "text"] {
            fs::write(&path, content).unwrap();
            let refused = Socket::bind(&path).await.unwrap_err();
            assert!(matches!(refused, SocketError::NoSocket), "{refused}");
            assert_eq!(fs::read_to_string(&path).unwrap(), content);
        }
        fs::remove_file(&path).unwrap();
        // A link is no socket, wherever it leads.
        let other = folder.path().join("other");
        let _other = Left::bind(&other).unwrap();
        std::os::unix::fs::symlink(&other, &path).unwrap();
        let refused = Socket::bind(&path).await.unwrap_err();
        assert!(matches!(refused, SocketError::NoSocket), "{refused}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }

    #[tokio::test]
    async fn a_file_that_took_the_sockets_place_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let socket = Socket::bind(&path).await.unwrap();
        fs::remove_file(&path).unwrap();
        fs::write(&path, "other").unwrap();
        drop(socket);
        assert_eq!(fs::read_to_string(&path).unwrap(), "other");
        let missing = Socket::bind(&folder.path().join("no/s")).await.unwrap_err();
        assert!(matches!(missing, SocketError::Io(_)), "{missing}");
    }
}
