//! Targets beside the API server, over a tunnel.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use rustix::process::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener};
use underpass_tunnel::{ResetCode, Session, StreamError};

use crate::harness::Agent;
use crate::server::{Server, open, refused, within};

const LOCAL: &str = "127.0.0.1";

/// Connections that come and go.
const MANY: usize = 1000;

/// Answers with all that came, in upper case, once its client has ended its half.
async fn shout<S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin>(mut socket: S) {
    let mut text = String::new();
    if socket.read_to_string(&mut text).await.is_ok() {
        let _ = socket.write_all(text.to_uppercase().as_bytes()).await;
        let _ = socket.shutdown().await;
    }
}

pub(crate) async fn shouting_tcp(host: &str) -> SocketAddr {
    let listener = TcpListener::bind((host, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            tokio::spawn(shout(socket));
        }
    });
    address
}

fn shouting_unix(path: &Path) {
    let listener = UnixListener::bind(path).unwrap();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            tokio::spawn(shout(socket));
        }
    });
}

pub(crate) async fn ask(session: &Session, target: &str) -> String {
    let mut stream = open(session, target).await.unwrap();
    let mut answer = String::new();
    within(async {
        stream.write_all(b"hello").await.unwrap();
        stream.shutdown().await.unwrap();
        stream.read_to_string(&mut answer).await.unwrap();
    })
    .await;
    answer
}

/// An agent with this policy, and its session.
async fn agent(policy: Option<&str>) -> (Agent, Server, Session) {
    agent_in(tempfile::tempdir().unwrap(), policy).await
}

/// The same in a folder that may have a kubeconfig.
pub(crate) async fn agent_in(
    folder: tempfile::TempDir,
    policy: Option<&str>,
) -> (Agent, Server, Session) {
    let server = Server::start();
    fs::write(folder.path().join("ca.pem"), &server.ca_pem).unwrap();
    let mut all = vec!["--server", &server.url, "--ca-file", "ca.pem"];
    all.extend(["--transport", "quic", "--drain", "1s"]);
    if let Some(policy) = policy {
        fs::write(folder.path().join("policy.yaml"), policy).unwrap();
        all.extend(["--policy", "policy.yaml"]);
    }
    let agent = Agent::start_in(folder, &all);
    let session = server.session().await;
    (agent, server, session)
}

#[tokio::test]
async fn rule_17_without_a_policy_no_target_is_served() {
    let (_agent, _server, session) = agent(None).await;
    let tcp = format!("tcp:{}", shouting_tcp(LOCAL).await);
    for target in [tcp.as_str(), "tcp:db.prod:5432", "unix:/run/docker.sock"] {
        let (code, reason) = refused(&session, target).await;
        assert_eq!(code, ResetCode::Forbidden);
        let sentence = format!("no rule of the agent's policy allows {target}");
        assert_eq!(reason, sentence);
    }
    for (target, kind) in [("shell", "kubectl"), ("node-shell", "node")] {
        let (code, reason) = refused(&session, target).await;
        assert_eq!(code, ResetCode::Forbidden);
        assert!(
            reason.contains("policy") && reason.contains(kind),
            "{reason}"
        );
    }
    for target in ["operation", "state", "tcp:127.1:80"] {
        let (code, reason) = refused(&session, target).await;
        assert_eq!(code, ResetCode::UnknownTarget);
        assert!(reason.contains(target), "{reason}");
    }
}

#[tokio::test]
async fn bytes_and_ends_pass_in_both_directions() {
    let sockets = tempfile::tempdir().unwrap();
    let path = sockets.path().canonicalize().unwrap().join("s.sock");
    shouting_unix(&path);
    let tcp = format!("tcp:{}", shouting_tcp(LOCAL).await);
    let unix = format!("unix:{}", path.display());
    let policy = format!(
        "tcp: [{{name: own, addresses: [127.0.0.0/8]}}]\nunix: [{{name: sock, paths: ['{}']}}]",
        path.display()
    );
    let (mut agent, _server, session) = agent(Some(&policy)).await;
    assert_eq!(ask(&session, &tcp).await, "HELLO");
    assert_eq!(ask(&session, &unix).await, "HELLO");
    // One line at the begin, and one at the end with the bytes.
    for (target, rule) in [(&tcp, "own"), (&unix, "sock")] {
        agent.logs(&format!(
            "stream to a target begins user=\"alice\" target={target} rule=\"{rule}\""
        ));
    }
    agent.logs("bytes_up=5 bytes_down=5");
    agent.logs("outcome=\"complete\"");
}

#[tokio::test]
async fn rule_12_a_permission_that_is_removed_ends_what_rests_on_it() {
    let address = shouting_tcp(LOCAL).await;
    let target = format!("tcp:{address}");
    let allowed = "tcp: [{name: own, addresses: [127.0.0.0/8]}]";
    let (mut agent, _server, session) = agent(Some(allowed)).await;
    let policy = agent.folder.path().join("policy.yaml");
    let mut stream = open(&session, &target).await.unwrap();
    stream.write_all(b"hel").await.unwrap();
    stream.flush().await.unwrap();

    // The file is looked at. A mistake changes nothing.
    fs::write(&policy, "tcp: [{name: own, adresses: [127.0.0.0/8]}]").unwrap();
    agent.logs("keeping the policy as it was");
    agent.logs("adresses");
    assert_eq!(ask(&session, &target).await, "HELLO");

    fs::write(&policy, "tcp: [{name: own, addresses: [10.0.0.0/8]}]").unwrap();
    agent.signal(Signal::HUP);
    let ended = within(stream.read_bytes()).await;
    assert!(
        matches!(ended, Err(StreamError::Reset(ResetCode::Forbidden))),
        "{ended:?}"
    );
    let (code, reason) = refused(&session, &target).await;
    assert_eq!(code, ResetCode::Forbidden);
    assert!(reason.contains(&target), "{reason}");
    agent.logs("the policy ended it");
    let complaints = agent.log().matches("keeping the policy as it was").count();
    assert_eq!(complaints, 1, "{}", agent.log());
}

#[tokio::test]
async fn rule_19_a_thousand_connections_that_come_and_go_leave_no_descriptor() {
    let target = format!("tcp:{}", shouting_tcp(LOCAL).await);
    let policy = "tcp: [{name: own, addresses: [127.0.0.0/8]}]";
    let (agent, _server, session) = agent(Some(policy)).await;
    assert_eq!(ask(&session, &target).await, "HELLO");
    let settled = |files: usize| {
        let agent = &agent;
        within(async move {
            while agent.open_files() > files {
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        })
    };
    let before = agent.open_files();
    for round in 0..MANY / 50 {
        let streams = (0..50).map(|number| {
            let (session, target) = (&session, &target);
            async move {
                // Some end in order, some are dropped, and some are refused.
                match (round + number) % 5 {
                    0 => drop(open(session, target).await.unwrap()),
                    1 => drop(refused(session, "tcp:127.0.0.1:1").await),
                    _ => assert_eq!(ask(session, target).await, "HELLO"),
                }
            }
        });
        futures_util::future::join_all(streams).await;
    }
    settled(before).await;
}
