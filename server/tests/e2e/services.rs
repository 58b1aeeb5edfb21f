//! Connections to services of a cluster, by the programs that people run.

use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader, Lines};
use tokio::net::TcpStream;
use tokio::process::{Child, ChildStderr, Command};
use underpass_testenv::testing::DEADLINE;
use underpass_testenv::{CLUSTER_NAME, Transport};

use crate::deployment::{Deployment, PROGRAMS};
use crate::over_both_transports;

over_both_transports!(an_agents_refusal_reaches_whoever_forwards);

/// `underpass forward`, and what it says.
struct Forward {
    child: Child,
    said: Lines<BufReader<ChildStderr>>,
}

impl Forward {
    fn start(deployment: &Deployment, token: &std::path::Path, rules: &[&str]) -> Self {
        let mut command = Command::new(PROGRAMS.cli());
        command
            .env_clear()
            .args(["--api", deployment.url(), "--api-ca-file"])
            .arg(deployment.ca_file())
            .arg("--api-token-file")
            .arg(token)
            .args(["forward", CLUSTER_NAME, "-v"])
            .args(rules)
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let stderr = child.stderr.take().unwrap();
        let said = BufReader::new(stderr).lines();
        Self { child, said }
    }

    async fn line(&mut self) -> String {
        let line = tokio::time::timeout(DEADLINE, self.said.next_line()).await;
        line.expect("a line in time").unwrap().expect("a line")
    }
}

async fn an_agents_refusal_reaches_whoever_forwards(transport: Transport) {
    let deployment = Deployment::start(transport).await;
    let token = |user: &'static str, role: &'static str| {
        let add = [
            "user",
            "add",
            user,
            "--cluster",
            CLUSTER_NAME,
            "--role",
            role,
        ];
        deployment.administer(&add).unwrap();
        let token = deployment.administer(&["token", "create", "--user", user]);
        let path = deployment.dir().join(format!("{user}.token"));
        std::fs::write(&path, token.unwrap()).unwrap();
        path
    };
    let (may, may_not) = (token("svc", "services"), token("reader", "access"));
    // Nothing in the agent's policy allows it.
    for (token, words) in [
        (may, "declined the connection"),
        (
            may_not,
            "the role here is access, which does not include a connection to a workload",
        ),
    ] {
        let mut forward = Forward::start(&deployment, &token, &["0:web.shop:80"]);
        let there = forward.line().await;
        let (address, rest) = there.split_once(' ').unwrap();
        assert_eq!(
            rest,
            format!("leads to web.shop:80 in cluster {CLUSTER_NAME}")
        );
        let mut socket = TcpStream::connect(address).await.unwrap();
        let mut heard = Vec::new();
        let ended = socket.read_to_end(&mut heard);
        let _ = tokio::time::timeout(DEADLINE, ended).await.unwrap();
        assert_eq!(heard, b"");
        let told = forward.line().await;
        assert!(told.contains("to web.shop:80: "), "{told}");
        assert!(told.contains(words), "{told}");
        // Ctrl-C is no error.
        let pid = i32::try_from(forward.child.id().unwrap()).unwrap();
        kill_process(Pid::from_raw(pid).unwrap(), Signal::INT).unwrap();
        let status = tokio::time::timeout(DEADLINE, forward.child.wait()).await;
        assert!(status.unwrap().unwrap().success());
    }
}
