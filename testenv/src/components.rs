//! The command lines of a cluster's processes.

use std::path::{Path, PathBuf};

use serde_json::json;

use crate::certs::Authority;
use crate::kubeconfig::{self, Credential, write_private};
use crate::options::{ClusterOptions, NODE_NAME};
use crate::supervisor::Start;
use crate::{Assets, ClusterError, KUBERNETES_VERSION};

pub(crate) const ETCD: &str = "etcd";
pub(crate) const API_SERVER: &str = "kube-apiserver";
pub(crate) const CONTROLLER_MANAGER: &str = "kube-controller-manager";
pub(crate) const NODE: &str = "kubelet";

/// The common name by which the node knows its API server.
const API_SERVER_CLIENT: &str = "kube-apiserver-kubelet-client";

/// Where a cluster's files are, and where its servers listen.
#[derive(Debug)]
pub(crate) struct Layout {
    pub(crate) dir: PathBuf,
    pub(crate) etcd_port: u16,
    pub(crate) etcd_peer_port: u16,
    pub(crate) api_port: u16,
}

impl Layout {
    pub(crate) fn api_url(&self) -> String {
        format!("https://127.0.0.1:{}", self.api_port)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_string_lossy().into_owned()
    }

    pub(crate) fn audit_log(&self) -> PathBuf {
        self.path("audit.log")
    }

    pub(crate) fn admin_kubeconfig(&self) -> PathBuf {
        self.path("admin.kubeconfig")
    }

    fn start(&self, name: &'static str, program: &Path, arguments: Vec<String>) -> Start {
        let mut argv = vec![program.to_string_lossy().into_owned()];
        argv.extend(arguments);
        let path = std::env::var("PATH").unwrap_or_default();
        Start {
            name,
            argv,
            env: vec![
                format!("PATH={path}"),
                format!("HOME={}", self.text("home")),
                format!("TMPDIR={}", self.text("tmp")),
            ],
            dir: self.dir.clone(),
            log: self.path(&format!("{name}.log")),
            grace_ms: 0,
            has_children: false,
        }
    }
}

/// Writes what the servers read: certificates, keys, kubeconfigs, the audit policy.
pub(crate) fn write_files(layout: &Layout, authority: &Authority) -> Result<(), ClusterError> {
    let write = |name: &str, content: &str| {
        write_private(&layout.path(name), content.as_bytes())
            .map_err(ClusterError::io(format!("write {name}")))
    };
    for name in ["home", "tmp", "node", "users"] {
        std::fs::create_dir(layout.path(name))
            .map_err(ClusterError::io(format!("create folder {name}")))?;
    }
    write("ca.crt", &authority.pem())?;
    write("ca.key", authority.key_pem())?;
    let server_names = [
        "localhost",
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
    ];
    for (name, identity) in [
        ("apiserver", authority.server(&server_names)?),
        ("kubelet", authority.server(&[NODE_NAME])?),
        (
            "kubelet-client",
            authority.client(API_SERVER_CLIENT, &["system:masters"])?,
        ),
    ] {
        write(&format!("{name}.crt"), &identity.certificate)?;
        write(&format!("{name}.key"), &identity.key)?;
    }
    let tokens = rcgen::KeyPair::generate()?;
    write("service-account.key", &tokens.serialize_pem())?;
    write("service-account.pub", &tokens.public_key_pem())?;
    // Every request once, when it is complete: its user, the impersonated user, and the result.
    let policy = json!({
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        "omitStages": ["RequestReceived"],
        "rules": [{ "level": "Metadata" }],
    });
    write("audit-policy.json", &policy.to_string())?;
    for (name, user, groups) in [
        ("admin", "testenv-admin", &["system:masters"][..]),
        // One identity for all controllers: an account for each would be the slowest part of their start.
        (
            "controller-manager",
            "system:kube-controller-manager",
            &["system:masters"][..],
        ),
        // Not a node's restricted identity: it binds pods as well, which is a scheduler's work.
        ("node", "testenv-node", &["system:masters"][..]),
    ] {
        let identity = authority.client(user, groups)?;
        let credential = Credential::Certificate(&identity);
        let document = kubeconfig::document(&layout.api_url(), &authority.pem(), credential);
        write(&format!("{name}.kubeconfig"), &document.to_string())?;
    }
    Ok(())
}

pub(crate) fn etcd(layout: &Layout, assets: &Assets) -> Start {
    let client = format!("http://127.0.0.1:{}", layout.etcd_port);
    let peer = format!("http://127.0.0.1:{}", layout.etcd_peer_port);
    layout.start(
        ETCD,
        assets.etcd(),
        vec![
            "--name=testenv".into(),
            format!("--data-dir={}", layout.text("etcd")),
            format!("--listen-client-urls={client}"),
            format!("--advertise-client-urls={client}"),
            format!("--listen-peer-urls={peer}"),
            format!("--initial-advertise-peer-urls={peer}"),
            format!("--initial-cluster=testenv={peer}"),
            // Only a test's data would be lost with the power.
            "--unsafe-no-fsync".into(),
            // A single member elects itself; waiting a second for others is the slowest part of its start.
            "--heartbeat-interval=20".into(),
            "--election-timeout=200".into(),
            format!("--quota-backend-bytes={}", 512 << 20),
            "--log-level=warn".into(),
        ],
    )
}

pub(crate) fn api_server(layout: &Layout, assets: &Assets, options: &ClusterOptions) -> Start {
    let mut arguments = vec![
        format!("--etcd-servers=http://127.0.0.1:{}", layout.etcd_port),
        "--bind-address=127.0.0.1".into(),
        "--advertise-address=127.0.0.1".into(),
        format!("--secure-port={}", layout.api_port),
        format!("--cert-dir={}", layout.text("tmp")),
        format!("--tls-cert-file={}", layout.text("apiserver.crt")),
        format!("--tls-private-key-file={}", layout.text("apiserver.key")),
        format!("--client-ca-file={}", layout.text("ca.crt")),
        "--authorization-mode=RBAC".into(),
        "--service-account-issuer=https://kubernetes.default.svc".into(),
        format!(
            "--service-account-key-file={}",
            layout.text("service-account.pub")
        ),
        format!(
            "--service-account-signing-key-file={}",
            layout.text("service-account.key")
        ),
        "--service-cluster-ip-range=10.0.0.0/24".into(),
        // It would publish the loopback address as an Endpoint, which is not valid.
        "--endpoint-reconciler-type=none".into(),
        format!("--kubelet-certificate-authority={}", layout.text("ca.crt")),
        format!(
            "--kubelet-client-certificate={}",
            layout.text("kubelet-client.crt")
        ),
        format!("--kubelet-client-key={}", layout.text("kubelet-client.key")),
        "--kubelet-preferred-address-types=InternalIP".into(),
        "--allow-privileged=true".into(),
        format!("--goaway-chance={}", options.goaway_chance),
    ];
    if options.audit_log {
        arguments.push(format!(
            "--audit-policy-file={}",
            layout.text("audit-policy.json")
        ));
        arguments.push(format!("--audit-log-path={}", layout.text("audit.log")));
    }
    if !options.controller_manager {
        // It refuses pods whose ServiceAccount is missing, and nothing would create one.
        arguments.push("--disable-admission-plugins=ServiceAccount".into());
    }
    arguments.extend(options.api_server_arguments.iter().cloned());
    layout.start(API_SERVER, assets.kube_apiserver(), arguments)
}

pub(crate) fn controller_manager(layout: &Layout, assets: &Assets) -> Start {
    layout.start(
        CONTROLLER_MANAGER,
        assets.kube_controller_manager(),
        vec![
            format!(
                "--kubeconfig={}",
                layout.text("controller-manager.kubeconfig")
            ),
            format!(
                "--service-account-private-key-file={}",
                layout.text("service-account.key")
            ),
            format!("--root-ca-file={}", layout.text("ca.crt")),
            format!("--cluster-signing-cert-file={}", layout.text("ca.crt")),
            format!("--cluster-signing-key-file={}", layout.text("ca.key")),
            "--leader-elect=false".into(),
            // Nobody asks it anything, and a port is one more to collide.
            "--secure-port=0".into(),
        ],
    )
}

pub(crate) fn node(layout: &Layout, assets: &Assets, options: &ClusterOptions) -> Start {
    let arguments = vec![
        format!("-kubeconfig={}", layout.text("node.kubeconfig")),
        format!("-node={NODE_NAME}"),
        format!("-root={}", layout.text("node")),
        format!("-kubelet-version={KUBERNETES_VERSION}"),
        format!("-tls-cert-file={}", layout.text("kubelet.crt")),
        format!("-tls-private-key-file={}", layout.text("kubelet.key")),
        format!("-client-ca-file={}", layout.text("ca.crt")),
        format!("-client-name={API_SERVER_CLIENT}"),
        format!("-websockets={}", options.node_websockets),
    ];
    Start {
        // It kills its pods when asked to end, which takes it an instant.
        grace_ms: 3000,
        has_children: true,
        ..layout.start(NODE, assets.node(), arguments)
    }
}
