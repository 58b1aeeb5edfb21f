//! `underpass login`, `logout` and `credential`, as processes, at servers that are hostile or stubs.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests state expectations as tests do; the lints know only functions marked as tests"
)]

mod stub;

use std::path::PathBuf;
use std::process::Output;

use serde_json::Value;
use tokio::process::Command;
use underpass_http_proxy::testing::{CREDENTIALS, HttpProxy};
use underpass_testenv::testing::providers::FakeGitHub;
use underpass_testenv::testing::{run, text};

use crate::stub::{Renewals, Stub};

const PROGRAM: &str = env!("CARGO_BIN_EXE_underpass");

/// The home and the programs of a test's user.
struct Machine {
    home: tempfile::TempDir,
}

impl Machine {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        std::fs::write(home.path().join("password"), "password\n").unwrap();
        Self { home }
    }

    fn command(&self, program: &str, server: &Stub, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("HOME", self.home.path())
            .args(arguments)
            .args(["--api", &server.url, "--api-ca-file"])
            .arg(server.ca.path());
        command
    }

    async fn underpass(&self, server: &Stub, arguments: &[&str]) -> Output {
        run(&mut self.command(PROGRAM, server, arguments), b"").await
    }

    async fn log_in(&self, server: &Stub, user: &str) -> Output {
        let password = self.home.path().join("password");
        let password = password.to_str().unwrap();
        let line = ["login", "--user", user, "--password-file", password];
        succeeded(self.underpass(server, &line).await)
    }

    fn kept(&self, file: &str) -> PathBuf {
        self.home.path().join(".config/underpass").join(file)
    }
}

fn succeeded(output: Output) -> Output {
    assert!(output.status.success(), "{output:?}");
    output
}

fn refused(output: &Output) -> String {
    assert!(!output.status.success(), "{output:?}");
    text(&output.stderr)
}

fn token(output: &Output) -> String {
    let credential: Value = serde_json::from_slice(&output.stdout).unwrap();
    credential["status"]["token"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn rule_6_no_server_gets_a_token_of_anothers_app() {
    let github = FakeGitHub::start().await;
    let corp = Stub::start(Renewals::AtOnce).await;
    let hostile = Stub::start(Renewals::AtOnce).await;
    // As `GET /v1/login` of the first one says to anybody.
    for server in [&corp, &hostile] {
        server.offer(&github.url(), github.ca_pem(), "Iv1.corp");
    }
    let machine = Machine::new();
    let login = succeeded(machine.underpass(&corp, &["login", "--device"]).await);
    let said = text(&login.stderr);
    let host = corp.url.strip_prefix("https://").unwrap();
    let told = format!(
        "{host} gets a token of yours from {}, for the app Iv1.corp",
        github.url()
    );
    assert!(said.contains(&told), "{said}");
    assert_eq!(corp.credentials(), ["Bearer gho_alice"]);

    let asked = github.seen().len();
    let said = refused(&machine.underpass(&hostile, &["login", "--device"]).await);
    assert!(
        said.contains(&format!("`--same-app-as {}`", corp.url)),
        "{said}"
    );
    assert_eq!(hostile.credentials(), [""; 0]);
    assert_eq!(github.seen().len(), asked, "no code was asked for");
    // Nor after the login.
    succeeded(machine.underpass(&corp, &["logout"]).await);
    refused(&machine.underpass(&hostile, &["login", "--device"]).await);
    assert_eq!(hostile.credentials(), [""; 0]);

    // The user's word counts, as long as it is about this app.
    let line = ["login", "--device", "--same-app-as"];
    let other = [&line[..], &["https://other"]].concat();
    refused(&machine.underpass(&hostile, &other).await);
    assert_eq!(hostile.credentials(), [""; 0]);
    let corps = [&line[..], &[&corp.url]].concat();
    succeeded(machine.underpass(&hostile, &corps).await);
    assert_eq!(hostile.credentials(), ["Bearer gho_alice"]);
    succeeded(machine.underpass(&corp, &["login", "--device"]).await);
}

/// A server that gets the token may say that it has not, and send the user to the next one.
#[tokio::test]
async fn rule_6_a_login_that_fails_at_its_server_is_remembered() {
    let github = FakeGitHub::start().await;
    let hostile = Stub::start(Renewals::AtOnce).await;
    let corp = Stub::start(Renewals::AtOnce).await;
    for server in [&corp, &hostile] {
        server.offer(&github.url(), github.ca_pem(), "Iv1.corp");
    }
    hostile.refuse_logins();
    let machine = Machine::new();
    refused(&machine.underpass(&hostile, &["login", "--device"]).await);
    assert_eq!(hostile.credentials(), ["Bearer gho_alice"]);
    let said = refused(&machine.underpass(&corp, &["login", "--device"]).await);
    assert!(said.contains(&hostile.url), "{said}");
}

#[tokio::test]
async fn rule_6_a_code_of_another_servers_page_is_not_shown() {
    let github = FakeGitHub::start().await;
    let server = Stub::start(Renewals::AtOnce).await;
    server.offer(&github.url(), github.ca_pem(), "astray");
    let said = refused(
        &Machine::new()
            .underpass(&server, &["login", "--device"])
            .await,
    );
    assert!(
        said.contains("do not open it") && !said.contains("WDJB-MJHT"),
        "{said}"
    );
    assert_eq!(server.credentials(), [""; 0]);
}

#[tokio::test]
async fn two_renewals_at_once_make_one_token() {
    let server = Stub::start(Renewals::Held).await;
    let machine = Machine::new();
    machine.log_in(&server, "alice").await;
    let credential = || async { succeeded(machine.underpass(&server, &["credential"]).await) };
    let mut first = std::pin::pin!(credential());
    let mut second = std::pin::pin!(credential());
    // One renews, until the other one has ended with the old token.
    let (early, late) = tokio::select! {
        early = &mut first => {
            server.answer_renewals();
            (early, second.await)
        }
        early = &mut second => {
            server.answer_renewals();
            (early, first.await)
        }
    };
    assert_eq!(server.renewals(), 1);
    assert_eq!(
        (token(&early).as_str(), token(&late).as_str()),
        ("upt_0001", "upt_0002")
    );
    assert_eq!(token(&credential().await), "upt_0002");
    assert_eq!(server.renewals(), 1);
    succeeded(machine.underpass(&server, &["logout"]).await);
    assert_eq!(server.live(), [""; 0]);
}

#[tokio::test]
async fn a_renewal_that_cannot_be_kept_leaves_no_token() {
    let server = Stub::start(Renewals::AtOnce).await;
    let machine = Machine::new();
    machine.log_in(&server, "alice").await;
    // No file may have a byte, as on a full disk.
    let full = r#"trap "" XFSZ; ulimit -f 0; exec "$0" "$@""#;
    let line = ["-c", full, PROGRAM, "credential"];
    let printed = run(&mut machine.command("/bin/sh", &server, &line), b"").await;
    let printed = succeeded(printed);
    assert_eq!(token(&printed), "upt_0001");
    assert!(
        text(&printed.stderr).contains("the login is not renewed"),
        "{printed:?}"
    );
    assert_eq!(server.renewals(), 1);
    assert_eq!(server.live(), ["alice"]);
    // The next one is.
    let printed = machine.underpass(&server, &["credential"]).await;
    assert_eq!(token(&succeeded(printed)), "upt_0003");
}

#[tokio::test]
async fn a_login_that_cannot_be_kept_leaves_no_token() {
    let server = Stub::start(Renewals::AtOnce).await;
    let machine = Machine::new();
    // A folder in the file's place.
    let name = server
        .url
        .strip_prefix("https://")
        .unwrap()
        .replace(':', "_");
    std::fs::create_dir_all(machine.kept(&format!("logins/{name}.json/x"))).unwrap();
    let password = machine.home.path().join("password");
    let password = password.to_str().unwrap();
    let line = ["login", "--user", "alice", "--password-file", password];
    let said = refused(&machine.underpass(&server, &line).await);
    assert!(said.contains("cannot write"), "{said}");
    assert_eq!(server.credentials().len(), 1);
    assert_eq!(server.live(), [""; 0]);
}

#[tokio::test]
async fn logout_ends_the_logins_before_as_well() {
    let server = Stub::start(Renewals::AtOnce).await;
    let machine = Machine::new();
    machine.log_in(&server, "alice").await;
    succeeded(machine.underpass(&server, &["credential"]).await);
    machine.log_in(&server, "alice").await;
    // Streams that were opened with the old login's tokens go on.
    assert_eq!(server.live(), ["alice"; 3]);
    succeeded(machine.underpass(&server, &["credential"]).await);
    assert_eq!(server.live(), ["alice"; 4]);
    succeeded(machine.underpass(&server, &["logout"]).await);
    assert_eq!(server.live(), [""; 0]);
}

#[tokio::test]
async fn a_login_of_another_user_ends_the_one_before() {
    let server = Stub::start(Renewals::AtOnce).await;
    let machine = Machine::new();
    machine.log_in(&server, "alice").await;
    succeeded(machine.underpass(&server, &["credential"]).await);
    assert_eq!(server.live(), ["alice"; 2]);
    // Bob cannot take alice's back.
    machine.log_in(&server, "bob").await;
    assert_eq!(server.live(), ["bob"]);
    succeeded(machine.underpass(&server, &["logout"]).await);
    assert_eq!(server.live(), [""; 0]);
}

#[tokio::test]
async fn a_kubeconfig_that_cannot_be_written_leaves_no_token() {
    let server = Stub::start(Renewals::AtOnce).await;
    let machine = Machine::new();
    machine.log_in(&server, "alice").await;
    let line = [
        "kubeconfig",
        "--user",
        "robot",
        "--cluster",
        "prod",
        "--output",
    ];
    let astray = [&line[..], &["/proc/no/such/folder"]].concat();
    let said = refused(&machine.underpass(&server, &astray).await);
    assert!(said.contains("cannot write"), "{said}");
    assert_eq!(server.live(), ["alice"; 2]);
    let file = machine.home.path().join("kubeconfig");
    let written = [&line[..], &[file.to_str().unwrap()]].concat();
    succeeded(machine.underpass(&server, &written).await);
    assert!(std::fs::read_to_string(file).unwrap().contains("upt_0004"));
    assert_eq!(server.live(), ["alice", "alice", "robot"]);
}

#[tokio::test]
async fn a_kubeconfig_has_names_where_they_lead_to_a_cluster() {
    let domain = "clusters.underpass.internal";
    let old = Stub::start(Renewals::AtOnce).await;
    // A load balancer that ends TLS, with a certificate of its own.
    let behind = Stub::start(Renewals::AtOnce).await;
    behind.name_clusters(domain);
    let wildcard = format!("*.{domain}");
    let direct = Stub::with_names(Renewals::AtOnce, &["localhost", &wildcard]).await;
    direct.name_clusters(domain);
    for (server, style, by_name) in [
        (&old, None, Some(false)),
        (&old, Some("name"), None),
        (&behind, None, Some(false)),
        (&behind, Some("name"), Some(true)),
        (&direct, None, Some(true)),
        (&direct, Some("name"), Some(true)),
        (&direct, Some("path"), Some(false)),
    ] {
        let machine = Machine::new();
        machine.log_in(server, "alice").await;
        let mut line = vec!["kubeconfig", "--user", "robot", "--cluster", "prod"];
        line.extend(style.iter().flat_map(|style| ["--style", style]));
        let output = machine.underpass(server, &line).await;
        let Some(by_name) = by_name else {
            let said = refused(&output);
            assert!(said.contains("older than this program"), "{said}");
            let robots = server.live().into_iter().filter(|user| user == "robot");
            assert_eq!(robots.count(), 1, "no other token was made");
            continue;
        };
        let written = text(&succeeded(output.clone()).stdout);
        let named = format!("tls-server-name: prod.{domain}");
        assert_eq!(written.contains(&named), by_name, "{style:?} {written}");
        let path = format!("{}/k8s/clusters/prod", server.url);
        assert_eq!(written.contains(&path), !by_name, "{style:?} {written}");
        let said = text(&output.stderr);
        let explained = said.contains(&format!("prod.{domain} does not lead to one"));
        let tried = server.url == behind.url && style.is_none();
        assert_eq!(explained, tried, "{said}");
    }
}

#[tokio::test]
async fn a_server_is_asked_through_the_proxy_of_the_environment() {
    let machine = Machine::new();
    let mut server = Stub::start(Renewals::AtOnce).await;
    let proxy = HttpProxy::start().await.unwrap();
    let password = machine.home.path().join("password");
    let line = ["login", "--user", "alice", "--password-file"];
    let log_in = async |server: &Stub, variables: &[(&str, &str)]| {
        let line = [&line[..], &[password.to_str().unwrap()]].concat();
        let mut command = machine.command(PROGRAM, server, &line);
        run(command.envs(variables.iter().copied()), b"").await
    };
    let url = proxy.url(CREDENTIALS);
    // This machine is never behind a proxy.
    succeeded(log_in(&server, &[("HTTPS_PROXY", &url)]).await);
    assert!(proxy.asked().is_empty());
    // No resolver knows that name, except for the proxy's.
    server.url = server.url.replace("localhost", "underpass.example");
    let place = server.url.replace("https://", "");
    for variable in ["HTTPS_PROXY", "https_proxy"] {
        succeeded(log_in(&server, &[(variable, &url)]).await);
    }
    let asked = proxy.asked();
    assert!(
        asked.len() >= 2 && asked.iter().all(|asked| *asked == place),
        "{asked:?}"
    );
    let excepted = [("HTTPS_PROXY", url.as_str()), ("NO_PROXY", "example")];
    refused(&log_in(&server, &excepted).await);
    assert_eq!(proxy.asked(), asked);
    // Other programs' variables do not count.
    let others = [("ALL_PROXY", url.as_str()), ("HTTP_PROXY", &url)];
    refused(&log_in(&server, &others).await);
    assert_eq!(proxy.asked(), asked);
}

#[tokio::test]
async fn rule_11_a_proxy_that_cannot_be_used_is_named_without_its_password() {
    let machine = Machine::new();
    let mut server = Stub::start(Renewals::AtOnce).await;
    server.url = server.url.replace("localhost", "underpass.example");
    let proxy = HttpProxy::start().await.unwrap();
    let wrong = proxy.url("alice:s3cret");
    for (url, why) in [
        (
            "ftp://alice:s3cret@p:1",
            "HTTPS_PROXY names no proxy that can be used",
        ),
        (wrong.as_str(), "the proxy refuses the user and password"),
    ] {
        let mut command = machine.command(PROGRAM, &server, &["login", "--device"]);
        let said = refused(&run(command.env("HTTPS_PROXY", url), b"").await);
        assert!(said.contains(why), "{said}");
        assert!(!said.contains("s3cret"), "{said}");
    }
}
