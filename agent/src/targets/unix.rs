//! Unix sockets of the agent's file system.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, fstat, open, openat};
use rustix::io::Errno;
use tokio::net::UnixStream;
use tokio::time::{Instant, timeout_at};
use underpass_agent_policy::Policy;
use underpass_core::{Target, UnixTarget};

use super::lookups::UserLookups;
use super::refusal::Refusal;

/// Where a pod finds its ServiceAccount's token.
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// Files and folders of the agent's own credentials, which no policy opens.
#[derive(Clone, Debug)]
pub(crate) struct OwnFiles(Vec<PathBuf>);

impl OwnFiles {
    /// These, and the pod's. Relative paths are below the working directory.
    pub(crate) fn new(files: impl IntoIterator<Item = PathBuf>) -> Self {
        let pods = PathBuf::from(SERVICE_ACCOUNT);
        let absolute = |path: PathBuf| std::path::absolute(&path).unwrap_or(path);
        Self(files.into_iter().map(absolute).chain([pods]).collect())
    }

    /// Their paths.
    pub(crate) fn paths(&self) -> &[PathBuf] {
        &self.0
    }

    /// Is the path one of them, or below one of them, or the path behind its links below theirs? Blocks.
    fn have(&self, path: &Path, behind_links: &Path) -> bool {
        self.0.iter().any(|own| {
            let real = fs::canonicalize(own);
            let below = |path: &Path| {
                path.starts_with(own) || real.as_ref().is_ok_and(|real| path.starts_with(real))
            };
            below(path) || below(behind_links)
        })
    }
}

/// A connection to a socket that the policy allows, and the path behind its links.
///
/// # Cancel safety
/// Dropping the future ends the attempt.
pub(super) async fn connect(
    target: &UnixTarget,
    policy: &Policy,
    own: &OwnFiles,
    lookups: &UserLookups,
    deadline: Instant,
) -> Result<(UnixStream, PathBuf), Refusal> {
    let text = || Target::Unix(target.clone()).to_string();
    let (path, own) = (PathBuf::from(target.path()), own.clone());
    let looking = lookups.run(move || {
        let real = fs::canonicalize(&path)?;
        let is_own = own.have(&path, &real);
        Ok((pin(&real), real, is_own))
    });
    let looked = timeout_at(deadline, looking).await;
    let looked = looked.map_err(|_| Refusal::LookupTimeout { target: text() })?;
    let (pinned, real, is_own) = looked.map_err(|error| Refusal::connecting(text(), error))?;
    if is_own {
        return Err(Refusal::Own(text()));
    }
    policy.decide_path(target, &real).map_err(Refusal::Policy)?;
    let socket = match pinned {
        Ok(Some(socket)) => socket,
        Ok(None) => return Err(Refusal::OtherFile { target: text() }),
        Err(error)
            if matches!(
                Errno::from_io_error(&error),
                Some(Errno::LOOP | Errno::NOTDIR)
            ) =>
        {
            let (target, source) = (text(), error);
            return Err(Refusal::Moved { target, source });
        }
        Err(error) => return Err(Refusal::connecting(text(), error)),
    };
    // The very file that was found at the path that was decided on, though the path may lead elsewhere by now.
    let file = format!("/proc/self/fd/{}", socket.as_raw_fd());
    let connected = timeout_at(deadline, UnixStream::connect(file)).await;
    match connected {
        Ok(Ok(stream)) => Ok((stream, real)),
        Ok(Err(error)) => Err(Refusal::connecting(text(), error)),
        Err(_) => Err(Refusal::Silent { target: text() }),
    }
}

/// Holds the socket at an absolute path without symbolic links, which no part of it may have become meanwhile; `None` where it is no
/// socket. Blocks. One by one, since openat2 (RESOLVE_NO_SYMLINKS) is forbidden in containers of older runtimes.
fn pin(path: &Path) -> io::Result<Option<OwnedFd>> {
    let found = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut at = open("/", found | OFlags::DIRECTORY, Mode::empty())?;
    let mut names = path.components().peekable();
    while let Some(name) = names.next() {
        let flags = match names.peek() {
            // A link is no directory: ENOTDIR.
            Some(_) => found | OFlags::DIRECTORY,
            None => found,
        };
        match name {
            Component::RootDir => {}
            Component::Normal(name) => at = openat(&at, name, flags, Mode::empty())?,
            _ => return Err(io::ErrorKind::InvalidInput.into()),
        }
    }
    match FileType::from_raw_mode(fstat(&at)?.st_mode) {
        FileType::Socket => Ok(Some(at)),
        // With O_PATH and O_NOFOLLOW it is the link itself that is opened.
        FileType::Symlink => Err(Errno::LOOP.into()),
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn rule_17_own_files_are_known_behind_links() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().canonicalize().unwrap().join(name);
        fs::create_dir(path("secrets")).unwrap();
        fs::write(path("secrets/token"), "").unwrap();
        fs::write(path("other"), "").unwrap();
        symlink(path("secrets"), path("link")).unwrap();
        let has = |own: &str, asked: &str| {
            let real = fs::canonicalize(path(asked)).unwrap();
            OwnFiles::new([path(own)]).have(&path(asked), &real)
        };
        assert!(has("secrets", "secrets/token"));
        assert!(has("secrets", "link/token"));
        assert!(has("link", "secrets/token"));
        assert!(has("secrets/token", "link/token"));
        assert!(!has("secrets", "other"));
        assert!(!has("secrets/token", "secrets"));
    }

    /// The path was decided on, and then a part of it became a link.
    #[test]
    fn rule_17_a_path_that_becomes_a_link_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().canonicalize().unwrap().join(name);
        fs::create_dir(path("run")).unwrap();
        fs::create_dir(path("secret")).unwrap();
        let _allowed = UnixListener::bind(path("run/x.sock")).unwrap();
        let _secret = UnixListener::bind(path("secret/x.sock")).unwrap();
        assert!(pin(&path("run/x.sock")).unwrap().is_some());
        for (moved, becomes, errno) in [
            ("run/x.sock", "secret/x.sock", Errno::LOOP),
            ("run", "secret", Errno::NOTDIR),
        ] {
            let (now, before) = (path(moved), path("before"));
            fs::rename(&now, &before).unwrap();
            symlink(path(becomes), &now).unwrap();
            let error = pin(&path("run/x.sock")).unwrap_err();
            assert_eq!(Errno::from_io_error(&error), Some(errno), "{moved}");
            fs::remove_file(&now).unwrap();
            fs::rename(&before, &now).unwrap();
        }
        fs::write(path("file"), "").unwrap();
        assert!(pin(&path("file")).unwrap().is_none());
        assert!(pin(&path("run")).unwrap().is_none());
    }

    /// A socket that is held is the one that answers, though its path leads to another one by then.
    #[tokio::test]
    async fn rule_17_the_socket_that_was_decided_on_is_connected() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().canonicalize().unwrap().join(name);
        let allowed = UnixListener::bind(path("x.sock")).unwrap();
        let secret = UnixListener::bind(path("secret.sock")).unwrap();
        secret.set_nonblocking(true).unwrap();
        let held = pin(&path("x.sock")).unwrap().unwrap();
        fs::remove_file(path("x.sock")).unwrap();
        symlink(path("secret.sock"), path("x.sock")).unwrap();
        let file = format!("/proc/self/fd/{}", held.as_raw_fd());
        let _stream = UnixStream::connect(file).await.unwrap();
        allowed.accept().unwrap();
        let none = secret.accept().unwrap_err();
        assert_eq!(none.kind(), io::ErrorKind::WouldBlock);
    }
}
