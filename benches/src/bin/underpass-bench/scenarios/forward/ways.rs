//! The ways to the target, and what they share.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde_json::json;
use underpass_testenv::{
    Assets, CLUSTER_NAME, Cluster, ClusterOptions, Programs, Transport, Underpass,
    progress_to_stderr, testing,
};

use super::super::Bench;
use super::SCENARIO;
use crate::load::{Door, Echo};
use crate::ports;
use crate::process::Process;
use crate::report::Entry;
use crate::site::Site;
use crate::systems::{Running, System, SystemKind};

/// The user of every way: the cluster's RBAC lets them do everything.
const USER: &str = "bench";

/// The pod whose port `kubectl port-forward` names. Its node is this machine, so that the port is the target's.
const POD: &str = "target";

/// The agent that has a policy.
const AGENT: &str = "agent-with-a-policy";

/// How long a way may take until an echo comes through it.
const DEADLINE: Duration = Duration::from_secs(30);

/// The pause between two tries.
const POLL: Duration = Duration::from_millis(50);

/// A cluster, and the programs.
pub(super) struct Place {
    cluster: Cluster,
    assets: Assets,
    programs: Programs,
}

/// A port, and who leads it to the target. Dropping it ends them.
pub(super) struct Way<'a> {
    name: String,
    door: Door,
    held: Held<'a>,
}

enum Held<'a> {
    Process {
        _program: Process,
        product: Option<Box<Underpass>>,
    },
    Peer {
        _running: Running<'a>,
    },
}

impl Way<'_> {
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Its description, unless it is a system of other scenarios as well.
    pub(super) fn entry(&self) -> Option<Entry> {
        let (kind, settings) = match &self.held {
            Held::Peer { .. } => return None,
            Held::Process { product: None, .. } => {
                (SystemKind::Peer, "to a pod, by the API server and its node")
            }
            Held::Process { .. } => (
                SystemKind::Underpass,
                "a server and an agent of a cluster, defaults; a user's program on this machine",
            ),
        };
        Some(Entry {
            name: self.name.clone(),
            kind,
            settings: settings.to_owned(),
        })
    }

    pub(super) fn door(&self) -> &Door {
        &self.door
    }

    async fn opens(&self) -> Result<()> {
        let begun = Instant::now();
        loop {
            match Echo::start(&self.door).await {
                Ok(_) => return Ok(()),
                Err(error) if begun.elapsed() > DEADLINE => {
                    return Err(error).context("nothing comes through");
                }
                Err(_) => tokio::time::sleep(POLL).await,
            }
        }
    }
}

impl Place {
    pub(super) async fn start(bench: &Bench<'_>) -> Result<Self> {
        let assets = Assets::ensure(progress_to_stderr)?;
        let programs = match bench.plan.is_short() {
            true => Programs::build(),
            false => Programs::build_release(),
        }?;
        let mut options = ClusterOptions::api_only().with_assets(assets.clone());
        options.node = true;
        let cluster = Cluster::start(options).await?;
        cluster.apply(&binding())?;
        cluster.apply(&testing::pod(POD, "exec sleep 100000"))?;
        let pod = format!("pod/{POD}");
        cluster.run_kubectl(&["wait", "--for=condition=Ready", &pod])?;
        Ok(Self {
            cluster,
            assets,
            programs,
        })
    }

    pub(super) async fn stop(self) {
        self.cluster.stop().await;
    }

    /// The ways of the systems that are chosen. One that does not open is told of.
    pub(super) async fn ways<'a>(&mut self, bench: &mut Bench<'a>) -> Vec<Way<'a>> {
        let systems: &'a [Box<dyn System>] = bench.systems;
        let site: &'a Site = bench.site;
        let mut ways = Vec::new();
        for system in systems {
            for way in self.of_system(system.as_ref(), site).await {
                let opened = match way {
                    Ok(way) => way.opens().await.map(|()| way),
                    Err(error) => Err(error),
                };
                match opened {
                    Ok(way) => ways.push(way),
                    Err(error) => bench.report.fail(Some(SCENARIO), system.name(), &error),
                }
            }
        }
        ways
    }

    async fn of_system<'a>(&self, system: &'a dyn System, site: &'a Site) -> Vec<Result<Way<'a>>> {
        match system.name() {
            "direct" => vec![self.straight(site)],
            "underpass-websocket" => vec![
                self.product(site, Transport::WebSocket, Program::Underpass),
                self.product(site, Transport::WebSocket, Program::Kubectl),
            ],
            "underpass-quic" => vec![self.product(site, Transport::Quic, Program::Underpass)],
            "chisel" => vec![peer(system, site).await],
            _ => Vec::new(),
        }
    }

    /// `kubectl port-forward`, with nothing between it and the API server.
    fn straight<'a>(&self, site: &Site) -> Result<Way<'a>> {
        let kubeconfig = self.cluster.kubeconfig_for(USER, &[])?;
        self.kubectl(site, "kubectl port-forward, direct", &kubeconfig, None)
    }

    fn kubectl<'a>(
        &self,
        site: &Site,
        name: &str,
        kubeconfig: &Path,
        product: Option<Underpass>,
    ) -> Result<Way<'a>> {
        let local = ports::free()?;
        let (pod, rule) = (
            format!("pod/{POD}"),
            format!("{}:{}", local.port(), site.target.port()),
        );
        let kubectl = self.assets.kubectl().to_string_lossy();
        let arguments = [
            &*kubectl,
            "--kubeconfig",
            &kubeconfig.to_string_lossy(),
            "port-forward",
            &pod,
            &rule,
        ];
        start(site, name, local, &arguments, product)
    }

    fn product<'a>(&self, site: &Site, transport: Transport, program: Program) -> Result<Way<'a>> {
        let agent = self.cluster.agent_kubeconfig()?;
        let (programs, assets) = (self.programs.clone(), self.assets.clone());
        let product = Underpass::start(programs, assets, &agent, transport)?;
        let name = format!("{}, {}", program.name(), transport.as_str());
        if program == Program::Kubectl {
            let kubeconfig = product.kubeconfig(USER, &[])?;
            return self.kubectl(site, &name, &kubeconfig, Some(product));
        }
        let policy = product.dir().join("policy.yaml");
        fs::write(&policy, "tcp: [{name: target, addresses: [127.0.0.1]}]\n")?;
        product.stop_agent()?;
        let policy = policy.to_string_lossy();
        product.spawn_another_agent(AGENT, transport, &[("--policy", &policy)])?;
        let add = ["user", "add", USER, "--cluster", CLUSTER_NAME];
        product.administer(&[&add[..], &["--role", "services"]].concat())?;
        let token = product.dir().join("user.token");
        fs::write(
            &token,
            product.administer(&["token", "create", "--user", USER])?,
        )?;
        let local = ports::free()?;
        let rule = format!("{local}:{}", site.target);
        let (cli, ca) = (self.programs.cli().to_string_lossy(), product.ca_file());
        let url = product.url().to_owned();
        let arguments = [
            &*cli,
            "--api",
            &url,
            "--api-ca-file",
            &ca.to_string_lossy(),
            "--api-token-file",
            &token.to_string_lossy(),
            "forward",
            CLUSTER_NAME,
            &rule,
        ];
        start(site, &name, local, &arguments, Some(product))
    }
}

/// A user's program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Program {
    Underpass,
    Kubectl,
}

impl Program {
    const fn name(self) -> &'static str {
        match self {
            Self::Underpass => "underpass forward",
            Self::Kubectl => "kubectl port-forward",
        }
    }
}

/// Starts a user's program, which tells of each connection on its standard output.
fn start<'a>(
    site: &Site,
    name: &str,
    local: SocketAddr,
    arguments: &[&str],
    product: Option<Underpass>,
) -> Result<Way<'a>> {
    let home = site.path().to_string_lossy();
    let silent = ["-c", "HOME=\"$0\" exec \"$@\" >/dev/null", &home];
    let file = name.replace([' ', ','], "-");
    let arguments = [&silent[..], arguments].concat();
    let program = site.start(&file, Path::new("sh"), arguments)?;
    Ok(Way {
        name: name.to_owned(),
        door: Door::Tcp(local),
        held: Held::Process {
            _program: program,
            product: product.map(Box::new),
        },
    })
}

/// A peer that leads a port to the target by itself.
async fn peer<'a>(system: &'a dyn System, site: &'a Site) -> Result<Way<'a>> {
    let running = Running::start(system, site).await?;
    Ok(Way {
        name: system.name().to_owned(),
        door: running.door().clone(),
        held: Held::Peer { _running: running },
    })
}

fn binding() -> serde_json::Value {
    let group = "rbac.authorization.k8s.io";
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": { "name": USER },
        "roleRef": { "apiGroup": group, "kind": "ClusterRole", "name": "cluster-admin" },
        "subjects": [{ "apiGroup": group, "kind": "User", "name": USER }],
    })
}
