//! rathole.

use std::net::SocketAddr;

use anyhow::Result;

use super::{Agents, Server, System, SystemKind};
use crate::load::Door;
use crate::peers;
use crate::ports;
use crate::process::Process;
use crate::site::{PASSWORD, Site};

pub(crate) struct Rathole;

const TOKEN: &str = "bench";

impl System for Rathole {
    fn name(&self) -> &'static str {
        "rathole"
    }

    fn settings(&self) -> &'static str {
        "0.5.0, transport tls (OpenSSL), nodelay (its default); a connection for each user's, made \
         ahead"
    }

    fn kind(&self) -> SystemKind {
        SystemKind::Peer
    }

    fn prepare(&self) -> Result<()> {
        peers::RATHOLE.ensure().map(drop)
    }

    fn server(&self, site: &Site) -> Result<Server> {
        let (users, agents) = (ports::free()?, site.for_agents()?);
        let program = peers::RATHOLE.ensure()?.join("rathole");
        let config = format!(
            r#"[server]
bind_addr = "{agents}"
default_token = "{TOKEN}"

[server.transport]
type = "tls"

[server.transport.tls]
pkcs12 = "{identity}"
pkcs12_password = "{PASSWORD}"

[server.services.target]
bind_addr = "{users}"
"#,
            identity = site.pkcs12()?,
        );
        let config = site.write("rathole-server.toml", &config)?;
        Ok(Server {
            process: Some(site.start("rathole-server", &program, ["--server", &config])?),
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
        anyhow::ensure!(agents.first == 0, "a service of rathole has one agent");
        let program = peers::RATHOLE.ensure()?.join("rathole");
        let config = format!(
            r#"[client]
remote_addr = "{dial}"
default_token = "{TOKEN}"
retry_interval = 1

[client.transport]
type = "tls"

[client.transport.tls]
trusted_root = "{ca}"
hostname = "localhost"

[client.services.target]
local_addr = "{target}"
retry_interval = 1
"#,
            ca = site.ca(),
            target = site.target,
        );
        let config = site.write("rathole-agent.toml", &config)?;
        Ok(Some(site.start_there(
            "rathole-agent",
            &program,
            ["--client", &config],
        )?))
    }

    fn relays(&self) -> bool {
        true
    }
}
