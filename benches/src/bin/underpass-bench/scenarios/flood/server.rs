//! The server, with a user and two clusters that it reaches itself.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize;
use serde_json::json;
use tempfile::TempDir;
use underpass_testenv::Programs;

use super::api::Api;
use super::door::Door;
use super::honest;
use crate::process::Process;
use crate::usage::Usage;

const USER: &str = "alice";
const PASSWORD: &str = "correct horse battery";

/// The same, as HTTP Basic.
const LOGIN: &str = "Basic YWxpY2U6Y29ycmVjdCBob3JzZSBiYXR0ZXJ5";

/// The operator's socket in the data directory.
const SOCKET: &str = "api.sock";

/// How long the server may take to be there.
const DEADLINE: Duration = Duration::from_secs(20);

/// The pause between two looks.
const POLL: Duration = Duration::from_millis(20);

/// How long the token of the calls counts.
const TOKEN_SECONDS: u32 = 3600;

pub(super) struct Server {
    process: Process,
    door: Door,
    bearer: String,
    _api: Api,
    _folder: TempDir,
}

#[derive(Deserialize)]
struct Made {
    token: String,
}

impl Server {
    /// A request that is answered, and one that never is: in different clusters.
    pub(super) const ANSWERS: (&str, &str) = ("good", "/version");
    pub(super) const HANGS: (&str, &str) = ("stuck", "/api/hangs");

    pub(super) async fn start(programs: &Programs) -> Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("underpass-flood-")
            .tempdir()?;
        let data = folder.path().join("data");
        let data_dir = data.to_string_lossy();
        let serve = ["serve", "--listen", "127.0.0.1:0", "--data-dir", &data_dir];
        let process = Process::start(folder.path(), "server", programs.server(), serve)?;
        let port = port(&data).await?;
        let door = Door::new(port, &data.join("ca.pem"))?;
        let api = Api::start().await?;
        let kubeconfig = kubeconfig(folder.path(), &api)?;
        for (cluster, _) in [Self::ANSWERS, Self::HANGS] {
            let add = ["cluster", "add", cluster, "--kubeconfig"].map(OsStr::new);
            administer(
                programs.cli(),
                &data,
                add.into_iter().chain([kubeconfig.as_os_str()]),
            )?;
            let allow = ["kubeconfig", "--user", USER, "--cluster", cluster];
            administer(programs.cli(), &data, allow.map(OsStr::new))?;
        }
        let password = folder.path().join("password");
        fs::write(&password, PASSWORD)?;
        let set = ["user", "password", USER, "--password-file"].map(OsStr::new);
        administer(
            programs.cli(),
            &data,
            set.into_iter().chain([password.as_os_str()]),
        )?;
        let made = honest::log_in(&door, LOGIN, TOKEN_SECONDS).await?;
        ensure!(made.status().is_success(), "no login: {}", made.status());
        let Made { token } = serde_json::from_slice(made.body())?;
        Ok(Self {
            process,
            door,
            bearer: format!("Bearer {token}"),
            _api: api,
            _folder: folder,
        })
    }

    pub(super) fn door(&self) -> &Door {
        &self.door
    }

    /// A name and its password.
    pub(super) fn login(&self) -> &'static str {
        LOGIN
    }

    /// Of the same user.
    pub(super) fn bearer(&self) -> &str {
        &self.bearer
    }

    pub(super) fn path(&self, (cluster, path): (&str, &str)) -> String {
        format!("/k8s/clusters/{cluster}{path}")
    }

    /// The most memory so far, in MiB.
    pub(super) fn peak(&self) -> Result<f64> {
        let usage = Usage::of_tree(self.process.id()).context("the server has ended")?;
        Ok(usage.peak as f64 / f64::from(1024 * 1024))
    }
}

/// The server writes its URL when it listens, and serves its operator's socket a little later.
async fn port(data: &Path) -> Result<u16> {
    let begun = Instant::now();
    while begun.elapsed() < DEADLINE {
        let url = fs::read_to_string(data.join("url")).unwrap_or_default();
        let operators = data.join(SOCKET).exists();
        if let Some((_, port)) = url.trim().rsplit_once(':')
            && operators
        {
            return Ok(port.parse()?);
        }
        tokio::time::sleep(POLL).await;
    }
    bail!("the server does not listen")
}

fn kubeconfig(folder: &Path, api: &Api) -> Result<PathBuf> {
    let ca = folder.join("api.pem");
    fs::write(&ca, api.certificate.pem())?;
    let server = format!("https://localhost:{}", api.address.port());
    let kubeconfig = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "api",
        "clusters": [{ "name": "api", "cluster": { "server": server, "certificate-authority": ca } }],
        "users": [{ "name": "api", "user": { "token": "flood" } }],
        "contexts": [{ "name": "api", "context": { "cluster": "api", "user": "api" } }],
    });
    let path = folder.join("kubeconfig");
    fs::write(&path, kubeconfig.to_string())?;
    Ok(path)
}

fn administer<'a>(
    program: &Path,
    data: &Path,
    arguments: impl IntoIterator<Item = &'a OsStr>,
) -> Result<()> {
    let mut command = Command::new(program);
    command
        .env_clear()
        .arg("--socket")
        .arg(data.join(SOCKET))
        .args(arguments);
    let done = command.stdin(Stdio::null()).output()?;
    let said = String::from_utf8_lossy(&done.stderr);
    ensure!(done.status.success(), "{command:?}: {said}");
    Ok(())
}
