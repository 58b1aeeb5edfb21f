//! Downloading official programs, or building them where that is not to be had.

use std::fs::{self, File, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use aws_lc_rs::digest;
use bytes::Bytes;
use http::{Response, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustls::RootCertStore;
use tokio::time::timeout;

use super::releases::{Download, Release};
use crate::AssetsError;
use crate::build::{Cache, io_at};
use crate::recipe::Recipe;

/// Both sites redirect once, to where the files are kept.
const REDIRECTS: usize = 5;

/// How often a download says that it goes on.
const REPORT_EVERY: Duration = Duration::from_secs(5);

/// The largest program has about 100 MB.
const MOST_BYTES: u64 = 1 << 30;

/// When to stop waiting and build instead.
#[derive(Debug, Clone, Copy)]
struct Patience {
    /// For an answer, and then for each part of it.
    silence: Duration,
    /// For all of a release: about as long as its build takes.
    release: Duration,
}

const PATIENCE: Patience = Patience {
    silence: Duration::from_secs(10),
    release: Duration::from_secs(300),
};

/// Why a file could not be downloaded.
#[derive(Debug, thiserror::Error)]
enum FetchError {
    #[error("{host} cannot be reached")]
    Unreachable {
        host: String,
        #[source]
        source: hyper_util::client::legacy::Error,
    },
    #[error("{host} says nothing for {} s", silence.as_secs())]
    Silent { host: String, silence: Duration },
    #[error("{0} answers {1}")]
    Status(String, StatusCode),
    #[error("{0} redirects to nowhere, or too often")]
    Redirect(String),
    #[error("the download from {host} ends early")]
    Broken {
        host: String,
        #[source]
        source: hyper::Error,
    },
    #[error("{program} from {host} has SHA-256 {found} instead of {pinned}")]
    Checksum {
        program: &'static str,
        host: String,
        found: String,
        pinned: String,
    },
    #[error("{0} sends more than a program can have")]
    TooLarge(String),
    #[error("the download takes more than {} s", .0.as_secs())]
    Slow(Duration),
    #[error("the archive with {0} cannot be unpacked: {1}")]
    Archive(&'static str, String),
    #[error("this system's certificates cannot be used")]
    Tls(#[source] rustls::Error),
    #[error("the file cannot be written")]
    Io(#[from] io::Error),
}

/// The folder with the recipe's programs: built or downloaded before, else downloaded, else built.
pub(super) fn ensure(
    cache: &Cache,
    recipe: &Recipe,
    release: &Release,
    progress: &mut dyn FnMut(&str),
) -> Result<PathBuf, AssetsError> {
    let mut roots = RootCertStore::empty();
    let downloads = release.downloads();
    if downloads.is_some() {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    }
    ensure_from(cache, recipe, downloads, roots, PATIENCE, progress)
}

fn ensure_from(
    cache: &Cache,
    recipe: &Recipe,
    downloads: Option<Vec<Download>>,
    roots: RootCertStore,
    patience: Patience,
    progress: &mut dyn FnMut(&str),
) -> Result<PathBuf, AssetsError> {
    let name = recipe.name;
    let built = cache.built(recipe)?;
    if built.is_dir() {
        return Ok(built);
    }
    let Some(downloads) = downloads else {
        progress(&format!(
            "{name} is built from its Go modules: no verified checksum of its release is pinned"
        ));
        return cache.ensure(recipe, progress);
    };
    let done = cache.folder().join(folder_name(name, &downloads));
    if done.is_dir() {
        return Ok(done);
    }
    let lock = cache.lock(recipe, progress)?;
    // The last holder of the lock may have downloaded it.
    if done.is_dir() {
        return Ok(done);
    }
    // Under its final name only when complete and verified.
    let prefix = format!(".fetching-{name}-");
    remove_abandoned(cache.folder(), &prefix).map_err(io_at(cache.folder()))?;
    let fetching = tempfile::Builder::new()
        .prefix(&prefix)
        .tempdir_in(cache.folder())
        .map_err(io_at(cache.folder()))?;
    progress(&format!(
        "downloading {name}: built from its Go modules if its site is silent for {} s",
        patience.silence.as_secs()
    ));
    match fetch(&downloads, fetching.path(), roots, patience, progress) {
        Ok(()) => {
            fs::rename(fetching.path(), &done).map_err(io_at(&done))?;
            let _ = fetching.keep();
            Ok(done)
        }
        Err(error) => {
            drop((fetching, lock));
            progress(&format!(
                "{name} is built from its Go modules: {}",
                in_one_line(&error)
            ));
            cache.ensure(recipe, progress)
        }
    }
}

/// Removes the files of a killed download. Only the holder of the lock downloads.
fn remove_abandoned(folder: &Path, prefix: &str) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(prefix) {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

/// Other pins give another folder.
fn folder_name(name: &str, downloads: &[Download]) -> String {
    let mut hash = digest::Context::new(&digest::SHA256);
    for download in downloads {
        hash.update(download.sha256.as_bytes());
    }
    let hash: String = hex(hash.finish().as_ref()).chars().take(16).collect();
    format!("{name}-release-{hash}")
}

/// Downloads into a folder. On a thread of its own, because the caller's may belong to a runtime already.
fn fetch(
    downloads: &[Download],
    into: &Path,
    roots: RootCertStore,
    patience: Patience,
    progress: &mut dyn FnMut(&str),
) -> Result<(), FetchError> {
    std::thread::scope(|scope| {
        let (lines, heard) = channel();
        let worker = scope.spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            let fetcher = Fetcher::new(roots, patience, lines)?;
            let result = runtime.block_on(async {
                timeout(patience.release, fetcher.fetch_all(downloads, into)).await
            });
            // Looking up a name cannot be interrupted: nothing waits for it.
            runtime.shutdown_background();
            result.unwrap_or(Err(FetchError::Slow(patience.release)))
        });
        for line in heard {
            progress(&line);
        }
        match worker.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

struct Fetcher {
    client: Client<HttpsConnector<HttpConnector>, Empty<Bytes>>,
    patience: Patience,
    lines: Sender<String>,
}

impl Fetcher {
    fn new(
        roots: RootCertStore,
        patience: Patience,
        lines: Sender<String>,
    ) -> Result<Self, FetchError> {
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let tls = rustls::ClientConfig::builder_with_provider(provider.into())
            .with_safe_default_protocol_versions()
            .map_err(FetchError::Tls)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let connector = hyper_rustls::HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_only()
            .enable_http1()
            .build();
        Ok(Self {
            // A kept connection saves nothing here, and can be closed just as the next request takes it.
            client: Client::builder(TokioExecutor::new())
                .pool_max_idle_per_host(0)
                .build(connector),
            patience,
            lines,
        })
    }

    async fn fetch_all(&self, downloads: &[Download], into: &Path) -> Result<(), FetchError> {
        for download in downloads {
            self.fetch(download, into).await?;
        }
        Ok(())
    }

    async fn fetch(&self, download: &Download, into: &Path) -> Result<(), FetchError> {
        let program = into.join(download.program);
        let Some(member) = &download.member else {
            self.save(download, &program).await?;
            fs::set_permissions(&program, Permissions::from_mode(0o755))?;
            return Ok(());
        };
        let archive = into.join("archive");
        self.save(download, &archive).await?;
        // Only what the checksum vouches for is unpacked.
        let unpacked = Command::new("tar")
            .args(["--extract", "--gzip", "--to-stdout", "--file"])
            .arg(&archive)
            .arg(member)
            .stdout(File::create(&program)?)
            .stderr(std::process::Stdio::piped())
            .spawn()?
            .wait_with_output()?;
        if !unpacked.status.success() {
            let said = String::from_utf8_lossy(&unpacked.stderr);
            let said = said.lines().next().unwrap_or("tar fails").to_owned();
            return Err(FetchError::Archive(download.program, said));
        }
        fs::set_permissions(&program, Permissions::from_mode(0o755))?;
        Ok(fs::remove_file(&archive)?)
    }

    /// Writes what the URL holds, and compares its checksum.
    async fn save(&self, download: &Download, path: &Path) -> Result<(), FetchError> {
        let (host, mut body) = self.open(&download.url).await?;
        let mut file = File::create(path)?;
        let mut hash = digest::Context::new(&digest::SHA256);
        let (begin, mut reported, mut bytes) = (Instant::now(), Instant::now(), 0);
        while let Some(frame) = self.in_time(&host, body.frame()).await? {
            let frame = frame.map_err(|source| FetchError::Broken {
                host: host.clone(),
                source,
            })?;
            let Ok(data) = frame.into_data() else {
                continue;
            };
            hash.update(&data);
            file.write_all(&data)?;
            bytes += data.len() as u64;
            if bytes > MOST_BYTES {
                return Err(FetchError::TooLarge(host));
            }
            if reported.elapsed() >= REPORT_EVERY {
                reported = Instant::now();
                self.say(format!(
                    "downloading {}: {} MB in {} s so far",
                    download.program,
                    bytes / 1_000_000,
                    begin.elapsed().as_secs()
                ));
            }
        }
        let found = hex(hash.finish().as_ref());
        if found != download.sha256 {
            return Err(FetchError::Checksum {
                program: download.program,
                host,
                found,
                pinned: download.sha256.clone(),
            });
        }
        self.say(format!(
            "downloaded {}: {} MB in {} s",
            download.program,
            bytes / 1_000_000,
            begin.elapsed().as_secs()
        ));
        Ok(())
    }

    /// The body of what the URL leads to, and the host that sends it.
    async fn open(&self, url: &str) -> Result<(String, Incoming), FetchError> {
        let mut url = url.to_owned();
        for _ in 0..=REDIRECTS {
            let Ok(uri) = url.parse::<Uri>() else { break };
            let host = uri.host().unwrap_or_default().to_owned();
            let answer = self.in_time(&host, self.client.get(uri)).await?;
            let answer = answer.map_err(|source| FetchError::Unreachable {
                host: host.clone(),
                source,
            })?;
            if answer.status() == StatusCode::OK {
                return Ok((host, answer.into_body()));
            }
            if !answer.status().is_redirection() {
                return Err(FetchError::Status(host, answer.status()));
            }
            let Some(to) = location(&answer) else {
                return Err(FetchError::Redirect(host));
            };
            url = to;
        }
        Err(FetchError::Redirect(url))
    }

    async fn in_time<F: Future>(&self, host: &str, work: F) -> Result<F::Output, FetchError> {
        let silence = self.patience.silence;
        let silent = |_| FetchError::Silent {
            host: host.to_owned(),
            silence,
        };
        timeout(silence, work).await.map_err(silent)
    }

    fn say(&self, line: String) {
        // The listener outlives this.
        let _ = self.lines.send(line);
    }
}

/// Where a redirect leads, if that is a whole `https` URL: these sites send no other.
fn location(answer: &Response<Incoming>) -> Option<String> {
    let to = answer.headers().get(header::LOCATION)?.to_str().ok()?;
    to.starts_with("https://").then(|| to.to_owned())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// An error and its sources.
fn in_one_line(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        line.push_str(": ");
        line.push_str(&error.to_string());
        source = error.source();
    }
    line.replace('\n', " ")
}

#[cfg(test)]
mod tests;
