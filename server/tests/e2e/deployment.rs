//! The cluster that all tests share, and servers and agents in front of it.

use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use serde_json::json;
use underpass_testenv::testing::{Client, Wire, eventually, text};
use underpass_testenv::{
    Assets, Cluster, ClusterOptions, Programs, Transport, Underpass, progress_to_stderr,
};
use underpass_tunnel::AgentKey;

/// The cluster's administrator: by RBAC, since nobody gets through as `system:masters`.
pub(crate) const ADMIN: &str = "e2e-admin";

/// Nothing drops it: it ends with the process.
pub(crate) static CLUSTER: LazyLock<Cluster> = LazyLock::new(|| {
    let options = ClusterOptions::default().with_assets(ASSETS.clone());
    let cluster = Cluster::start_blocking(options).unwrap_or_else(|e| panic!("{e:?}"));
    cluster.apply(&admin_binding()).unwrap();
    cluster
});

pub(crate) static ASSETS: LazyLock<Assets> =
    LazyLock::new(|| Assets::ensure(progress_to_stderr).unwrap_or_else(|e| panic!("{e:?}")));

pub(crate) static PROGRAMS: LazyLock<Programs> =
    LazyLock::new(|| Programs::build().unwrap_or_else(|e| panic!("{e:?}")));

/// By what `underpass-agent rbac` prints and nothing else.
pub(crate) static AGENT_KUBECONFIG: LazyLock<PathBuf> =
    LazyLock::new(|| agent_account("underpass-system", &[]));

static QUIC: LazyLock<Deployment> = LazyLock::new(|| Deployment::start_blocking(Transport::Quic));

static WEBSOCKET: LazyLock<Deployment> =
    LazyLock::new(|| Deployment::start_blocking(Transport::WebSocket));

fn admin_binding() -> serde_json::Value {
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": { "name": ADMIN },
        "roleRef": {
            "apiGroup": "rbac.authorization.k8s.io",
            "kind": "ClusterRole",
            "name": "cluster-admin",
        },
        "subjects": [{
            "apiGroup": "rbac.authorization.k8s.io",
            "kind": "User",
            "name": ADMIN,
        }],
    })
}

/// A kubeconfig of the agent's ServiceAccount, by what `underpass-agent rbac` prints with these arguments.
pub(crate) fn agent_account(namespace: &str, arguments: &[&str]) -> PathBuf {
    CLUSTER
        .agent_account(&PROGRAMS, namespace, arguments)
        .unwrap_or_else(|e| panic!("{e:?}"))
}

/// A server and an agent in front of the shared cluster.
pub(crate) struct Deployment {
    underpass: Arc<Underpass>,
    admin: PathBuf,
    pub(crate) transport: Transport,
}

impl Deployment {
    /// Waits until the server has logged it, which may be after the answer that it is about.
    pub(crate) async fn logged(&self, what: &str) {
        eventually(&format!("{what} in the log"), async || {
            let log = self.server_log().unwrap();
            if log.contains(what) { Ok(()) } else { Err(log) }
        })
        .await;
    }

    /// The one that tests share which leave it as it is.
    pub(crate) fn shared(transport: Transport) -> &'static Self {
        match transport {
            Transport::WebSocket => &WEBSOCKET,
            _ => &QUIC,
        }
    }

    /// One that a test may kill and change; it ends with the test.
    pub(crate) async fn start(transport: Transport) -> Self {
        let start = move || Self::start_blocking(transport);
        tokio::task::spawn_blocking(start).await.unwrap()
    }

    /// One whose agent has another account of the cluster's.
    pub(crate) async fn start_as(transport: Transport, agent: PathBuf) -> Self {
        let start = move || Self::start_blocking_as(transport, &agent, &[]);
        tokio::task::spawn_blocking(start).await.unwrap()
    }

    /// The same with further flags of `underpass-server serve`.
    pub(crate) async fn start_as_with(
        transport: Transport,
        agent: PathBuf,
        flags: &[&str],
    ) -> Self {
        let flags: Vec<String> = flags.iter().map(ToString::to_string).collect();
        let start = move || {
            let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
            Self::start_blocking_as(transport, &agent, &flags)
        };
        tokio::task::spawn_blocking(start).await.unwrap()
    }

    fn start_blocking(transport: Transport) -> Self {
        Self::start_blocking_as(transport, &AGENT_KUBECONFIG, &[])
    }

    /// One with further flags of `underpass-server serve`.
    pub(crate) fn start_blocking_with(transport: Transport, flags: &[&str]) -> Self {
        Self::start_blocking_as(transport, &AGENT_KUBECONFIG, flags)
    }

    fn start_blocking_as(transport: Transport, agent: &Path, flags: &[&str]) -> Self {
        let (programs, assets) = (PROGRAMS.clone(), ASSETS.clone());
        let underpass = Underpass::start_with(programs, assets, agent, transport, flags)
            .unwrap_or_else(|e| panic!("{e}"));
        // Each style has a transport, so that all that is done over both is done in both.
        let style = match transport {
            Transport::WebSocket => "path",
            _ => "name",
        };
        let admin = underpass.kubeconfig_of(ADMIN, &[], &["--style", style]);
        let admin = admin.unwrap();
        Self {
            underpass: Arc::new(underpass),
            admin,
            transport,
        }
    }

    /// The administrator, through the tunnel.
    pub(crate) fn admin(&self, wire: Wire) -> Client<'_> {
        self.client(&self.admin, wire)
    }

    pub(crate) fn admin_kubeconfig(&self) -> &Path {
        &self.admin
    }

    pub(crate) fn client<'a>(&self, kubeconfig: &'a Path, wire: Wire) -> Client<'a> {
        let way = match self.transport {
            Transport::WebSocket => "websocket",
            _ => "quic",
        };
        Client::new(&CLUSTER, kubeconfig, way, wire)
    }

    /// A handle for a task of its own.
    pub(crate) fn shared_handle(&self) -> Arc<Underpass> {
        Arc::clone(&self.underpass)
    }

    /// Does what blocks beside the test, which goes on meanwhile.
    pub(crate) async fn blocking<T: Send + 'static>(
        &self,
        what: impl FnOnce(&Underpass) -> T + Send + 'static,
    ) -> T {
        let underpass = Arc::clone(&self.underpass);
        tokio::task::spawn_blocking(move || what(&underpass))
            .await
            .unwrap()
    }
}

impl Deref for Deployment {
    type Target = Underpass;

    fn deref(&self) -> &Underpass {
        &self.underpass
    }
}

/// A new agent's token, which no server knows.
pub(crate) fn agent_token() -> String {
    let key = AgentKey::from_seed(rand::random()).unwrap();
    key.to_secret_text().to_string()
}

/// The token in a kubeconfig that Underpass has written.
pub(crate) fn token_of(kubeconfig: &Path) -> String {
    let text = std::fs::read_to_string(kubeconfig).unwrap();
    let token = text
        .lines()
        .find_map(|line| line.trim().strip_prefix("token: "));
    token.expect("a token").trim_matches(['"', '\'']).to_owned()
}

/// A copy of a kubeconfig with one text in place of another.
pub(crate) fn changed(kubeconfig: &Path, name: &str, from: &str, to: &str) -> PathBuf {
    let text = std::fs::read_to_string(kubeconfig).unwrap();
    assert!(text.contains(from), "no {from:?} in {text}");
    let copy = kubeconfig.with_file_name(format!("{name}.changed"));
    std::fs::write(&copy, text.replace(from, to)).unwrap();
    copy
}

/// A copy of a kubeconfig of either style that leads to another cluster.
pub(crate) fn led_to(kubeconfig: &Path, name: &str, from: &str, to: &str) -> PathBuf {
    let text = std::fs::read_to_string(kubeconfig).unwrap();
    let ways = ["/k8s/clusters/", "tls-server-name: "];
    let way = ways.into_iter().find(|way| text.contains(way));
    let way = way.expect("a way to a cluster");
    changed(
        kubeconfig,
        name,
        &format!("{way}{from}"),
        &format!("{way}{to}"),
    )
}

#[tokio::test]
async fn a_panic_leaves_no_process_and_no_file() {
    let (tell, told) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        let deployment = Deployment::start_blocking(Transport::Quic);
        tell.send(deployment.dir().to_owned()).unwrap();
        panic!("while a server and an agent run, on purpose");
    });
    let dir = told.recv().unwrap();
    thread.join().unwrap_err();
    assert!(!dir.exists());
    let dir = dir.to_str().unwrap();
    let processes = std::fs::read_dir("/proc").unwrap();
    let left: Vec<_> = processes
        .filter_map(|entry| std::fs::read(entry.ok()?.path().join("cmdline")).ok())
        .map(|command| text(&command))
        .filter(|command| command.contains(dir))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}
