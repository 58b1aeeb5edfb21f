//! The first administrator's token: a file, which only its owner can read.
//!
//! It is in no log. Logs are kept, shipped and read by more people than may administer, and a container's standard error is
//! one of them.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Result;
use thiserror::Error;
use underpass_authenticate::{Token, TokenError};
use underpass_core::files;
use underpass_core::limits::TOKEN_FILE_BYTES;
use underpass_directory::Directory;

use crate::api;
use crate::limits;

/// The file's name in the data directory, where none is given.
pub(crate) const NAME: &str = "admin.token";

/// Why there is no token.
#[derive(Debug, Error)]
pub(crate) enum AdminTokenError {
    #[error("cannot read the first administrator's token {}", .0.display())]
    Read(PathBuf, #[source] io::Error),
    #[error("cannot write the first administrator's token {}", .0.display())]
    Write(PathBuf, #[source] io::Error),
    #[error(
        "{} holds no token of Underpass's: remove the file, and one is made there, or put one there that \
         `underpass token create` has printed",
        .0.display()
    )]
    Token(PathBuf, #[source] TokenError),
}

/// Makes the first administrator of a directory in which nobody may do anything yet, with the token in the file. Where
/// there is no file, it is made.
pub(crate) async fn make(directory: &Arc<Directory>, path: &Path) -> Result<()> {
    if !api::needs_first_administrator(directory) {
        return Ok(());
    }
    // Before the token counts: one that nobody can read would be of no use.
    let token = token(path)?;
    if api::first_administrator(directory, &token).await? {
        tracing::info!(
            user = api::FIRST_ADMINISTRATOR, token_file = %path.display(),
            days = limits::FIRST_TOKEN.as_secs() / (24 * 60 * 60),
            "made the first administrator, whose token is in the file; on this machine `underpass --socket` needs none"
        );
    }
    Ok(())
}

fn token(path: &Path) -> Result<Token, AdminTokenError> {
    match files::read_text_once(path, TOKEN_FILE_BYTES) {
        Ok(text) => Token::parse(text.trim())
            .map_err(|error| AdminTokenError::Token(path.to_owned(), error)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let token = Token::generate()
                .map_err(|error| AdminTokenError::Token(path.to_owned(), error))?;
            write(path, &token).map_err(|error| AdminTokenError::Write(path.to_owned(), error))?;
            Ok(token)
        }
        Err(error) => Err(AdminTokenError::Read(path.to_owned(), error)),
    }
}

/// Writes a token into a new file, which only its owner can read. The file has all of it or does not exist: an empty one, which a full
/// disk left behind, would keep the server from starting.
pub(crate) fn write(path: &Path, token: &Token) -> io::Result<()> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    // Temporary files are made readable by their owner only.
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(format!("{}\n", token.expose()).as_bytes())?;
    file.as_file().sync_all()?;
    file.persist_noclobber(path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use underpass_directory::MemoryStore;

    use super::*;

    async fn empty() -> Arc<Directory> {
        Directory::open(Arc::new(MemoryStore::default()))
            .await
            .unwrap()
    }

    fn is_known(directory: &Directory, path: &Path) -> bool {
        let text = fs::read_to_string(path).unwrap();
        let token = Token::parse(text.trim()).unwrap();
        let snapshot = directory.snapshot();
        let mut tokens = snapshot.all::<underpass_directory::AccessToken>().values();
        tokens.any(|known| known.object.sha256 == token.hash())
    }

    #[tokio::test]
    async fn rule_14_the_first_token_is_in_a_file_of_its_owners() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(NAME);
        let directory = empty().await;
        make(&directory, &path).await.unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(is_known(&directory, &path));
        // Once: a removed file is not made again.
        fs::remove_file(&path).unwrap();
        make(&directory, &path).await.unwrap();
        assert!(!path.exists());
        // One that is given counts.
        let other = empty().await;
        let given = Token::generate().unwrap();
        fs::write(&path, format!("  {}\n\n", given.expose())).unwrap();
        make(&other, &path).await.unwrap();
        assert!(is_known(&other, &path));
        assert!(!is_known(&directory, &path));
    }

    #[tokio::test]
    async fn a_file_that_holds_no_token_makes_nobody_an_administrator() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(NAME);
        let directory = empty().await;
        for text in ["", "hunter2", "upt_typo"] {
            fs::write(&path, text).unwrap();
            let error = make(&directory, &path).await.unwrap_err();
            assert!(error.to_string().contains("holds no token"), "{error}");
            assert!(api::needs_first_administrator(&directory));
        }
    }
}
