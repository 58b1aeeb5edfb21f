//! Decisions about targets.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use thiserror::Error;
use underpass_core::ShellKind;

use crate::special::SpecialAddress;

/// A target that the policy allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allowed {
    /// The name of the rule that allows it; `None` for the API server, which needs none.
    pub rule: Option<Arc<str>>,
    /// The question that is left.
    pub remaining: Remaining,
}

/// The question about an allowed target that is open until the target is looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Remaining {
    /// There is none.
    Nothing,
    /// Each address that the name or the service leads to: [`Policy::decide_address`](crate::Policy::decide_address).
    Addresses,
    /// The path behind symbolic links: [`Policy::decide_path`](crate::Policy::decide_path).
    Path,
}

/// The reason that the policy denies a target: a sentence for the caller. It names nothing but the target, and the rules and
/// addresses that belong to it.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Denied {
    /// It does not let this agent serve the API server.
    #[error(
        "the agent's policy does not let it serve the API server (`apiServer: true` does, and without it an agent of the role \
         `cluster` may)"
    )]
    ApiServer,
    /// Nothing in the policy is about it.
    #[error("no rule of the agent's policy allows {0}")]
    NoRule(String),
    /// The host is allowed, and the port is not.
    #[error("rule `{rule}` of the agent's policy allows {host}, but not its port {port}")]
    Port {
        /// The first rule with the host.
        rule: Arc<str>,
        /// The host, as the rule's list names it.
        host: String,
        /// The port.
        port: u16,
    },
    /// It is in a rule's network, which is meant for other addresses.
    #[error(
        "rule `{rule}` of the agent's policy does not allow {address} though its network has it: it is {kind}, which \
         an `addresses` rule has to name as such"
    )]
    SpecialInNetwork {
        /// The first rule with such a network.
        rule: Arc<str>,
        /// The address.
        address: IpAddr,
        /// The reason that it is special.
        kind: SpecialAddress,
    },
    /// A name or a service leads there.
    #[error(
        "the agent's policy allows {host}, but it leads to {}: {kind}, which no `addresses` rule allows at port {}",
        .address.ip(), .address.port()
    )]
    LeadsToSpecial {
        /// The name or the service.
        host: String,
        /// One of its addresses, with the port that would be dialled.
        address: SocketAddr,
        /// The reason that it is special.
        kind: SpecialAddress,
    },
    /// A path leads to another one.
    #[error(
        "the agent's policy allows {path}, but that leads to {to} by a symbolic link, which no rule allows"
    )]
    LeadsToPath {
        /// The target's path.
        path: String,
        /// The path behind the links.
        to: String,
    },
    /// The shell runs the program that its rule names, and no command of the caller's.
    #[error(
        "rule `shells.{0}` of the agent's policy names the program of a shell, and takes no other command (`command: true` does)"
    )]
    ShellCommand(ShellKind),
    /// The policy has no operation of this name.
    #[error("the agent's policy has no operation `{0}`")]
    NoOperation(String),
    /// The operation is for other callers.
    #[error("rule `{0}` of the agent's policy allows the operation to others only")]
    Caller(Arc<str>),
    /// The policy has no shells of this kind.
    #[error("the agent's policy allows no {0} shell (`shells.{0}` would)")]
    NoShell(ShellKind),
    /// Shells of this kind are for other callers.
    #[error("`shells.{0}` of the agent's policy allows the shell to others only")]
    ShellCaller(ShellKind),
    /// No policy can allow it.
    #[error("this agent serves no target `{0}`")]
    NotServed(String),
}
