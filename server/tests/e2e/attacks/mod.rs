//! The rules of docs/SECURITY.md, attacked: bytes over TLS against a running server, with a real API server behind the
//! agent, or a recorder in its place where it matters what exactly arrives.
//!
//! Each test says what the attacker got and what the API server saw. That is all of it: an honest request follows each
//! attack, and what has not arrived when that has is not going to.

mod frames;
mod http1;
mod http2;
mod recorder;
mod secrets;
mod upgrades;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::LazyLock;

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;
use underpass_testenv::testing::{DEADLINE, Wire};
use underpass_testenv::{CLUSTER_NAME, Transport};

use crate::audit::one_of_theirs;
use crate::deployment::{Deployment, token_of};
use crate::raw;

/// A mark that no path of an honest request holds.
const SMUGGLED: &str = "smuggled";

/// A user with a token and no rights but those that everybody has.
struct Attacker {
    user: String,
    kubeconfig: PathBuf,
    token: String,
    cluster: &'static str,
}

/// One for attacks alone: agents of recorders come and go, and floods slow other tests beside them.
static DEPLOYMENT: LazyLock<Deployment> =
    LazyLock::new(|| Deployment::start_blocking_with(Transport::Quic, &[]));

fn deployment() -> &'static Deployment {
    &DEPLOYMENT
}

impl Attacker {
    /// Somebody of this name, whom nobody else is, with the real API server as their aim.
    fn new(user: &str) -> Self {
        let kubeconfig = deployment().kubeconfig(user, &["attackers"]).unwrap();
        let token = token_of(&kubeconfig);
        Self {
            user: user.to_owned(),
            kubeconfig,
            token,
            cluster: CLUSTER_NAME,
        }
    }

    /// Where a path of the cluster's is.
    fn path(&self, path: &str) -> String {
        format!("/k8s/clusters/{}{path}", self.cluster)
    }

    /// A request's head, with further header lines, each with its end.
    fn head(&self, method: &str, path: &str, lines: &str) -> String {
        let (path, token) = (self.path(path), &self.token);
        format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n{lines}\r\n"
        )
    }

    /// A request that would be one of its own if anybody took the bytes before it for less than they are. It has a
    /// credential: nothing but framing stands against it.
    fn smuggled(&self) -> String {
        self.head("GET", &format!("/{SMUGGLED}"), "")
    }

    /// The API server's events of this user, once it has seen an honest request that comes after them.
    async fn seen(&self) -> Vec<Value> {
        let client = deployment().client(&self.kubeconfig, Wire::WebSocket);
        let path = self.path("/version?honest");
        let answer = raw::get(deployment(), &path, Some(&self.token)).await;
        assert_eq!(answer.code, 200, "{answer:?}");
        let id = answer.headers["audit-id"].to_str().unwrap();
        one_of_theirs(&client, |event| event["auditID"] == id).await;
        client.audit_events(|event| {
            let smuggled = event["requestURI"].as_str().unwrap().contains(SMUGGLED);
            let theirs = event["impersonatedUser"]["username"] == self.user.as_str();
            let whole = event["stage"] == "ResponseComplete";
            (smuggled || theirs) && whole && event["auditID"] != id
        })
    }

    /// That the API server saw these targets of this user, and nothing else.
    async fn assert_seen(&self, targets: &[&str]) {
        let seen = self.seen().await;
        let seen: BTreeSet<_> = seen
            .iter()
            .map(|event| event["requestURI"].as_str().unwrap())
            .collect();
        assert_eq!(seen, targets.iter().copied().collect(), "{}", self.user);
    }
}

/// Sends bytes as an HTTP/1.1 client, and reads until the server closes.
async fn send(bytes: impl AsRef<[u8]>) -> String {
    let mut tls = raw::connect(deployment(), &[b"http/1.1"]).await.unwrap();
    // The server may have closed before it has read everything.
    let _ = tls.write_all(bytes.as_ref()).await;
    read_all(&mut tls).await
}

async fn read_all(tls: &mut TlsStream<TcpStream>) -> String {
    let mut answer = Vec::new();
    // An end without a TLS close is as good.
    let _ = timeout(DEADLINE, tls.read_to_end(&mut answer))
        .await
        .expect("the server closes");
    String::from_utf8_lossy(&answer).into_owned()
}

/// The status codes of all answers there are.
fn codes(answers: &str) -> Vec<u16> {
    let heads = answers.match_indices("HTTP/1.1 ");
    heads
        .map(|(at, head)| {
            let code = answers.get(at + head.len()..at + head.len() + 3);
            code.and_then(|code| code.parse().ok())
                .unwrap_or_else(|| panic!("{answers:?}"))
        })
        .collect()
}

/// Nobody else notices.
async fn assert_undisturbed() {
    let admin = deployment().admin(Wire::WebSocket);
    admin.run(&["get", "--raw", "/version"]).await;
}
