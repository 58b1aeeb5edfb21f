//! The server, with a user and two clusters that it reaches itself.

use std::ffi::OsStr;
use std::fs;

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;
use tempfile::TempDir;
use underpass_testenv::Programs;

use super::super::operator::{administer, port};
use super::super::stub_api::Api;
use super::door::Door;
use super::honest;
use crate::process::Process;
use crate::usage::Usage;

const USER: &str = "alice";
const PASSWORD: &str = "correct horse battery";

/// The same, as HTTP Basic.
const LOGIN: &str = "Basic YWxpY2U6Y29ycmVjdCBob3JzZSBiYXR0ZXJ5";

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
        let kubeconfig = api.kubeconfig(folder.path())?;
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
