//! The peers' programs: each from its own package registry at a pinned version, built once and kept
//! outside the checkout.

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use aws_lc_rs::digest;

use crate::process;

/// The build tool of a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Builder {
    /// The Go command, with these packages of the module.
    Go(&'static [&'static str]),
    /// Cargo, with the crate's lock file.
    Cargo,
}

/// A peer that is built from a folder beside this crate.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer {
    name: &'static str,
    builder: Builder,
    /// How long it takes the first time, on two cores.
    minutes: &'static str,
}

pub(crate) const REMOTEDIALER: Peer = Peer {
    name: "remotedialer",
    builder: Builder::Go(&["."]),
    minutes: "half a minute",
};

pub(crate) const KONNECTIVITY: Peer = Peer {
    name: "konnectivity",
    builder: Builder::Go(&[
        "sigs.k8s.io/apiserver-network-proxy/cmd/agent",
        "sigs.k8s.io/apiserver-network-proxy/cmd/server",
    ]),
    minutes: "two minutes",
};

pub(crate) const CHISEL: Peer = Peer {
    name: "chisel",
    builder: Builder::Go(&["github.com/jpillora/chisel"]),
    minutes: "half a minute",
};

pub(crate) const FRP: Peer = Peer {
    name: "frp",
    builder: Builder::Go(&[
        "github.com/fatedier/frp/cmd/frpc",
        "github.com/fatedier/frp/cmd/frps",
    ]),
    minutes: "a minute",
};

pub(crate) const RATHOLE: Peer = Peer {
    name: "rathole",
    builder: Builder::Cargo,
    minutes: "two minutes",
};

impl Peer {
    /// The folder with its programs, built if it is not there.
    ///
    /// # Errors
    /// Its build tool is missing, or fails.
    pub(crate) fn ensure(self) -> Result<PathBuf> {
        let cache = cache()?;
        fs::create_dir_all(&cache).with_context(|| format!("cannot write {}", cache.display()))?;
        let done = cache.join(format!("{}-{}", self.name, self.key()?));
        if done.is_dir() {
            return Ok(done);
        }
        let lock = File::create(cache.join(format!("{}.lock", self.name)))?;
        lock.lock()?;
        // The last holder of the lock may have built it.
        if done.is_dir() {
            return Ok(done);
        }
        eprintln!(
            "building {}: {} the first time, on two cores",
            self.name, self.minutes
        );
        // Under its final name only when complete.
        let building = tempfile::tempdir_in(&cache)?;
        self.build(building.path())
            .with_context(|| format!("cannot build {}", self.name))?;
        fs::rename(building.keep(), &done)?;
        Ok(done)
    }

    fn sources(self) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("peers")
            .join(self.name)
    }

    /// A hash of all that it is made from.
    fn key(self) -> Result<String> {
        let mut files = Vec::new();
        files_of(&self.sources(), &mut files)?;
        files.sort();
        let mut hash = digest::Context::new(&digest::SHA256);
        hash.update(&self.compiler()?);
        for file in files {
            let name = file.strip_prefix(self.sources()).unwrap_or(&file);
            hash.update(name.as_os_str().as_encoded_bytes());
            hash.update(&fs::read(&file)?);
        }
        let hash = hash.finish();
        let hex = hash
            .as_ref()
            .iter()
            .take(8)
            .map(|byte| format!("{byte:02x}"));
        Ok(hex.collect())
    }

    /// The compiler's version.
    fn compiler(self) -> Result<Vec<u8>> {
        let (program, argument) = match self.builder {
            Builder::Go(_) => ("go", "version"),
            Builder::Cargo => ("rustc", "--version"),
        };
        let output = Command::new(program)
            .arg(argument)
            .output()
            .with_context(|| format!("cannot run {program}"))?;
        if !output.status.success() {
            bail!("{program} {argument} ended with {}", output.status);
        }
        Ok(output.stdout)
    }

    fn build(self, into: &Path) -> Result<()> {
        match self.builder {
            Builder::Go(packages) => process::run(
                Command::new("go")
                    .current_dir(self.sources())
                    .env("CGO_ENABLED", "0")
                    .args(["build", "-trimpath", "-mod=readonly", "-o"])
                    // With the slash it is a folder, for one program, too.
                    .arg(into.join(""))
                    .args(packages),
            ),
            Builder::Cargo => {
                let target = into.join("target");
                process::run(
                    Command::new("cargo")
                        .current_dir(self.sources())
                        .args(["build", "--quiet", "--release", "--locked", "--target-dir"])
                        .arg(&target),
                )?;
                fs::rename(target.join("release").join(self.name), into.join(self.name))?;
                Ok(fs::remove_dir_all(target)?)
            }
        }
    }
}

fn files_of(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let entries = fs::read_dir(folder).with_context(|| format!("no {}", folder.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            files_of(&path, files)?;
        } else {
            files.push(path);
        }
    }
    Ok(())
}

/// As the test environment's: `UNDERPASS_CACHE`, else `underpass` in `XDG_CACHE_HOME` or `~/.cache`.
fn cache() -> Result<PathBuf> {
    let set = |name| {
        env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    let cache = match (set("UNDERPASS_CACHE"), set("XDG_CACHE_HOME"), set("HOME")) {
        (Some(cache), _, _) => cache,
        (None, Some(caches), _) => caches.join("underpass"),
        (None, None, Some(home)) => home.join(".cache/underpass"),
        (None, None, None) => bail!("no folder for programs: set UNDERPASS_CACHE or HOME"),
    };
    // Builders run in other folders, where a relative path would mean something else.
    Ok(std::path::absolute(cache.join("peers"))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_peer_has_its_sources_pinned() {
        for peer in [REMOTEDIALER, KONNECTIVITY, CHISEL, FRP, RATHOLE] {
            let lock = match peer.builder {
                Builder::Go(_) => "go.sum",
                Builder::Cargo => "Cargo.lock",
            };
            assert!(peer.sources().join(lock).is_file(), "{peer:?}");
        }
    }
}
