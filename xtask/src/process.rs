//! Runs programs in the checkout.

use std::env;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// The checkout's top folder.
pub(crate) fn root() -> Result<PathBuf> {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    Ok(manifest
        .parent()
        .context("xtask lies in the checkout")?
        .to_owned())
}

/// Where tools are kept that are built once and used by every checkout.
pub(crate) fn tools() -> Result<PathBuf> {
    let cache = match (
        env::var_os("UNDERPASS_CACHE"),
        env::var_os("XDG_CACHE_HOME"),
    ) {
        (Some(cache), _) => PathBuf::from(cache),
        (None, Some(cache)) => PathBuf::from(cache).join("underpass"),
        (None, None) => {
            let home = env::var_os("HOME").context("HOME is not set, nor is UNDERPASS_CACHE")?;
            PathBuf::from(home).join(".cache/underpass")
        }
    };
    Ok(cache.join("tools"))
}

/// The cargo that runs this.
pub(crate) fn cargo() -> Result<Command> {
    program(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// A program that runs in the checkout's top folder.
pub(crate) fn program(program: impl AsRef<OsStr>) -> Result<Command> {
    let mut command = Command::new(program);
    command.current_dir(root()?);
    Ok(command)
}

/// Shows the command, runs it, and fails where it fails.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let line: Vec<_> = words.map(OsStr::to_string_lossy).collect();
    let name = Path::new(line.first().map_or("", AsRef::as_ref)).file_name();
    let name = name
        .map(OsStr::to_string_lossy)
        .unwrap_or_default()
        .into_owned();
    eprintln!("$ {name} {}", line.get(1..).unwrap_or_default().join(" "));
    let status = command
        .status()
        .with_context(|| format!("cannot run {name}"))?;
    if !status.success() {
        bail!("{name} ended with {status}");
    }
    Ok(())
}
