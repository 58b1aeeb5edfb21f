//! TCP targets: from a name or a service to a connection.

use std::net::SocketAddr;

use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use underpass_agent_policy::{Denied, Host, Policy};
use underpass_core::{Target, TcpTarget};
use underpass_dial::{ADDRESS_DELAY, Resolve, connect_to, interleaved, staggered};
use underpass_upstream::ApiServer;

use super::refusal::Refusal;
use super::services::Services;

/// The ways to find a target's addresses.
#[derive(Debug)]
pub(super) struct Finder<'a> {
    pub(super) resolver: &'a dyn Resolve,
    pub(super) services: &'a Services,
    pub(super) api_server: Option<&'a ApiServer>,
}

/// A connection to a target that the policy allows, and its address.
///
/// # Cancel safety
/// Dropping the future ends all attempts.
pub(super) async fn connect(
    target: &TcpTarget,
    policy: &Policy,
    finder: Finder<'_>,
    deadline: Instant,
) -> Result<(TcpStream, SocketAddr), Refusal> {
    let finding = timeout_at(deadline, finder.find(target)).await;
    let found = finding.unwrap_or_else(|_| {
        Err(Refusal::LookupTimeout {
            target: text(target),
        })
    })?;
    let allowed = allowed(target, policy, found)?;
    let attempts = allowed.into_iter().map(|address| async move {
        let connected = connect_to(address).await;
        connected.map(|stream| (stream, address))
    });
    match timeout_at(deadline, staggered(attempts, ADDRESS_DELAY)).await {
        Ok(Ok(connected)) => Ok(connected),
        Ok(Err(errors)) => {
            if let Host::Service(service) = Host::of(target) {
                // Its pods may be others by now.
                finder.services.forget(&service);
            }
            let first = errors.into_iter().next();
            let first = first.unwrap_or_else(|| std::io::ErrorKind::NotFound.into());
            Err(Refusal::connecting(text(target), first))
        }
        Err(_) => Err(Refusal::Silent {
            target: text(target),
        }),
    }
}

fn text(target: &TcpTarget) -> String {
    Target::Tcp(target.clone()).to_string()
}

/// Those addresses that the policy allows. Where there are others only, the refusal is about the first of them.
fn allowed(
    target: &TcpTarget,
    policy: &Policy,
    found: Vec<SocketAddr>,
) -> Result<Vec<SocketAddr>, Refusal> {
    let mut denied: Option<Denied> = None;
    let mut allowed = Vec::new();
    for address in found {
        match policy.decide_address(target, address) {
            Ok(()) => allowed.push(address),
            Err(error) => denied = denied.or(Some(error)),
        }
    }
    match denied {
        Some(denied) if allowed.is_empty() => Err(Refusal::Policy(denied)),
        _ => Ok(interleaved(allowed)),
    }
}

impl Finder<'_> {
    async fn find(&self, target: &TcpTarget) -> Result<Vec<SocketAddr>, Refusal> {
        let port = target.port();
        match Host::of(target) {
            Host::Address(address) => Ok(vec![SocketAddr::new(address, port)]),
            Host::Name(name) => {
                let found = self.resolver.resolve(&name, port).await;
                let unresolved = |source| Refusal::resolving(text(target), source);
                let found = found.map_err(unresolved)?;
                match found.is_empty() {
                    true => Err(unresolved(std::io::ErrorKind::NotFound.into())),
                    false => Ok(found),
                }
            }
            Host::Service(service) => {
                let found = self.services.find(self.api_server, &service, port).await;
                found.map_err(|source| Refusal::Service {
                    target: text(target),
                    source,
                })
            }
        }
    }
}
