//! Requests in flight.

use std::process::ExitStatus;
use std::time::Duration;

use tokio::process::{Child, Command};
use tokio::task::JoinHandle;
use underpass_testenv::testing::{Client, DEADLINE, Reading, pod, spawn};

/// kubectl while it reads something that does not end by itself.
pub(crate) struct InFlight {
    child: Child,
    /// Its output after its first words. Nobody else reads it, and it must not end because of that.
    stdout: JoinHandle<String>,
    stderr: Reading<tokio::process::ChildStderr>,
}

/// How kubectl ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    pub(crate) stderr: String,
    stdout: String,
}

impl Ended {
    /// Whether a watch's last event says why it ended. To `get --raw` that is an end like any other.
    pub(crate) fn has_status(&self) -> bool {
        self.stdout
            .contains("{\"type\":\"ERROR\",\"object\":{\"kind\":\"Status\"")
    }

    /// That kubectl could tell it from an end that was meant.
    #[track_caller]
    pub(crate) fn assert_error(&self) {
        if self.has_status() {
            return;
        }
        assert!(!self.status.success(), "{self:?}");
        assert!(!self.stderr.is_empty(), "{self:?}");
    }
}

/// How long what rests on something may go on when that is taken back.
const SOON: Duration = Duration::from_secs(5);

/// That all of them end soon, with errors.
pub(crate) async fn assert_end_soon(open: impl IntoIterator<Item = InFlight>) {
    let ending = async {
        for open in open {
            open.ended().await.assert_error();
        }
    };
    tokio::time::timeout(SOON, ending)
        .await
        .expect("everything ends soon");
}

impl InFlight {
    /// `logs -f` of a pod of its own, which has said something and goes on.
    pub(crate) async fn logs(client: &Client<'_>, test: &str) -> Self {
        let name = client.name(test);
        let script = "echo written; exec sleep 100000";
        client.start_pod(&pod(&name, script)).await;
        Self::start(client, &["logs", "-f", &name], "written\n").await
    }

    /// A watch that has seen its first object.
    pub(crate) async fn watch(client: &Client<'_>) -> Self {
        // `get --watch` hides how the watch ended; a raw one tells.
        let watch = ["get", "--raw", "/api/v1/namespaces?watch=true"];
        Self::start(client, &watch, "\"type\":\"ADDED\"").await
    }

    /// A shell that has answered.
    pub(crate) async fn shell(client: &Client<'_>, test: &str) -> Self {
        let pod = client.target(test).await;
        let script = "echo up; exec sleep 100000";
        let exec = ["exec", "-i", &pod, "--", "sh", "-c", script];
        Self::start(client, &exec, "up\n").await
    }

    async fn start(client: &Client<'_>, arguments: &[&str], first: &str) -> Self {
        let mut command = client.kubectl();
        command.args(arguments);
        Self::of(command, first).await
    }

    /// Any command, which says something first and goes on.
    pub(crate) async fn of(mut command: Command, first: &str) -> Self {
        let mut child = spawn(&mut command);
        let mut stdout = Reading::new(child.stdout.take().unwrap());
        stdout.until(first).await;
        let stdout = tokio::spawn(async move { stdout.rest().await });
        let stderr = Reading::new(child.stderr.take().unwrap());
        Self {
            child,
            stdout,
            stderr,
        }
    }

    /// Whether it has not ended.
    pub(crate) fn goes_on(mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits for the end.
    pub(crate) async fn ended(mut self) -> Ended {
        let ending = async {
            let stderr = self.stderr.rest().await;
            let stdout = self.stdout.await.unwrap();
            let status = self.child.wait().await.unwrap();
            Ended {
                status,
                stderr,
                stdout,
            }
        };
        tokio::time::timeout(DEADLINE, ending)
            .await
            .expect("what is in flight ends")
    }
}
