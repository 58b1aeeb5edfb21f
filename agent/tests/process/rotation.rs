//! Another process of the agent rotates the key that both share.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufStream};
use underpass_api::{AGENT_KEY, KeyAnswer, KeyQuestion};
use underpass_tunnel::{Dialer, PublicKey, Session, Stream};

use crate::harness::{Agent, key};
use crate::server::{NEXT, Server, open, within};
use crate::targets::shouting_tcp;

fn write_key(path: &Path, seed: u8) {
    fs::write(path, key(seed).to_secret_text().as_str()).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

fn next() -> PublicKey {
    key(NEXT).public_key()
}

/// An agent with a key of its own, its key file, and its session, over which a stream is open.
async fn start(server: &Server) -> (Agent, PathBuf, Session, Stream) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("agent.key");
    write_key(&path, 1);
    fs::write(folder.path().join("ca.pem"), &server.ca_pem).unwrap();
    let connect = ["--server", &server.url, "--ca-file", "ca.pem"];
    let policy = "tcp: [{name: local, addresses: [127.0.0.1]}]";
    fs::write(folder.path().join("policy.yaml"), policy).unwrap();
    let more = [
        "--transport",
        "quic",
        "--drain",
        "1h",
        "--policy",
        "policy.yaml",
    ];
    let own = ["--key-file", "agent.key"];
    let agent = Agent::start_with(folder, &own, &[&connect[..], &more].concat());
    let session = server.session().await;
    let target = format!("tcp:{}", shouting_tcp("127.0.0.1").await);
    let stream = open(&session, &target).await.unwrap();
    (agent, path, session, stream)
}

async fn proves_the_next_key(session: &Session, agent: &Agent) {
    let proves = async {
        while !session.has_proved(&next()) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let proves = tokio::time::timeout(Duration::from_secs(10), proves).await;
    proves.unwrap_or_else(|_| panic!("it does not: {}", agent.log()));
}

/// A stream that is open goes on to its end.
async fn ends_well(mut stream: Stream) {
    let mut answer = String::new();
    within(async {
        stream.write_all(b"hello").await.unwrap();
        stream.shutdown().await.unwrap();
        stream.read_to_string(&mut answer).await.unwrap();
    })
    .await;
    assert_eq!(answer, "HELLO");
}

/// The server asks, over a session that takes streams, for the key that counts now.
async fn look(session: &Session) -> KeyAnswer {
    let dialled = Dialer::new(session.clone(), AGENT_KEY).dial().await;
    let mut stream = BufStream::new(dialled.unwrap());
    let key = next().to_string();
    let mut line = serde_json::to_vec(&KeyQuestion::Look { key }).unwrap();
    line.push(b'\n');
    stream.write_all(&line).await.unwrap();
    stream.flush().await.unwrap();
    let mut answer = String::new();
    stream.read_line(&mut answer).await.unwrap();
    serde_json::from_str(&answer).unwrap()
}

/// Else the server ends it with its streams, ten seconds after the rotation.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_drains_beside_another_one_proves_the_next_key() {
    let server = Server::start();
    let (agent, path, first, stream) = start(&server).await;
    let another_ca = Server::start().ca_pem;
    let both = format!("{}{another_ca}", server.ca_pem);
    fs::write(path.with_file_name("ca.pem"), both).unwrap();
    agent.signal(Signal::HUP);
    let second = within(async {
        loop {
            match server.now().filter(|now| !now.is_same(&first)) {
                Some(second) => break second,
                None => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    })
    .await;
    write_key(&path, NEXT);
    let uses = KeyAnswer::Uses {
        key: next().to_string(),
    };
    assert_eq!(within(look(&second)).await, uses, "{}", agent.log());
    proves_the_next_key(&second, &agent).await;
    proves_the_next_key(&first, &agent).await;
    assert!(!first.is_open(), "it drains");
    ends_well(stream).await;
    within(first.closed()).await;
    assert!(second.is_open());
}

/// The server can open no stream to it.
#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_stops_proves_the_next_key_while_it_drains() {
    let server = Server::start();
    let (mut agent, path, session, stream) = start(&server).await;
    agent.signal(Signal::TERM);
    agent.logs("stopping");
    write_key(&path, NEXT);
    proves_the_next_key(&session, &agent).await;
    ends_well(stream).await;
    assert!(agent.ended().success(), "{}", agent.log());
}
