//! Underpass's session, as a program embeds it.

use std::net::SocketAddr;

use anyhow::Result;

use super::{Agents, Server, System, SystemKind};
use crate::load::Door;
use crate::ports;
use crate::process::Process;
use crate::site::Site;

/// By what carries it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Underpass {
    WebSocket,
    Quic,
}

impl Underpass {
    /// As the agent's command line says it.
    const fn transport(self) -> &'static str {
        match self {
            Self::WebSocket => "websocket",
            Self::Quic => "quic",
        }
    }
}

impl System for Underpass {
    fn name(&self) -> &'static str {
        match self {
            Self::WebSocket => "underpass-websocket",
            Self::Quic => "underpass-quic",
        }
    }

    fn settings(&self) -> &'static str {
        "a stream of a session for each user's connection, retention on, defaults; who types has \
         streams of class interactive"
    }

    fn kind(&self) -> SystemKind {
        SystemKind::Underpass
    }

    fn server(&self, site: &Site) -> Result<Server> {
        let (users, keys, agents) = (ports::free()?, ports::free()?, site.for_agents()?);
        let arguments = [
            "--users",
            &users.to_string(),
            "--keys",
            &keys.to_string(),
            "--agents",
            &agents.to_string(),
            "--cert",
            &site.file("server.pem"),
            "--key",
            &site.file("server.key"),
        ];
        let name = format!("{}-server", self.name());
        Ok(Server {
            process: Some(site.start_own(&name, "underpass-server", arguments)?),
            agents,
            door: Door::Tcp(users),
            keys: Door::Tcp(keys),
        })
    }

    fn agent(
        &self,
        site: &Site,
        _: &Server,
        dial: SocketAddr,
        agents: Agents,
    ) -> Result<Option<Process>> {
        let arguments = [
            "--server",
            &dial.to_string(),
            "--target",
            &site.target.to_string(),
            "--ca",
            &site.ca(),
            "--transport",
            self.transport(),
            "--first",
            &agents.first.to_string(),
            "--count",
            &agents.count.to_string(),
        ];
        let name = format!("{}-agent-{}", self.name(), agents.first);
        Ok(Some(site.start_own_there(
            &name,
            "underpass-agent",
            arguments,
        )?))
    }

    fn crowd(&self) -> Option<u32> {
        Some(match self {
            Self::WebSocket => u32::MAX,
            // Each is an endpoint of quinn's with 2.3 MB to receive into: a crowd that dials anew would need more
            // memory than there is, which says nothing of agents that have a process each.
            Self::Quic => 4000,
        })
    }

    fn relays(&self) -> bool {
        *self == Self::WebSocket
    }
}
