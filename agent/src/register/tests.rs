//! The agent's word to its server, over a session in memory.

use std::path::Path;

use bytes::Bytes;
use clap::Parser as _;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpListener;
use tokio::time::timeout;
use underpass_agent_policy::Policy;
use underpass_api::CREDENTIALS_TARGET;
use underpass_tunnel::ResetCode;

use super::*;
use crate::targets::pair;

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
    let server = listener.local_addr().unwrap();
    let ca = rcgen::generate_simple_self_signed(["x".to_owned()]).unwrap();
    let ca_file = path.with_file_name("ca");
    std::fs::write(&ca_file, ca.cert.pem()).unwrap();
    let text = format!(
        "clusters: [{{name: c, cluster: {{server: 'https://{server}', certificate-authority: ca}}}}]\n\
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
