//! Our own credential: the one that may impersonate.

use std::{
    io::{self, Read},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, header};
use http_body_util::Empty;
use kube::client::ConfigExt;
use tokio::time::Instant;
use tower::{Layer, ServiceExt, service_fn, util::BoxCloneSyncService};
use zeroize::Zeroizing;

use super::exec::{self, ExecError};
use underpass_core::{BoxError, Exec, limits};

/// Why there is no credential to send.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CredentialError {
    /// A token file cannot be read.
    #[error("cannot read the token file {path:?}")]
    File {
        /// Which.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// A token file is empty, too large, or holds no token.
    #[error("the token file {0:?} holds no token")]
    NoToken(PathBuf),
    /// A plugin failed, or its answer was unusable.
    #[error("the credential plugin failed")]
    Plugin(#[source] BoxError),
    /// A plugin of a cluster of the directory failed.
    #[error("the credential plugin failed")]
    Exec(#[source] Arc<ExecError>),
}

/// kube's middleware around a service that only hands the header back.
type Plugin = BoxCloneSyncService<Request<Empty<Bytes>>, Response<()>, BoxError>;

/// The source of the `Authorization` header.
pub(super) enum Credential {
    /// A file, read again and again.
    File(TokenFile),
    /// Another kind that kube knows: a fixed token, a plugin, or nothing beside a client certificate.
    Kube(Plugin),
    /// A plugin that the directory names, and not this machine's operator.
    Exec(exec::Plugin),
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::File(_) => "Credential::File",
            Self::Kube(_) => "Credential::Kube",
            Self::Exec(_) => "Credential::Exec",
        })
    }
}

impl Credential {
    /// Reads the configuration. Blocks: files are read and plugins run.
    pub(super) fn new(config: &kube::Config) -> Result<Self, CredentialError> {
        let auth = &config.auth_info;
        // kube re-reads token files too, but not one that ends in a newline, and less often.
        if let (Some(path), None) = (&auth.token_file, &auth.token) {
            return TokenFile::open(path.into()).map(Self::File);
        }
        let layer = config
            .auth_layer()
            .map_err(|error| CredentialError::Plugin(error.into()))?;
        let capture = service_fn(async |request: Request<Empty<Bytes>>| {
            let mut answer = Response::new(());
            *answer.headers_mut() = request.into_parts().0.headers;
            Ok::<_, BoxError>(answer)
        });
        Ok(Self::Kube(match layer {
            Some(layer) => BoxCloneSyncService::new(layer.layer(capture)),
            None => BoxCloneSyncService::new(capture),
        }))
    }

    /// A plugin's token. The plugin is first run when a request needs it.
    pub(super) fn exec(exec: Exec) -> Self {
        Self::Exec(exec::Plugin::new(exec))
    }

    /// The API server does not accept the credential.
    pub(super) async fn refused(&self) {
        match self {
            Self::Exec(plugin) => plugin.refused().await,
            Self::File(file) => file.refused(),
            Self::Kube(_) => {}
        }
    }

    /// The header to send now; `None` where a client certificate says it all.
    pub(super) async fn header(&self) -> Result<Option<HeaderValue>, CredentialError> {
        match self {
            Self::File(file) => file.header().await.map(Some),
            Self::Exec(plugin) => {
                let header = plugin.header().await;
                header.map(Some).map_err(CredentialError::Exec)
            }
            Self::Kube(plugin) => {
                let asked = plugin.clone().oneshot(Request::new(Empty::new())).await;
                let mut answer = asked.map_err(CredentialError::Plugin)?;
                Ok(answer.headers_mut().remove(header::AUTHORIZATION))
            }
        }
    }
}

/// A token file, such as the one that the kubelet keeps fresh.
pub(super) struct TokenFile {
    path: PathBuf,
    last: Mutex<Last>,
}

struct Last {
    header: HeaderValue,
    at: Instant,
    /// The API server does not accept it.
    refused: bool,
}

impl TokenFile {
    fn open(path: PathBuf) -> Result<Self, CredentialError> {
        let last = Mutex::new(Last {
            header: read(&path)?,
            at: Instant::now(),
            refused: false,
        });
        Ok(Self { path, last })
    }

    fn lock(&self) -> MutexGuard<'_, Last> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next request reads it again.
    fn refused(&self) {
        self.lock().refused = true;
    }

    async fn header(&self) -> Result<HeaderValue, CredentialError> {
        {
            let last = self.lock();
            let age = match last.refused {
                true => limits::RELOAD_PAUSE,
                false => limits::TOKEN_FILE_AGE,
            };
            if last.at.elapsed() < age {
                return Ok(last.header.clone());
            }
        }
        let path = self.path.clone();
        let fresh = tokio::task::spawn_blocking(move || read(&path)).await;
        let mut last = self.lock();
        last.at = Instant::now();
        last.refused = false;
        match fresh {
            Ok(Ok(fresh)) => last.header = fresh,
            // The last token is kept (k/k#68164): the file may be away for a moment, and if the token has expired,
            // the API server will say so.
            Ok(Err(error)) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "keeping the last token"
                );
            }
            Err(error) => tracing::warn!(%error, "keeping the last token"),
        }
        Ok(last.header.clone())
    }
}

fn read(path: &Path) -> Result<HeaderValue, CredentialError> {
    let text = read_text(path).map_err(|source| CredentialError::File {
        path: path.to_owned(),
        source,
    })?;
    let token = text.trim_ascii();
    let line = Zeroizing::new([b"Bearer ", token].concat());
    match HeaderValue::from_bytes(&line) {
        Ok(mut value) if !token.is_empty() => {
            value.set_sensitive(true);
            Ok(value)
        }
        _ => Err(CredentialError::NoToken(path.to_owned())),
    }
}

fn read_text(path: &Path) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut text = Zeroizing::new(Vec::new());
    std::fs::File::open(path)?
        .take(limits::TOKEN_FILE_BYTES)
        .read_to_end(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::{fs, time::Duration};

    use super::*;

    #[tokio::test]
    async fn a_rotated_token_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        fs::write(&path, "first\n").unwrap();
        let file = TokenFile::open(path.clone()).unwrap();
        assert_eq!(file.header().await.unwrap(), "Bearer first");

        fs::write(&path, "second").unwrap();
        assert_eq!(
            file.header().await.unwrap(),
            "Bearer first",
            "not read for every request"
        );
        let age = || {
            let old = Instant::now().checked_sub(limits::TOKEN_FILE_AGE + Duration::from_secs(1));
            file.lock().at = old.unwrap();
        };
        age();
        assert_eq!(file.header().await.unwrap(), "Bearer second");

        fs::write(&path, "third").unwrap();
        file.refused();
        let young = Instant::now().checked_sub(limits::RELOAD_PAUSE);
        file.lock().at = young.unwrap();
        let header = file.header().await.unwrap();
        assert_eq!(header, "Bearer third", "read again after a 401");

        fs::remove_file(&path).unwrap();
        age();
        assert_eq!(
            file.header().await.unwrap(),
            "Bearer third",
            "the last one is kept"
        );
    }

    #[test]
    fn an_unusable_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        assert!(matches!(
            TokenFile::open(path.clone()),
            Err(CredentialError::File { .. })
        ));
        for bad in ["", "\n", "a\nb"] {
            fs::write(&path, bad).unwrap();
            assert!(matches!(
                TokenFile::open(path.clone()),
                Err(CredentialError::NoToken(_))
            ));
        }
    }
}
