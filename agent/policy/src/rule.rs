//! The rules of a policy.

use std::net::IpAddr;
use std::sync::Arc;

use underpass_core::Network;

use crate::host::{Host, NamePattern, ServicePattern};
use crate::ports::Ports;
use crate::special::{SpecialAddress, special};

/// Some TCP targets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TcpRule {
    pub(crate) name: Arc<str>,
    pub(crate) services: Vec<ServicePattern>,
    pub(crate) names: Vec<NamePattern>,
    pub(crate) addresses: Vec<Network>,
    /// Every port, where there is none.
    pub(crate) ports: Vec<Ports>,
}

/// Whether an address is one of a rule's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Covers {
    Yes,
    No,
    /// It is, in a network that has ordinary addresses as well.
    OnlyInPassing(SpecialAddress),
}

impl TcpRule {
    /// Is this one of its hosts? The port is another question.
    pub(crate) fn has(&self, host: &Host) -> Covers {
        let found = match host {
            Host::Address(address) => return self.covers(*address),
            Host::Service(service) => self.services.iter().any(|pattern| pattern.matches(service)),
            Host::Name(name) => self.names.iter().any(|pattern| pattern.matches(name)),
        };
        if found { Covers::Yes } else { Covers::No }
    }

    /// Is this one of its addresses? A special one has to be meant: `0.0.0.0/0` stands for all machines of a network, and not
    /// for the agent's own.
    pub(crate) fn covers(&self, address: IpAddr) -> Covers {
        let mut covering = self.addresses.iter().filter(|net| net.contains(address));
        match special(address) {
            None => match covering.next() {
                Some(_) => Covers::Yes,
                None => Covers::No,
            },
            Some((kind, range)) => {
                let mut outcome = Covers::No;
                for network in covering {
                    if network.is_within(range) {
                        return Covers::Yes;
                    }
                    outcome = Covers::OnlyInPassing(kind);
                }
                outcome
            }
        }
    }

    pub(crate) fn has_port(&self, port: u16) -> bool {
        self.ports.is_empty() || self.ports.iter().any(|ports| ports.contains(port))
    }

    /// The hosts and the ports, for people.
    pub(crate) fn describe(&self) -> String {
        let services = self.services.iter().map(ToString::to_string);
        let names = self.names.iter().map(ToString::to_string);
        let addresses = self.addresses.iter().map(ToString::to_string);
        let hosts: Vec<_> = services.chain(names).chain(addresses).collect();
        let ports: Vec<_> = self.ports.iter().map(ToString::to_string).collect();
        let ports = match ports.is_empty() {
            true => "every port".to_owned(),
            false => format!("port {}", ports.join(", ")),
        };
        format!("{}; {ports}", hosts.join(", "))
    }
}

/// Some Unix sockets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct UnixRule {
    pub(crate) name: Arc<str>,
    /// Absolute, without `.` and `..`.
    pub(crate) paths: Vec<String>,
}

impl UnixRule {
    pub(crate) fn has(&self, path: &str) -> bool {
        self.paths.iter().any(|own| own == path)
    }
}
