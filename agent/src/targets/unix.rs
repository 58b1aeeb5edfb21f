//! Unix sockets of the agent's file system.

use std::fs;
use std::path::{Path, PathBuf};

use tokio::net::UnixStream;
use tokio::time::{Instant, timeout_at};
use underpass_agent_policy::Policy;
use underpass_core::{Target, UnixTarget};

use super::lookups::Lookups;
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
    lookups: &Lookups,
    deadline: Instant,
) -> Result<(UnixStream, PathBuf), Refusal> {
    let text = || Target::Unix(target.clone()).to_string();
    let (path, own) = (PathBuf::from(target.path()), own.clone());
    let looking = lookups.run(move || {
        let real = fs::canonicalize(&path)?;
        let is_own = own.have(&path, &real);
        Ok((real, is_own))
    });
    let looked = timeout_at(deadline, looking).await;
    let looked = looked.map_err(|_| Refusal::LookupTimeout { target: text() })?;
    let (real, is_own) = looked.map_err(|error| Refusal::connecting(text(), error))?;
    if is_own {
        return Err(Refusal::Own(text()));
    }
    policy.decide_path(target, &real).map_err(Refusal::Policy)?;
    // The path that was decided on: a link that is put there meanwhile counts for nothing.
    let connected = timeout_at(deadline, UnixStream::connect(&real)).await;
    match connected {
        Ok(Ok(stream)) => Ok((stream, real)),
        Ok(Err(error)) => Err(Refusal::connecting(text(), error)),
        Err(_) => Err(Refusal::Silent { target: text() }),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

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
}
