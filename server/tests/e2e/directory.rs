//! The directory over its API and its subcommands, and what follows from it for kubectl.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::process::Command;
use underpass_testenv::testing::{Client, DEADLINE, Wire, chain, eventually, run, text};
use underpass_testenv::{CLUSTER_NAME, Transport};

use crate::deployment::{Deployment, PROGRAMS};
use crate::flight::InFlight;
use crate::{over_both_transports, raw};

over_both_transports!(
    rule_8_a_role_opens_what_it_says_and_no_more,
    rule_8_a_read_only_token_reads,
    rule_12_an_expired_token_ends_what_it_has_open,
    rule_12_what_the_directory_takes_back_ends,
);

/// A kubeconfig for a user whom the cluster lets do everything.
async fn user(deployment: &Deployment, name: &str, more: &[&str]) -> (String, PathBuf) {
    let name = format!("{name}-{}", deployment.transport.as_str());
    let binding = ["--clusterrole=cluster-admin", &format!("--user={name}")];
    let bind = [&["create", "clusterrolebinding", &name][..], &binding].concat();
    deployment.admin(Wire::WebSocket).run(&bind).await;
    let kubeconfig = deployment.dir().join(format!("{name}.kubeconfig"));
    let output = kubeconfig.to_string_lossy();
    let who = [
        "kubeconfig",
        "--user",
        &name,
        "--cluster",
        CLUSTER_NAME,
        "--output",
        &output,
    ];
    deployment.administer(&[&who[..], more].concat()).unwrap();
    (name, kubeconfig)
}

async fn exec(client: &Client<'_>, pod: &str) -> String {
    let exec = ["exec", pod, "--", "echo", "in"];
    let output = client.output(&exec).await;
    text(&output.stdout) + &text(&output.stderr)
}

async fn rule_8_a_role_opens_what_it_says_and_no_more(transport: Transport) {
    let deployment = Deployment::shared(transport);
    let pod = deployment.admin(Wire::WebSocket).target("roles").await;
    for (role, writes, enters) in [
        ("view", false, false),
        ("access", true, false),
        ("services", true, false),
        ("shell", true, true),
        ("operate", true, true),
    ] {
        let (_, kubeconfig) = user(deployment, &format!("role-{role}"), &["--role", role]).await;
        let client = deployment.client(&kubeconfig, Wire::WebSocket);
        client.run(&["get", "namespaces"]).await;
        client.run(&["auth", "can-i", "list", "pods"]).await;
        let label = format!("role-{role}=x");
        let labelled = client
            .output(&["label", "namespace", "default", &label])
            .await;
        assert_eq!(labelled.status.success(), writes, "{role}: {labelled:?}");
        let said = exec(&client, &pod).await;
        assert_eq!(said == "in\n", enters, "{role}: {said}");
        if !enters {
            assert!(said.contains(&format!("the role here is {role}")), "{said}");
        }
        let node = "/api/v1/nodes/x/proxy/healthz";
        let said = client.fail(&["get", "--raw", node]).await;
        let refused = said.contains("a connection to a node");
        assert_eq!(refused, role != "operate", "{role}: {said}");
    }
}

async fn rule_8_a_read_only_token_reads(transport: Transport) {
    let deployment = Deployment::shared(transport);
    let pod = deployment.admin(Wire::WebSocket).target("read-only").await;
    let (_, kubeconfig) = user(deployment, "read-only", &["--read-only"]).await;
    for wire in [Wire::WebSocket, Wire::Spdy] {
        let client = deployment.client(&kubeconfig, wire);
        client.run(&["get", "pods"]).await;
        let said = exec(&client, &pod).await;
        assert!(said.contains("this credential is read-only"), "{said}");
        let said = client.fail(&["delete", "pod", &pod]).await;
        assert!(said.contains("this credential is read-only"), "{said}");
    }
}

async fn rule_12_an_expired_token_ends_what_it_has_open(transport: Transport) {
    let deployment = Deployment::shared(transport);
    let (_, kubeconfig) = user(deployment, "brief-streams", &["--expires", "15s"]).await;
    let client = deployment.client(&kubeconfig, Wire::WebSocket);
    let other = InFlight::watch(&deployment.admin(Wire::WebSocket)).await;
    let watch = InFlight::watch(&client).await;
    tokio::time::timeout(Duration::from_secs(15 + 5), watch.ended())
        .await
        .expect("it ends with its token")
        .assert_error();
    assert!(other.goes_on(), "somebody else's watch has ended");
}

async fn rule_12_what_the_directory_takes_back_ends(transport: Transport) {
    let deployment = Deployment::shared(transport);
    for (test, revoke) in [
        ("unbound", &["binding", "remove", "user-NAME-operate"][..]),
        ("disabled", &["user", "disable", "NAME"]),
    ] {
        let (name, kubeconfig) = user(deployment, test, &[]).await;
        let watch = InFlight::watch(&deployment.client(&kubeconfig, Wire::WebSocket)).await;
        let revoke: Vec<_> = revoke
            .iter()
            .map(|word| word.replace("NAME", &name))
            .collect();
        let revoke: Vec<_> = revoke.iter().map(String::as_str).collect();
        deployment.administer(&revoke).unwrap();
        tokio::time::timeout(Duration::from_secs(5), watch.ended())
            .await
            .expect("it ends soon")
            .assert_error();
    }
}

/// `underpass --api`, with a token.
async fn remotely(
    deployment: &Deployment,
    token: &Path,
    arguments: &[&str],
) -> std::process::Output {
    let mut command = Command::new(PROGRAMS.cli());
    command
        .env_clear()
        .args(["--api", deployment.url(), "--api-ca-file"])
        .arg(deployment.ca_file())
        .arg("--api-token-file")
        .arg(token)
        .args(arguments);
    run(&mut command, b"").await
}

#[tokio::test]
async fn administrators_work_from_elsewhere_and_others_do_not() {
    let deployment = Deployment::shared(Transport::Quic);
    let token = |user: &str, rights: &[&str]| {
        let add = [&["user", "add", user][..], rights].concat();
        deployment.administer(&add).unwrap();
        let secret = deployment.administer(&["token", "create", "--user", user]);
        let path = deployment.dir().join(format!("{user}.token"));
        std::fs::write(&path, secret.unwrap()).unwrap();
        path
    };
    let boss = token("boss", &["--all-clusters", "--role", "admin"]);
    let guest = token("guest", &["--cluster", CLUSTER_NAME, "--role", "view"]);

    let list = remotely(deployment, &boss, &["cluster", "list"]).await;
    let list = text(&list.stdout);
    let row = list.lines().find(|line| line.starts_with(CLUSTER_NAME));
    let cells: Vec<_> = row.unwrap().split_whitespace().collect();
    assert_eq!(cells[..4], [CLUSTER_NAME, "agent", "1", "1"], "{list}");
    let made = remotely(
        deployment,
        &boss,
        &["cluster", "add", "by-boss", "--label", "a=b"],
    )
    .await;
    assert!(text(&made.stdout).starts_with("upj_"), "{made:?}");
    assert!(text(&made.stderr).contains(deployment.url()), "{made:?}");
    let set = [
        "binding", "set", "a-team", "--role", "shell", "--group", "team", "--label", "a=b",
    ];
    let set = remotely(deployment, &boss, &set).await;
    assert!(set.status.success(), "{set:?}");
    let bindings = text(
        &remotely(deployment, &boss, &["binding", "list"])
            .await
            .stdout,
    );
    let row = bindings.lines().find(|line| line.starts_with("a-team"));
    let cells: Vec<_> = row.unwrap().split_whitespace().collect();
    assert_eq!(cells, ["a-team", "shell", "a=b", "group:team"]);

    let list = text(
        &remotely(deployment, &guest, &["cluster", "list"])
            .await
            .stdout,
    );
    assert!(
        list.contains(CLUSTER_NAME) && !list.contains("by-boss"),
        "{list}"
    );
    for refused in [
        &["cluster", "add", "by-guest"][..],
        &["cluster", "remove", "by-boss"],
        &["user", "add", "guest", "--all-clusters", "--role", "admin"],
        &["token", "create", "--user", "boss"],
    ] {
        let answer = remotely(deployment, &guest, refused).await;
        assert_eq!(answer.status.code(), Some(1), "{answer:?}");
        let said = text(&answer.stderr);
        assert!(
            said.contains("administrators") || said.contains("role admin"),
            "{said}"
        );
    }
    let nobody = deployment.dir().join("nobody.token");
    std::fs::write(&nobody, "upt_nonsense").unwrap();
    let answer = remotely(deployment, &nobody, &["cluster", "list"]).await;
    assert!(text(&answer.stderr).contains("401"), "{answer:?}");
}

#[tokio::test]
async fn rule_11_the_api_answers_nobody() {
    let deployment = Deployment::shared(Transport::Quic);
    for path in ["/v1/clusters", "/v1/self", "/v1/openapi.json", "/v1/none"] {
        let answer = raw::get(deployment, path, None).await;
        assert_eq!((answer.code, &answer.body["status"]), (401, &401.into()));
        assert_eq!(answer.headers["content-type"], "application/problem+json");
        assert!(
            answer.headers["www-authenticate"]
                .to_str()
                .unwrap()
                .starts_with("Bearer")
        );
    }
    // Beside the API there is nothing that begins like it.
    raw::get(deployment, "/v1", None)
        .await
        .assert_status(404, "NotFound");
}

#[tokio::test]
async fn an_agents_token_is_taken_back_alone() {
    let deployment = Deployment::start(Transport::Quic).await;
    deployment
        .administer(&["cluster", "add", CLUSTER_NAME, "--static-token"])
        .unwrap();
    let list = deployment
        .administer(&["agent", "list", "--cluster", CLUSTER_NAME])
        .unwrap();
    assert_eq!(list.lines().count(), 3, "{list}");
    let client = deployment.admin(Wire::WebSocket);
    client.run(&["get", "--raw", "/version"]).await;
    // Both, in any order: without them the agent is cut off.
    for row in list.lines().skip(1) {
        let id = row.split_whitespace().next().unwrap();
        deployment.administer(&["agent", "revoke", id]).unwrap();
    }
    eventually("the agent is cut off", async || {
        let list = deployment.administer(&["cluster", "list"]).unwrap();
        let row = list.lines().find(|line| line.starts_with(CLUSTER_NAME));
        let cells: Vec<_> = row.unwrap().split_whitespace().collect();
        if cells[2..4] == ["0", "0"] {
            Ok(())
        } else {
            Err(list)
        }
    })
    .await;
}

#[tokio::test]
async fn a_data_directory_has_one_server() {
    let deployment = Deployment::shared(Transport::Quic);
    let mut second = Command::new(PROGRAMS.server());
    second
        .env_clear()
        .args(["serve", "--listen", "127.0.0.1:0", "--data-dir"])
        .arg(deployment.data_dir());
    let ended = tokio::time::timeout(DEADLINE, run(&mut second, b""))
        .await
        .unwrap();
    assert_eq!(ended.status.code(), Some(1));
    let said = text(&ended.stderr);
    assert!(said.contains("in use by another process"), "{said}");
    // The first one's socket is still there.
    deployment.administer(&["cluster", "list"]).unwrap();
}

#[tokio::test]
async fn rule_14_the_first_start_writes_an_administrators_token_once_and_not_into_the_log() {
    let deployment = Deployment::start(Transport::WebSocket).await;
    let file = deployment.data_dir().join("admin.token");
    deployment.logged(file.to_str().unwrap()).await;
    let token = std::fs::read_to_string(&file).unwrap().trim().to_owned();
    std::fs::remove_file(&file).unwrap();
    let me = raw::get(&deployment, "/v1/self", Some(&token)).await;
    assert_eq!((me.code, &me.body["user"]), (200, &"admin".into()));
    assert_eq!(me.body["administrator"], true);
    deployment.stop_server().unwrap();
    deployment.restart_server().unwrap();
    let again = deployment.server_log().unwrap();
    assert!(!again.contains("upt_"), "{again}");
    assert!(!file.exists());
    let me = raw::get(&deployment, "/v1/self", Some(&token)).await;
    assert_eq!(me.code, 200, "{me:?}");
}

#[tokio::test]
async fn commands_need_a_server_and_survive_its_restart() {
    let deployment = Deployment::start(Transport::Quic).await;
    deployment
        .administer(&["user", "add", "before", "--group", "g"])
        .unwrap();
    let list = deployment.administer(&["user", "list"]).unwrap();
    assert!(list.contains("before"), "{list}");
    deployment.stop_server().unwrap();
    let error = deployment.administer(&["user", "list"]).unwrap_err();
    let said = chain(&error);
    assert!(said.contains("no server answers at"), "{said}");
    assert!(said.contains("`underpass-server serve`"), "{said}");
    deployment.restart_server().unwrap();
    let again = deployment.administer(&["user", "list"]).unwrap();
    assert_eq!(list, again);
    let error = deployment
        .administer(&["user", "add", "x", "--cluster", "none"])
        .unwrap_err();
    let said = chain(&error);
    assert!(said.contains("there is no cluster \"none\""), "{said}");
    assert!(said.contains("underpass cluster add none"), "{said}");
}

/// `underpass-server recover` on a deployment's data directory.
async fn recover(deployment: &Deployment, flags: &[&str]) -> std::process::Output {
    let mut command = Command::new(PROGRAMS.server());
    command
        .env_clear()
        .args(["recover", "--data-dir"])
        .arg(deployment.data_dir())
        .args(flags);
    run(&mut command, b"").await
}

#[tokio::test]
async fn rule_14_recover_makes_an_administrator_while_no_server_runs() {
    let deployment = Deployment::start(Transport::Quic).await;
    let other = deployment
        .administer(&["user", "add", "other"])
        .and_then(|_| deployment.administer(&["token", "create", "--user", "other"]))
        .unwrap();
    deployment
        .administer(&["user", "disable", "admin"])
        .unwrap();
    let running = recover(&deployment, &[]).await;
    assert_eq!(running.status.code(), Some(1), "{running:?}");
    let said = text(&running.stderr);
    assert!(said.contains("a server runs on"), "{said}");
    assert!(said.contains("underpass --socket"), "{said}");

    deployment.stop_server().unwrap();
    let users = |answer: &raw::Answer| answer.body["user"].as_str().unwrap().to_owned();
    let made = recover(&deployment, &[]).await;
    assert!(made.status.success(), "{made:?}");
    let file = PathBuf::from(text(&made.stdout).trim());
    let mode = std::fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let token = std::fs::read_to_string(&file).unwrap().trim().to_owned();
    assert!(!text(&made.stderr).contains(&token), "{made:?}");
    // A file that is there stays as it is.
    let again = recover(&deployment, &["--token-file", file.to_str().unwrap()]).await;
    assert_eq!(again.status.code(), Some(1), "{again:?}");
    assert_eq!(std::fs::read_to_string(&file).unwrap().trim(), token);

    deployment.restart_server().unwrap();
    let me = raw::get(&deployment, "/v1/self", Some(&token)).await;
    assert_eq!(me.body["administrator"], true, "{me:?}");
    let name = users(&me);
    assert!(name.starts_with("recovery-"), "{name}");
    // Everybody else is as before.
    let me = raw::get(&deployment, "/v1/self", Some(other.trim())).await;
    assert_eq!(users(&me), "other");
    let list = deployment.administer(&["user", "list"]).unwrap();
    let admin = list.lines().find(|line| line.starts_with("admin "));
    assert!(admin.unwrap().ends_with("disabled"), "{list}");
    let audit = std::fs::read_to_string(deployment.data_dir().join("audit.log")).unwrap();
    let event = audit.lines().find(|line| line.contains(&name));
    let event: serde_json::Value = serde_json::from_str(event.unwrap()).unwrap();
    assert_eq!(event["user"]["username"], "underpass:operator", "{event}");
    let annotations = &event["annotations"];
    assert_eq!(annotations["underpass.dev/object"], format!("user/{name}"));
    assert!(!audit.contains(&token));
}
