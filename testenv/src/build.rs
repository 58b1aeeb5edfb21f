//! Building Go programs once, and finding them again.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use aws_lc_rs::digest;

use crate::AssetsError;
use crate::recipe::Recipe;

/// The version in the modules' `go` lines.
const GO_NEEDED: &str = "1.26.0";

/// How often a build says that it is still at it.
const REPORT_EVERY: Duration = Duration::from_secs(5);

/// How often a build is looked at; a finished one waits this long at most.
const POLL: Duration = Duration::from_millis(100);

/// How much of Go's output an error quotes.
const OUTPUT_LINES: usize = 40;

/// The folder of built programs. Each build is a folder of its own, named by what went into it.
#[derive(Debug)]
pub(crate) struct Cache {
    dir: PathBuf,
    go_version: String,
}

impl Cache {
    pub(crate) fn open() -> Result<Self, AssetsError> {
        let dir = folder(|name| std::env::var_os(name)).ok_or(AssetsError::NoCacheFolder)?;
        Self::at(&dir)
    }

    pub(crate) fn at(dir: &Path) -> Result<Self, AssetsError> {
        // Go runs in a module's folder, where a relative path would mean something else.
        let dir = std::path::absolute(dir).map_err(io_at(dir))?;
        fs::create_dir_all(&dir).map_err(io_at(&dir))?;
        Ok(Self {
            go_version: go_version(&dir)?,
            dir,
        })
    }

    /// Where everything is kept.
    pub(crate) fn folder(&self) -> &Path {
        &self.dir
    }

    /// The folder with the recipe's programs, built if it is not there.
    pub(crate) fn ensure(
        &self,
        recipe: &Recipe,
        progress: &mut dyn FnMut(&str),
    ) -> Result<PathBuf, AssetsError> {
        let done = self.built(recipe)?;
        if done.is_dir() {
            return Ok(done);
        }
        let _lock = self.lock(recipe, progress)?;
        // The lock's last holder may have built it.
        if done.is_dir() {
            return Ok(done);
        }
        // Under its final name only when complete: a build that is interrupted leaves nothing that looks finished.
        let building = tempfile::Builder::new()
            .prefix(".building-")
            .tempdir_in(&self.dir)
            .map_err(io_at(&self.dir))?;
        self.build(recipe, building.path(), progress)?;
        fs::rename(building.path(), &done).map_err(io_at(&done))?;
        let _ = building.keep();
        Ok(done)
    }

    /// Where the recipe's programs are once they are built.
    pub(crate) fn built(&self, recipe: &Recipe) -> Result<PathBuf, AssetsError> {
        let name = format!("{}-{}", recipe.name, self.key(recipe)?);
        Ok(self.dir.join(name))
    }

    /// A hash of everything that the programs are made from.
    fn key(&self, recipe: &Recipe) -> Result<String, AssetsError> {
        let module = module(recipe);
        let mut files = vec![module.join("go.mod")];
        if module.join("go.sum").exists() {
            files.push(module.join("go.sum"));
        }
        if let Some(sources) = recipe.sources {
            go_sources(&module.join(sources), &mut files)?;
        }
        let mut hash = digest::Context::new(&digest::SHA256);
        for text in [
            self.go_version.clone(),
            arguments(recipe, Path::new("")).join("\0"),
        ] {
            update(&mut hash, text.as_bytes());
        }
        files.sort();
        for file in files {
            let name = file.strip_prefix(&module).unwrap_or(&file);
            update(&mut hash, name.as_os_str().as_encoded_bytes());
            update(&mut hash, &fs::read(&file).map_err(io_at(&file))?);
        }
        let hex = hash
            .finish()
            .as_ref()
            .iter()
            .take(8)
            .map(|b| format!("{b:02x}"))
            .collect();
        Ok(hex)
    }

    /// Waits for the right to build the recipe; it ends with the file or the process.
    pub(crate) fn lock(
        &self,
        recipe: &Recipe,
        progress: &mut dyn FnMut(&str),
    ) -> Result<File, AssetsError> {
        let path = self.dir.join(format!("{}.lock", recipe.name));
        let file = File::create(&path).map_err(io_at(&path))?;
        if file.try_lock().is_err() {
            progress(&format!("waiting for another build of {}", recipe.name));
            file.lock().map_err(io_at(&path))?;
        }
        Ok(file)
    }

    fn build(
        &self,
        recipe: &Recipe,
        into: &Path,
        progress: &mut dyn FnMut(&str),
    ) -> Result<(), AssetsError> {
        let what = recipe.name;
        progress(&format!(
            "building {what} with {}: usually {} the first time, on two cores",
            self.go_version, recipe.minutes
        ));
        let begin = Instant::now();
        let output = tempfile::tempfile_in(&self.dir).map_err(io_at(&self.dir))?;
        let mut go = go(&module(recipe))
            .args(arguments(recipe, into))
            .stdout(clone(&output, &self.dir)?)
            .stderr(clone(&output, &self.dir)?)
            .spawn()
            .map_err(io_at(Path::new("go")))?;
        let mut reported = begin;
        let status = loop {
            if let Some(status) = go.try_wait().map_err(io_at(Path::new("go")))? {
                break status;
            }
            if reported.elapsed() >= REPORT_EVERY {
                reported = Instant::now();
                progress(&format!(
                    "building {what}: {} s so far, usually {}",
                    begin.elapsed().as_secs(),
                    recipe.minutes
                ));
            }
            std::thread::sleep(POLL);
        };
        if !status.success() {
            return Err(self.failure(what, &read_again(output)));
        }
        progress(&format!("built {what} in {} s", begin.elapsed().as_secs()));
        Ok(())
    }

    /// Tells failures apart that have different remedies. Go's exit code is the same for all of them, so its output is
    /// all there is to go by.
    fn failure(&self, what: &str, output: &str) -> AssetsError {
        let lines: Vec<_> = output.lines().collect();
        let from = lines.len().saturating_sub(OUTPUT_LINES);
        let output = lines.get(from..).unwrap_or_default().join("\n");
        let says = |signs: &[&str]| signs.iter().any(|sign| output.contains(sign));
        if says(&["no space left on device", "disk quota exceeded"]) {
            AssetsError::DiskFull {
                cache: self.dir.clone(),
                output,
            }
        } else if says(&[
            "dial tcp",
            "proxyconnect",
            "i/o timeout",
            "TLS handshake",
            "GOPROXY=off",
        ]) {
            AssetsError::ProxyUnreachable { output }
        } else {
            AssetsError::BuildFailed {
                what: what.to_owned(),
                output,
            }
        }
    }
}

/// Where built programs are kept.
fn folder(variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let set = |name| {
        variable(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    set("UNDERPASS_CACHE").or_else(|| {
        let caches = set("XDG_CACHE_HOME").or_else(|| Some(set("HOME")?.join(".cache")))?;
        Some(caches.join("underpass").join("testenv"))
    })
}

fn module(recipe: &Recipe) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(recipe.module)
}

/// A Go command whose result depends on its arguments and the module alone.
fn go(dir: &Path) -> Command {
    let mut go = Command::new("go");
    go.current_dir(dir)
        .stdin(Stdio::null())
        .env("CGO_ENABLED", "0")
        .env("GOFLAGS", "")
        .env("GOWORK", "off")
        // The programs run here.
        .env_remove("GOOS")
        .env_remove("GOARCH");
    go
}

fn arguments(recipe: &Recipe, into: &Path) -> Vec<String> {
    let mut arguments: Vec<String> = ["build", "-mod=readonly", "-trimpath", "-buildvcs=false"]
        .map(String::from)
        .into();
    arguments.push(format!("-ldflags={}", linker_flags(recipe.version)));
    let output = recipe
        .program
        .map_or_else(|| into.to_owned(), |program| into.join(program));
    // The slash makes it a folder for several programs.
    let slash = if recipe.program.is_none() { "/" } else { "" };
    arguments.push(format!("-o={}{slash}", output.display()));
    arguments.extend(recipe.packages.iter().map(ToString::to_string));
    arguments
}

/// Without them Kubernetes calls itself v0.0.0-master. The commit and the date of a module are not known to Go; these are
/// the values that Kubernetes itself has for "not known".
fn linker_flags(version: Option<&str>) -> String {
    let mut flags = String::from("-s -w");
    let Some(version) = version else { return flags };
    let mut numbers = version.trim_start_matches('v').split('.');
    let (major, minor) = (
        numbers.next().unwrap_or_default(),
        numbers.next().unwrap_or_default(),
    );
    for package in [
        "k8s.io/component-base/version",
        "k8s.io/client-go/pkg/version",
    ] {
        for (name, value) in [
            ("gitVersion", version),
            ("gitMajor", major),
            ("gitMinor", minor),
            ("gitCommit", "unknown"),
            ("gitTreeState", "archive"),
            ("buildDate", "1970-01-01T00:00:00Z"),
        ] {
            flags.push_str(&format!(" -X {package}.{name}={value}"));
        }
    }
    flags
}

/// The version of the toolchain that builds our modules, which is not always that of the `go` in PATH: Go fetches a newer
/// one if a module asks for it and the settings allow it.
fn go_version(outside: &Path) -> Result<String, AssetsError> {
    let module = Path::new(env!("CARGO_MANIFEST_DIR")).join("kubernetes");
    let ask = |command: &mut Command| match command.args(["env", "GOVERSION"]).output() {
        Ok(output) => Ok(output),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(AssetsError::GoMissing { needed: GO_NEEDED })
        }
        Err(error) => Err(io_at(Path::new("go"))(error)),
    };
    let answer = ask(&mut go(&module))?;
    if answer.status.success() {
        return Ok(String::from_utf8_lossy(&answer.stdout).trim().to_owned());
    }
    let local = ask(go(outside).env("GOTOOLCHAIN", "local"))?;
    let found = String::from_utf8_lossy(&local.stdout).trim().to_owned();
    Err(AssetsError::GoTooOld {
        found,
        needed: GO_NEEDED,
    })
}

/// Adds the Go files of a folder and those in it, without tests, which are not built in.
fn go_sources(dir: &Path, files: &mut Vec<PathBuf>) -> Result<(), AssetsError> {
    for entry in fs::read_dir(dir).map_err(io_at(dir))? {
        let path = entry.map_err(io_at(dir))?.path();
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if path.is_dir() {
            go_sources(&path, files)?;
        } else if name.ends_with(".go") && !name.ends_with("_test.go") {
            files.push(path);
        }
    }
    Ok(())
}

/// Adds a text after its length, so that no two lists of texts are hashed as the same bytes.
fn update(hash: &mut digest::Context, text: &[u8]) {
    hash.update(&text.len().to_be_bytes());
    hash.update(text);
}

fn clone(file: &File, near: &Path) -> Result<File, AssetsError> {
    file.try_clone().map_err(io_at(near))
}

fn read_again(mut file: File) -> String {
    use io::Seek as _;
    let mut bytes = Vec::new();
    match file.rewind().and_then(|()| file.read_to_end(&mut bytes)) {
        Ok(_) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) => format!("(Go's output could not be read: {error})"),
    }
}

pub(crate) fn io_at(path: &Path) -> impl Fn(io::Error) -> AssetsError {
    let path = path.to_owned();
    move |source| AssetsError::Io {
        path: path.clone(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Barrier, Mutex};

    use super::*;

    const SMALL: Recipe = Recipe {
        name: "small",
        module: "supervise",
        packages: &["."],
        program: Some("small"),
        sources: Some("."),
        version: None,
        minutes: "seconds",
    };

    const BROKEN: Recipe = Recipe {
        name: "broken",
        packages: &["./missing"],
        ..SMALL
    };

    fn cache() -> (tempfile::TempDir, Cache) {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(dir.path()).unwrap();
        (dir, cache)
    }

    /// The cache's entries besides locks.
    fn entries(cache: &Cache) -> Vec<String> {
        fs::read_dir(&cache.dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| !name.ends_with(".lock"))
            .collect()
    }

    #[test]
    fn builders_at_the_same_time_share_one_build() {
        let (_dir, cache) = cache();
        let lines = Mutex::new(Vec::new());
        let together = Barrier::new(3);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    together.wait();
                    let mut progress = |line: &str| lines.lock().unwrap().push(line.to_owned());
                    let built = cache.ensure(&SMALL, &mut progress).unwrap();
                    assert!(built.join("small").is_file());
                });
            }
        });
        let lines = lines.into_inner().unwrap();
        let built = lines
            .iter()
            .filter(|line| line.starts_with("built small"))
            .count();
        assert_eq!(built, 1, "{lines:?}");
        assert_eq!(entries(&cache).len(), 1);
        // And a later one has nothing to say at all.
        cache.ensure(&SMALL, &mut |line| panic!("{line}")).unwrap();
    }

    #[test]
    fn a_failed_build_is_quoted_and_leaves_nothing() {
        let (_dir, cache) = cache();
        match cache.ensure(&BROKEN, &mut |_| {}) {
            Err(AssetsError::BuildFailed { what, output }) => {
                assert_eq!(what, "broken");
                assert!(output.contains("missing"), "{output}");
            }
            other => panic!("{other:?}"),
        }
        assert!(entries(&cache).is_empty(), "{:?}", entries(&cache));
    }

    #[test]
    fn everything_that_matters_is_in_the_key() {
        let (_dir, cache) = cache();
        let key = cache.key(&SMALL).unwrap();
        assert_eq!(key, cache.key(&SMALL).unwrap());
        let newer_go = Cache {
            dir: cache.dir.clone(),
            go_version: "go9".into(),
        };
        let others = [
            newer_go.key(&SMALL).unwrap(),
            cache
                .key(&Recipe {
                    sources: None,
                    ..SMALL
                })
                .unwrap(),
            cache
                .key(&Recipe {
                    version: Some("v1.2.3"),
                    ..SMALL
                })
                .unwrap(),
            cache
                .key(&Recipe {
                    module: "etcd",
                    sources: None,
                    ..SMALL
                })
                .unwrap(),
        ];
        for other in others {
            assert_ne!(key, other);
        }
    }

    #[test]
    fn the_cache_is_where_the_environment_says() {
        let from = |set: &[(&str, &str)]| {
            let set: Vec<(String, OsString)> = set
                .iter()
                .map(|(k, v)| ((*k).into(), OsString::from(v)))
                .collect();
            folder(|name| Some(set.iter().find(|(key, _)| key == name)?.1.clone()))
        };
        let all = [
            ("UNDERPASS_CACHE", "/own"),
            ("XDG_CACHE_HOME", "/xdg"),
            ("HOME", "/home/u"),
        ];
        assert_eq!(from(&all), Some("/own".into()));
        assert_eq!(from(&all[1..]), Some("/xdg/underpass/testenv".into()));
        assert_eq!(
            from(&all[2..]),
            Some("/home/u/.cache/underpass/testenv".into())
        );
        assert_eq!(from(&[("UNDERPASS_CACHE", "")]), None);
    }

    #[test]
    fn failures_are_told_apart_by_what_go_says() {
        let (_dir, cache) = cache();
        let full = "link: writing output: write $WORK/a.out: no space left on device";
        let failure = cache.failure("x", full);
        assert!(
            matches!(failure, AssetsError::DiskFull { .. }),
            "{failure:?}"
        );
        let away = "go: example.com/m@v1: Get \"https://proxy\": dial tcp 127.0.0.1:1: connect: \
                    connection refused";
        let failure = cache.failure("x", away);
        assert!(
            matches!(failure, AssetsError::ProxyUnreachable { .. }),
            "{failure:?}"
        );
        let code = "./main.go:3:1: undefined: x";
        let failure = cache.failure("x", code);
        assert!(
            matches!(failure, AssetsError::BuildFailed { .. }),
            "{failure:?}"
        );
    }
}
