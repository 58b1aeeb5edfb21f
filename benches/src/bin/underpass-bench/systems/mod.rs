//! The systems compared: a way for a user's TCP connection to a target that is reached from an agent, whose
//! connection to the server is encrypted.

mod chisel;
mod direct;
mod floor;
mod frp;
mod konnectivity;
mod rathole;
mod remotedialer;
mod running;
mod ssh;
mod underpass;

use std::net::SocketAddr;

use anyhow::Result;
use futures_util::future::BoxFuture;

pub(crate) use self::running::Running;
use crate::load::Door;
use crate::process::Process;
use crate::site::Site;

/// Something to compare.
pub(crate) trait System: Send + Sync {
    /// On the command line, and in reports.
    fn name(&self) -> &'static str;

    /// The system and its settings, in a line.
    fn settings(&self) -> &'static str;

    /// The system's maker.
    fn kind(&self) -> SystemKind;

    /// Gets what it needs, which may take minutes.
    ///
    /// # Errors
    /// Why it cannot be measured.
    fn prepare(&self) -> Result<()> {
        Ok(())
    }

    /// Starts the side that listens.
    ///
    /// # Errors
    /// Where it cannot be.
    fn server(&self, site: &Site) -> Result<Server>;

    /// Starts agents with the numbers from `first` on, in one process, that find the server at `dial`; users
    /// are led to number 0. `None` where there is no other side.
    ///
    /// # Errors
    /// Where it cannot be.
    fn agent(
        &self,
        site: &Site,
        server: &Server,
        dial: SocketAddr,
        agents: Agents,
    ) -> Result<Option<Process>>;

    /// How many agents a process of it may be at the most; `None` where it is one.
    fn crowd(&self) -> Option<u32> {
        None
    }

    /// The protocols of its agent's connection.
    fn carriers(&self) -> Carriers {
        Carriers::Tcp
    }

    /// Waits until an agent that has just come has made the connections that it keeps beside the first.
    fn settled<'a>(&'a self, _: &'a mut Running<'_>) -> BoxFuture<'a, Result<()>> {
        Box::pin(async { Ok(()) })
    }

    /// Whether the agent's way to the server can be led through a TCP relay.
    fn relays(&self) -> bool {
        false
    }
}

/// The protocols of an agent's connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Carriers {
    Tcp,
    Udp,
    /// TCP where UDP does not get through.
    UdpThenTcp,
}

/// Which agents a process is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Agents {
    /// The number of the first one.
    pub(crate) first: u32,
    /// How many.
    pub(crate) count: u32,
}

impl Agents {
    /// The one that users are led to.
    pub(crate) const ONE: Self = Self { first: 0, count: 1 };
}

/// The maker of a system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum SystemKind {
    /// Nothing between user and target.
    Direct,
    /// The rest without a session.
    Floor,
    /// Ours.
    Underpass,
    /// Another project's.
    Peer,
}

/// The side that listens.
#[derive(Debug)]
pub(crate) struct Server {
    /// `None` where there is none.
    pub(crate) process: Option<Process>,
    /// Where agents connect.
    pub(crate) agents: SocketAddr,
    /// Where users connect.
    pub(crate) door: Door,
    /// Where users connect who type, where that makes a difference; else the same.
    pub(crate) keys: Door,
}

/// All that there are, in the order of reports.
pub(crate) fn all() -> Vec<Box<dyn System>> {
    vec![
        Box::new(direct::Direct),
        Box::new(floor::Tls { keep: false }),
        Box::new(floor::Tls { keep: true }),
        Box::new(floor::Quic),
        Box::new(underpass::Underpass::WebSocket),
        Box::new(underpass::Underpass::Quic),
        Box::new(underpass::Underpass::TwoLinks),
        Box::new(remotedialer::Remotedialer),
        Box::new(konnectivity::Konnectivity),
        Box::new(chisel::Chisel),
        Box::new(frp::Frp::Tls),
        Box::new(frp::Frp::Quic),
        Box::new(rathole::Rathole),
        Box::new(ssh::Ssh),
    ]
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_are_different_and_say_what_is_what() {
        let names: HashSet<_> = all().iter().map(|system| system.name()).collect();
        assert_eq!(names.len(), all().len());
        for system in all() {
            assert!(!system.settings().is_empty(), "{}", system.name());
        }
    }
}
