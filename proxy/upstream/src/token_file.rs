//! A token file, such as the one that the kubelet keeps fresh.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use http::HeaderValue;

use super::{
    clock::Moment,
    credential::{CredentialError, bearer},
};
use underpass_core::{
    files::{self, Readings, Stuck},
    limits,
};

/// The file, and its last token.
///
/// kube reads token files again too, but not one that ends in a newline, and less often.
pub(super) struct TokenFile {
    path: PathBuf,
    last: tokio::sync::Mutex<Last>,
}

struct Last {
    /// Why there was none, where there never was one.
    header: Result<HeaderValue, Arc<CredentialError>>,
    at: Moment,
    /// The API server does not accept it.
    refused: bool,
    /// One goes on where the request that waited for it has gone.
    readings: Readings<Result<HeaderValue, CredentialError>>,
}

impl TokenFile {
    /// Reads the file, or takes the other token where it cannot be read. Without either there is no token until something writes one there.
    /// Blocks.
    pub(super) fn open(path: PathBuf, other: Option<HeaderValue>) -> Self {
        let header = match (read(&path), other) {
            (Err(error), Some(other)) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "using the configuration's own token"
                );
                Ok(other)
            }
            (read, _) => read.map_err(Arc::new),
        };
        let last = Last {
            header,
            at: Moment::now(),
            refused: false,
            readings: Readings::default(),
        };
        Self {
            path,
            last: tokio::sync::Mutex::new(last),
        }
    }

    /// The next request reads it again.
    pub(super) async fn refused(&self) {
        self.last.lock().await.refused = true;
    }

    /// The token as it is now. Waits [`limits::FILE_TIME`] at the most, and gives the last one then.
    ///
    /// # Errors
    /// There never was one.
    ///
    /// # Cancel safety
    /// May be dropped: another request goes on with what it waited for.
    pub(super) async fn header(&self) -> Result<HeaderValue, Arc<CredentialError>> {
        let mut last = self.last.lock().await;
        let age = match last.refused || last.header.is_err() {
            true => limits::RELOAD_PAUSE,
            false => limits::TOKEN_FILE_AGE,
        };
        if last.at.elapsed() >= age {
            self.read_again(&mut last).await;
        }
        last.header.clone()
    }

    async fn read_again(&self, last: &mut Last) {
        let path = self.path.clone();
        let read = last.readings.next(move || read(&path)).await;
        // Those who waited meanwhile do not wait as long again.
        last.at = Moment::now();
        if let Err(Stuck::Slow(_)) = &read {
            return tracing::warn!(path = ?self.path, "reading the token file takes long: keeping the last token");
        }
        last.refused = false;
        match read {
            Ok(Ok(fresh)) => last.header = Ok(fresh),
            Ok(Err(error)) if last.header.is_err() => last.header = Err(Arc::new(error)),
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
    }
}

fn read(path: &Path) -> Result<HeaderValue, CredentialError> {
    let text = files::read(path, limits::TOKEN_FILE_BYTES);
    let text = text.map_err(|source| CredentialError::File {
        path: path.to_owned(),
        source,
    })?;
    let token = std::str::from_utf8(text.trim_ascii());
    let header = token.ok().and_then(bearer);
    header.ok_or_else(|| CredentialError::NoToken(path.to_owned()))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::{
        clock::testing::sleep,
        testing::{fifo, pass},
    };

    #[tokio::test]
    async fn a_rotated_token_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        fs::write(&path, "first\n").unwrap();
        let file = TokenFile::open(path.clone(), None);
        assert_eq!(file.header().await.unwrap(), "Bearer first");

        fs::write(&path, "second").unwrap();
        assert_eq!(
            file.header().await.unwrap(),
            "Bearer first",
            "not read for every request"
        );
        pass(limits::TOKEN_FILE_AGE).await;
        assert_eq!(file.header().await.unwrap(), "Bearer second");

        fs::write(&path, "third").unwrap();
        file.refused().await;
        pass(limits::RELOAD_PAUSE).await;
        let header = file.header().await.unwrap();
        assert_eq!(header, "Bearer third", "read again after a 401");

        fs::remove_file(&path).unwrap();
        pass(limits::TOKEN_FILE_AGE).await;
        assert_eq!(
            file.header().await.unwrap(),
            "Bearer third",
            "the last one is kept"
        );
    }

    #[tokio::test]
    async fn a_machine_that_slept_reads_the_token_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        fs::write(&path, "first").unwrap();
        let file = TokenFile::open(path.clone(), None);
        fs::write(&path, "second").unwrap();
        sleep(limits::TOKEN_FILE_AGE);
        assert_eq!(file.header().await.unwrap(), "Bearer second");
    }

    #[tokio::test]
    async fn a_file_that_comes_later_counts_before_the_other_token() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        let other = HeaderValue::from_static("Bearer other");
        let file = TokenFile::open(path.clone(), Some(other));
        assert_eq!(file.header().await.unwrap(), "Bearer other");
        fs::write(&path, "file").unwrap();
        pass(limits::TOKEN_FILE_AGE).await;
        assert_eq!(file.header().await.unwrap(), "Bearer file");
    }

    #[tokio::test]
    async fn a_file_without_a_token_is_named_until_it_has_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        let file = TokenFile::open(path.clone(), None);
        let missing = file.header().await.unwrap_err();
        assert!(matches!(*missing, CredentialError::File { .. }));
        for bad in ["", "\n", "a\nb"] {
            fs::write(&path, bad).unwrap();
            pass(limits::RELOAD_PAUSE).await;
            let none = file.header().await.unwrap_err();
            assert!(matches!(*none, CredentialError::NoToken(_)));
        }
        fs::write(&path, "late").unwrap();
        pass(limits::RELOAD_PAUSE).await;
        assert_eq!(file.header().await.unwrap(), "Bearer late");
    }

    /// A reader that waited for a writer would read no later token.
    #[tokio::test]
    async fn rule_23_a_pipe_in_the_place_of_a_token_is_refused_and_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        fs::write(&path, "first").unwrap();
        let file = TokenFile::open(path.clone(), None);
        fs::remove_file(&path).unwrap();
        fifo(&path);
        let none = TokenFile::open(path.clone(), None);
        let error = none.header().await.unwrap_err();
        assert!(matches!(*error, CredentialError::File { .. }), "{error}");
        pass(limits::TOKEN_FILE_AGE).await;
        assert_eq!(
            file.header().await.unwrap(),
            "Bearer first",
            "the last one is kept"
        );
        fs::remove_file(&path).unwrap();
        fs::write(&path, "second").unwrap();
        pass(limits::TOKEN_FILE_AGE).await;
        assert_eq!(file.header().await.unwrap(), "Bearer second");
    }
}
