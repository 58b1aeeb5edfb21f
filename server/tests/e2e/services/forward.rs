//! `underpass forward`, and what it says.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStderr, Command};
use underpass_testenv::CLUSTER_NAME;
use underpass_testenv::testing::DEADLINE;

use crate::deployment::{Deployment, PROGRAMS};

pub(super) struct Forward {
    child: Child,
    said: Lines<BufReader<ChildStderr>>,
}

impl Forward {
    pub(super) fn start(deployment: &Deployment, token: &Path, arguments: &[&str]) -> Self {
        Self::start_in(CLUSTER_NAME, deployment, token, arguments)
    }

    pub(super) fn start_in(
        cluster: &str,
        deployment: &Deployment,
        token: &Path,
        arguments: &[&str],
    ) -> Self {
        let mut command = Command::new(PROGRAMS.cli());
        command
            .env_clear()
            .args(["--api", deployment.url(), "--api-ca-file"])
            .arg(deployment.ca_file())
            .arg("--api-token-file")
            .arg(token)
            .args(["forward", cluster])
            .args(arguments)
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let stderr = child.stderr.take().unwrap();
        let said = BufReader::new(stderr).lines();
        Self { child, said }
    }

    pub(super) async fn line(&mut self) -> String {
        let line = tokio::time::timeout(DEADLINE, self.said.next_line()).await;
        line.expect("a line in time").unwrap().expect("a line")
    }

    /// The next port, and what it says of it.
    pub(super) async fn port(&mut self) -> (SocketAddr, String) {
        let line = self.line().await;
        let (address, rest) = line.split_once(' ').unwrap();
        (address.parse().unwrap(), rest.to_owned())
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id().unwrap()
    }

    /// Ctrl-C, which is no error.
    pub(super) async fn interrupt(self) {
        self.end(Signal::INT).await;
    }

    /// A signal that asks it to stop, which is no error.
    pub(super) async fn end(mut self, signal: Signal) {
        let pid = i32::try_from(self.pid()).unwrap();
        kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
        let status = tokio::time::timeout(DEADLINE, self.child.wait()).await;
        assert!(status.unwrap().unwrap().success());
    }
}
