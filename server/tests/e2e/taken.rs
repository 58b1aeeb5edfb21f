//! Calls that an agent has taken, and whose answer it can bring no more.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use http::{Request, header};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use underpass_testenv::testing::{DEADLINE, Wire, eventually};
use underpass_testenv::{CLUSTER_NAME, Transport};

use crate::deployment::{AGENT_KUBECONFIG, Deployment, token_of};
use crate::flight::InFlight;
use crate::over_both_transports;
use crate::raw::{self, Answer};

over_both_transports!(a_read_that_a_killed_agent_has_taken_is_asked_again_and_nothing_else_is);

/// A path to the API server that holds answers back, once it is told to.
struct Gate {
    port: u16,
    holds: Arc<AtomicBool>,
    /// Bytes of them.
    held: watch::Receiver<usize>,
    _relaying: JoinSet<()>,
}

/// An answer takes more bytes, and a PING's fewer.
const ANSWER: usize = 200;

impl Gate {
    async fn before(server: String) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (holds, (counts, held)) = (Arc::<AtomicBool>::default(), watch::channel(0));
        let mut relaying = JoinSet::new();
        let relays_hold = Arc::clone(&holds);
        relaying.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (agent, _) = listener.accept().await.unwrap();
                let server = TcpStream::connect(&server).await.unwrap();
                let (holds, counts) = (Arc::clone(&relays_hold), counts.clone());
                connections.spawn(relay(agent, server, holds, counts));
            }
        });
        Self {
            port,
            holds,
            held,
            _relaying: relaying,
        }
    }

    /// Waits until one more answer is held back.
    async fn holds_another(&self) {
        let mut held = self.held.clone();
        let before = *held.borrow_and_update();
        let more = held.wait_for(|held| *held >= before + ANSWER).await;
        more.unwrap();
    }
}

async fn relay(
    mut agent: TcpStream,
    mut server: TcpStream,
    holds: Arc<AtomicBool>,
    counts: watch::Sender<usize>,
) {
    let (mut from_agent, mut to_agent) = agent.split();
    let (mut from_server, mut to_server) = server.split();
    let answers = async {
        let mut bytes = vec![0; 64 * 1024];
        while let Ok(count @ 1..) = from_server.read(&mut bytes).await {
            if holds.load(Ordering::SeqCst) {
                counts.send_modify(|held| *held += count);
            } else if to_agent.write_all(&bytes[..count]).await.is_err() {
                break;
            }
        }
    };
    tokio::select! {
        _ = copy(&mut from_agent, &mut to_server) => {}
        () = answers => {}
    }
}

/// The agent's kubeconfig, and the address of its API server.
fn kubeconfig() -> (Value, String) {
    let path: &Path = &AGENT_KUBECONFIG;
    let kubeconfig: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    let server = kubeconfig["clusters"][0]["cluster"]["server"].as_str();
    let address = server.unwrap().strip_prefix("https://").unwrap();
    let address = address.trim_end_matches('/').to_owned();
    (kubeconfig, address)
}

/// A deployment with two agents. The gate holds back the API server's answers to one of them.
struct Site {
    deployment: Deployment,
    gate: Gate,
}

const SECOND: &str = "second";

/// A call that no agent has taken by then is asked of another one.
const NOT_TAKEN: Duration = Duration::from_secs(4);

impl Site {
    async fn new(transport: Transport) -> Self {
        let account = AGENT_KUBECONFIG.to_path_buf();
        let flags = ["--resume-window", "60s"];
        let deployment = Deployment::start_as_with(transport, account, &flags).await;
        let (mut kubeconfig, server) = kubeconfig();
        let gate = Gate::before(server).await;
        let through = format!("https://127.0.0.1:{}", gate.port);
        kubeconfig["clusters"][0]["cluster"]["server"] = json!(through);
        let copy: PathBuf = deployment.dir().join("gate.kubeconfig");
        fs::write(&copy, kubeconfig.to_string()).unwrap();
        let flags = [("--kubeconfig", copy.to_str().unwrap())];
        let log = deployment
            .spawn_another_agent(SECOND, transport, &flags)
            .unwrap();
        eventually("the second agent connects", async || {
            let said = fs::read_to_string(&log).unwrap();
            said.contains(" connected ").then_some(()).ok_or(said)
        })
        .await;
        Self { deployment, gate }
    }

    fn request(&self, method: &str, path: &str) -> http::request::Builder {
        let token = token_of(self.deployment.admin_kubeconfig());
        Request::builder()
            .method(method)
            .uri(format!("/k8s/clusters/{CLUSTER_NAME}{path}"))
            .header(header::AUTHORIZATION, format!("Bearer {token}"))
    }

    fn read(&self) -> JoinHandle<Answer> {
        let (underpass, request) = (
            self.deployment.shared_handle(),
            self.request("GET", "/version"),
        );
        tokio::spawn(async move { raw::send(&underpass, request).await })
    }

    /// A question that changes nothing either, but by its method it might.
    fn write(&self) -> JoinHandle<Answer> {
        let path = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
        let (underpass, request) = (self.deployment.shared_handle(), self.request("POST", path));
        let review = json!({
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "SelfSubjectReview",
        });
        tokio::spawn(async move {
            let tls = raw::connect(&underpass, &[b"http/1.1"]).await.unwrap();
            raw::post_on(tls, request, &review).await
        })
    }

    /// One of these calls that the second agent has taken, as the server knows. The other one answers them.
    async fn taken(&self, call: impl Fn(&Self) -> JoinHandle<Answer>) -> JoinHandle<Answer> {
        let deadline = Instant::now() + DEADLINE;
        while Instant::now() < deadline {
            let mut call = call(self);
            tokio::select! {
                answer = &mut call => assert!(answer.unwrap().code < 300),
                () = self.gate.holds_another() => {
                    // The agent's word that it has the call may come later than the call to the API server, if not as late as this.
                    let answered = tokio::time::timeout(NOT_TAKEN, &mut call).await;
                    let Ok(answer) = answered else {
                        return call;
                    };
                    assert!(answer.unwrap().code < 300);
                }
            }
        }
        panic!("the second agent takes no call");
    }
}

async fn a_read_that_a_killed_agent_has_taken_is_asked_again_and_nothing_else_is(
    transport: Transport,
) {
    let site = Site::new(transport).await;
    site.gate.holds.store(true, Ordering::SeqCst);
    let write = site.taken(Site::write).await;
    // The agent with fewer streams gets the next one: each has one then.
    let client = site.deployment.admin(Wire::WebSocket);
    let _watch = InFlight::watch(&client).await;
    let read = site.taken(Site::read).await;
    assert!(!read.is_finished() && !write.is_finished());
    site.deployment
        .blocking(|u| u.kill_another_agent(SECOND).unwrap())
        .await;
    // Its session is kept for a minute.
    let answer = tokio::time::timeout(Duration::from_secs(20), read).await;
    let answer = answer.expect("by the other agent, soon").unwrap();
    assert_eq!(answer.code, 200, "{answer:?}");
    assert!(answer.body["gitVersion"].is_string(), "{answer:?}");
    // It may have been done, and waits for its agent.
    assert!(!write.is_finished());
    write.abort();
}
