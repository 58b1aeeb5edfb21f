//! Nothing is left behind after the kill of any process.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests state expectations as tests do; the lints know only functions marked as tests"
)]

use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::process::{Child, Command};
use underpass_testenv::testing::{Reading, alive, eventually, family, pod, run, succeed, text};
use underpass_testenv::{Assets, progress_to_stderr};

/// A process that runs a cluster, as a test binary does, with a pod that does not want to end.
struct Owner {
    process: Child,
    pid: u32,
    kubeconfig: PathBuf,
    kubectl: PathBuf,
}

impl Owner {
    async fn start() -> Self {
        let kubectl = Assets::ensure(progress_to_stderr)
            .unwrap()
            .kubectl()
            .to_owned();
        let mut process = Command::new(env!("CARGO_BIN_EXE_underpass-testenv"))
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut stdout = Reading::new(process.stdout.as_mut().unwrap());
        stdout.until("export KUBECONFIG=").await;
        let kubeconfig = PathBuf::from(stdout.until("\n").await.trim());
        let pid = process.id().unwrap();
        let owner = Self {
            process,
            pid,
            kubeconfig,
            kubectl,
        };
        owner.run_stubborn_pod().await;
        owner
    }

    fn dir(&self) -> &Path {
        self.kubeconfig.parent().unwrap()
    }

    fn kubectl(&self) -> Command {
        let mut command = Command::new(&self.kubectl);
        command
            .env_clear()
            .env("HOME", self.dir())
            .env("KUBECONFIG", &self.kubeconfig);
        command
    }

    /// It ignores requests to end, and has children in its own process group, in another session, and without a parent.
    async fn run_stubborn_pod(&self) {
        let script = "trap '' TERM HUP; sleep 100001 & setsid sleep 100002 & wait";
        let mut create = self.kubectl();
        let manifest = pod("stubborn", script).to_string();
        succeed(create.args(["create", "-f", "-"]), manifest.as_bytes()).await;
        let mut wait = self.kubectl();
        let ready = [
            "wait",
            "--for=condition=Ready",
            "--timeout=60s",
            "pod/stubborn",
        ];
        succeed(wait.args(ready), b"").await;
        let mut exec = self.kubectl();
        let orphan = "setsid sleep 100003 <&- >&- 2>&- &";
        succeed(
            exec.args(["exec", "stubborn", "--", "sh", "-c", orphan]),
            b"",
        )
        .await;
        eventually("all of the pod's processes", async || {
            let sleeps = self.find("sleep");
            if sleeps.len() == 3 {
                Ok(())
            } else {
                Err(sleeps)
            }
        })
        .await;
    }

    /// The owner's descendants that run a program of this name.
    fn find(&self, program: &str) -> Vec<u32> {
        let mut found = family(self.pid);
        found.retain(|pid| {
            let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            // The kernel keeps 15 bytes of a name.
            name.trim() == program.get(..15).unwrap_or(program)
        });
        found
    }

    fn only(&self, program: &str) -> u32 {
        let found = self.find(program);
        assert_eq!(found.len(), 1, "{program}: {found:?}");
        found[0]
    }

    async fn gone(&self, pids: &[u32]) {
        eventually("every process ends", async || {
            let left: Vec<_> = pids.iter().filter(|pid| alive(**pid)).collect();
            if left.is_empty() {
                Ok(())
            } else {
                Err(format!("{left:?}"))
            }
        })
        .await;
    }

    async fn folder_gone(&self) {
        eventually("the folder is removed", async || {
            if self.dir().exists() {
                Err(self.dir())
            } else {
                Ok(())
            }
        })
        .await;
    }
}

async fn signal(name: &str, pid: u32) {
    let output = run(
        Command::new("sh").args(["-c", &format!("kill -{name} {pid}")]),
        b"",
    )
    .await;
    assert!(output.status.success(), "{}", text(&output.stderr));
}

#[tokio::test]
async fn the_owner() {
    let mut owner = Owner::start().await;
    let processes = family(owner.pid);
    for program in [
        "supervise",
        "etcd",
        "kube-apiserver",
        "kube-controller-manager",
        "kubelet",
    ] {
        assert!(processes.contains(&owner.only(program)));
    }
    signal("KILL", owner.pid).await;
    owner.process.wait().await.unwrap();
    owner.gone(&processes).await;
    owner.folder_gone().await;
}

#[tokio::test]
async fn the_node() {
    let mut owner = Owner::start().await;
    let pods = owner.find("sleep");
    signal("KILL", owner.only("kubelet")).await;
    owner.gone(&pods).await;
    // The rest of the cluster goes on.
    let mut get = owner.kubectl();
    succeed(get.args(["get", "--raw=/readyz"]), b"").await;
    signal("TERM", owner.pid).await;
    assert!(owner.process.wait().await.unwrap().success());
    assert!(!owner.dir().exists());
}

#[tokio::test]
async fn the_supervisor() {
    let mut owner = Owner::start().await;
    let mut processes = family(owner.pid);
    processes.retain(|pid| *pid != owner.pid);
    signal("KILL", owner.only("supervise")).await;
    owner.gone(&processes).await;
    signal("TERM", owner.pid).await;
    assert!(owner.process.wait().await.unwrap().success());
    assert!(!owner.dir().exists());
}

#[tokio::test]
async fn a_panicking_thread() {
    let (tell, told) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        let cluster = underpass_testenv::Cluster::start_blocking(
            underpass_testenv::ClusterOptions::api_only(),
        )
        .unwrap();
        tell.send(cluster.dir().to_owned()).unwrap();
        panic!("while a cluster runs, on purpose");
    });
    let dir = told.recv().unwrap();
    thread.join().unwrap_err();
    assert!(!dir.exists());
}
