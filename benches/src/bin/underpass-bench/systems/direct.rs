//! Nothing between user and target.

use std::net::SocketAddr;

use anyhow::Result;

use super::{Agents, Server, System, SystemKind};
use crate::load::Door;
use crate::process::Process;
use crate::site::Site;

pub(crate) struct Direct;

impl System for Direct {
    fn name(&self) -> &'static str {
        "direct"
    }

    fn settings(&self) -> &'static str {
        "the user connects to the target"
    }

    fn kind(&self) -> SystemKind {
        SystemKind::Direct
    }

    fn server(&self, site: &Site) -> Result<Server> {
        Ok(Server {
            process: None,
            agents: site.target,
            door: Door::Tcp(site.target_from_here),
            keys: Door::Tcp(site.target_from_here),
        })
    }

    fn agent(&self, _: &Site, _: &Server, _: SocketAddr, _: Agents) -> Result<Option<Process>> {
        Ok(None)
    }
}
