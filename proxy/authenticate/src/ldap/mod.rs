//! Names and passwords of an LDAP directory, Active Directory included.
//!
//! A login is a search for the user's entry, a bind as that entry (RFC 4513, section 5.1.3), and a search for its groups. A
//! typed name is escaped in filters (RFC 4515, section 3), and enters no distinguished name; an empty password is refused
//! before the directory is asked (RFC 4513, section 5.1.2: a directory would take it for an anonymous login, and say yes), and
//! referrals are not followed. There is no way without TLS.
//!
//! A directory is a peer like others: the server reads its answers within bounds, and without recursion.

mod attempts;
mod batch;
mod ber;
mod budget;
mod config;
mod connection;
mod dn;
mod exchange;
mod groups;
mod idle;
mod message;
mod open;
mod search;

use std::{fmt, net::IpAddr, sync::Arc};

use async_trait::async_trait;

pub use self::config::{Bind, GroupMembership, GroupSearch, LdapConfig, UserSearch};
use self::{
    attempts::Attempts,
    budget::Budget,
    connection::{Bound, Connections, LdapFailure, try_password},
    search::{Found, filled},
};
use super::{
    AuthenticateError, Authenticated, Authenticator, Caller, ConfigError, CredentialError,
    Password, Source,
    remote::{Credential, Lookup, Remote},
    source::Assertion,
};
use underpass_core::Identity;

/// Accepts names and passwords (HTTP Basic, or [`Chain::login`](super::Chain::login)) that the directory accepts.
pub struct Ldap(Remote<Directory>);

impl Ldap {
    /// Checks the configuration. The directory is asked when the first user comes.
    ///
    /// # Errors
    /// The field that cannot be used.
    pub fn new(source: Source, config: LdapConfig) -> Result<Self, ConfigError> {
        let connections = config.connections()?;
        let options = config.remote;
        let directory = Directory {
            source: source.clone(),
            connections,
            attempts: Attempts::new(),
            config,
        };
        let remote = Remote::new(directory, source, options);
        Ok(Self(remote.map_err(|e| ConfigError::unusable("url", e))?))
    }
}

impl fmt::Debug for Ldap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ldap").finish_non_exhaustive()
    }
}

#[async_trait]
impl Authenticator for Ldap {
    async fn authenticate(
        &self,
        caller: &Caller<'_>,
    ) -> Result<Option<Authenticated>, AuthenticateError> {
        self.0.authenticate(caller).await
    }
}

struct Directory {
    source: Source,
    connections: Arc<Connections>,
    attempts: Attempts,
    config: LdapConfig,
}

#[async_trait]
impl Lookup for Directory {
    fn claim(&self, caller: &Caller<'_>) -> Result<Option<Credential>, CredentialError> {
        let Some(login) = caller.password() else {
            return Ok(None);
        };
        let Some(name) = self.name(login.user()) else {
            return Ok(None);
        };
        if name.is_empty() || name.contains('\0') {
            return Err(CredentialError::Malformed);
        }
        if login.expose().is_empty() {
            return Err(CredentialError::EmptyPassword);
        }
        Ok(Some(Credential::Password(login.clone())))
    }

    async fn look_up(
        &self,
        credential: &Credential,
        client: IpAddr,
    ) -> Result<Identity, AuthenticateError> {
        let Credential::Password(login) = credential else {
            return Err(CredentialError::Malformed.into());
        };
        let name = self.name(login.user()).ok_or(CredentialError::Malformed)?;
        let budget = Budget::new();
        let found = match self.find(name, &budget).await {
            Ok(found) => found,
            Err(failure) => {
                let why = failure.too_much();
                let why = why.ok_or_else(|| AuthenticateError::unavailable(failure))?;
                // A guesser is not to know that there is such a user.
                self.bind_as_nobody(name, login, client).await?;
                return Err(CredentialError::Entry(why).into());
            }
        };
        let mut found = found.into_iter();
        let user = match (found.next(), found.next()) {
            (Some(user), None) => user,
            (Some(_), Some(_)) => return Err(CredentialError::Ambiguous.into()),
            (None, _) => {
                self.bind_as_nobody(name, login, client).await?;
                return Err(CredentialError::WrongPassword.into());
            }
        };
        match self.bind(&user.dn, login, client).await? {
            Bound::Yes => {}
            Bound::No => return Err(CredentialError::WrongPassword.into()),
        }
        let assertion = self.assertion(&user, &budget).await?;
        Ok(self.source.identity(assertion)?)
    }
}

impl Directory {
    /// The name within the realm. `None`: another realm's.
    fn name<'a>(&self, typed: &'a str) -> Option<&'a str> {
        match &self.config.realm {
            None => Some(typed),
            Some(realm) => {
                let (name, typed) = typed.rsplit_once('@')?;
                typed.eq_ignore_ascii_case(realm).then_some(name)
            }
        }
    }

    async fn find(&self, name: &str, budget: &Budget) -> Result<Vec<Found>, LdapFailure> {
        let user = &self.config.user;
        let filter = filled(&user.filter, name);
        let mut attributes = vec![user.name_attribute.as_str()];
        attributes.extend(user.uid_attribute.as_deref());
        attributes.extend(user.extra.iter().map(|(_, attribute)| attribute.as_str()));
        let membership = self.config.groups.as_ref().map(|groups| &groups.membership);
        attributes.extend(membership.and_then(GroupMembership::user_attribute));
        // Two are one too many already.
        self.connections
            .search(&user.base, &filter, &attributes, 2, budget)
            .await
    }

    /// Tries a password, unless so many were wrong that the directory may lock the account (rule 23).
    async fn bind(
        &self,
        dn: &str,
        login: &Password,
        client: IpAddr,
    ) -> Result<Bound, AuthenticateError> {
        let attempt = self.attempts.begin(dn, client);
        let mut attempt = attempt.map_err(AuthenticateError::Wait)?;
        let connected = self.connections.connect().await;
        let connection = connected.map_err(AuthenticateError::unavailable)?;
        // The directory may count it from here on, with any outcome: an answer that comes too late, one that says
        // something else, or none.
        attempt.sent();
        let bound = try_password(connection, dn, login.expose()).await;
        let bound = bound.map_err(AuthenticateError::unavailable)?;
        if bound == Bound::Yes {
            attempt.right();
        }
        Ok(bound)
    }

    /// Neither the duration of a login nor a wait may tell a guesser which names exist. The answer does not matter. The typed
    /// name is not bound: there may be such an entry, which only the search's filter leaves out, and a directory that locks
    /// accounts would lock it.
    async fn bind_as_nobody(
        &self,
        name: &str,
        login: &Password,
        client: IpAddr,
    ) -> Result<(), AuthenticateError> {
        let user = &self.config.user;
        let rdn = self.attempts.nobody(name);
        let nobody = format!("{}={rdn},{}", user.name_attribute, user.base);
        self.bind(&nobody, login, client).await.map(drop)
    }

    async fn assertion(
        &self,
        user: &Found,
        budget: &Budget,
    ) -> Result<Assertion, AuthenticateError> {
        let config = &self.config.user;
        let name = user.name(&config.name_attribute);
        let name = name.ok_or_else(|| CredentialError::Claim(config.name_attribute.clone()))?;
        let groups = match &self.config.groups {
            None => Vec::new(),
            Some(groups) => {
                let found = groups::of(
                    user,
                    groups,
                    &self.connections,
                    self.source.left_out(),
                    budget,
                )
                .await;
                found.map_err(|failure| match failure.too_much() {
                    Some(why) => CredentialError::Identity(why).into(),
                    None => AuthenticateError::unavailable(failure),
                })?
            }
        };
        let uid = config.uid_attribute.as_ref().map(|attribute| {
            let uid = user.text_or_hex(attribute);
            uid.ok_or_else(|| CredentialError::Claim(attribute.clone()))
        });
        let extra = config.extra.iter();
        let extra = extra.map(|(key, attribute)| (key.clone(), user.texts_or_hex(attribute)));
        Ok(Assertion {
            user: format!("{}{name}", config.prefix),
            uid: uid.transpose()?,
            groups,
            extra: extra
                .filter(|(_, values): &(_, Vec<_>)| !values.is_empty())
                .collect(),
            ..Assertion::default()
        })
    }
}
