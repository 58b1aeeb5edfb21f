//! A credential for the cluster's API server, which the agent hands over where its owner says so (`--register-credentials`), and
//! says otherwise that none is to be kept.
//!
//! A server that has it can pass this agent by. So denials of the agent's owner, beyond the default, keep the agent from handing it
//! over: a server that is captured would not heed them.

mod exchange;
#[cfg(test)]
mod tests;
mod token;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use anyhow::{Result, bail};
use clap::Args;
use rand::RngExt;
use thiserror::Error;
use tokio::time::sleep;
use tokio_util::task::AbortOnDropHandle;
use underpass_api::{
    OfferedCredential, RegistrationAnswer, RegistrationRefusal, RegistrationRequest, Secret,
};
use underpass_core::AgentRole;
use underpass_core::service_account::Account;
use underpass_tunnel::{Backoff, PublicKey, Session, chain};

use self::exchange::ExchangeError;
use self::token::{ApiServerAddress, IssueError, Issuer};
use crate::cli::Cli;
use crate::limits;
use crate::policy::{InForce, Policies};

/// Whether the server gets a credential.
#[derive(Debug, Args)]
pub(crate) struct RegisterOptions {
    /// Hand over a credential for the API server, where the server allows it (`underpass cluster credentials allow`): the API server's
    /// address and CA, and a token of a ServiceAccount that counts for an hour and is renewed. The server reaches the API server
    /// with it while no agent is connected. An attacker who captures the server has it then. Refused while the policy denies users,
    /// groups or the API server. An agent that is started without this flag has the server delete what was handed over
    #[arg(long, env = "UNDERPASS_REGISTER_CREDENTIALS")]
    pub(crate) register_credentials: bool,
    /// The API server as the server reaches it; without it, as the kubeconfig has it. An agent in a pod needs it: the API server's
    /// address in the cluster leads nowhere outside
    #[arg(
        long,
        env = "UNDERPASS_API_SERVER_ADDRESS",
        value_name = "https://HOST[:PORT]",
        requires = "register_credentials"
    )]
    api_server_address: Option<ApiServerAddress>,
    /// The ServiceAccount whose token is handed over; without it, the agent's own. One that may impersonate
    /// some users or groups and nothing else cannot make itself further tokens: `underpass-agent rbac --registered-account NAME` with
    /// `--groups` or `--constrained`
    #[arg(
        long,
        env = "UNDERPASS_REGISTERED_ACCOUNT",
        value_name = "NAMESPACE/NAME",
        requires = "register_credentials"
    )]
    registered_account: Option<Account>,
}

/// Tells each session's server what it may keep.
pub(crate) struct Registering {
    /// `None`: it may keep nothing.
    issuer: Option<Issuer>,
    role: AgentRole,
    policies: Arc<Policies>,
    /// A bound of what the server has, as far as this process knows.
    kept: Mutex<Kept>,
    /// The last complaint, which costs no line for each attempt.
    complaint: Mutex<Option<String>>,
}

/// The namespaces whose ServiceAccounts may be impersonated with the credential that the server has: no others.
#[derive(Debug, Default)]
enum Kept {
    /// An agent that ran before this one may have registered any.
    #[default]
    Unknown,
    /// These, or fewer, or there is no credential.
    Within(BTreeSet<String>),
}

impl Kept {
    /// May the server have a credential that is good for more than this?
    fn may_exceed(&self, namespaces: &BTreeSet<String>) -> bool {
        match self {
            Self::Unknown => true,
            Self::Within(kept) => !kept.is_subset(namespaces),
        }
    }

    /// The server may hear of this from now on, and whether it has is not known.
    fn may_get(&mut self, namespaces: &BTreeSet<String>) {
        if let Self::Within(kept) = self {
            kept.extend(namespaces.iter().cloned());
        }
    }
}

/// The credential that the server may keep, by the owner's flags and policy.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Wish {
    /// Nothing, and why that is, where the flag asks for something.
    Nothing(Option<&'static str>),
    /// A credential, with which ServiceAccounts of these namespaces may be impersonated as well.
    Credential(BTreeSet<String>),
}

/// Why the server has no credential.
#[derive(Debug, Error)]
enum RegisterError {
    #[error("there is no token to register")]
    Issue(#[from] IssueError),
    #[error("there is no answer of the server")]
    Exchange(#[from] ExchangeError),
    #[error("the server refuses the credential ({reason}): {detail}")]
    Refused {
        reason: RegistrationRefusal,
        detail: String,
    },
    #[error("the server answers in a way that this agent does not understand")]
    Unexpected,
    #[error("the policy has changed while the token was made")]
    Changed,
    #[error("{}; and the server may still have one from before, which may be good for more", chain(.0))]
    NotReplaced(Box<Self>, #[source] Box<Self>),
}

impl Registering {
    /// As the command line says. Nothing is asked yet.
    ///
    /// # Errors
    /// The flags ask for what cannot be.
    pub(crate) fn of(cli: &Cli, policies: Arc<Policies>) -> Result<Self> {
        let options = &cli.register;
        let role = cli.key.role();
        let issuer = match options.register_credentials {
            false => None,
            true if role != AgentRole::Cluster => {
                bail!(
                    "agents of the role node register no credentials: give --register-credentials to those of the role cluster"
                )
            }
            true if cli.kubeconfig.is_none() && options.api_server_address.is_none() => {
                bail!(
                    "--register-credentials needs --api-server-address in a pod: the address at which the server reaches the API server"
                )
            }
            true => Some(Issuer::new(
                cli,
                options.api_server_address.clone(),
                options.registered_account.clone(),
            )),
        };
        Ok(Self {
            issuer,
            role,
            policies,
            kept: Mutex::default(),
            complaint: Mutex::default(),
        })
    }

    /// Sees to it that the server of a session has what it may keep, for as long as the session lasts.
    pub(crate) async fn follow(&self, session: Session) {
        if self.role != AgentRole::Cluster {
            return;
        }
        let following = async {
            let mut backoff = Backoff::new(limits::REGISTER_AGAIN, limits::REGISTER_AGAIN_MOST);
            loop {
                // While it drains it opens no stream, and another session tells the server.
                if !session.is_open() {
                    return std::future::pending().await;
                }
                let (wish, key) = (self.wish(&self.policies.current()), session.key());
                let changed = || {
                    let is_other = |now: &Arc<InForce>| (self.wish(now) != wish).then_some(());
                    self.policies.until(is_other)
                };
                let told = match &wish {
                    Wish::Nothing(_) => self.tell(&session, &wish).await,
                    // A denial resets a stream on which a token might still go out.
                    Wish::Credential(_) => tokio::select! {
                        biased;
                        () = changed() => continue,
                        told = self.tell(&session, &wish) => told,
                    },
                };
                let wait = match told {
                    Ok(Some(expires)) => {
                        backoff.reset();
                        Some(renewal(expires))
                    }
                    Ok(None) => {
                        backoff.reset();
                        None
                    }
                    Err(RegisterError::Changed) => continue,
                    Err(error) => {
                        let error = self.not_registered(&session, &wish, error).await;
                        Some(self.again(&wish, &error, &mut backoff))
                    }
                };
                match wait {
                    Some(wait) => tokio::select! {
                        () = sleep(wait) => {}
                        () = changed() => {}
                        () = has_proved_another(&session, key) => {}
                    },
                    None => changed().await,
                }
            }
        };
        tokio::select! {
            never = following => match never {},
            _ = session.closed() => {}
        }
    }

    /// The same in the background. Dropping the handle ends it.
    pub(crate) fn start(self: &Arc<Self>, session: Session) -> AbortOnDropHandle<()> {
        let this = Arc::clone(self);
        AbortOnDropHandle::new(tokio::spawn(async move { this.follow(session).await }))
    }

    fn wish(&self, policy: &InForce) -> Wish {
        if self.issuer.is_none() {
            return Wish::Nothing(None);
        }
        if policy.targets.decide_api_server(self.role).is_err() {
            return Wish::Nothing(Some("the policy denies the API server"));
        }
        if policy.impersonation.has_denials() {
            return Wish::Nothing(Some(
                "the policy, or the command line, denies users or groups, which a server with the credential could impersonate; \
                 have the cluster's RBAC keep the account from it, and deny nobody here",
            ));
        }
        let namespaces = policy.impersonation.service_account_namespaces();
        Wish::Credential(namespaces.clone())
    }

    /// Says it, and gives when what the server keeps ends.
    async fn tell(
        &self,
        session: &Session,
        wish: &Wish,
    ) -> Result<Option<SystemTime>, RegisterError> {
        let (issuer, namespaces) = match (&self.issuer, wish) {
            (Some(issuer), Wish::Credential(namespaces)) => (issuer, namespaces),
            (_, Wish::Nothing(why)) => {
                if let Some(why) = why {
                    self.complain(format!("no credential is registered: {why}"));
                }
                return self.withdraw(session).await.map(|()| None);
            }
            (None, Wish::Credential(_)) => return Ok(None),
        };
        // The server has said that it takes one: no token is made, and none leaves the cluster, before.
        let making = async {
            let issued = issuer.issue().await?;
            // It was decided on before the API server was asked (rule 25).
            if self.wish(&self.policies.current()) != *wish {
                return Err(RegisterError::Changed);
            }
            lock(&self.kept).may_get(namespaces);
            Ok(RegistrationRequest::Register(OfferedCredential {
                server: issued.server,
                certificate_authority: issued.certificate_authority,
                tls_server_name: issued.tls_server_name,
                token: Secret(issued.token),
                allow_service_accounts: namespaces.clone(),
            }))
        };
        match exchange::ask(session, making).await? {
            RegistrationAnswer::Registered { expires } => {
                *lock(&self.kept) = Kept::Within(namespaces.clone());
                *lock(&self.complaint) = None;
                tracing::info!(%expires, "the server has a credential for the API server, as --register-credentials asks");
                Ok(Some(expires.into()))
            }
            RegistrationAnswer::Refused { reason, detail } => {
                Err(RegisterError::Refused { reason, detail })
            }
            RegistrationAnswer::Withdrawn {} => Err(RegisterError::Unexpected),
        }
    }

    async fn withdraw(&self, session: &Session) -> Result<(), RegisterError> {
        let nothing = async { Ok(RegistrationRequest::Withdraw {}) };
        match exchange::ask(session, nothing).await {
            Ok(RegistrationAnswer::Withdrawn {}) => {}
            Ok(RegistrationAnswer::Refused { reason, detail }) => {
                return Err(RegisterError::Refused { reason, detail });
            }
            Ok(RegistrationAnswer::Registered { .. }) => return Err(RegisterError::Unexpected),
            Err(RegisterError::Exchange(error)) if error.is_none_kept() => {}
            Err(error) => return Err(error),
        }
        *lock(&self.kept) = Kept::Within(BTreeSet::new());
        Ok(())
    }

    /// Withdraws a credential from before that allows more than the owner's flags and policy do now, where none with less could take
    /// its place. Gives the error to complain of.
    ///
    /// # Cancel safety
    /// The server may have heard it.
    async fn not_registered(
        &self,
        session: &Session,
        wish: &Wish,
        error: RegisterError,
    ) -> RegisterError {
        if let RegisterError::Exchange(refused) = &error
            && refused.is_none_kept()
        {
            *lock(&self.kept) = Kept::Within(BTreeSet::new());
        }
        let exceeds = match wish {
            Wish::Credential(namespaces) => lock(&self.kept).may_exceed(namespaces),
            Wish::Nothing(_) => false,
        };
        if !exceeds {
            return error;
        }
        match self.withdraw(session).await {
            Ok(()) => {
                tracing::debug!("the server has no credential that was registered before");
                error
            }
            Err(unheard) => RegisterError::NotReplaced(Box::new(error), Box::new(unheard)),
        }
    }

    /// Says what is wrong, and when to try again.
    fn again(&self, wish: &Wish, error: &RegisterError, backoff: &mut Backoff) -> Duration {
        let text = match wish {
            Wish::Credential(_) => format!("no credential is registered: {}", chain(error)),
            Wish::Nothing(_) => format!(
                "the server may still have a credential for the API server: {}",
                chain(error)
            ),
        };
        self.complain(text);
        backoff.failed(rand::random())
    }

    fn complain(&self, text: String) {
        let mut last = lock(&self.complaint);
        if last.as_ref() != Some(&text) {
            tracing::error!("{text}");
            *last = Some(text);
        }
    }
}

/// Waits until the session has proved another key: at the server, what was registered under the old one goes with it.
async fn has_proved_another(session: &Session, key: PublicKey) {
    while session.key() == key {
        sleep(limits::REGISTER_KEY_AGE).await;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The time until a token is renewed: about half of its life, spread, since agents start together.
fn renewal(expires: SystemTime) -> Duration {
    let left = expires.duration_since(SystemTime::now());
    let left = left.unwrap_or_default();
    left.mul_f64(rand::rng().random_range(0.4..0.6))
        .max(limits::REGISTER_AGAIN)
}
