//! The targets `shell` and `node-shell`: questions about this agent's shells, and viewers of them (PROTOCOL.md, "Shells").

mod kubectl;
mod question;
mod record;
mod view;
mod viewer;

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use underpass_agent_policy::ShellRule;
use underpass_agent_shell::{
    Given, Helper, OpenError, Owner, Recording, Settings, ShellRecord, Shells, Terminal,
};
use underpass_core::{Identity, Permission, ShellId, ShellKind};
use underpass_tunnel::{IncomingStream, ReadHalf, ResetCode, StreamError, chain};

use self::kubectl::Kubectl;
use self::question::Answers;
use self::viewer::watch;
use super::refusal::Refusal;
use super::unix::OwnFiles;
use crate::kube_api::KubeApi;
use crate::policy::{InForce, Policies};

/// The shells of this agent, and the callers for whom they were opened.
#[derive(Debug)]
pub(crate) struct AgentShells {
    shells: Shells,
    policies: Arc<Policies>,
    kube: KubeApi,
    callers: Mutex<HashMap<ShellId, Opened>>,
}

/// A shell that was opened here.
#[derive(Debug)]
struct Opened {
    caller: Arc<Identity>,
    /// The way of its programs to the API server, in a shell of the kind `kubectl`.
    kubectl: Option<Arc<Kubectl>>,
}

impl AgentShells {
    /// Shells that see nothing of the agent's own files.
    pub(crate) fn new(
        helper: Helper,
        policies: Arc<Policies>,
        kube: KubeApi,
        own: &OwnFiles,
    ) -> Self {
        let settings = Settings::new(helper).hide(own.paths().iter().cloned());
        Self {
            shells: Shells::with(settings),
            policies,
            kube,
            callers: Mutex::default(),
        }
    }

    fn callers(&self) -> MutexGuard<'_, HashMap<ShellId, Opened>> {
        self.callers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers a question about the caller's shells of a kind. Another user's shell is not there for the caller.
    ///
    /// # Cancel safety
    /// Dropping the future resets the stream. The shells go on.
    pub(super) async fn answer(
        self: &Arc<Self>,
        incoming: IncomingStream,
        identity: &Identity,
        kind: ShellKind,
    ) -> Result<(), (IncomingStream, Refusal)> {
        // Without the permission there are none: a policy that takes it away ends them.
        if let Some(denied) = denied(&self.policies.current(), identity, kind) {
            return Err((incoming, denied));
        }
        let answers = Answers {
            all: Arc::clone(self),
            identity: Arc::new(identity.clone()),
            kind,
        };
        let answered = match incoming.accept().await {
            Ok(stream) => answers.serve(stream).await,
            Err(error) => Err(error.into()),
        };
        if let Err(error) = answered {
            tracing::debug!("an answer about shells ended early: {}", chain(&error));
        }
        Ok(())
    }

    /// Lets a viewer watch one shell. Another user's shell is not there for the caller.
    pub(super) async fn attach(
        &self,
        incoming: IncomingStream,
        identity: &Identity,
        kind: ShellKind,
        id: &ShellId,
    ) -> Result<(), (IncomingStream, Refusal)> {
        let owner = owner(identity);
        let found = self.shells.read(id, &owner);
        let of_kind = found.ok().filter(|record| record.kind == kind);
        if of_kind.is_none() {
            return Err((incoming, Refusal::NoShell));
        }
        if let Some(denied) = denied(&self.policies.current(), identity, kind) {
            return Err((incoming, denied));
        }
        let given_up = self.policies.until(|now| denied(now, identity, kind));
        tokio::select! {
            watched = watch(&self.shells, incoming, id, &owner) => {
                if let Err(error) = watched {
                    tracing::debug!(%id, "a viewer of a shell is gone: {error}");
                }
            }
            denied = given_up => tracing::info!(%id, "the policy ends the stream of a viewer: {denied}"),
        }
        Ok(())
    }

    /// Says in the log which protections shells would lack, where the policy allows any.
    ///
    /// # Cancel safety
    /// May be dropped.
    pub(crate) async fn report(&self) {
        let policy = self.policies.current();
        for rule in policy.targets.shells() {
            let kind = rule.kind();
            if kind == ShellKind::Kubectl && !kubectl::is_there(rule).await {
                tracing::warn!(%kind, "{}", kubectl::MISSING);
            }
            match self.shells.probe(rule).await {
                Ok(lacks) if lacks.is_empty() => {
                    tracing::info!(%kind, "shells have all protections")
                }
                Ok(lacks) => {
                    let lacks: Vec<_> = lacks.iter().map(ToString::to_string).collect();
                    tracing::warn!(%kind, "shells lack protections, as the policy allows: {}", lacks.join(", "));
                }
                Err(error) => tracing::error!(%kind, "no shell can be opened: {}", chain(&error)),
            }
        }
    }

    /// Ends the shells that the policy does not allow any more, whenever it changes.
    ///
    /// # Cancel safety
    /// May be dropped and called again.
    pub(crate) async fn enforce(&self) {
        let never = self.policies.until::<std::convert::Infallible>(|now| {
            self.revoke_denied(now);
            None
        });
        match never.await {}
    }

    /// Ends the shells that these rules do not allow.
    fn revoke_denied(&self, now: &InForce) {
        let mut callers = self.callers();
        callers.retain(|id, opened| self.shells.read(id, &owner(&opened.caller)).is_ok());
        self.shells.revoke(|record| {
            let opened = callers.get(&record.id);
            // One without a caller is being opened, and is decided on anew as soon as it has one.
            opened.is_some_and(|opened| denied(now, &opened.caller, record.kind).is_some())
        });
    }

    /// Ends every shell, and waits until all have ended.
    pub(crate) async fn stop(&self) {
        self.shells.stop().await;
    }

    /// Opens a shell of this kind and remembers for whom. The rules may have changed meanwhile (security rule 25).
    async fn open(
        &self,
        rule: &Arc<ShellRule>,
        caller: Arc<Identity>,
        terminal: Terminal,
        may: &[Permission],
        recording: Option<Recording>,
    ) -> Result<ShellRecord, OpenError> {
        let (kubectl, given) = match rule.kind() {
            ShellKind::Kubectl => {
                let opened = Kubectl::open(&self.kube, rule, &caller, may).await;
                let (kubectl, given) = opened.map_err(|error| {
                    OpenError::Helper(io::Error::other(chain(&error).to_string()))
                })?;
                (Some(Arc::new(kubectl)), given)
            }
            ShellKind::Node => (None, Given::default()),
        };
        let own = owner(&caller);
        let opening = self
            .shells
            .open_recorded(rule, own.clone(), terminal, given, recording);
        let record = opening.await?;
        if let Some(kubectl) = &kubectl {
            kubectl.is_of(&record.id);
            self.close_with(record.id.clone(), own, Arc::clone(kubectl));
        }
        let opened = Opened { caller, kubectl };
        self.callers().insert(record.id.clone(), opened);
        self.revoke_denied(&self.policies.current());
        Ok(record)
    }

    /// Closes the way of a shell's programs to the API server as soon as the shell begins to end.
    fn close_with(&self, id: ShellId, own: Owner, kubectl: Arc<Kubectl>) {
        let shells = self.shells.clone();
        tokio::spawn(async move {
            // A shell that is not there any more has ended.
            let _ = shells.ending(&id, &own).await;
            kubectl.close();
        });
    }

    /// The way of a shell's programs to the API server, where it has one.
    fn kubectl(&self, id: &ShellId) -> Option<Arc<Kubectl>> {
        let callers = self.callers();
        callers.get(id).and_then(|opened| opened.kubectl.clone())
    }
}

fn owner(identity: &Identity) -> Owner {
    Owner {
        user: identity.user().to_owned(),
        uid: identity.uid().map(str::to_owned),
    }
}

/// The rule by which these rules let the caller have a shell of this kind, or the reason that they do not.
fn decide(now: &InForce, caller: &Identity, kind: ShellKind) -> Result<Arc<ShellRule>, Refusal> {
    let never = now.impersonation.check(caller);
    never.map_err(Refusal::Impersonation)?;
    let (user, groups) = (caller.user(), caller.groups());
    let decided = now.targets.decide_shell(kind, user, groups);
    decided.map_err(Refusal::Policy)
}

fn denied(now: &InForce, caller: &Identity, kind: ShellKind) -> Option<Refusal> {
    decide(now, caller, kind).err()
}

/// Waits until the server gives a stream up, and says whether it took the permission back.
async fn given_up(from: &mut ReadHalf) -> bool {
    loop {
        match from.read_bytes().await {
            // Nothing is expected: it is not read.
            Ok(Some(_)) => {}
            Ok(None) => return false,
            Err(error) => return matches!(error, StreamError::Reset(ResetCode::Forbidden)),
        }
    }
}
