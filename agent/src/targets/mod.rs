//! Streams to targets beside the API server: each is held against the policy, connected, and carried until one of its ends or the
//! policy ends it.

mod audit;
mod lines;
mod lookups;
mod operation;
mod places;
mod refusal;
mod services;
mod shell;
mod tcp;
#[cfg(test)]
mod tests;
mod unix;

#[cfg(test)]
pub(crate) use self::tests::{Ends, pair};

use std::sync::Arc;

use tokio::net::{TcpStream, UnixStream};
use tokio::time::Instant;
use underpass_agent_operations::Operations;
use underpass_agent_policy::Denied;
use underpass_core::{Identity, Target};
use underpass_dial::Resolve;
use underpass_tunnel::{Copied, CopyError, IncomingStream, ResetCode, Stream, chain, copy_until};
use underpass_upstream::ApiServer;

use self::audit::Record;
use self::lookups::Lookups;
use self::operation::Answers;
use self::places::{Place, Places};
use self::refusal::{Reached, Refusal};
use self::services::Services;
pub(crate) use self::shell::AgentShells;
use self::tcp::Finder;
pub(crate) use self::unix::OwnFiles;
use crate::limits;
use crate::policy::{InForce, Policies};

/// The state that streams to targets share.
#[derive(Debug)]
pub(crate) struct Targets {
    policies: Arc<Policies>,
    own: OwnFiles,
    places: Places,
    lookups: Lookups,
    /// In place of the system's.
    resolver: Option<Arc<dyn Resolve>>,
    services: Services,
    /// `None` where the agent has no state directory.
    operations: Option<Operations>,
    /// `None` where the program has no way to start them.
    shells: Option<Arc<AgentShells>>,
}

/// A connection to a target, and the facts that its permission rests on.
struct Connected {
    connection: Connection,
    reached: Reached,
    rule: Option<Arc<str>>,
    place: Place,
}

enum Connection {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Targets {
    /// `open_files` is the system's limit of them, where it has one. `own` are files of the agent's credentials.
    pub(crate) fn new(policies: Arc<Policies>, own: OwnFiles, open_files: Option<u64>) -> Self {
        let files = open_files.and_then(|files| usize::try_from(files / 2).ok());
        let most = files.map_or(limits::TARGET_STREAMS, |files| {
            files.min(limits::TARGET_STREAMS)
        });
        Self {
            policies,
            own,
            places: Places::new(most),
            resolver: None,
            lookups: Lookups::default(),
            services: Services::default(),
            operations: None,
            shells: None,
        }
    }

    /// With shells of this agent.
    pub(crate) fn with_shells(self, shells: Option<Arc<AgentShells>>) -> Self {
        Self { shells, ..self }
    }

    /// With operations of the node.
    pub(crate) fn with_operations(self, operations: Option<Operations>) -> Self {
        Self { operations, ..self }
    }

    /// Forgets the services that were looked up: the API server is another one.
    pub(crate) fn forget_services(&self) {
        self.services.forget_all();
    }

    /// Serves one stream, whose open header is [`Identity::encode`]. Returns when the stream has ended.
    ///
    /// # Cancel safety
    /// Dropping the future resets the stream and closes the connection.
    pub(crate) async fn serve(
        &self,
        incoming: IncomingStream,
        target: Target,
        api_server: Option<&ApiServer>,
    ) {
        let identity = match Identity::decode(incoming.header()) {
            Ok(identity) => identity,
            Err(error) => return refuse(incoming, None, &target, Refusal::Identity(error)),
        };
        match target {
            Target::Operation => return self.serve_operation(incoming, &identity).await,
            Target::Shells(_) | Target::Shell(..) => {
                return self.serve_shell(incoming, identity, &target).await;
            }
            _ => {}
        }
        let connected = match self.connect(&identity, &target, api_server).await {
            Ok(connected) => connected,
            Err(refusal) => return refuse(incoming, Some(&identity), &target, refusal),
        };
        let Connected {
            connection,
            reached,
            rule,
            // Until the stream has ended.
            place: _place,
        } = connected;
        let record = Record::begin(&identity, &target, rule.as_deref());
        let stream = match incoming.accept().await {
            Ok(stream) => stream,
            Err(error) => return record.end(Copied::default(), Err(CopyError::Stream(error))),
        };
        let denied = |now: &Arc<InForce>| permit(now, &identity, &target, Some(&reached)).err();
        let given_up = async {
            let refusal = self.policies.until(denied).await;
            tracing::info!("the policy ends an open stream: {refusal}");
            ResetCode::Forbidden
        };
        let (copied, ended) = connection.carry(stream, given_up).await;
        record.end(copied, ended);
    }

    /// Answers a question about operations. The policy decides about the operation, which the question names.
    async fn serve_operation(&self, incoming: IncomingStream, identity: &Identity) {
        let target = Target::Operation;
        let never = self.policies.current().impersonation.check(identity);
        if let Err(never) = never {
            let refusal = Refusal::Impersonation(never);
            return refuse(incoming, Some(identity), &target, refusal);
        }
        let Some(_place) = self.places.take(identity.user()) else {
            let refusal = Refusal::Overloaded(self.places.all());
            return refuse(incoming, Some(identity), &target, refusal);
        };
        let Some(operations) = &self.operations else {
            return refuse(incoming, Some(identity), &target, Refusal::NoRecords);
        };
        let answers = Answers {
            operations,
            policies: &self.policies,
            identity,
        };
        let served = match incoming.accept().await {
            Ok(stream) => answers.serve(stream).await,
            Err(error) => Err(error.into()),
        };
        if let Err(error) = served {
            tracing::debug!("an answer about operations ended early: {}", chain(&error));
        }
    }

    /// Answers a question about shells, or lets a viewer watch one. The policy decides about the shell.
    async fn serve_shell(&self, incoming: IncomingStream, identity: Identity, target: &Target) {
        let Some(_place) = self.places.take(identity.user()) else {
            let refusal = Refusal::Overloaded(self.places.all());
            return refuse(incoming, Some(&identity), target, refusal);
        };
        let Some(shells) = &self.shells else {
            return refuse(incoming, Some(&identity), target, Refusal::NoShells);
        };
        let served = match target {
            Target::Shell(kind, id) => shells.attach(incoming, &identity, *kind, id).await,
            Target::Shells(kind) => shells.answer(incoming, &identity, *kind).await,
            _ => return,
        };
        if let Err((incoming, refusal)) = served {
            refuse(incoming, Some(&identity), target, refusal);
        }
    }

    async fn connect(
        &self,
        identity: &Identity,
        target: &Target,
        api_server: Option<&ApiServer>,
    ) -> Result<Connected, Refusal> {
        let deadline = Instant::now() + limits::TARGET_TIME;
        let policy = self.policies.current();
        let rule = permit(&policy, identity, target, None)?;
        let place = self.places.take(identity.user());
        let place = place.ok_or_else(|| Refusal::Overloaded(self.places.all()))?;
        let (targets, lookups) = (&policy.targets, self.lookups.of(identity.user()));
        let (connection, reached) = match target {
            Target::Tcp(tcp) => {
                let finder = Finder {
                    resolver: self.resolver.as_deref().unwrap_or(&lookups),
                    services: &self.services,
                    api_server,
                };
                let (stream, address) = tcp::connect(tcp, targets, finder, deadline).await?;
                (Connection::Tcp(stream), Reached::Tcp(address))
            }
            Target::Unix(unix) => {
                let connecting = unix::connect(unix, targets, &self.own, &lookups, deadline);
                let (stream, path) = connecting.await?;
                (Connection::Unix(stream), Reached::Unix(path))
            }
            other => {
                let other = Denied::NotServed(other.to_string());
                return Err(Refusal::Policy(other));
            }
        };
        Ok(Connected {
            connection,
            reached,
            rule,
            place,
        })
    }
}

/// Rule 17: the agent's own policy allows the identity, the target, and its connection's other end where that is known. Gives the
/// name of the rule.
fn permit(
    policy: &InForce,
    identity: &Identity,
    target: &Target,
    reached: Option<&Reached>,
) -> Result<Option<Arc<str>>, Refusal> {
    let never = policy.impersonation.check(identity);
    never.map_err(Refusal::Impersonation)?;
    let allowed = policy.targets.decide(target).map_err(Refusal::Policy)?;
    let there = match (target, reached) {
        (Target::Tcp(tcp), Some(Reached::Tcp(address))) => {
            policy.targets.decide_address(tcp, *address)
        }
        (Target::Unix(unix), Some(Reached::Unix(path))) => policy.targets.decide_path(unix, path),
        _ => Ok(()),
    };
    there.map_err(Refusal::Policy)?;
    Ok(allowed.rule)
}

fn refuse(
    incoming: IncomingStream,
    identity: Option<&Identity>,
    target: &Target,
    refusal: Refusal,
) {
    audit::refused(identity, target, &refusal);
    incoming.refuse(refusal.code(), &refusal.to_string());
}

impl Connection {
    /// Carries the stream's bytes until both directions have ended, or until it is given up.
    async fn carry(
        self,
        stream: Stream,
        given_up: impl Future<Output = ResetCode>,
    ) -> (Copied, Result<(), CopyError>) {
        match self {
            Self::Tcp(mut tcp) => {
                let (copied, ended) = copy_until(stream, &mut tcp, given_up).await;
                if ended.is_err() {
                    // A stream that broke must not end cleanly at its target: half an upload would look whole.
                    let _ = tcp.set_zero_linger();
                }
                (copied, ended)
            }
            Self::Unix(mut unix) => copy_until(stream, &mut unix, given_up).await,
        }
    }
}
