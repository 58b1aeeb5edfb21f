//! rancher/remotedialer, in a program of ours around its module.

use std::net::SocketAddr;

use anyhow::Result;

use super::{Agents, Server, System, SystemKind};
use crate::load::Door;
use crate::peers;
use crate::ports;
use crate::process::Process;
use crate::site::Site;

pub(crate) struct Remotedialer;

impl System for Remotedialer {
    fn name(&self) -> &'static str {
        "remotedialer"
    }

    fn settings(&self) -> &'static str {
        "v0.6.0-rc.1.0.20250916111157-f160aa32568d, WebSocket over Go's TLS (wss), a program of ours \
         that copies with io.Copy; it dials again at once"
    }

    fn kind(&self) -> SystemKind {
        SystemKind::Peer
    }

    fn prepare(&self) -> Result<()> {
        peers::REMOTEDIALER.ensure().map(drop)
    }

    fn server(&self, site: &Site) -> Result<Server> {
        let (users, agents) = (ports::free()?, site.for_agents()?);
        let program = peers::REMOTEDIALER.ensure()?.join("remotedialer");
        let arguments = [
            "server",
            "-users",
            &users.to_string(),
            "-agents",
            &agents.to_string(),
            "-target",
            &site.target.to_string(),
            "-cert",
            &site.file("server.pem"),
            "-key",
            &site.file("server.key"),
        ];
        Ok(Server {
            process: Some(site.start("remotedialer-server", &program, arguments)?),
            agents,
            door: Door::Tcp(users),
            keys: Door::Tcp(users),
        })
    }

    fn agent(
        &self,
        site: &Site,
        _: &Server,
        dial: SocketAddr,
        agents: Agents,
    ) -> Result<Option<Process>> {
        let program = peers::REMOTEDIALER.ensure()?.join("remotedialer");
        let arguments = [
            "agent",
            "-server",
            &format!("wss://{dial}"),
            "-ca",
            &site.ca(),
            "-first",
            &agents.first.to_string(),
            "-count",
            &agents.count.to_string(),
        ];
        let name = format!("remotedialer-agent-{}", agents.first);
        Ok(Some(site.start_there(&name, &program, arguments)?))
    }

    fn crowd(&self) -> Option<u32> {
        Some(u32::MAX)
    }

    fn relays(&self) -> bool {
        true
    }
}
