//! A server of the product's, and a crowd of agents on nodes of one cluster.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde::Deserialize;
use tempfile::TempDir;
use underpass_testenv::Programs;

use super::super::operator::{administer, metrics, port};
use super::figures::{Course, Sample, sum};
use crate::ports;
use crate::process::Process;
use crate::usage::Usage;

const CLUSTER: &str = "edge";

/// The pause between two looks, at first.
const POLL: Duration = Duration::from_millis(100);

pub(super) struct Site {
    server: Process,
    data: PathBuf,
    url: String,
    folder: TempDir,
}

/// Agents of one process.
pub(super) struct Crowd {
    process: Process,
    begun: Instant,
}

/// Attempts of a crowd, so far.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Attempts {
    /// Requests to join.
    pub(super) joins: f64,
    /// Of these, those that the server has refused for good.
    pub(super) refused: f64,
    /// Dials of the tunnel, those for a second connection beside the first one among them.
    pub(super) dials: f64,
}

#[derive(Deserialize)]
struct Answer {
    metrics: String,
}

impl Site {
    /// A server with a cluster whose join token is for `uses` agents.
    pub(super) async fn start(programs: &Programs, uses: u32) -> Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("underpass-crowd-")
            .tempdir()?;
        let data = folder.path().join("data");
        // The same after a restart.
        let listen = ports::free()?.to_string();
        let data_dir = data.to_string_lossy();
        let serve = ["serve", "--listen", &listen, "--data-dir", &data_dir];
        let server = Process::start(folder.path(), "server", programs.server(), serve)?;
        let url = format!("https://localhost:{}", port(&data).await?);
        let site = Self {
            server,
            data,
            url,
            folder,
        };
        let [of_cluster, of_nodes] = ["cluster", "node"].map(|role| site.token(role));
        let add = ["cluster", "add", CLUSTER, "--output"].map(OsStr::new);
        let add = add.into_iter().chain([of_cluster.as_os_str()]);
        administer(programs.cli(), &site.data, add)?;
        let (uses, create) = (
            uses.to_string(),
            ["cluster", "join-token", "create", CLUSTER],
        );
        let of_many = ["--role", "node", "--uses", &uses, "--output"];
        let create = create.into_iter().chain(of_many).map(OsStr::new);
        let create = create.chain([of_nodes.as_os_str()]);
        administer(programs.cli(), &site.data, create)?;
        Ok(site)
    }

    pub(super) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }

    pub(super) fn ca(&self) -> PathBuf {
        self.data.join("ca.pem")
    }

    /// The join token of agents in this role.
    pub(super) fn token(&self, role: &str) -> PathBuf {
        self.folder().join(format!("{role}.token"))
    }

    /// Starts agents, those from number `first` on.
    pub(super) fn crowd(&self, transport: &str, first: u32, count: u32) -> Result<Crowd> {
        let keys = self.folder.path().join("keys");
        std::fs::create_dir_all(&keys)?;
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let flags = [
            ("--server", self.url.clone()),
            ("--ca", text(&self.ca())),
            ("--join-token", text(&self.token("node"))),
            ("--transport", transport.to_owned()),
            ("--keys", text(&keys)),
            ("--first", first.to_string()),
            ("--count", count.to_string()),
        ];
        let flags = flags.map(|(flag, value)| [flag.to_owned(), value]);
        let role = ["process", "crowd"].map(str::to_owned).into_iter();
        let begun = Instant::now();
        let program = std::env::current_exe()?;
        let arguments = role.chain(flags.into_iter().flatten());
        let name = format!("crowd-{first}");
        let process = Process::start(self.folder.path(), &name, &program, arguments)?;
        Ok(Crowd { process, begun })
    }

    /// Looks on until `done` says so, or the deadline is over.
    ///
    /// # Errors
    /// A process has ended. A server that does not answer yet is none.
    pub(super) async fn watch(
        &mut self,
        begun: Instant,
        deadline: Duration,
        mut done: impl FnMut(&Sample) -> bool,
    ) -> Result<Course> {
        let mut course = Course::default();
        while begun.elapsed() < deadline {
            self.server.check()?;
            if let Ok(metrics) = metrics(&self.data).await {
                let sample = Sample::of(&metrics, begun);
                course.add(sample);
                if done(&sample) {
                    break;
                }
            }
            // Each look is work for the server, which is measured.
            tokio::time::sleep(POLL.max(begun.elapsed() / 100)).await;
        }
        Ok(course)
    }

    /// Kills the server and starts it again. Gives when that was.
    pub(super) async fn restart(&mut self) -> Result<Instant> {
        self.server.kill();
        // Nothing of the old one may answer for the new one.
        std::fs::remove_file(self.data.join("url"))?;
        let begun = Instant::now();
        self.server = self.server.again(self.folder.path())?;
        port(&self.data).await?;
        Ok(begun)
    }

    /// The server's usage since it was started.
    pub(super) fn usage(&self) -> Result<Usage> {
        Usage::of_tree(self.server.id()).context("the server has ended")
    }
}

impl Crowd {
    pub(super) fn begun(&self) -> Instant {
        self.begun
    }

    pub(super) fn attempts(&mut self) -> Result<Attempts> {
        let Answer { metrics } = self.process.ask("attempts")?;
        let joins = |label: &str| sum(&metrics, "underpass_agent_join_attempts_total", label);
        Ok(Attempts {
            joins: joins(""),
            refused: joins("outcome=\"refused\""),
            dials: sum(&metrics, "underpass_tunnel_dials_total", ""),
        })
    }
}
