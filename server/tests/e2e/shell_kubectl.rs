//! kubectl inside a shell at an agent: it is the shell's user, for as long as the shell lives.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tempfile::TempDir;
use tokio::process::Command;
use underpass_testenv::testing::{Client, Reading, Wire, eventually, run, spawn, text};
use underpass_testenv::{CLUSTER_NAME, NODE_NAME, Transport};

use crate::deployment::{ASSETS, CLUSTER, Deployment, PROGRAMS, changed, token_of};
use crate::over_both_transports;
use crate::terminal::Terminal;

over_both_transports!(
    rule_16_inside_a_shell_kubectl_is_its_user,
    rule_8_inside_a_shell_kubectl_has_its_users_role,
    rule_12_a_shells_kubectl_ends_with_the_permission_for_it,
);

const AGENT: &str = "shell-agent";
const NODE: &str = "worker-1";

/// A server, and an agent whose shells have kubectl: the cluster's own, or one on a node.
struct Site {
    deployment: Deployment,
    at: &'static [&'static str],
    /// Where shells find kubectl, and reach it.
    _programs: TempDir,
}

/// A folder that every user of the machine sees, also where each has a `/tmp` of its own.
fn folder() -> TempDir {
    let parent = match rustix::process::geteuid().is_root() {
        true => PathBuf::from("/run"),
        false => std::env::temp_dir(),
    };
    let folder = tempfile::tempdir_in(parent).unwrap();
    fs::set_permissions(&folder, Permissions::from_mode(0o755)).unwrap();
    folder
}

impl Site {
    async fn new(transport: Transport) -> Self {
        let deployment = Deployment::start(transport).await;
        let programs = folder();
        let kubectl = programs.path().join("kubectl");
        fs::copy(ASSETS.kubectl(), &kubectl).unwrap();
        fs::set_permissions(&kubectl, Permissions::from_mode(0o755)).unwrap();
        // Kernels differ in the protections that they give to tests.
        let policy = format!(
            "apiServer: true
shells:
  kubectl:
    program: /bin/sh
    environment: {{set: {{PS1: '$ ', PATH: '{}:/usr/bin:/bin'}}}}
    mayBeMissing: [uid, pidNamespace, mountNamespace, ipcNamespace, noNewPrivileges, capabilities, resourceLimits, cgroup]
",
            programs.path().display()
        );
        let path = |name: &str| deployment.dir().join(name).to_str().unwrap().to_owned();
        let rules = path("shell-policy.yaml");
        fs::write(&rules, policy).unwrap();
        let (key, token) = (path("shell.key"), path("shell.join"));
        let role = match transport {
            Transport::Quic => "node",
            _ => "cluster",
        };
        let create = ["cluster", "join-token", "create", CLUSTER_NAME];
        let create = [&create[..], &["--role", role, "--output", &token]].concat();
        deployment.administer(&create).unwrap();
        let mut flags = vec![
            ("--policy", rules.as_str()),
            ("--key-file", key.as_str()),
            ("--join-token-file", token.as_str()),
            ("--role", role),
        ];
        let mut at: &[_] = &[CLUSTER_NAME];
        if role == "node" {
            flags.push(("--node-name", NODE));
            at = &[CLUSTER_NAME, "--node", NODE];
        } else {
            // The shells' agent is to be the only one of the cluster.
            deployment
                .blocking(|underpass| underpass.stop_agent().unwrap())
                .await;
        }
        deployment
            .spawn_another_agent(AGENT, transport, &flags)
            .unwrap();
        let site = Self {
            deployment,
            at,
            _programs: programs,
        };
        site.connected(role).await;
        site
    }

    async fn connected(&self, role: &str) {
        eventually("the shells' agent is connected", async || {
            let list = ["agent", "list", "--cluster", CLUSTER_NAME];
            let list = self.deployment.administer(&list).unwrap();
            let mut rows = list.lines().map(str::split_whitespace);
            let is_there = rows.any(|row| {
                let cells: Vec<_> = row.collect();
                cells[2] == role && cells[4] == "1"
            });
            is_there.then_some(()).ok_or(list)
        })
        .await;
    }

    /// A user with this role here, who may do everything in the cluster, and a kubeconfig of theirs that leads there.
    async fn user(&self, name: &str, role: &str) -> User {
        let name = format!("{name}-{}", self.deployment.transport.as_str());
        let binding = ["--clusterrole=cluster-admin", &format!("--user={name}")];
        let bind = [&["create", "clusterrolebinding", &name][..], &binding].concat();
        CLUSTER.run_kubectl(&bind).unwrap();
        let kubeconfig = self
            .deployment
            .kubeconfig_of(&name, &["dev", "qa"], &["--role", role]);
        let kubeconfig = kubeconfig.unwrap();
        let token = self.deployment.dir().join(format!("{name}.token"));
        fs::write(&token, token_of(&kubeconfig)).unwrap();
        User {
            name,
            kubeconfig,
            token,
        }
    }

    /// A shell of this user's, whose prompt is there.
    async fn shell(&self, user: &User) -> Inside {
        let mut command = Command::new(PROGRAMS.cli());
        command
            .env_clear()
            .args(["--api", self.deployment.url(), "--api-ca-file"])
            .arg(self.deployment.ca_file())
            .arg("--api-token-file")
            .arg(&user.token)
            .arg("shell")
            .args(self.at);
        let terminal = Terminal::start(&command, (200, 50));
        terminal.shows("$ ").await;
        Inside {
            terminal,
            commands: 0,
        }
    }

    /// The user's bindings here.
    fn bindings(&self, user: &User) -> Vec<String> {
        let bindings = self.deployment.administer(&["binding", "list"]).unwrap();
        let own = bindings.lines().filter(|line| line.contains(&user.name));
        own.map(|line| line.split_whitespace().next().unwrap().to_owned())
            .collect()
    }
}

struct User {
    name: String,
    kubeconfig: PathBuf,
    token: PathBuf,
}

/// A shell, as its user sees it.
struct Inside {
    terminal: Terminal,
    commands: usize,
}

impl Inside {
    /// Runs a command, and gives what it has written.
    async fn run(&mut self, command: &str) -> String {
        self.commands += 1;
        let number = self.commands;
        // The line itself is shown as well, and must not look like its end.
        let line = format!("{command}; echo ov\"\"er{number}");
        self.terminal.press(&format!("{line}\r"));
        let end = format!("over{number}\r");
        let text = self.terminal.shows(&end).await;
        let (_, text) = text.rsplit_once(&line).unwrap();
        let (text, _) = text.rsplit_once(&end).unwrap();
        text.trim().to_owned()
    }

    /// The kubeconfig of the shell.
    async fn kubeconfig(&mut self) -> String {
        self.run("cat \"$KUBECONFIG\"").await
    }
}

fn user_info(answer: &str) -> Value {
    let answer: Value = serde_json::from_str(answer).unwrap_or_else(|_| panic!("{answer}"));
    let mut user = answer["status"]["userInfo"].clone();
    // In the order of the answer.
    if let Some(groups) = user["groups"].as_array_mut() {
        groups.sort_by_key(ToString::to_string);
    }
    user
}

async fn rule_16_inside_a_shell_kubectl_is_its_user(transport: Transport) {
    let site = Site::new(transport).await;
    let alice = site.user("shell-alice", "operate").await;
    let mut shell = site.shell(&alice).await;
    // To the cluster it is the very user that a call of theirs is.
    let whoami = "kubectl auth whoami -o json";
    let inside = user_info(&shell.run(whoami).await);
    assert_eq!(inside["username"], alice.name);
    assert!(inside["groups"].to_string().contains("\"dev\""), "{inside}");
    if transport == Transport::WebSocket {
        let client = site.deployment.client(&alice.kubeconfig, Wire::WebSocket);
        let direct = client.run(&["auth", "whoami", "-o", "json"]).await;
        assert_eq!(inside, user_info(&direct));
    }
    for flags in ["--as=bob", "--as=bob --as-group=system:masters"] {
        let refused = shell.run(&format!("kubectl get pods {flags}")).await;
        assert!(
            refused.contains("orbidden") && refused.contains("the user of the shell"),
            "{refused}"
        );
    }
    let admin = Client::direct(&CLUSTER, Wire::WebSocket);
    let pod = admin.target(&format!("shell-{}", transport.as_str())).await;
    let listed = shell.run("kubectl get pods -n default -o name").await;
    assert!(listed.contains(&format!("pod/{pod}")), "{listed}");
    for websockets in [true, false] {
        let exec = format!(
            "echo from-here | KUBECTL_REMOTE_COMMAND_WEBSOCKETS={websockets} kubectl exec -i {pod} -- sh -c 'cat; exit 7'; echo $?"
        );
        let said = shell.run(&exec).await;
        assert!(said.contains("from-here") && said.ends_with('7'), "{said}");
    }
    shell
        .terminal
        .press(&format!("kubectl port-forward pod/{pod} :80\r"));
    shell.terminal.shows("Forwarding from 127.0.0.1:").await;
    shell.terminal.press("\u{3}");
    // A watch goes on until it is ended.
    let later = format!("{pod}-later");
    shell
        .terminal
        .press("kubectl get configmaps -w -o name --no-headers\r");
    shell.terminal.shows("configmap/kube-root-ca.crt").await;
    let create = ["create", "configmap", &later, "--from-literal=a=b"];
    admin.run(&create).await;
    shell.terminal.shows(&format!("configmap/{later}")).await;
    shell.terminal.press("\u{3}");
    admin.run(&["delete", "configmap", &later]).await;

    // Another user's shell finds nothing of it.
    let path = shell.run("echo $KUBECONFIG").await;
    let bob = site.user("shell-bob", "operate").await;
    let mut other = site.shell(&bob).await;
    let inside = user_info(&other.run(whoami).await);
    assert_eq!(inside["username"], bob.name);
    if rustix::process::geteuid().is_root() {
        let read = other.run(&format!("cat {path}")).await;
        assert!(!read.contains("token"), "{read}");
        assert!(
            read.contains("No such file") || read.contains("ermission denied"),
            "{read}"
        );
    }
    // The agent's own log has each request, with its shell and its user.
    let log = fs::read_to_string(site.deployment.dir().join(format!("{AGENT}.log"))).unwrap();
    let line = |line: &str| {
        line.contains("request for the API server")
            && line.contains("shell{id=")
            && line.contains(&alice.name)
    };
    assert!(log.lines().any(line), "{log}");
}

async fn rule_8_inside_a_shell_kubectl_has_its_users_role(transport: Transport) {
    let site = Site::new(transport).await;
    let carol = site.user("shell-carol", "shell").await;
    let mut shell = site.shell(&carol).await;
    let admin = Client::direct(&CLUSTER, Wire::WebSocket);
    let pod = admin
        .target(&format!("shell-role-{}", transport.as_str()))
        .await;
    let said = shell
        .run(&format!("kubectl exec {pod} -- echo within"))
        .await;
    assert!(said.contains("within"), "{said}");
    let raw = "kubectl get --raw /api/v1";
    for command in [
        format!("kubectl port-forward pod/{pod} :80"),
        format!("{raw}/namespaces/default/pods/{pod}/proxy/"),
        format!("{raw}/nodes/{}/proxy/pods", NODE_NAME),
    ] {
        let said = shell.run(&command).await;
        assert!(
            said.contains("this shell may not do that"),
            "{command}: {said}"
        );
    }
    // A shell does not outlive a permission that it has used, however many others are left.
    let dave = site.user("shell-dave", "operate").await;
    let wider = site.shell(&dave).await;
    for binding in site.bindings(&dave) {
        let set = ["binding", "set", &binding, "--role", "shell"];
        let set = [&set[..], &["--user", &dave.name, "--cluster", CLUSTER_NAME]].concat();
        site.deployment.administer(&set).unwrap();
    }
    let (_, said) = wider.terminal.ended().await;
    assert!(said.contains("taken back"), "{said}");
    assert!(
        shell
            .run("kubectl version")
            .await
            .contains("Server Version")
    );
}

async fn rule_12_a_shells_kubectl_ends_with_the_permission_for_it(transport: Transport) {
    let site = Site::new(transport).await;
    let alice = site.user("shell-erin", "operate").await;
    let mut shell = site.shell(&alice).await;
    // A program of this machine with the kubeconfig is the user, for as long as the shell lives.
    let stolen = site.deployment.dir().join("stolen.kubeconfig");
    fs::write(&stolen, shell.kubeconfig().await).unwrap();
    let who = outside(&stolen, &["auth", "whoami", "-o", "json"]).await;
    assert_eq!(user_info(&who.1)["username"], alice.name);
    let config: Value = serde_json::from_str(&fs::read_to_string(&stolen).unwrap()).unwrap();
    let token = config["users"][0]["user"]["token"].as_str().unwrap();
    let wrong = changed(&stolen, "wrong", token, &token.replace(|_| true, "x"));
    let (ok, said) = outside(&wrong, &["get", "pods"]).await;
    assert!(
        !ok && (said.contains("Unauthorized") || said.contains("logged in")),
        "{said}"
    );
    let mut watch = CLUSTER.kubectl_with(&stolen);
    // It is not read to its end: of few objects.
    watch.args([
        "get",
        "--raw",
        "/api/v1/namespaces/default/configmaps?watch=1",
    ]);
    let mut watch = Command::from(watch);
    let mut watching = spawn(&mut watch);
    let mut events = Reading::new(watching.stdout.take().unwrap());
    events.until("ADDED").await;

    for binding in site.bindings(&alice) {
        let remove = ["binding", "remove", &binding];
        site.deployment.administer(&remove).unwrap();
    }
    let (status, said) = shell.terminal.ended().await;
    assert_eq!(status, Some(1), "{said}");
    let ended = tokio::time::timeout(std::time::Duration::from_secs(5), watching.wait()).await;
    ended.expect("the watch ends with the shell").unwrap();
    let (ok, said) = outside(&stolen, &["get", "pods"]).await;
    assert!(!ok && said.contains("refused"), "{said}");
}

/// kubectl by a program of the machine's, with this kubeconfig.
async fn outside(kubeconfig: &Path, arguments: &[&str]) -> (bool, String) {
    let mut kubectl = Command::from(CLUSTER.kubectl_with(kubeconfig));
    let output = run(kubectl.args(arguments), b"").await;
    let said = text(&output.stdout) + &text(&output.stderr);
    (output.status.success(), said)
}
