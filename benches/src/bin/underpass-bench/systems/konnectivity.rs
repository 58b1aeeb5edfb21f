//! Kubernetes' konnectivity: apiserver-network-proxy.

use std::net::SocketAddr;

use anyhow::Result;

use super::{Agents, Server, System, SystemKind};
use crate::load::Door;
use crate::peers;
use crate::ports;
use crate::process::Process;
use crate::site::Site;

pub(crate) struct Konnectivity;

impl System for Konnectivity {
    fn name(&self) -> &'static str {
        "konnectivity"
    }

    fn settings(&self) -> &'static str {
        "v0.34.0, mode http-connect with users on a unix socket, as its README has it; agents over \
         gRPC with mutual TLS"
    }

    fn kind(&self) -> SystemKind {
        SystemKind::Peer
    }

    fn prepare(&self) -> Result<()> {
        peers::KONNECTIVITY.ensure().map(drop)
    }

    fn server(&self, site: &Site) -> Result<Server> {
        let (agents, admin, health) = (site.for_agents()?, ports::free()?, ports::free()?);
        let program = peers::KONNECTIVITY.ensure()?.join("server");
        let socket = site
            .path()
            .join(format!("konnectivity-{}.sock", agents.port()));
        let arguments = [
            "--mode=http-connect",
            &format!("--uds-name={}", socket.display()),
            "--server-port=0",
            &format!("--agent-bind-address={}", agents.ip()),
            &format!("--agent-port={}", agents.port()),
            &format!("--admin-port={}", admin.port()),
            "--health-bind-address=127.0.0.1",
            &format!("--health-port={}", health.port()),
            &format!("--cluster-cert={}", site.file("server.pem")),
            &format!("--cluster-key={}", site.file("server.key")),
            &format!("--cluster-ca-cert={}", site.ca()),
            "--logtostderr=true",
            "--v=0",
        ];
        let target = site.target;
        Ok(Server {
            process: Some(site.start("konnectivity-server", &program, arguments)?),
            agents,
            door: Door::Connect {
                socket: socket.clone(),
                target,
            },
            keys: Door::Connect { socket, target },
        })
    }

    fn agent(
        &self,
        site: &Site,
        _: &Server,
        dial: SocketAddr,
        agents: Agents,
    ) -> Result<Option<Process>> {
        let program = peers::KONNECTIVITY.ensure()?.join("agent");
        let (admin, health) = (ports::free()?, ports::free()?);
        let arguments = [
            &format!("--proxy-server-host={}", dial.ip()),
            &format!("--proxy-server-port={}", dial.port()),
            &format!("--agent-cert={}", site.file("client.pem")),
            &format!("--agent-key={}", site.file("client.key")),
            &format!("--ca-cert={}", site.ca()),
            &format!("--admin-server-port={}", admin.port()),
            "--health-server-host=127.0.0.1",
            &format!("--health-server-port={}", health.port()),
            // It comes back within a second instead of ten, as far as its options allow.
            "--sync-interval=100ms",
            "--sync-interval-cap=1s",
            "--probe-interval=100ms",
            "--sync-forever=true",
            "--logtostderr=true",
            "--v=0",
        ];
        let name = format!("konnectivity-agent-{}", agents.first);
        Ok(Some(site.start_there(&name, &program, arguments)?))
    }

    fn relays(&self) -> bool {
        true
    }
}
