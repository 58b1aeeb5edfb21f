//! The directory on etcd: a server, and two of them.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use tokio::process::{Child, Command};
use underpass_testenv::testing::providers::{EtcdMembers, EtcdSetup};
use underpass_testenv::testing::{Client, Wire, eventually, text, within};
use underpass_testenv::{CLUSTER_NAME, Transport};

use crate::deployment::{CLUSTER, Deployment, PROGRAMS};
use crate::flight::InFlight;

/// Time for a revocation, at the server that made it and at others.
const SECOND: Duration = Duration::from_secs(1);

/// Flags for a directory on these members.
fn flags(etcd: &EtcdMembers) -> Vec<String> {
    let [certificate, key] = etcd.client_files();
    let file = |path: PathBuf| path.to_str().unwrap().to_owned();
    let mut flags = vec![
        "--etcd".to_owned(),
        etcd.urls().join(","),
        "--etcd-prefix".to_owned(),
        "/e2e/directory/".to_owned(),
    ];
    if etcd.urls()[0].starts_with("https") {
        let tls = [
            ("--etcd-ca", etcd.ca_file()),
            ("--etcd-cert", certificate),
            ("--etcd-key", key),
        ];
        flags.extend(
            tls.into_iter()
                .flat_map(|(flag, path)| [flag.to_owned(), file(path)]),
        );
    }
    flags
}

fn words(flags: &[String]) -> Vec<&str> {
    flags.iter().map(String::as_str).collect()
}

async fn on(etcd: &EtcdMembers) -> Deployment {
    let flags = flags(etcd);
    let start = move || Deployment::start_blocking_with(Transport::Quic, &words(&flags));
    tokio::task::spawn_blocking(start).await.unwrap()
}

/// A user who may do everything in the cluster.
async fn user(deployment: &Deployment, name: &str) -> PathBuf {
    let name = deployment.admin(Wire::WebSocket).name(name);
    let binding = ["--clusterrole=cluster-admin", &format!("--user={name}")];
    let bind = [&["create", "clusterrolebinding", &name][..], &binding].concat();
    Client::direct(&CLUSTER, Wire::WebSocket).run(&bind).await;
    deployment.kubeconfig(&name, &[]).unwrap()
}

/// That all of them end within a second of `revoke`.
async fn assert_end(open: Vec<InFlight>, revoke: impl AsyncFnOnce()) {
    revoke().await;
    let since = Instant::now();
    let ending = async {
        for open in open {
            open.ended().await.assert_error();
        }
    };
    let ended = tokio::time::timeout(SECOND, ending).await;
    ended.unwrap_or_else(|_| panic!("something goes on after {:?}", since.elapsed()));
}

async fn open_streams(client: &Client<'_>, test: &str) -> Vec<InFlight> {
    vec![
        InFlight::logs(client, test).await,
        InFlight::watch(client).await,
        InFlight::shell(client, &format!("{test}-shell")).await,
    ]
}

async fn assert_works(client: &Client<'_>) {
    eventually("calls work", async || {
        let answer = client.output(&["get", "--raw", "/version"]).await;
        match answer.status.success() {
            true => Ok(()),
            false => Err(answer),
        }
    })
    .await;
}

#[tokio::test]
async fn rule_12_a_server_on_etcd_keeps_its_directory_there_and_takes_back_within_a_second() {
    let etcd = EtcdMembers::start(EtcdSetup {
        tls: true,
        ..EtcdSetup::default()
    })
    .await;
    let deployment = on(&etcd).await;
    let admin = deployment.admin(Wire::WebSocket);
    admin.run(&["get", "namespaces"]).await;
    assert!(!deployment.data_dir().join("directory.redb").exists());
    let kubeconfig = user(&deployment, "etcd-one").await;
    let client = deployment.client(&kubeconfig, Wire::WebSocket);
    let name = client.name("etcd-one");
    client.run(&["get", "namespaces"]).await;
    deployment.blocking(|u| u.stop_server().unwrap()).await;
    deployment.blocking(|u| u.restart_server().unwrap()).await;
    assert_works(&client).await;
    let open = open_streams(&client, "etcd-taken").await;
    assert_end(open, async || {
        deployment.administer(&["user", "remove", &name]).unwrap();
    })
    .await;
    client.fail(&["get", "namespaces"]).await;
    admin.run(&["get", "namespaces"]).await;
    // One server for one data directory, as with the embedded one.
    let mut second = Command::new(PROGRAMS.server());
    let arguments = ["serve", "--listen", "127.0.0.1:0", "--data-dir"];
    second.args(arguments).arg(deployment.data_dir());
    let refused = second.args(flags(&etcd)).output().await.unwrap();
    let said = text(&refused.stderr);
    assert!(said.contains("in use by another process"), "{said}");
}

/// It says so, goes on with what it knows, and needs no restart.
#[tokio::test]
async fn a_server_that_has_lost_etcd_serves_and_refuses_changes_until_it_is_back() {
    let etcd = EtcdMembers::start(EtcdSetup::default()).await;
    let deployment = on(&etcd).await;
    let admin = deployment.admin(Wire::WebSocket);
    admin.run(&["get", "namespaces"]).await;
    etcd.kill(0);
    eventually("it is not ready", async || {
        match deployment.get("/readyz") {
            Ok(ready) => Err(ready),
            Err(error) => match error.to_string().contains("ServiceUnavailable") {
                true => Ok(()),
                false => Err(error.to_string()),
            },
        }
    })
    .await;
    let metrics = deployment.metrics().unwrap();
    assert!(
        metrics.contains("underpass_directory_writable 0"),
        "{metrics}"
    );
    admin.run(&["get", "namespaces"]).await;
    let refused = deployment.administer(&["user", "add", "late"]).unwrap_err();
    let refused = format!("{refused:?}");
    assert!(
        refused.contains("503") || refused.contains("cannot"),
        "{refused}"
    );
    etcd.start_again(0);
    eventually("it is ready", async || deployment.get("/readyz").map(drop)).await;
    deployment.administer(&["user", "add", "late"]).unwrap();
    admin.run(&["get", "namespaces"]).await;
    let log = deployment.server_log().unwrap();
    assert!(log.contains("no endpoint of etcd can be reached"), "{log}");
    // Once, and not each second.
    assert!(log.matches("cannot be written").count() < 5, "{log}");
}

/// Another server's process, with a data directory of its own and no agent.
struct Second {
    _child: Child,
    data: PathBuf,
}

impl Second {
    async fn start(deployment: &Deployment, etcd: &EtcdMembers) -> Self {
        let data = deployment.dir().join("second");
        let log = std::fs::File::create(deployment.dir().join("second.log")).unwrap();
        let arguments = ["serve", "--listen", "127.0.0.1:0", "--data-dir"];
        let child = Command::new(PROGRAMS.server())
            .env_clear()
            .args(arguments)
            .arg(&data)
            .args(flags(etcd))
            .stdin(Stdio::null())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let second = Self {
            _child: child,
            data,
        };
        eventually("the second server answers", async || {
            second.administer(&["cluster", "list"]).await
        })
        .await;
        second
    }

    async fn administer(&self, arguments: &[&str]) -> Result<String, String> {
        let mut command = Command::new(PROGRAMS.cli());
        command
            .env_clear()
            .arg("--socket")
            .arg(self.data.join("api.sock"));
        let output = command.args(arguments).output().await.unwrap();
        match output.status.success() {
            true => Ok(text(&output.stdout)),
            false => Err(text(&output.stderr)),
        }
    }
}

#[tokio::test]
async fn rule_12_what_one_server_takes_back_ends_at_the_other_within_a_second() {
    let etcd = EtcdMembers::start(EtcdSetup {
        members: 3,
        ..EtcdSetup::default()
    })
    .await;
    let deployment = on(&etcd).await;
    let second = Second::start(&deployment, &etcd).await;
    let list = second.administer(&["cluster", "list"]).await.unwrap();
    assert!(list.contains(CLUSTER_NAME), "{list}");
    second.administer(&["user", "add", "carol"]).await.unwrap();
    within(SECOND, "the other server knows her", async || {
        let users = deployment.administer(&["user", "list"]).unwrap();
        if users.contains("carol") {
            Ok(())
        } else {
            Err(users)
        }
    })
    .await;
    let kubeconfig = user(&deployment, "etcd-two").await;
    let client = deployment.client(&kubeconfig, Wire::WebSocket);
    let name = client.name("etcd-two");
    let mut open = open_streams(&client, "etcd-here").await;
    // Also where a member of etcd has gone meanwhile.
    let leader = etcd.leader().await;
    etcd.kill(leader);
    eventually("changes go on", async || {
        // Of an attempt before it may not be known whether it counts.
        let _ = second.administer(&["user", "add", "dave"]).await;
        let users = second.administer(&["user", "list"]).await?;
        if users.contains("dave") {
            Ok(())
        } else {
            Err(users)
        }
    })
    .await;
    eventually("the other server is told", async || {
        let users = deployment.administer(&["user", "list"]).unwrap();
        if users.contains("dave") {
            Ok(())
        } else {
            Err(users)
        }
    })
    .await;
    open.push(InFlight::watch(&client).await);
    assert_end(open, async || {
        second.administer(&["user", "remove", &name]).await.unwrap();
    })
    .await;
    deployment
        .admin(Wire::WebSocket)
        .run(&["get", "namespaces"])
        .await;
}

async fn directory(arguments: &[&str], data: &Path, flags: &[String]) -> Output {
    let mut command = Command::new(PROGRAMS.server());
    command.env_clear().arg("directory").args(arguments);
    command.arg("--data-dir").arg(data).args(flags);
    command.output().await.unwrap()
}

fn succeeded(output: &Output) {
    assert!(output.status.success(), "{}", text(&output.stderr));
}

fn refused(output: &Output, words: &str) {
    let said = text(&output.stderr);
    assert!(!output.status.success() && said.contains(words), "{said}");
}

#[tokio::test]
async fn a_directory_moves_to_etcd_and_back() {
    let etcd = EtcdMembers::start(EtcdSetup::default()).await;
    let deployment = Deployment::start(Transport::Quic).await;
    let admin = deployment.admin(Wire::WebSocket);
    let data = deployment.data_dir();
    let kubeconfig = CLUSTER
        .kubeconfig_with_token("sealed", &sealed_token())
        .unwrap();
    let add = [
        "cluster",
        "add",
        "sealed",
        "--kubeconfig",
        kubeconfig.to_str().unwrap(),
    ];
    deployment.administer(&add).unwrap();
    let path = |name: &str| deployment.dir().join(name).to_str().unwrap().to_owned();
    let (first, second) = (path("first.copy"), path("second.copy"));
    let (nothing, on_etcd) = (Vec::new(), flags(&etcd));
    let exported = directory(&["export", &first], &data, &nothing).await;
    refused(&exported, "in use");
    deployment.blocking(|u| u.stop_server().unwrap()).await;
    succeeded(&directory(&["export", &first], &data, &nothing).await);
    let mode = std::fs::metadata(&first).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let copy = std::fs::read_to_string(&first).unwrap();
    assert!(copy.contains("\"sealed\"") && !copy.contains("hunter2"));
    let again = directory(&["export", &first], &data, &nothing).await;
    refused(&again, "exists");

    // To etcd.
    let move_it = words(&on_etcd)
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>();
    let too_early = deployment
        .blocking(move |u| {
            u.restart_server_with(&words(&move_it))
                .unwrap_err()
                .to_string()
        })
        .await;
    assert!(too_early.contains("directory export"), "{too_early}");
    succeeded(&directory(&["import", &first], &data, &on_etcd).await);
    let twice = directory(&["import", &first], &data, &on_etcd).await;
    refused(&twice, "--replace");
    let without = deployment
        .blocking(|u| u.restart_server().unwrap_err().to_string())
        .await;
    assert!(without.contains("--etcd"), "{without}");
    let moved = on_etcd.clone();
    deployment
        .blocking(move |u| u.restart_server_with(&words(&moved)).unwrap())
        .await;
    assert_works(&admin).await;
    let check = deployment.administer(&["cluster", "list"]).unwrap();
    assert!(check.contains("sealed"), "{check}");
    deployment.administer(&["user", "add", "erin"]).unwrap();

    // And back, from etcd while its server runs.
    succeeded(&directory(&["export", &second], &data, &on_etcd).await);
    deployment.blocking(|u| u.stop_server().unwrap()).await;
    let full = directory(&["import", &second], &data, &nothing).await;
    refused(&full, "--replace");
    succeeded(&directory(&["import", "--replace", &second], &data, &nothing).await);
    deployment.blocking(|u| u.restart_server().unwrap()).await;
    assert_works(&admin).await;
    let users = deployment.administer(&["user", "list"]).unwrap();
    assert!(users.contains("erin"), "{users}");
    // A copy that was changed is none.
    deployment.blocking(|u| u.stop_server().unwrap()).await;
    std::fs::write(&first, copy.replace("sealed", "other")).unwrap();
    let changed = directory(&["import", "--replace", &first], &data, &nothing).await;
    refused(&changed, "checksum");
}

/// A secret that is in no copy.
fn sealed_token() -> String {
    "hunter2-hunter2".to_owned()
}
