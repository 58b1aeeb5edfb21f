//! The same four processes, and between the two in the middle no session: the cost of the path itself.

use std::net::SocketAddr;

use anyhow::Result;

use super::{Agents, Server, System, SystemKind};
use crate::load::Door;
use crate::ports;
use crate::process::Process;
use crate::site::Site;

/// A TLS connection for each user's.
pub(crate) struct Tls {
    /// Connections serve one user after the other.
    pub(crate) keep: bool,
}

/// A QUIC stream for each user's connection.
pub(crate) struct Quic;

impl System for Tls {
    fn name(&self) -> &'static str {
        if self.keep {
            "floor-tls-kept"
        } else {
            "floor-tls"
        }
    }

    fn settings(&self) -> &'static str {
        if self.keep {
            "a TLS connection for each user at a time, kept open for the next one; lengths before bytes"
        } else {
            "a TLS connection for each user's connection, made when the user comes"
        }
    }

    fn kind(&self) -> SystemKind {
        SystemKind::Floor
    }

    fn server(&self, site: &Site) -> Result<Server> {
        let (users, keys, exit) = (ports::free()?, ports::free()?, site.beside_target()?);
        let arguments = [
            "--users".to_owned(),
            users.to_string(),
            "--keys".to_owned(),
            keys.to_string(),
            "--exit".to_owned(),
            exit.to_string(),
            "--ca".to_owned(),
            site.ca(),
        ];
        let keep = self.keep.then_some("--keep");
        let arguments = arguments.iter().map(String::as_str).chain(keep);
        let name = format!("{}-server", self.name());
        Ok(Server {
            process: Some(site.start_own(&name, "floor-tls-entry", arguments)?),
            agents: exit,
            door: Door::Tcp(users),
            keys: Door::Tcp(keys),
        })
    }

    fn agent(
        &self,
        site: &Site,
        server: &Server,
        _: SocketAddr,
        _: Agents,
    ) -> Result<Option<Process>> {
        let arguments = [
            "--listen".to_owned(),
            server.agents.to_string(),
            "--target".to_owned(),
            site.target.to_string(),
            "--cert".to_owned(),
            site.file("server.pem"),
            "--key".to_owned(),
            site.file("server.key"),
        ];
        let keep = self.keep.then_some("--keep");
        let arguments = arguments.iter().map(String::as_str).chain(keep);
        let name = format!("{}-agent", self.name());
        Ok(Some(site.start_own_there(
            &name,
            "floor-tls-exit",
            arguments,
        )?))
    }
}

impl System for Quic {
    fn name(&self) -> &'static str {
        "floor-quic"
    }

    fn settings(&self) -> &'static str {
        "a bare quinn stream for each user's connection, with Underpass's settings of quinn; who types \
         has a QUIC connection of their own"
    }

    fn kind(&self) -> SystemKind {
        SystemKind::Floor
    }

    fn server(&self, site: &Site) -> Result<Server> {
        let (users, keys, exits) = (ports::free()?, ports::free()?, site.for_agents()?);
        let arguments = [
            "--users",
            &users.to_string(),
            "--keys",
            &keys.to_string(),
            "--exits",
            &exits.to_string(),
            "--cert",
            &site.file("server.pem"),
            "--key",
            &site.file("server.key"),
        ];
        Ok(Server {
            process: Some(site.start_own("floor-quic-server", "floor-quic-entry", arguments)?),
            agents: exits,
            door: Door::Tcp(users),
            keys: Door::Tcp(keys),
        })
    }

    fn agent(
        &self,
        site: &Site,
        _: &Server,
        dial: SocketAddr,
        _: Agents,
    ) -> Result<Option<Process>> {
        let arguments = [
            "--entry",
            &dial.to_string(),
            "--target",
            &site.target.to_string(),
            "--ca",
            &site.ca(),
        ];
        Ok(Some(site.start_own_there(
            "floor-quic-agent",
            "floor-quic-exit",
            arguments,
        )?))
    }
}
