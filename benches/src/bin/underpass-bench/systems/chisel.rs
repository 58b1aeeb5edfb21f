//! chisel: SSH in a WebSocket.

use std::net::SocketAddr;

use anyhow::{Context as _, Result};

use super::{Agents, Server, System, SystemKind};
use crate::load::Door;
use crate::peers;
use crate::ports;
use crate::process::Process;
use crate::site::Site;

pub(crate) struct Chisel;

impl System for Chisel {
    fn name(&self) -> &'static str {
        "chisel"
    }

    fn settings(&self) -> &'static str {
        "v1.11.3, reverse remote; its own SSH encryption in a WebSocket without TLS, which would \
         encrypt a second time"
    }

    fn kind(&self) -> SystemKind {
        SystemKind::Peer
    }

    fn prepare(&self) -> Result<()> {
        peers::CHISEL.ensure().map(drop)
    }

    fn server(&self, site: &Site) -> Result<Server> {
        let (users, agents) = (ports::free()?, site.for_agents()?);
        let program = peers::CHISEL.ensure()?.join("chisel");
        let arguments = [
            "server",
            "--reverse",
            "--host",
            &agents.ip().to_string(),
            "--port",
            &agents.port().to_string(),
        ];
        Ok(Server {
            process: Some(site.start("chisel-server", &program, arguments)?),
            agents,
            door: Door::Tcp(users),
            keys: Door::Tcp(users),
        })
    }

    fn agent(
        &self,
        site: &Site,
        server: &Server,
        dial: SocketAddr,
        agents: Agents,
    ) -> Result<Option<Process>> {
        let program = peers::CHISEL.ensure()?.join("chisel");
        let users = users(server, agents)?;
        let arguments = [
            "client",
            // Its pause doubles from 100 ms on.
            "--max-retry-interval",
            "200ms",
            &format!("http://{dial}"),
            &format!("R:{users}:{}", site.target),
        ];
        let name = format!("chisel-agent-{}", agents.first);
        Ok(Some(site.start_there(&name, &program, arguments)?))
    }

    fn relays(&self) -> bool {
        true
    }
}

/// Where the users of these agents connect, for systems whose agents say that: of the first one at the
/// server's door.
pub(super) fn users(server: &Server, agents: Agents) -> Result<SocketAddr> {
    match (&server.door, agents.first) {
        (Door::Tcp(users), 0) => Ok(*users),
        _ => ports::free().context("no port for another agent's users"),
    }
}
