//! Programs of other registries, installed once for each version of the files that pin them.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use aws_lc_rs::digest;

use crate::{build::Cache, progress_to_stderr};

/// The folder that `command` has filled, which ran in a copy of these files of the crate's folder `name`.
pub(super) fn installed(name: &str, files: &[&str], command: &mut Command) -> PathBuf {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    let mut hash = digest::Context::new(&digest::SHA256);
    for file in files {
        hash.update(&fs::read(sources.join(file)).unwrap());
    }
    let hash = hash.finish();
    let hash: String = hash
        .as_ref()
        .iter()
        .take(8)
        .map(|b| format!("{b:02x}"))
        .collect();
    let cache = Cache::open().unwrap().folder().to_owned();
    let done = cache.join(format!("{name}-{hash}"));
    let lock = File::create(cache.join(format!("{name}.lock"))).unwrap();
    lock.lock().unwrap();
    if done.is_dir() {
        return done;
    }
    progress_to_stderr(&format!("installing {name}"));
    let building = tempfile::Builder::new()
        .prefix(".building-")
        .tempdir_in(&cache)
        .unwrap();
    for file in files {
        fs::copy(sources.join(file), building.path().join(file)).unwrap();
    }
    let output = command.current_dir(building.path()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
    fs::rename(building.path(), &done).unwrap();
    let _ = building.keep();
    done
}
