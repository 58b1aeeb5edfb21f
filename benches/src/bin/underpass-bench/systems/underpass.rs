//! Underpass's session, as a program embeds it.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use serde::Deserialize;

use super::{Agents, Carriers, Running, Server, System, SystemKind};
use crate::load::Door;
use crate::ports;
use crate::process::Process;
use crate::site::Site;

/// How long a second link may take.
const SETTLED: Duration = Duration::from_secs(20);

/// The pause between two looks.
const POLL: Duration = Duration::from_millis(20);

/// The server's answer about the newest session.
#[derive(Debug, Deserialize)]
struct Links {
    stand_by: bool,
}

/// By what carries it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Underpass {
    WebSocket,
    Quic,
    /// QUIC, and a WebSocket that stands by.
    TwoLinks,
}

impl Underpass {
    /// As the agent's command line says it.
    const fn transport(self) -> &'static str {
        match self {
            Self::WebSocket => "websocket",
            Self::Quic => "quic",
            Self::TwoLinks => "auto",
        }
    }
}

impl System for Underpass {
    fn name(&self) -> &'static str {
        match self {
            Self::WebSocket => "underpass-websocket",
            Self::Quic => "underpass-quic",
            Self::TwoLinks => "underpass-two-links",
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
            Self::Quic | Self::TwoLinks => 4000,
        })
    }

    fn relays(&self) -> bool {
        *self == Self::WebSocket
    }

    fn carriers(&self) -> Carriers {
        match self {
            Self::WebSocket => Carriers::Tcp,
            Self::Quic => Carriers::Udp,
            Self::TwoLinks => Carriers::UdpThenTcp,
        }
    }

    fn settled<'a>(&'a self, running: &'a mut Running<'_>) -> BoxFuture<'a, Result<()>> {
        async move {
            if *self != Self::TwoLinks {
                return Ok(());
            }
            let begun = Instant::now();
            let server = running.server.process.as_mut().context("no server")?;
            loop {
                let Links { stand_by } = server.ask("links")?;
                if stand_by {
                    return Ok(());
                }
                ensure!(begun.elapsed() < SETTLED, "no second link stands by");
                tokio::time::sleep(POLL).await;
            }
        }
        .boxed()
    }
}
