//! An API server that keeps every byte it is sent, behind a real agent.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::PrivateKeyDer;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use underpass_testenv::Transport;
use underpass_testenv::testing::eventually;

use super::{Attacker, deployment};
use crate::raw;

/// The answer to an agent's check of its API server.
const VERSION: &str = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 23\r\n\r\n\
                       {\"gitVersion\":\"v1.36.0\"}";

/// The path at which the server asks for leave to impersonate, and the answer: no.
const REVIEWS: &str = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
const NO: &str = "HTTP/1.1 201 Created\r\nContent-Type: application/json\r\nContent-Length: 28\r\n\r\n\
                  {\"status\":{\"allowed\":false}}";

/// The answer where no other was prepared.
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// One connection, as it was heard.
#[derive(Debug, Clone, Default)]
pub(super) struct Heard {
    /// The requests' heads as they came; headers one by one with [`Head`].
    pub(super) heads: Vec<Head>,
    /// Bytes behind the head of a request with a prepared answer: nothing that is HTTP was expected there.
    pub(super) behind: Vec<u8>,
    ended: bool,
}

/// A request's head.
#[derive(Debug, Clone)]
pub(super) struct Head(String);

impl Head {
    /// Its first line.
    pub(super) fn line(&self) -> &str {
        self.0.lines().next().unwrap()
    }

    fn target(&self) -> &str {
        self.line().split(' ').nth(1).unwrap()
    }

    /// Every value of a header, as often as it came.
    pub(super) fn all(&self, name: &str) -> Vec<&str> {
        let lines = self.0.lines().skip(1);
        lines
            .filter_map(|line| line.split_once(": "))
            .filter(|(found, _)| found.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
            .collect()
    }

    /// A question of the agent's or the server's own.
    fn is_ours(&self) -> bool {
        matches!(self.target(), "/version" | REVIEWS)
    }

    fn content_length(&self) -> usize {
        self.all("content-length")
            .first()
            .map_or(0, |length| length.parse().unwrap())
    }
}

/// A cluster whose API server is here.
pub(super) struct Recorder {
    pub(super) attacker: Attacker,
    pub(super) address: SocketAddr,
    connections: Arc<Mutex<Vec<Heard>>>,
    _serving: JoinSet<()>,
}

impl Recorder {
    /// Starts one as the cluster `name`, with an agent of that name. Requests to a path that is in `answers` are
    /// answered with these bytes, on a connection that is then only listened to.
    pub(super) async fn start(name: &'static str, answers: &[(&'static str, &str)]) -> Self {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
        // HTTP/1.1 only: its heads are text.
        let tls = underpass_tunnel::tls::server(vec![made.cert.der().clone()], key).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::default();
        let answers: HashMap<_, _> = answers
            .iter()
            .map(|(path, answer)| (*path, (*answer).to_owned()))
            .collect();
        let mut serving = JoinSet::new();
        serving.spawn(serve(
            listener,
            TlsAcceptor::from(Arc::new(tls)),
            Arc::new(answers),
            Arc::clone(&connections),
        ));
        let kubeconfig = deployment().dir().join(format!("{name}.agent.kubeconfig"));
        let ca = STANDARD.encode(made.cert.pem());
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{ "name": "c", "cluster": {
                "server": format!("https://localhost:{}", address.port()),
                "certificate-authority-data": ca,
            } }],
            "users": [{ "name": "u", "user": { "token": "the-agents-own" } }],
            "contexts": [{ "name": "x", "context": { "cluster": "c", "user": "u" } }],
            "current-context": "x",
        });
        std::fs::write(&kubeconfig, config.to_string()).unwrap();
        let recorder = Self {
            attacker: attacker_of(name),
            address,
            connections,
            _serving: serving,
        };
        recorder
            .start_agent(name, &kubeconfig.to_string_lossy())
            .await;
        recorder
    }

    async fn start_agent(&self, name: &'static str, kubeconfig: &str) {
        let add = ["cluster", "add", name, "--static-token"];
        let token = deployment().administer(&add).unwrap();
        let token_file = deployment().dir().join(format!("{name}.agent.token"));
        std::fs::write(&token_file, token).unwrap();
        let token_file = token_file.to_string_lossy();
        let flags = [
            ("--kubeconfig", kubeconfig),
            ("--token-file", token_file.as_ref()),
        ];
        deployment()
            .spawn_another_agent(name, Transport::Quic, &flags)
            .unwrap();
        eventually("the recorder answers", async || {
            let path = self.attacker.path("/version");
            let answer = raw::get(deployment(), &path, Some(&self.attacker.token)).await;
            if answer.code == 200 {
                Ok(())
            } else {
                Err(answer)
            }
        })
        .await;
    }

    /// The heads of callers' requests.
    pub(super) fn heads(&self) -> Vec<Head> {
        let connections = self.connections.lock().unwrap();
        let heads = connections.iter().flat_map(|heard| heard.heads.clone());
        heads.filter(|head| !head.is_ours()).collect()
    }

    /// The one request that was asked.
    pub(super) fn only(&self) -> Head {
        let heads = self.heads();
        assert_eq!(heads.len(), 1, "{heads:?}");
        heads[0].clone()
    }

    /// The connections on which an answer was given that had been prepared, once they have ended.
    pub(super) async fn ended(&self) -> Vec<Heard> {
        eventually("the connections have ended", async || {
            let connections = self.connections.lock().unwrap();
            let prepared = connections
                .iter()
                .filter(|heard| heard.heads.iter().any(|head| !head.is_ours()));
            let prepared: Vec<_> = prepared.cloned().collect();
            if !prepared.is_empty() && prepared.iter().all(|heard| heard.ended) {
                Ok(prepared)
            } else {
                Err(prepared)
            }
        })
        .await
    }
}

/// Somebody who may reach the recorder's cluster.
fn attacker_of(cluster: &'static str) -> Attacker {
    let deployment = deployment();
    deployment.administer(&["cluster", "add", cluster]).unwrap();
    let user = format!("attacker-of-{cluster}");
    let kubeconfig = deployment.dir().join(format!("{user}.kubeconfig"));
    let output = kubeconfig.to_string_lossy();
    let who = ["kubeconfig", "--user", &user, "--cluster", cluster];
    let how = ["--group", "attackers", "--output", &output];
    deployment.administer(&[&who[..], &how].concat()).unwrap();
    let token = crate::deployment::token_of(&kubeconfig);
    Attacker {
        user,
        kubeconfig,
        token,
        cluster,
    }
}

type Answers = Arc<HashMap<&'static str, String>>;

async fn serve(
    listener: TcpListener,
    tls: TlsAcceptor,
    answers: Answers,
    connections: Arc<Mutex<Vec<Heard>>>,
) {
    let mut serving = JoinSet::new();
    loop {
        let (tcp, _) = listener.accept().await.unwrap();
        let (tls, answers, connections) = (tls.clone(), answers.clone(), connections.clone());
        serving.spawn(async move {
            let Ok(mut stream) = tls.accept(tcp).await else {
                return;
            };
            let number = {
                let mut connections = connections.lock().unwrap();
                connections.push(Heard::default());
                connections.len() - 1
            };
            let hear = |what: &dyn Fn(&mut Heard)| what(&mut connections.lock().unwrap()[number]);
            while let Some(head) = read_head(&mut stream).await {
                hear(&|heard| heard.heads.push(head.clone()));
                let path = head.target().split('?').next().unwrap();
                if let Some(answer) = answers.get(path) {
                    let mut buffer = [0; 1024];
                    if !head.all("transfer-encoding").is_empty() {
                        let body = read_chunked(&mut stream).await;
                        hear(&|heard| heard.behind.extend_from_slice(&body));
                    }
                    let _ = stream.write_all(answer.as_bytes()).await;
                    while let Ok(count @ 1..) = stream.read(&mut buffer).await {
                        hear(&|heard| heard.behind.extend_from_slice(&buffer[..count]));
                    }
                    break;
                }
                let mut body = vec![0; head.content_length()];
                if path == REVIEWS && !head.all("transfer-encoding").is_empty() {
                    read_chunked(&mut stream).await;
                }
                let answer = match path {
                    "/version" => VERSION,
                    REVIEWS => NO,
                    _ => OK,
                };
                if stream.read_exact(&mut body).await.is_err()
                    || stream.write_all(answer.as_bytes()).await.is_err()
                {
                    break;
                }
            }
            hear(&|heard| heard.ended = true);
        });
    }
}

/// Reads a head; `None` at the end. (A byte at a time: nothing behind it is touched.)
async fn read_head(stream: &mut (impl AsyncRead + Unpin)) -> Option<Head> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    Some(Head(String::from_utf8(head).unwrap()))
}

/// Reads a chunked body with its trailers, as it comes.
async fn read_chunked(stream: &mut (impl AsyncRead + Unpin)) -> Vec<u8> {
    let mut body = Vec::new();
    while !(body.ends_with(b"\r\n\r\n") && body.windows(5).any(|part| part == b"\r\n0\r\n")) {
        let Ok(byte) = stream.read_u8().await else {
            break;
        };
        body.push(byte);
    }
    body
}
