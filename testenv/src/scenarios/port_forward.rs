//! `kubectl port-forward`

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::process::Child;

use super::turn;
use crate::testing::{Client, DEADLINE, Reading, noise, spawn};

const LARGE: usize = 8 << 20;

/// A server that answers each connection only when it has seen its end: with the length, then the bytes.
async fn echo_after_the_end() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (mut connection, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut all = Vec::new();
                connection.read_to_end(&mut all).await.unwrap();
                let length = format!("{}\n", all.len());
                connection.write_all(length.as_bytes()).await.unwrap();
                connection.write_all(&all).await.unwrap();
                connection.shutdown().await.unwrap();
            });
        }
    });
    port
}

/// `kubectl port-forward`, with the local port that it has chosen.
async fn forward(client: &Client<'_>, target: &str, port: &str) -> (Child, u16) {
    let mut command = client.kubectl();
    command.args(["port-forward", "--address=127.0.0.1", target, port]);
    let mut child = spawn(&mut command);
    let mut stdout = Reading::new(child.stdout.as_mut().unwrap());
    stdout.until("127.0.0.1:").await;
    let local = stdout.until(" -> ").await;
    let local = local.trim_end_matches(" -> ").parse().unwrap();
    (child, local)
}

async fn round_trip(port: u16, bytes: &[u8]) {
    let mut connection = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let exchange = async {
        connection.write_all(bytes).await.unwrap();
        connection.shutdown().await.unwrap();
        let mut answer = Vec::new();
        connection.read_to_end(&mut answer).await.unwrap();
        answer
    };
    let answer = tokio::time::timeout(DEADLINE, exchange)
        .await
        .expect("an answer");
    let expected = [format!("{}\n", bytes.len()).as_bytes(), bytes].concat();
    assert_eq!(answer.len(), expected.len());
    assert!(
        answer == expected,
        "the same number of bytes, but not the same bytes"
    );
}

/// Much and little beside each other, and half-closed connections.
pub async fn to_a_pod(client: &Client<'_>) {
    let pod = client.target("forward").await;
    let server = echo_after_the_end().await;
    let (mut child, local) = forward(client, &format!("pod/{pod}"), &format!(":{server}")).await;
    round_trip(local, b"a little").await;
    round_trip(local, b"").await;
    let _turn = turn().await;
    let large = noise(LARGE);
    tokio::join!(
        round_trip(local, &large),
        round_trip(local, &large),
        round_trip(local, b"beside")
    );
    child.kill().await.unwrap();
}

/// One after the other, and all at once.
pub async fn twenty_requests(client: &Client<'_>) {
    let pod = client.target("twenty").await;
    let server = echo_after_the_end().await;
    let (mut child, local) = forward(client, &format!("pod/{pod}"), &format!(":{server}")).await;
    for number in 0..20 {
        round_trip(local, format!("request {number}").as_bytes()).await;
    }
    let at_once = (0..20).map(|number| {
        tokio::spawn(async move {
            round_trip(local, format!("at once {number}").as_bytes()).await;
        })
    });
    for request in at_once.collect::<Vec<_>>() {
        request.await.unwrap();
    }
    child.kill().await.unwrap();
}

/// A Service stands for one of its pods.
pub async fn to_a_service(client: &Client<'_>) {
    let pod = client.target("service").await;
    let server = echo_after_the_end().await;
    let service = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": { "name": pod },
        "spec": { "selector": { "app": pod }, "ports": [{ "port": 80, "targetPort": server }] },
    });
    client.create(&service).await;
    let (mut child, local) = forward(client, &format!("svc/{pod}"), ":80").await;
    for number in 0..20 {
        round_trip(local, format!("to the service {number}").as_bytes()).await;
    }
    child.kill().await.unwrap();
}

/// Nobody listens: kubectl says so, and the local connection ends.
pub async fn to_a_closed_port(client: &Client<'_>) {
    let pod = client.target("closed").await;
    // Bound, so that no other test gets the port, and not listening.
    let closed = TcpSocket::new_v4().unwrap();
    closed.bind(([127, 0, 0, 1], 0).into()).unwrap();
    let port = closed.local_addr().unwrap().port();
    let (mut child, local) = forward(client, &format!("pod/{pod}"), &format!(":{port}")).await;
    let mut connection = TcpStream::connect(("127.0.0.1", local)).await.unwrap();
    let mut stderr = Reading::new(child.stderr.as_mut().unwrap());
    // kubelet resets the stream behind its error: kubectl says which of them it met first.
    let reasons = ["connection refused", "Stream reset"];
    let find = |said: &str| {
        let ends = reasons.map(|reason| said.find(reason).map(|at| at + reason.len()));
        ends.into_iter().flatten().min().map(|end| ((), end))
    };
    stderr.until_some("connection refused", find).await;
    let mut nothing = Vec::new();
    let ended = tokio::time::timeout(DEADLINE, connection.read_to_end(&mut nothing)).await;
    assert!(ended.is_ok(), "the local connection stays open");
    assert!(nothing.is_empty());
}
