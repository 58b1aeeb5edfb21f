//! A cluster that the server reaches itself: all that passes through an agent has to pass without one.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use serde_json::{Value, json};
use underpass_testenv::testing::{Client, Wire, eventually, install_script};
use underpass_testenv::{Transport, request_tests, tests_of};

use crate::deployment::{ADMIN, AGENT_KUBECONFIG, CLUSTER, Deployment, token_of};
use crate::flight::{InFlight, assert_end_soon};

/// A server with the direct cluster `direct`, and its administrator's kubeconfig.
struct Direct {
    deployment: Deployment,
    kubeconfig: PathBuf,
}

static DIRECT: LazyLock<Direct> = LazyLock::new(|| {
    let start = || tokio::runtime::Runtime::new().unwrap().block_on(start());
    // A runtime cannot be started inside another one.
    std::thread::spawn(start).join().unwrap()
});

async fn start() -> Direct {
    let deployment = Deployment::start(Transport::Quic).await;
    let kubeconfig = add(&deployment, "direct", &AGENT_KUBECONFIG);
    Direct {
        deployment,
        kubeconfig,
    }
}

/// Makes a direct cluster, and a kubeconfig that leads there.
fn add(deployment: &Deployment, cluster: &str, kubeconfig: &Path) -> PathBuf {
    set(deployment, cluster, kubeconfig);
    let path = deployment.dir().join(format!("{cluster}.direct"));
    let output = path.to_str().unwrap();
    let user = ["kubeconfig", "--cluster", cluster, "--user", ADMIN];
    let arguments = [&user[..], &["--output", output]].concat();
    deployment.administer(&arguments).unwrap();
    path
}

fn set(deployment: &Deployment, cluster: &str, kubeconfig: &Path) {
    let kubeconfig = kubeconfig.to_str().unwrap();
    let add = ["cluster", "add", cluster, "--kubeconfig", kubeconfig];
    deployment.administer(&add).unwrap();
}

/// The line of `cluster list`.
fn listed(deployment: &Deployment, cluster: &str) -> String {
    let list = deployment.administer(&["cluster", "list"]).unwrap();
    let line = list
        .lines()
        .find(|line| line.split_whitespace().next() == Some(cluster));
    line.unwrap_or_else(|| panic!("{list}")).to_owned()
}

fn client(wire: Wire) -> Client<'static> {
    Client::new(&CLUSTER, &DIRECT.kubeconfig, "direct", wire)
}

fn client_of(kubeconfig: &Path) -> Client<'_> {
    Client::new(&CLUSTER, kubeconfig, "direct", Wire::WebSocket)
}

mod requests {
    use super::*;
    request_tests!(client(Wire::WebSocket));
}

mod spdy_streams {
    use super::*;
    tests_of!(client(Wire::Spdy),
        exec: [keeps_streams_and_exit_code_apart, carries_the_end_of_input, carries_8_mib_both_ways, on_a_terminal],
        attach: [reaches_the_main_process],
        port_forward: [to_a_pod],
        cp: [a_folder],
    );
}

mod websocket_streams {
    use super::*;
    tests_of!(client(Wire::WebSocket),
        exec: [
            keeps_streams_and_exit_code_apart,
            carries_the_end_of_input,
            carries_8_mib_both_ways,
            on_a_terminal,
            ends_when_its_client_does,
        ],
        attach: [reaches_the_main_process],
        port_forward: [to_a_pod, to_a_closed_port],
        cp: [a_folder],
    );
}

#[tokio::test]
async fn it_is_listed_with_what_it_is_and_whether_it_answers() {
    let direct = listed(&DIRECT.deployment, "direct");
    let columns: Vec<_> = direct.split_whitespace().collect();
    assert_eq!(&columns[..4], ["direct", "direct", "-", "yes"], "{direct}");
    assert!(columns[4].starts_with("(v1."), "{direct}");
    let agent = listed(&DIRECT.deployment, underpass_testenv::CLUSTER_NAME);
    let columns: Vec<_> = agent.split_whitespace().collect();
    assert_eq!(&columns[1..4], ["agent", "1", "1"], "{agent}");
}

#[tokio::test]
async fn rule_16_acting_as_is_the_clusters_to_allow_here_too() {
    let client = client(Wire::WebSocket);
    let question = ["auth", "whoami", "-o", "json", "--as", "bob"];
    let answer: Value = serde_json::from_str(&client.run(&question).await).unwrap();
    let user = &answer["status"]["userInfo"];
    assert_eq!(user["username"], "bob");
    assert_eq!(user["extra"]["underpass.dev/original-user"], json!([ADMIN]));
    // A user without rights in the cluster may not.
    let nobody = DIRECT.deployment.dir().join("nobody.direct");
    let output = nobody.to_str().unwrap();
    let user = ["kubeconfig", "--cluster", "direct", "--user", "nobody"];
    let arguments = [&user[..], &["--output", output]].concat();
    DIRECT.deployment.administer(&arguments).unwrap();
    let question = ["get", "--raw", "/api/v1/pods", "--as", "bob"];
    let refused = client_of(&nobody).fail(&question).await;
    assert!(refused.contains("cannot impersonate"), "{refused}");
}

#[tokio::test]
async fn rule_17_service_accounts_are_allowed_by_namespace() {
    let deployment = &DIRECT.deployment;
    let kubeconfig = add(deployment, "accounts", &AGENT_KUBECONFIG);
    let client = client_of(&kubeconfig);
    let account = "--as=system:serviceaccount:default:default";
    let version = ["get", "--raw", "/version", account];
    let refused = client.fail(&version).await;
    let ours = "may not be impersonated in this cluster";
    assert!(refused.contains(ours), "{refused}");
    let given = AGENT_KUBECONFIG.to_str().unwrap();
    let allow = ["--kubeconfig", given, "--allow-service-accounts", "default"];
    deployment
        .administer(&[&["cluster", "add", "accounts"], &allow[..]].concat())
        .unwrap();
    // Now it is the cluster that refuses: its account was not given that right.
    let refused = client.fail(&version).await;
    assert!(!refused.contains(ours), "{refused}");
    assert!(refused.contains("cannot impersonate"), "{refused}");
}

/// A kubeconfig of the agent's account with another token.
async fn another_token(deployment: &Deployment, name: &str) -> PathBuf {
    let text = fs::read_to_string(&*AGENT_KUBECONFIG).unwrap();
    let mut config: Value = serde_json::from_str(&text).unwrap();
    let user = &mut config["users"][0]["user"];
    let old = user["token"].as_str().unwrap().to_owned();
    // Two tokens of one account differ in their ids.
    let made = [
        "create",
        "token",
        "underpass-agent",
        "-n",
        "underpass-system",
    ];
    let new = CLUSTER.run_kubectl(&made).unwrap().trim().to_owned();
    assert_ne!(new, old);
    user["token"] = json!(new);
    let path = deployment.dir().join(name);
    fs::write(&path, config.to_string()).unwrap();
    path
}

fn bearer(kubeconfig: &Path) -> String {
    let text = fs::read_to_string(kubeconfig).unwrap();
    let config: Value = serde_json::from_str(&text).unwrap();
    let token = config["users"][0]["user"]["token"].as_str();
    token.unwrap().to_owned()
}

/// The id of a ServiceAccount's token, as the API server's audit log has it.
fn credential_id(kubeconfig: &Path) -> String {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;

    let token = bearer(kubeconfig);
    let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap());
    let claims: Value = serde_json::from_slice(&claims.unwrap()).unwrap();
    format!("JTI={}", claims["jti"].as_str().unwrap())
}

/// With which credential the API server was last asked for `path`.
fn asked_with(client: &Client<'_>, path: &str) -> Vec<String> {
    let events = client
        .audit_events(|event| event["requestURI"] == path && event["stage"] == "ResponseComplete");
    let id = |event: &Value| {
        let ids = &event["user"]["extra"]["authentication.kubernetes.io/credential-id"];
        ids[0].as_str().unwrap_or_default().to_owned()
    };
    events.iter().map(id).collect()
}

#[tokio::test]
async fn rule_12_another_credential_ends_streams_and_serves_new_calls() {
    let deployment = &DIRECT.deployment;
    let first = another_token(deployment, "first").await;
    let second = another_token(deployment, "second").await;
    let kubeconfig = add(deployment, "rotated", &first);
    let client = client_of(&kubeconfig);
    let other = InFlight::watch(&self::client(Wire::WebSocket)).await;
    let open = [
        InFlight::logs(&client, "rotated").await,
        InFlight::watch(&client).await,
        InFlight::shell(&client, "rotated-shell").await,
    ];
    // Nobody else asks for it.
    let path = "/api/v1/namespaces/rotated";
    client.fail(&["get", "--raw", path]).await;

    set(deployment, "rotated", &second);
    assert_end_soon(open).await;
    client.fail(&["get", "--raw", path]).await;
    let wanted = [credential_id(&first), credential_id(&second)];
    eventually("the API server's audit log", async || {
        let asked = asked_with(&client, path);
        if asked == wanted { Ok(()) } else { Err(asked) }
    })
    .await;
    assert!(other.goes_on(), "another cluster's watch has ended");
}

#[tokio::test]
async fn rule_12_removing_the_cluster_ends_what_is_open() {
    let deployment = &DIRECT.deployment;
    let kubeconfig = add(deployment, "doomed", &AGENT_KUBECONFIG);
    let client = client_of(&kubeconfig);
    let open = [
        InFlight::watch(&client).await,
        InFlight::shell(&client, "doomed-shell").await,
    ];
    deployment
        .administer(&["cluster", "remove", "doomed"])
        .unwrap();
    assert_end_soon(open).await;
}

/// Every file below a folder.
fn files(folder: &Path, all: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            files(&entry.path(), all);
        } else if kind.is_file() {
            all.push(entry.path());
        }
    }
}

#[tokio::test]
async fn rule_9_the_credential_is_nowhere_to_be_read() {
    let deployment = Deployment::start(Transport::Quic).await;
    let direct = another_token(&deployment, "given").await;
    let token = bearer(&direct);
    let kubeconfig = add(&deployment, "direct", &direct);
    fs::remove_file(&direct).unwrap();
    let client = client_of(&kubeconfig);
    client.run(&["get", "namespaces"]).await;
    client.fail(&["get", "--raw", "/no/such/path"]).await;

    // The API's answers to its administrators.
    let made = ["token", "create", "--user", "admin", "--expires", "1h"];
    let admin = deployment.administer(&made).unwrap();
    for path in [
        "/v1/clusters",
        "/v1/clusters/direct",
        "/v1/clusters/direct/reachability",
        "/v1/openapi.json",
    ] {
        let mut get = deployment.kubectl(Path::new("/dev/null"));
        let ca = deployment.ca_file();
        get.arg("--server").arg(deployment.url());
        get.arg("--certificate-authority").arg(ca);
        get.args(["--token", admin.trim(), "get", "--raw", path]);
        let answer = get.output().unwrap();
        assert!(answer.status.success(), "{answer:?}");
        let text = String::from_utf8(answer.stdout).unwrap();
        assert!(text.starts_with('{'), "{path}: {text}");
        assert!(!text.contains(&token), "{path}");
        // Nor is it shown encrypted.
        let version = path.ends_with("reachability");
        assert!(version || !text.contains("\"v1."), "{path}: {text}");
    }

    // And it is good for a server that was started again.
    deployment.blocking(|u| u.stop_server()).await.unwrap();
    deployment.blocking(|u| u.restart_server()).await.unwrap();
    client.run(&["get", "namespaces"]).await;
    deployment.blocking(|u| u.stop_server()).await.unwrap();

    let mut all = Vec::new();
    files(deployment.dir(), &mut all);
    let needle = token.as_bytes();
    let names: Vec<_> = all
        .iter()
        .map(|path| path.file_name().unwrap().to_str().unwrap().to_owned())
        .collect();
    for name in ["directory.redb", "server.log", "audit.log", "secrets.key"] {
        assert!(names.iter().any(|other| other == name), "{names:?}");
    }
    for path in all {
        let bytes = fs::read(&path).unwrap();
        let found = bytes.windows(needle.len()).any(|window| window == needle);
        assert!(!found, "{}", path.display());
    }
}

#[tokio::test]
async fn rule_9_without_its_key_a_credential_is_of_no_use() {
    let deployment = Deployment::start(Transport::Quic).await;
    let kubeconfig = add(&deployment, "direct", &AGENT_KUBECONFIG);
    deployment.blocking(|u| u.stop_server()).await.unwrap();
    let key = deployment.data_dir().join("secrets.key");
    let kept = deployment.dir().join("kept.key");
    fs::rename(&key, &kept).unwrap();
    let lost = deployment.blocking(|u| u.restart_server()).await;
    let lost = lost.unwrap_err().to_string();
    assert!(lost.contains("secrets.key is missing"), "{lost}");
    assert!(!key.exists(), "no other key is made");

    // With another key the server serves what it can.
    use base64::Engine as _;
    let other = base64::engine::general_purpose::STANDARD.encode([7; 32]);
    fs::write(&key, other).unwrap();
    deployment.blocking(|u| u.restart_server()).await.unwrap();
    let refused = client_of(&kubeconfig).fail(&["get", "namespaces"]).await;
    assert!(refused.contains("as it is configured"), "{refused}");
    let line = listed(&deployment, "direct");
    assert!(line.contains("--secrets-key-file"), "{line}");
    eventually("the agent's cluster", async || {
        let client = deployment.admin(Wire::WebSocket);
        let answer = client.output(&["get", "namespaces"]).await;
        if answer.status.success() {
            Ok(())
        } else {
            Err(answer)
        }
    })
    .await;

    // A server that knows both encrypts with the first.
    deployment.blocking(|u| u.stop_server()).await.unwrap();
    let both = deployment.blocking(move |u| {
        let (first, second) = (key.to_str().unwrap(), kept.to_str().unwrap());
        u.restart_server_with(&["--secrets-key-file", first, "--secrets-key-file", second])
    });
    both.await.unwrap();
    let label = ["cluster", "label", "direct", "at=new"];
    deployment.administer(&label).unwrap();
    deployment.blocking(|u| u.stop_server()).await.unwrap();
    deployment.blocking(|u| u.restart_server()).await.unwrap();
    client_of(&kubeconfig).run(&["get", "namespaces"]).await;
}

/// The agent's kubeconfig with a change.
fn changed(name: &str, change: impl FnOnce(&mut Value)) -> PathBuf {
    let text = fs::read_to_string(&*AGENT_KUBECONFIG).unwrap();
    let mut config: Value = serde_json::from_str(&text).unwrap();
    change(&mut config);
    let path = DIRECT.deployment.dir().join(name);
    fs::write(&path, config.to_string()).unwrap();
    path
}

#[tokio::test]
async fn what_is_wrong_is_said_to_users_and_operators() {
    let deployment = &DIRECT.deployment;
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let closed = format!("https://{}", {
        let address = closed.local_addr().unwrap();
        drop(closed);
        address
    });
    let foreign = {
        use base64::Engine as _;
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::default();
        params.not_after = rcgen::date_time_ymd(2020, 1, 1);
        let certificate = params.self_signed(&key).unwrap();
        let encode = |pem: String| base64::engine::general_purpose::STANDARD.encode(pem);
        (encode(certificate.pem()), encode(key.serialize_pem()))
    };
    let cluster = |config: &mut Value, field: &str, value: &str| {
        config["clusters"][0]["cluster"][field] = json!(value);
    };
    let cases: [(PathBuf, &str, &str); 4] = [
        (
            changed("ca", |config| {
                cluster(config, "certificate-authority-data", &foreign.0);
            }),
            "its certificate is not signed by the CA",
            "UnknownIssuer",
        ),
        (
            changed("closed", |config| cluster(config, "server", &closed)),
            "cannot connect",
            "refused",
        ),
        (
            changed("expired", |config| {
                config["users"][0]["user"] = json!({
                    "client-certificate-data": foreign.0, "client-key-data": foreign.1,
                });
            }),
            "does not accept the credential",
            "does not accept the credential",
        ),
        (
            changed("token", |config| {
                config["users"][0]["user"] = json!({ "token": "no-token-of-it" });
            }),
            "does not accept the credential",
            "does not accept the credential",
        ),
    ];
    for (kubeconfig, for_users, for_operators) in cases {
        let user = add(deployment, "broken", &kubeconfig);
        let told = client_of(&user).fail(&["get", "namespaces"]).await;
        assert!(told.contains(for_users), "{told}");
        assert!(!told.contains("127.0.0.1"), "{told}");
        let line = listed(deployment, "broken");
        assert!(line.contains("no: "), "{line}");
        assert!(line.contains(for_operators), "{line}");
    }
    // The others are not touched by it.
    client(Wire::WebSocket).run(&["get", "namespaces"]).await;
}

#[tokio::test]
async fn rule_10_what_cannot_be_safe_is_refused() {
    let deployment = &DIRECT.deployment;
    let refused = |kubeconfig: &Path| {
        let kubeconfig = kubeconfig.to_str().unwrap();
        let add = ["cluster", "add", "refused", "--kubeconfig", kubeconfig];
        format!("{:?}", deployment.administer(&add).unwrap_err())
    };
    let plain = changed("plain", |config| {
        config["clusters"][0]["cluster"]["server"] = json!("http://127.0.0.1:8080");
    });
    assert!(refused(&plain).contains("has to be https"));
    let blind = changed("blind", |config| {
        config["clusters"][0]["cluster"]["insecure-skip-tls-verify"] = json!(true);
    });
    assert!(refused(&blind).contains("insecure-skip-tls-verify"));
    let shell = changed("shell", |config| {
        config["users"][0]["user"] = json!({ "exec": { "command": "/bin/sh" } });
    });
    assert!(refused(&shell).contains("--allow-exec-plugin"));
    let there = AGENT_KUBECONFIG.to_str().unwrap();
    let edge = underpass_testenv::CLUSTER_NAME;
    let both = ["cluster", "add", edge, "--kubeconfig", there];
    let both = format!("{:?}", deployment.administer(&both).unwrap_err());
    assert!(both.contains("agents"), "{both}");
    let both = ["cluster", "add", "direct"];
    let both = format!("{:?}", deployment.administer(&both).unwrap_err());
    assert!(both.contains("agents"), "{both}");
}

#[tokio::test]
async fn a_plugin_gives_the_token() {
    let deployment = &DIRECT.deployment;
    let token = bearer(&another_token(deployment, "for-plugin").await);
    let file = deployment.dir().join("plugin.token");
    fs::write(&file, &token).unwrap();
    let script = "#!/bin/sh\n[ \"$1\" = print ] || exit 3\n\
        printf '{\"apiVersion\":\"client.authentication.k8s.io/v1\",\"kind\":\"ExecCredential\",'\n\
        printf '\"status\":{\"token\":\"%s\",\"expirationTimestamp\":\"2099-01-01T00:00:00Z\"}}' \"$(cat \"$TOKEN\")\"\n";
    install_script(&deployment.exec_plugin(), script);
    let with = |argument: &str| {
        changed("exec", |config| {
            config["users"][0]["user"] = json!({ "exec": {
                "apiVersion": "client.authentication.k8s.io/v1",
                "interactiveMode": "Never",
                "command": deployment.exec_plugin(),
                "args": [argument],
                "env": [{ "name": "TOKEN", "value": file }],
            } });
        })
    };
    let kubeconfig = add(deployment, "plugged", &with("print"));
    client_of(&kubeconfig).run(&["get", "namespaces"]).await;
    let line = listed(deployment, "plugged");
    assert!(line.contains(" yes "), "{line}");
    set(deployment, "plugged", &with("fail"));
    let told = client_of(&kubeconfig).fail(&["get", "namespaces"]).await;
    assert!(told.contains("no credential"), "{told}");
    let line = listed(deployment, "plugged");
    assert!(line.contains("the exec plugin failed"), "{line}");
}

#[tokio::test]
async fn it_is_made_at_once_and_survives_a_restart() {
    let deployment = Deployment::start(Transport::Quic).await;
    let kubeconfig = add(&deployment, "direct", &AGENT_KUBECONFIG);
    let line = listed(&deployment, "direct");
    assert!(line.contains(" yes "), "{line}");
    deployment.blocking(|u| u.stop_server()).await.unwrap();
    deployment.blocking(|u| u.restart_server()).await.unwrap();
    client_of(&kubeconfig).run(&["get", "namespaces"]).await;
    assert!(!token_of(&kubeconfig).is_empty());
}
