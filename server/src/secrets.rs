//! The keys that secrets in the directory are encrypted with.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use thiserror::Error;
use underpass_core::limits::PEM_FILE_BYTES;
use underpass_core::{ClusterName, files};
use underpass_directory::seal::{Keyring, SealingKey, SealingKeyError};
use underpass_directory::{ChangeError, Cluster, Directory, Draft, Expect, Registration};
use underpass_tunnel::chain;

use crate::data_dir::{DataDir, FileError};

/// The key's file in the data directory, unless another one is named.
const NAME: &str = "secrets.key";

/// Why there are no keys.
#[derive(Debug, Error)]
pub(crate) enum SecretsError {
    #[error("cannot read the key {}", .0.display())]
    Read(PathBuf, #[source] io::Error),
    #[error("{} holds no key", .0.display())]
    Key(PathBuf, #[source] SealingKeyError),
    #[error(transparent)]
    File(#[from] FileError),
    #[error("no key can be made")]
    Generate(#[source] SealingKeyError),
    #[error(
        "{} is missing, and the directory holds credentials of clusters that only it opens ({clusters}): put it \
         back, or name its copy with --secrets-key-file; `cluster remove`, with a new key there, forgets them",
        path.display()
    )]
    Lost { path: PathBuf, clusters: String },
    #[error(
        "the directory is on etcd and holds credentials of clusters that this server's key does not open ({clusters}): give all its \
         servers the same --secrets-key-file"
    )]
    Other { clusters: String },
}

/// Reads the keys: of `files`, of which the first encrypts; else the data directory's own, which is made where nothing has
/// been encrypted yet. The directory has to be this process's alone.
pub(crate) fn open(
    data: &DataDir,
    files: &[PathBuf],
    directory: &Directory,
) -> Result<Arc<Keyring>, SecretsError> {
    let mut keys = files.iter().map(|path| read(path));
    let first = match keys.next() {
        Some(first) => first?,
        None => own(data, directory)?,
    };
    let others = keys.collect::<Result<_, _>>()?;
    Ok(Arc::new(Keyring::new(first, others)))
}

fn read(path: &Path) -> Result<SealingKey, SecretsError> {
    // Of a vault's program, it may be a pipe.
    let text = files::read_text_once(path, PEM_FILE_BYTES);
    let text = text.map_err(|error| SecretsError::Read(path.to_owned(), error))?;
    SealingKey::from_text(&text).map_err(|error| SecretsError::Key(path.to_owned(), error))
}

fn own(data: &DataDir, directory: &Directory) -> Result<SealingKey, SecretsError> {
    let path = data.path(NAME);
    match read(&path) {
        Err(SecretsError::Read(_, error)) if error.kind() == io::ErrorKind::NotFound => {}
        other => return other,
    }
    let snapshot = directory.snapshot();
    let sealed = snapshot.all::<Cluster>().iter();
    let sealed = sealed.filter(|(_, cluster)| cluster.object.direct.is_some());
    let sealed: Vec<_> = sealed.map(|(name, _)| name.as_str()).collect();
    if !sealed.is_empty() {
        return Err(SecretsError::Lost {
            path,
            clusters: sealed.join(", "),
        });
    }
    let text = SealingKey::generate().map_err(SecretsError::Generate)?;
    data.write(NAME, &text)?;
    SealingKey::from_text(&text).map_err(|error| SecretsError::Key(path, error))
}

/// Refuses a key that others do not have, in a directory of several servers: [`renew`] would delete what it does not open.
pub(crate) fn check(directory: &Directory, keys: &Keyring) -> Result<(), SecretsError> {
    let snapshot = directory.snapshot();
    let named = |name: &str| ClusterName::new(name).ok();
    let direct = snapshot.all::<Cluster>().iter().filter(|(name, entry)| {
        let direct = entry.object.direct.as_ref().zip(named(name));
        direct.is_some_and(|(direct, name)| direct.renewed(&name, keys).is_err())
    });
    let registered = snapshot.all::<Registration>().iter();
    let registered = registered.filter(|(name, entry)| {
        named(name).is_some_and(|name| entry.object.renewed(&name, keys).is_err())
    });
    let direct = direct.map(|(name, _)| name.as_str());
    let clusters: Vec<_> = direct
        .chain(registered.map(|(name, _)| name.as_str()))
        .collect();
    match clusters.is_empty() {
        true => Ok(()),
        false => Err(SecretsError::Other {
            clusters: clusters.join(", "),
        }),
    }
}

/// Encrypts with the first key what another one encrypts still, and says what does not open.
pub(crate) async fn renew(directory: &Arc<Directory>, keys: &Keyring) -> Result<(), ChangeError> {
    let renewed = directory.change(|draft| {
        let clusters: Vec<_> = draft
            .all::<Cluster>()
            .iter()
            .filter_map(|(name, entry)| {
                let direct = entry.object.direct.as_ref()?;
                let name = ClusterName::new(name).ok()?;
                Some((name.clone(), direct.renewed(&name, keys)))
            })
            .collect();
        let mut count = 0_usize;
        for (cluster, renewed) in clusters {
            match renewed {
                Ok(None) => {}
                Ok(direct @ Some(_)) => {
                    let Some(entry) = draft.get::<Cluster>(cluster.as_str()) else {
                        continue;
                    };
                    let object = Cluster {
                        direct,
                        ..Cluster::clone(&entry.object)
                    };
                    draft.put(cluster.as_str(), object, Expect::Present)?;
                    count += 1;
                }
                // The others go on.
                Err(error) => tracing::error!(%cluster, "not reachable: {}", chain(&error)),
            }
        }
        Ok::<_, ChangeError>(count.saturating_add(renew_registrations(draft, keys)?))
    });
    let count = renewed.await?.value;
    if count > 0 {
        tracing::info!(
            clusters = count,
            "credentials are encrypted with the first key now"
        );
    }
    Ok(())
}

/// The same for registered credentials. One that does not open goes: its agent registers another one.
fn renew_registrations(draft: &mut Draft, keys: &Keyring) -> Result<usize, ChangeError> {
    let all: Vec<_> = draft
        .all::<Registration>()
        .iter()
        .filter_map(|(name, entry)| {
            let name = ClusterName::new(name).ok()?;
            let renewed = entry.object.renewed(&name, keys);
            Some((name, renewed))
        })
        .collect();
    let mut count = 0_usize;
    for (cluster, renewed) in all {
        match renewed {
            Ok(None) => {}
            Ok(Some(registration)) => {
                draft.put(cluster.as_str(), registration, Expect::Present)?;
                count = count.saturating_add(1);
            }
            Err(error) => {
                tracing::warn!(%cluster, "the registered credential is deleted: {}", chain(&error));
                draft.remove::<Registration>(cluster.as_str(), Expect::Present)?;
            }
        }
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use underpass_directory::{Credential, Direct, Endpoint, MemoryStore};
    use zeroize::Zeroizing;

    use super::*;

    async fn world() -> (tempfile::TempDir, DataDir, Arc<Directory>) {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(dir.path()).unwrap();
        let directory = Directory::open(Arc::new(MemoryStore::default()));
        (dir, data, directory.await.unwrap())
    }

    async fn add(directory: &Arc<Directory>, keys: &Keyring) {
        let cluster = ClusterName::new("edge").unwrap();
        let endpoint = Endpoint::new("https://h".to_owned(), None, None).unwrap();
        let token = Credential::Token(Zeroizing::new("hunter2".to_owned()));
        let credential = token.seal(&cluster, &endpoint, keys).unwrap();
        let put = directory.change(|draft| {
            let direct = Direct {
                endpoint: endpoint.clone(),
                credential: credential.clone(),
                policy: Default::default(),
            };
            let object = Cluster {
                direct: Some(direct),
                ..Cluster::new(draft.now())
            };
            draft.put("edge", object, Expect::Absent)
        });
        put.await.unwrap();
    }

    fn direct(directory: &Directory) -> Direct {
        let snapshot = directory.snapshot();
        let cluster = snapshot.get::<Cluster>("edge").unwrap();
        cluster.object.direct.clone().unwrap()
    }

    #[tokio::test]
    async fn rule_9_the_key_is_made_once_and_never_anew() {
        let (_dir, data, directory) = world().await;
        let keys = open(&data, &[], &directory).unwrap();
        let mode = std::fs::metadata(data.path(NAME)).unwrap().permissions();
        assert_eq!(mode.mode() & 0o777, 0o600);
        add(&directory, &keys).await;
        let again = open(&data, &[], &directory).unwrap();
        assert!(again.is_current(direct(&directory).credential.sealed()));
        std::fs::remove_file(data.path(NAME)).unwrap();
        let lost = open(&data, &[], &directory).unwrap_err();
        assert!(lost.to_string().contains("edge"), "{lost}");
        assert!(!data.path(NAME).exists());
    }

    #[tokio::test]
    async fn keys_are_rotated() {
        let (_dir, data, directory) = world().await;
        let [old, new] = ["old", "new"].map(|name| data.path(name));
        for path in [&old, &new] {
            std::fs::write(path, &*SealingKey::generate().unwrap()).unwrap();
        }
        let open = |files: &[&PathBuf]| {
            let files: Vec<_> = files.iter().map(|&file| file.clone()).collect();
            super::open(&data, &files, &directory).unwrap()
        };
        add(&directory, &open(&[&old])).await;
        let both = open(&[&new, &old]);
        renew(&directory, &both).await.unwrap();
        let revision = directory.snapshot().revision();
        renew(&directory, &both).await.unwrap();
        assert_eq!(directory.snapshot().revision(), revision, "once is enough");
        let cluster = ClusterName::new("edge").unwrap();
        let direct = direct(&directory);
        direct.open(&cluster, &open(&[&new])).unwrap();
        direct.open(&cluster, &open(&[&old])).unwrap_err();
        check(&directory, &open(&[&new])).unwrap();
        let other = check(&directory, &open(&[&old])).unwrap_err();
        assert!(other.to_string().contains("edge"), "{other}");
        // A credential stays as it is without its key.
        renew(&directory, &open(&[&old])).await.unwrap();
        assert_eq!(directory.snapshot().revision(), revision);
    }

    #[tokio::test]
    async fn a_file_without_a_key_is_named() {
        let (_dir, data, directory) = world().await;
        let path = data.path("other");
        let missing = open(&data, std::slice::from_ref(&path), &directory).unwrap_err();
        assert!(matches!(missing, SecretsError::Read(..)), "{missing}");
        std::fs::write(&path, "hunter2").unwrap();
        let odd = open(&data, &[path], &directory).unwrap_err();
        assert!(!chain(&odd).contains("hunter2"), "{odd}");
    }
}
