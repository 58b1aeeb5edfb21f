//! The files that are kept for this machine's user. Only their owner can read them.

use std::fs::DirBuilder;
use std::io::Write;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use http::Uri;

/// A login's file, larger than this, is none: it holds a token and CAs.
const MAX_BYTES: u64 = 4 * 1024 * 1024;

#[cfg(test)]
thread_local! {
    /// The folder of a test, which runs on one thread.
    pub(super) static FOLDER: std::cell::RefCell<Option<PathBuf>> = const { std::cell::RefCell::new(None) };
}

/// Below `$XDG_CONFIG_HOME`, or `~/.config` (XDG Base Directory Specification).
pub(super) fn folder() -> Result<PathBuf> {
    #[cfg(test)]
    if let Some(folder) = FOLDER.with_borrow(Clone::clone) {
        return Ok(folder);
    }
    let folder = match std::env::var_os("XDG_CONFIG_HOME").filter(|path| !path.is_empty()) {
        Some(folder) => PathBuf::from(folder),
        None => {
            let home = std::env::var_os("HOME").filter(|path| !path.is_empty());
            let home = home.context("there is no HOME to keep logins in")?;
            PathBuf::from(home).join(".config")
        }
    };
    Ok(folder.join("underpass"))
}

/// The folder of the file, which is made where it is missing.
pub(super) fn make_folder(path: &Path) -> Result<&Path> {
    let folder = path.parent().context("a file has no folder")?;
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .with_context(|| format!("cannot make {}", folder.display()))?;
    Ok(folder)
}

/// The content of the file; `None` where there is none.
pub(super) fn read(path: &Path) -> Result<Option<Vec<u8>>> {
    match underpass_core::files::read(path, MAX_BYTES) {
        Ok(mut bytes) => Ok(Some(std::mem::take(&mut *bytes))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// Keeps it, in place of the file before: as a whole or not at all.
pub(super) fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let folder = make_folder(path)?;
    let shown = || format!("cannot write {}", path.display());
    // Temporary files are made readable by their owner only.
    let mut file = tempfile::NamedTempFile::new_in(folder).with_context(shown)?;
    file.write_all(bytes).with_context(shown)?;
    file.persist(path).with_context(shown)?;
    Ok(())
}

/// A server's name in files: `HOST_PORT`, the same for each spelling of its URL.
pub(super) fn stem(url: &Uri) -> Result<String> {
    let host = url.host().context("the URL has no host")?;
    let port = url.port_u16().unwrap_or(443);
    let host: String = host
        .chars()
        .map(|c| match c.to_ascii_lowercase() {
            c if c.is_ascii_alphanumeric() || matches!(c, '.' | '-') => c,
            _ => '_',
        })
        .collect();
    Ok(format!("{host}_{port}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_has_one_file() {
        let name = |url: &str| stem(&url.parse().unwrap()).unwrap();
        assert_eq!(name("https://u.example.org"), "u.example.org_443");
        assert_eq!(name("https://U.Example.org:443"), "u.example.org_443");
        assert_eq!(name("https://u.example.org:8443/"), "u.example.org_8443");
        assert_eq!(name("https://[::1]:1"), "___1__1");
    }
}
