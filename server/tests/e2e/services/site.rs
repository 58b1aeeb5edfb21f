//! A namespace with services, an agent whose policy allows them, and a user who may reach services. The services are this test's own
//! sockets: the cluster's API server knows them as a Service and its EndpointSlice, as it knows a database outside of the cluster.

use std::fs;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};

use serde_json::json;
use tokio::net::TcpListener;
use underpass_testenv::testing::eventually;
use underpass_testenv::{CLUSTER_NAME, Transport};

use crate::deployment::{CLUSTER, Deployment, agent_account};
use crate::raw;

/// The agent that has a policy.
const AGENT: &str = "agent-of-services";

pub(super) struct Site {
    pub(super) deployment: Deployment,
    pub(super) namespace: String,
    /// Of a user with the role services.
    pub(super) token: PathBuf,
}

/// A file with a token of a new user, who has this role.
pub(super) fn token_of_role(deployment: &Deployment, user: &str, role: &str) -> PathBuf {
    let add = [
        "user",
        "add",
        user,
        "--cluster",
        CLUSTER_NAME,
        "--role",
        role,
    ];
    deployment.administer(&add).unwrap();
    let token = deployment.administer(&["token", "create", "--user", user]);
    let path = deployment.dir().join(format!("{user}.token"));
    fs::write(&path, token.unwrap()).unwrap();
    path
}

/// An address of this machine's on a network: the API server takes no other for an endpoint, and agents dial no loopback for one.
fn own_address() -> IpAddr {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    // Nothing is sent: the system chooses the address for it.
    socket.connect("192.0.2.1:9").unwrap();
    let address = socket.local_addr().unwrap().ip();
    assert!(
        !address.is_loopback(),
        "this machine needs an address on a network"
    );
    address
}

impl Site {
    pub(super) async fn start(transport: Transport) -> Self {
        Self::start_with(transport, &[]).await
    }

    /// With further flags of `underpass-server serve`.
    pub(super) async fn start_with(transport: Transport, flags: &[&str]) -> Self {
        let number: u32 = rand::random();
        let namespace = format!("shop-{number:08x}");
        let manifest = json!({
            "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": namespace },
        });
        CLUSTER.apply(&manifest).unwrap();
        let account = agent_account(
            &format!("agent-{number:08x}"),
            &["--read-services", &namespace],
        );
        let deployment = Deployment::start_as_with(transport, account, flags).await;
        let policy = deployment.dir().join("policy.yaml");
        let rules = format!(
            "tcp:\n- {{name: shop, services: [{namespace}/*]}}\n- {{name: own, addresses: [127.0.0.1]}}\n"
        );
        fs::write(&policy, rules).unwrap();
        deployment.stop_agent().unwrap();
        let policy = [("--policy", policy.to_str().unwrap())];
        deployment
            .spawn_another_agent(AGENT, transport, &policy)
            .unwrap();
        let token = token_of_role(&deployment, "svc", "services");
        let site = Self {
            deployment,
            namespace,
            token,
        };
        site.connected().await;
        site
    }

    /// Starts the agent again, with another way to the server: a port of this machine's.
    pub(super) async fn lead_through(&self, port: u16) {
        self.deployment.stop_another_agent(AGENT).unwrap();
        let policy = self.dir().join("policy.yaml");
        let server = format!("https://localhost:{port}");
        let flags = [
            ("--policy", policy.to_str().unwrap()),
            ("--server", server.as_str()),
        ];
        let transport = self.deployment.transport;
        let started = self
            .deployment
            .spawn_another_agent(AGENT, transport, &flags);
        started.unwrap();
        self.connected().await;
    }

    /// The server's port.
    pub(super) fn server(&self) -> u16 {
        let port = self.deployment.url().rsplit(':').next().unwrap();
        port.parse().unwrap()
    }

    /// Waits for the agent: it says that there is no such service.
    async fn connected(&self) {
        let (path, token) = (self.path("http", "none", 80, "/"), self.bearer());
        eventually("the agent with a policy is connected", async || {
            let answer = raw::get(&self.deployment, &path, Some(&token)).await;
            match answer.code {
                502 => Ok(()),
                _ => Err(answer),
            }
        })
        .await;
    }

    /// The user's token.
    pub(super) fn bearer(&self) -> String {
        fs::read_to_string(&self.token).unwrap().trim().to_owned()
    }

    /// A socket for a service, and the service.
    pub(super) async fn listen(&self, service: &str, port: u16) -> TcpListener {
        let listener = TcpListener::bind((own_address(), 0)).await.unwrap();
        self.expose(service, port, listener.local_addr().unwrap());
        listener
    }

    /// A service whose one endpoint is at this address.
    pub(super) fn expose(&self, service: &str, port: u16, endpoint: SocketAddr) {
        let metadata = |name: &str, labels: serde_json::Value| json!({ "name": name, "namespace": self.namespace, "labels": labels });
        let labels = json!({ "kubernetes.io/service-name": service });
        let manifest = json!({
            "apiVersion": "v1",
            "kind": "List",
            "items": [
                {
                    "apiVersion": "v1",
                    "kind": "Service",
                    "metadata": metadata(service, json!({})),
                    "spec": { "ports": [{ "port": port }] },
                },
                {
                    "apiVersion": "discovery.k8s.io/v1",
                    "kind": "EndpointSlice",
                    "metadata": metadata(service, labels),
                    "addressType": "IPv4",
                    "ports": [{ "name": "", "port": endpoint.port() }],
                    "endpoints": [{
                        "addresses": [endpoint.ip().to_string()],
                        "conditions": { "ready": true },
                    }],
                },
            ],
        });
        CLUSTER.apply(&manifest).unwrap();
    }

    /// The name of a service in the cluster.
    pub(super) fn host(&self, service: &str) -> String {
        format!("{service}.{}", self.namespace)
    }

    /// A path of a service at the server.
    pub(super) fn path(&self, scheme: &str, service: &str, port: u16, path: &str) -> String {
        let namespace = &self.namespace;
        format!("/v1/clusters/{CLUSTER_NAME}/services/{scheme}:{namespace}:{service}:{port}{path}")
    }

    /// The same as a URL.
    pub(super) fn url(&self, scheme: &str, service: &str, port: u16, path: &str) -> String {
        let path = self.path(scheme, service, port, path);
        format!("{}{path}", self.deployment.url())
    }

    pub(super) fn ca_file(&self) -> PathBuf {
        self.deployment.ca_file()
    }

    pub(super) fn dir(&self) -> &Path {
        self.deployment.dir()
    }
}
