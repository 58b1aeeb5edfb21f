//! The agent's word to its server, over a session in memory.

use std::path::Path;

use bytes::Bytes;
use clap::Parser as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use underpass_agent_policy::Policy;
use underpass_api::CREDENTIALS_TARGET;
use underpass_tunnel::{OpenRequest, ResetCode, Stream};

use super::*;
use crate::targets::{Ends, pair};

const SOON: Duration = Duration::from_secs(20);

fn cli(more: &[&str]) -> Cli {
    let pin = "sha256:0000000000000000000000000000000000000000000000000000000000000000";
    let usual = [
        "underpass-agent",
        "--server",
        "https://a",
        "--key-file",
        "k",
        "--ca-pin",
        pin,
    ];
    Cli::try_parse_from(usual.iter().chain(more)).unwrap()
}

fn registering(more: &[&str], policy: &str) -> Registering {
    let cli = cli(more);
    let policies = Arc::new(Policies::read(None, cli.impersonation()).unwrap());
    policies.enforce(Policy::from_yaml(policy).unwrap());
    Registering::of(&cli, policies).unwrap()
}

const ASKED: [&str; 3] = ["--register-credentials", "--kubeconfig", "c"];

fn wish(more: &[&str], policy: &str) -> Wish {
    let registering = registering(&[&ASKED, more].concat(), policy);
    registering.wish(&registering.policies.current())
}

#[test]
fn rule_17_an_agent_whose_owner_denies_anybody_hands_no_credential_over() {
    let nobody = Wish::Credential(BTreeSet::new());
    assert_eq!(wish(&[], "{}"), nobody);
    assert_eq!(wish(&[], "tcp: [{name: a, addresses: [10.0.0.1]}]"), nobody);
    let ci = Wish::Credential(BTreeSet::from(["ci".to_owned()]));
    assert_eq!(wish(&["--allow-service-accounts", "ci"], "{}"), ci);
    assert_eq!(
        wish(&[], "impersonation: {serviceAccountNamespaces: [ci]}"),
        ci
    );
    for (flags, policy) in [
        (&["--deny-user", "root"][..], "{}"),
        (&["--deny-group", "admins"], "{}"),
        (&[], "impersonation: {deniedUsers: [root]}"),
        (&[], "impersonation: {deniedGroups: [admins]}"),
        (&[], "apiServer: false"),
    ] {
        let denied = wish(flags, policy);
        assert!(
            matches!(denied, Wish::Nothing(Some(_))),
            "{flags:?} {policy}"
        );
    }
}

#[test]
fn rule_9_an_agent_hands_no_credential_over_by_itself() {
    let registering = registering(&["--kubeconfig", "c"], "{}");
    assert!(registering.issuer.is_none());
    assert_eq!(
        registering.wish(&registering.policies.current()),
        Wish::Nothing(None)
    );
}

#[test]
fn what_cannot_be_registered_is_refused_at_the_start() {
    let refused = |more: &[&str]| {
        let cli = cli(more);
        let policies = Arc::new(Policies::read(None, cli.impersonation()).unwrap());
        Registering::of(&cli, policies).err().unwrap().to_string()
    };
    let said = refused(&["--register-credentials"]);
    assert!(said.contains("--api-server-address"), "{said}");
    let said = refused(&[&ASKED[..], &["--role", "node"]].concat());
    assert!(said.contains("role cluster"), "{said}");
    let pod = [
        "--register-credentials",
        "--api-server-address",
        "https://api.example",
    ];
    registering(&pod, "{}");
}

#[test]
fn a_token_is_renewed_at_about_half_of_its_life() {
    let (now, hour) = (SystemTime::now(), Duration::from_secs(3600));
    for _ in 0..100 {
        let wait = renewal(now + hour);
        assert!(wait > hour / 3 && wait < hour * 2 / 3, "{wait:?}");
    }
    assert_eq!(renewal(now), limits::REGISTER_AGAIN);
}

/// A kubeconfig of an API server that nobody may ask.
fn kubeconfig(path: &Path, listener: &TcpListener) {
    kubeconfig_of(path, "https", listener);
}

fn kubeconfig_of(path: &Path, scheme: &str, listener: &TcpListener) {
    let server = listener.local_addr().unwrap();
    let ca = rcgen::generate_simple_self_signed(["x".to_owned()]).unwrap();
    let ca_file = path.with_file_name("ca");
    std::fs::write(&ca_file, ca.cert.pem()).unwrap();
    let text = format!(
        "clusters: [{{name: c, cluster: {{server: '{scheme}://{server}', certificate-authority: ca}}}}]\n\
         contexts: [{{name: x, context: {{cluster: c, user: u}}}}]\ncurrent-context: x\n\
         users: [{{name: u, user: {{token: t}}}}]\n"
    );
    std::fs::write(path, text).unwrap();
}

#[tokio::test]
async fn rule_9_no_token_is_made_for_a_server_that_takes_none() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    kubeconfig(&path, &listener);
    let flags = [
        "--register-credentials",
        "--kubeconfig",
        path.to_str().unwrap(),
    ];
    let registering = Arc::new(registering(&flags, "{}"));
    let (agent, server) = pair().await;
    let _following = registering.start(agent);
    let refusing = async {
        let incoming = server.accept().await.unwrap();
        assert_eq!(incoming.target(), CREDENTIALS_TARGET);
        assert_eq!(incoming.header(), &Bytes::new());
        incoming.refuse(ResetCode::Forbidden, "not here");
    };
    timeout(SOON, refusing).await.unwrap();
    let complained = async {
        while registering.complaint.lock().unwrap().is_none() {
            tokio::task::yield_now().await;
        }
    };
    timeout(SOON, complained).await.unwrap();
    let complaint = registering.complaint.lock().unwrap().clone().unwrap();
    assert!(complaint.contains("not here"), "{complaint}");
    let asked = timeout(Duration::ZERO, listener.accept()).await;
    assert!(asked.is_err(), "the API server was asked");
    // It is, once the server listens.
    let incoming = timeout(SOON, server.accept()).await.unwrap().unwrap();
    let _stream = incoming.accept().await.unwrap();
    timeout(SOON, listener.accept()).await.unwrap().unwrap();
}

#[tokio::test]
async fn rule_9_an_agent_without_the_flag_has_the_server_forget() {
    let registering = Arc::new(registering(&["--kubeconfig", "c"], "{}"));
    let (agent, server) = pair().await;
    let _following = registering.start(agent);
    let incoming = timeout(SOON, server.accept()).await.unwrap().unwrap();
    assert_eq!(incoming.target(), CREDENTIALS_TARGET);
    let mut stream = incoming.accept().await.unwrap();
    let expected = b"{\"withdraw\":{}}\n";
    let mut read = vec![0; expected.len()];
    timeout(SOON, stream.read_exact(&mut read))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(read, expected);
}

#[tokio::test]
async fn rule_17_denials_that_come_later_withdraw_the_credential() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    kubeconfig(&path, &listener);
    let flags = [
        "--register-credentials",
        "--kubeconfig",
        path.to_str().unwrap(),
    ];
    let registering = Arc::new(registering(&flags, "{}"));
    let (agent, server) = pair().await;
    let _following = registering.start(agent);
    let incoming = timeout(SOON, server.accept()).await.unwrap().unwrap();
    incoming.refuse(ResetCode::Forbidden, "not here");
    let deny = Policy::from_yaml("impersonation: {deniedUsers: [root]}").unwrap();
    registering.policies.enforce(deny);
    let incoming = timeout(SOON, server.accept()).await.unwrap().unwrap();
    let mut stream = incoming.accept().await.unwrap();
    let mut read = vec![0; 12];
    timeout(SOON, stream.read_exact(&mut read))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(read, b"{\"withdraw\":");
}

/// An agent that registers, and the API server that it asks for tokens.
struct Site {
    folder: tempfile::TempDir,
    api: TcpListener,
    registering: Arc<Registering>,
}

impl Site {
    async fn new(policy: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config");
        let api = TcpListener::bind("127.0.0.1:0").await.unwrap();
        kubeconfig_of(&path, "http", &api);
        let flags = [
            "--register-credentials",
            "--registered-account",
            "a/b",
            "--kubeconfig",
            path.to_str().unwrap(),
        ];
        Self {
            registering: Arc::new(registering(&flags, policy)),
            folder,
            api,
        }
    }

    fn enforce(&self, policy: &str) {
        let policy = Policy::from_yaml(policy).unwrap();
        self.registering.policies.enforce(policy);
    }

    /// A request for a token, which has no answer yet.
    async fn asked(&self) -> TcpStream {
        let asking = async {
            let (mut connection, _) = self.api.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.windows(4).any(|end| end == b"\r\n\r\n") {
                assert_ne!(connection.read_buf(&mut head).await.unwrap(), 0);
            }
            let head = String::from_utf8_lossy(&head);
            let path = "POST /api/v1/namespaces/a/serviceaccounts/b/token";
            assert!(head.starts_with(path), "{head}");
            connection
        };
        timeout(SOON, asking).await.unwrap()
    }
}

/// A connection that is closed already has no use for it.
async fn answer(mut connection: TcpStream, status: &str, body: &str) {
    let length = body.len();
    let text = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
    );
    let _ = connection.write_all(text.as_bytes()).await;
}

async fn answer_with_a_token(connection: TcpStream) {
    let body = r#"{"metadata":{},"spec":{"audiences":[]},"status":{"token":"t","expirationTimestamp":"2100-01-01T00:00:00Z"}}"#;
    answer(connection, "201 Created", body).await;
}

async fn answer_that_it_may_not(connection: TcpStream) {
    let body = r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"no","reason":"Forbidden","code":403}"#;
    answer(connection, "403 Forbidden", body).await;
}

/// The agent's next stream, once the server listens.
async fn listen(server: &Session) -> Stream {
    let incoming = timeout(SOON, server.accept()).await.unwrap().unwrap();
    assert_eq!(incoming.target(), CREDENTIALS_TARGET);
    incoming.accept().await.unwrap()
}

async fn line(stream: &mut Stream) -> String {
    let mut line = Vec::new();
    while !line.ends_with(b"\n") {
        let read = timeout(SOON, stream.read_buf(&mut line)).await.unwrap();
        assert_ne!(read.unwrap(), 0, "the stream ended");
    }
    String::from_utf8(line).unwrap()
}

async fn assert_reset_without_a_byte(mut stream: Stream) {
    let mut read = Vec::new();
    let end = timeout(SOON, stream.read_to_end(&mut read)).await.unwrap();
    assert!(end.is_err(), "{read:?}");
    assert_eq!(read, b"");
}

const WITHDRAW: &str = "{\"withdraw\":{}}\n";

#[tokio::test]
async fn rule_17_a_server_that_is_busy_hears_of_a_denial_again() {
    let site = Site::new("{}").await;
    let (agent, server) = pair().await;
    let _following = site.registering.start(agent);
    let stream = listen(&server).await;
    site.enforce("impersonation: {deniedUsers: [root]}");
    assert_reset_without_a_byte(stream).await;
    let busy = timeout(SOON, server.accept()).await.unwrap().unwrap();
    busy.refuse(ResetCode::Overloaded, "another registration is under way");
    assert_eq!(line(&mut listen(&server).await).await, WITHDRAW);
}

#[tokio::test]
async fn rule_17_a_denial_while_the_token_is_made_keeps_it_in_the_cluster() {
    let site = Site::new("{}").await;
    let (agent, server) = pair().await;
    let _following = site.registering.start(agent);
    let stream = listen(&server).await;
    let held = site.asked().await;
    site.enforce("impersonation: {deniedUsers: [root]}");
    answer_with_a_token(held).await;
    assert_reset_without_a_byte(stream).await;
    assert_eq!(line(&mut listen(&server).await).await, WITHDRAW);
}

#[tokio::test]
async fn rule_17_a_token_that_is_good_for_more_than_the_policy_is_withdrawn_where_no_other_follows()
{
    let site = Site::new("impersonation: {serviceAccountNamespaces: [ci, qa]}").await;
    let (agent, server) = pair().await;
    let _following = site.registering.start(agent);
    let mut stream = listen(&server).await;
    answer_with_a_token(site.asked().await).await;
    let said = line(&mut stream).await;
    assert!(
        said.starts_with("{\"register\":") && said.contains("[\"ci\",\"qa\"]"),
        "{said}"
    );
    let expires = "{\"registered\":{\"expires\":\"2100-01-01T00:00:00Z\"}}\n";
    stream.write_all(expires.as_bytes()).await.unwrap();
    let known = async {
        while matches!(*lock(&site.registering.kept), Kept::Unknown) {
            tokio::task::yield_now().await;
        }
    };
    timeout(SOON, known).await.unwrap();
    // More is no reason to take back what is there.
    site.enforce("impersonation: {serviceAccountNamespaces: [ci, qa, shop]}");
    let more = listen(&server).await;
    answer_that_it_may_not(site.asked().await).await;
    assert_reset_without_a_byte(more).await;
    site.enforce("impersonation: {serviceAccountNamespaces: [ci]}");
    let less = listen(&server).await;
    answer_that_it_may_not(site.asked().await).await;
    assert_reset_without_a_byte(less).await;
    assert_eq!(line(&mut listen(&server).await).await, WITHDRAW);
}

#[tokio::test]
async fn rule_17_an_agent_that_has_just_started_withdraws_what_it_cannot_replace() {
    let site = Site::new("{}").await;
    let (agent, server) = pair().await;
    let _following = site.registering.start(agent);
    let stream = listen(&server).await;
    answer_that_it_may_not(site.asked().await).await;
    assert_reset_without_a_byte(stream).await;
    assert_eq!(line(&mut listen(&server).await).await, WITHDRAW);
}

/// The server has deleted what was registered under the old one.
#[tokio::test]
async fn a_session_that_has_proved_another_key_registers_anew() {
    let site = Site::new("{}").await;
    let ends = Ends::new().await;
    let _following = site.registering.start(ends.agent.clone());
    let expires = "{\"registered\":{\"expires\":\"2100-01-01T00:00:00Z\"}}\n";
    for _ in 0..2 {
        let mut stream = listen(&ends.server).await;
        answer_with_a_token(site.asked().await).await;
        let said = line(&mut stream).await;
        assert!(said.starts_with("{\"register\":"), "{said}");
        stream.write_all(expires.as_bytes()).await.unwrap();
        stream.flush().await.unwrap();
        if ends.agent.key() == ends.agent.info().key {
            ends.prove_another_key().await;
        }
    }
}

/// Another session has taken its place, or the agent stops.
#[tokio::test(start_paused = true)]
async fn a_session_that_drains_registers_nothing() {
    let site = Site::new("{}").await;
    let (agent, server) = pair().await;
    let _there = server.open(OpenRequest::default()).await.unwrap();
    let _here = agent.accept().await.unwrap().accept().await.unwrap();
    let hour = Duration::from_secs(3600);
    let draining = agent.clone();
    let draining = tokio::spawn(async move { draining.drain(hour, hour, "test").await });
    while agent.is_open() {
        tokio::task::yield_now().await;
    }
    let _following = site.registering.start(agent);
    sleep(10 * limits::REGISTER_AGAIN_MOST).await;
    assert_eq!(*lock(&site.registering.complaint), None);
    assert!(!draining.is_finished());
}

#[tokio::test]
async fn a_proxy_on_the_way_to_the_api_server_is_named_as_the_reason() {
    let site = Site::new("{}").await;
    let path = site.folder.path().join("config");
    let text = std::fs::read_to_string(&path).unwrap();
    let text = text.replace(
        "certificate-authority",
        "proxy-url: 'http://127.0.0.1:1', certificate-authority",
    );
    std::fs::write(&path, text).unwrap();
    let issuer = site.registering.issuer.as_ref().unwrap();
    let error = issuer.issue().await.err().unwrap();
    assert!(matches!(error, IssueError::Proxy), "{error:?}");
}
