//! Credentials for clusters' API servers that agents have registered.
//!
//! One of a cluster, which the last agent to register has put there. It counts while the cluster's administrators allow it and
//! its agent may serve the cluster in the role `cluster`, with the key that it had: a change that ends either removes it
//! ([`Draft`] sees to that).

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use zeroize::Zeroizing;

use super::{OpenCredentialError, endpoint::Endpoint, registered_token::RegisteredToken};
use crate::{
    draft::{Checked, Draft},
    error::ChangeError,
    object::{Agent, Cluster},
    seal::{Keyring, SealContext, SealError, Sealed},
};
use underpass_core::service_account::Account;
use underpass_core::{AgentRole, ClusterName, ImpersonationPolicy, RegistrationRules, limits};

/// A registered credential, by the name of its cluster.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Registration {
    /// When it was registered.
    #[serde(with = "time::serde::rfc3339")]
    pub created: OffsetDateTime,
    /// The agent that has, by id.
    pub agent: String,
    /// The key with which it has, as the tunnel writes it: the registration ends where another key takes its place. `None`: a server
    /// that did not write it down has taken the registration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Where the API server is.
    pub endpoint: Endpoint,
    /// Namespaces whose ServiceAccounts may be impersonated there, by the agent's policy.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub allow_service_accounts: BTreeSet<String>,
    /// The ServiceAccount of the token.
    pub account: Account,
    /// When the token ends.
    #[serde(with = "time::serde::rfc3339")]
    pub expires: OffsetDateTime,
    /// The token. Its seal is for all of the above but `created` and `key`.
    token: Sealed,
}

/// An agent that registers.
#[derive(Clone, Copy, Debug)]
pub struct Registrant<'a> {
    /// Its id.
    pub agent: &'a str,
    /// Its key, which it has proved, as the tunnel writes it.
    pub key: &'a str,
}

impl Registration {
    /// Seals what an agent has registered.
    ///
    /// # Errors
    /// It cannot be encrypted.
    pub fn new(
        cluster: &ClusterName,
        Registrant { agent, key }: Registrant<'_>,
        endpoint: Endpoint,
        allow_service_accounts: BTreeSet<String>,
        token: &RegisteredToken,
        now: OffsetDateTime,
        keys: &Keyring,
    ) -> Result<Self, SealError> {
        let expires = token.expires();
        let account = token.account().clone();
        let place = place(
            cluster,
            agent,
            &endpoint,
            &allow_service_accounts,
            &account,
            expires,
        );
        Ok(Self {
            created: now,
            agent: agent.to_owned(),
            key: Some(key.to_owned()),
            token: keys.seal(token.as_str().as_bytes(), &place)?,
            endpoint,
            allow_service_accounts,
            account,
            expires,
        })
    }

    /// Decrypts the token.
    ///
    /// # Errors
    /// It does not open here: the key is another one, or something of the registration is not as it was sealed.
    pub fn open(
        &self,
        cluster: &ClusterName,
        keys: &Keyring,
    ) -> Result<Zeroizing<String>, OpenCredentialError> {
        let opened = keys.open(&self.token, &self.place(cluster));
        let opened = opened.map_err(OpenCredentialError::Unseal)?;
        match std::str::from_utf8(&opened) {
            Ok(text) => Ok(Zeroizing::new(text.to_owned())),
            Err(_) => Err(OpenCredentialError::Malformed),
        }
    }

    /// The same, with the token encrypted by the key that encrypts now; `None` where it is already.
    ///
    /// # Errors
    /// It does not open here.
    pub fn renewed(
        &self,
        cluster: &ClusterName,
        keys: &Keyring,
    ) -> Result<Option<Self>, OpenCredentialError> {
        if keys.is_current(&self.token) {
            return Ok(None);
        }
        let token = self.open(cluster, keys)?;
        let sealed = keys.seal(token.as_bytes(), &self.place(cluster));
        Ok(Some(Self {
            token: sealed.map_err(OpenCredentialError::Seal)?,
            ..self.clone()
        }))
    }

    /// Is there time enough left for another request?
    pub fn counts(&self, now: OffsetDateTime) -> bool {
        now + limits::REGISTERED_TOKEN_MARGIN < self.expires
    }

    /// Is it the same way to the API server, with any token?
    pub fn is_same_way(&self, other: &Self) -> bool {
        let way = |of: &Self| {
            let accounts = of.allow_service_accounts.clone();
            (
                of.agent.clone(),
                of.account.clone(),
                of.endpoint.clone(),
                accounts,
            )
        };
        way(self) == way(other)
    }

    /// The identities that are never impersonated there: those that no agent impersonates. An agent with denials of its owner's
    /// registers nothing.
    pub fn impersonation(&self) -> ImpersonationPolicy {
        let accounts = self.allow_service_accounts.iter();
        accounts.fold(
            ImpersonationPolicy::default(),
            ImpersonationPolicy::allow_service_accounts,
        )
    }

    /// The rules under which it is kept; `None` where it is to go.
    pub(crate) fn rules<'a>(&self, name: &str, draft: &'a Draft) -> Option<&'a RegistrationRules> {
        let agent = &draft.get::<Agent>(&self.agent)?.object;
        let serves = agent.cluster.as_str() == name && agent.role == AgentRole::Cluster;
        let cluster = &draft.get::<Cluster>(name)?.object;
        cluster.registrations.as_ref().filter(|_| serves)
    }

    fn place(&self, cluster: &ClusterName) -> SealContext {
        place(
            cluster,
            &self.agent,
            &self.endpoint,
            &self.allow_service_accounts,
            &self.account,
            self.expires,
        )
    }
}

fn place(
    cluster: &ClusterName,
    agent: &str,
    endpoint: &Endpoint,
    allow_service_accounts: &BTreeSet<String>,
    account: &Account,
    expires: OffsetDateTime,
) -> SealContext {
    let place = endpoint.place(cluster, "registered-token").and(agent);
    let place = place.and(&account.to_string());
    let place = place.and(&expires.unix_timestamp().to_string());
    allow_service_accounts
        .iter()
        .fold(place, |place, namespace| place.and(namespace))
}

impl Checked for Registration {
    fn check(&self, name: &str, draft: &Draft) -> Result<(), ChangeError> {
        match self.rules(name, draft) {
            Some(_) => Ok(()),
            None => Err(ChangeError::NoRegistration(name.to_owned())),
        }
    }
}
