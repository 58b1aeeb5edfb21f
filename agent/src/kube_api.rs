//! The way to the API server, as it is now: for the server's streams, and for shells of this agent.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use underpass_agent_policy::Denied;
use underpass_core::{AgentRole, Identity};
use underpass_tunnel::chain;
use underpass_upstream::{ApiServer, Draining};

use crate::policy::{InForce, Policies};

/// The way to the API server. Clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct KubeApi(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    now: Mutex<Now>,
    policies: Arc<Policies>,
}

#[derive(Debug)]
struct Now {
    /// That of new streams. An agent on a node may have none.
    api_server: Option<Arc<ApiServer>>,
    /// It may hear of its role when it joins.
    role: AgentRole,
}

/// Why there is no way to the API server.
#[derive(Debug, Error)]
pub(crate) enum NoWay {
    /// By the agent's policy.
    #[error("{0}")]
    Denied(Denied),
    /// The agent has no credential for it.
    #[error(
        "this agent has no way to the API server: it needs --kubeconfig, or a pod's ServiceAccount"
    )]
    NoCredential,
}

/// The way of one stream, as it was when the stream began.
#[derive(Debug)]
pub(crate) struct Way {
    api_server: Arc<ApiServer>,
    role: AgentRole,
    policy: Arc<InForce>,
    policies: Arc<Policies>,
}

impl KubeApi {
    pub(crate) fn new(
        api_server: Option<Arc<ApiServer>>,
        role: AgentRole,
        policies: Arc<Policies>,
    ) -> Self {
        let now = Mutex::new(Now { api_server, role });
        Self(Arc::new(Inner { now, policies }))
    }

    fn now(&self) -> MutexGuard<'_, Now> {
        self.0.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The API server of new streams.
    pub(crate) fn api_server(&self) -> Option<Arc<ApiServer>> {
        self.now().api_server.clone()
    }

    /// Sends new streams to another API server, or to the same with other credentials. Streams that are open stay where they are.
    pub(crate) fn use_api_server(&self, api_server: Option<Arc<ApiServer>>) {
        self.now().api_server = api_server;
    }

    /// The role that the agent has joined in: for new streams.
    pub(crate) fn serve_as(&self, role: AgentRole) {
        self.now().role = role;
    }

    /// The way of a stream that begins now (rule 17).
    pub(crate) fn way(&self) -> Result<Way, NoWay> {
        let policy = self.0.policies.current();
        let (role, api_server) = {
            let now = self.now();
            (now.role, now.api_server.clone())
        };
        let decided = policy.targets.decide_api_server(role);
        decided.map_err(NoWay::Denied)?;
        Ok(Way {
            api_server: api_server.ok_or(NoWay::NoCredential)?,
            role,
            policy,
            policies: Arc::clone(&self.0.policies),
        })
    }
}

impl Way {
    /// The agent's role.
    pub(crate) fn role(&self) -> AgentRole {
        self.role
    }

    /// Carries the one request of a stream, as the identity in its open header, until it has ended or the policy ends it.
    ///
    /// # Cancel safety
    /// Dropping the future drops `io`, and cancels the request at the API server.
    pub(crate) async fn carry<I>(self, draining: &Draining, io: I, identity: &[u8])
    where
        I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let policy = &self.policy.impersonation;
        let serving = self
            .api_server
            .serve_stream_under(policy, draining, io, identity);
        let served = if self.policies.may_change() {
            tokio::select! {
                served = serving => served,
                never = self.policies.until(|now| self.denied(now, identity)) => {
                    return tracing::info!("the policy ends an open stream: {never}");
                }
            }
        } else {
            serving.await
        };
        if let Err(error) = served {
            tracing::debug!("stream ended early: {}", chain(&error));
        }
    }

    /// The reason that other rules than those of the stream's beginning deny it, if they do.
    fn denied(&self, now: &Arc<InForce>, identity: &[u8]) -> Option<String> {
        if Arc::ptr_eq(now, &self.policy) {
            return None;
        }
        if let Err(denied) = now.targets.decide_api_server(self.role) {
            return Some(denied.to_string());
        }
        let identity = Identity::decode(identity).ok()?;
        let never = now.impersonation.check(&identity).err()?;
        Some(never.to_string())
    }
}
