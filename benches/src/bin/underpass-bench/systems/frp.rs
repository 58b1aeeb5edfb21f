//! frp.

use std::net::SocketAddr;

use anyhow::Result;

use super::{Agents, Carriers, Server, System, SystemKind, chisel};
use crate::load::Door;
use crate::peers;
use crate::ports;
use crate::process::Process;
use crate::site::Site;

/// By what carries it.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Frp {
    Tls,
    Quic,
}

impl System for Frp {
    fn name(&self) -> &'static str {
        match self {
            Self::Tls => "frp-tls",
            Self::Quic => "frp-quic",
        }
    }

    fn settings(&self) -> &'static str {
        match self {
            Self::Tls => {
                "v0.65.0 with yamux 0.1.1, TLS forced, tcpMux (its default), connection pool of 5 \
                 (its sample configuration)"
            }
            Self::Quic => {
                "v0.65.0, transport.protocol quic, connection pool of 5 (its sample configuration)"
            }
        }
    }

    fn carriers(&self) -> Carriers {
        match self {
            Self::Tls => Carriers::Tcp,
            Self::Quic => Carriers::Udp,
        }
    }

    fn kind(&self) -> SystemKind {
        SystemKind::Peer
    }

    fn prepare(&self) -> Result<()> {
        peers::FRP.ensure().map(drop)
    }

    fn server(&self, site: &Site) -> Result<Server> {
        let (users, agents) = (ports::free()?, site.for_agents()?);
        let program = peers::FRP.ensure()?.join("frps");
        let name = format!("{}-server", self.name());
        let quic = match self {
            Self::Tls => String::new(),
            Self::Quic => format!("quicBindPort = {}", agents.port()),
        };
        let config = format!(
            r#"bindAddr = "{bind}"
proxyBindAddr = "127.0.0.1"
bindPort = {port}
{quic}
log.level = "warn"
transport.maxPoolCount = 5
transport.tls.force = true
transport.tls.certFile = "{cert}"
transport.tls.keyFile = "{key}"
"#,
            bind = agents.ip(),
            port = agents.port(),
            cert = site.file("server.pem"),
            key = site.file("server.key"),
        );
        let config = site.write(&format!("{name}.toml"), &config)?;
        Ok(Server {
            process: Some(site.start(&name, &program, ["-c", &config])?),
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
        let program = peers::FRP.ensure()?.join("frpc");
        let name = format!("{}-agent-{}", self.name(), agents.first);
        let protocol = match self {
            Self::Tls => "tcp",
            Self::Quic => "quic",
        };
        let config = format!(
            r#"serverAddr = "{server}"
serverPort = {port}
loginFailExit = false
log.level = "warn"
transport.protocol = "{protocol}"
transport.poolCount = 5
transport.tls.enable = true
transport.tls.trustedCaFile = "{ca}"
transport.tls.serverName = "localhost"

[[proxies]]
name = "target-{number}"
type = "tcp"
localIP = "127.0.0.1"
localPort = {target}
remotePort = {users}
"#,
            server = dial.ip(),
            port = dial.port(),
            ca = site.ca(),
            number = agents.first,
            target = site.target.port(),
            users = chisel::users(server, agents)?.port(),
        );
        let config = site.write(&format!("{name}.toml"), &config)?;
        Ok(Some(site.start_there(&name, &program, ["-c", &config])?))
    }

    fn relays(&self) -> bool {
        matches!(self, Self::Tls)
    }
}
