//! Identifies callers: a [`Chain`] of authenticators, each of which knows one kind of credential.
//!
//! - [`TokenAuthenticator`]: Underpass's own bearer tokens.
//! - [`Oidc`]: ID tokens of OpenID Connect providers.
//! - [`ClientCertificates`]: TLS client certificates.
//! - [`Ldap`]: names and passwords of a directory.
//! - [`GitHub`]: GitHub's tokens.
//! - [`TokenReview`]: ServiceAccount tokens, which their cluster reviews.
//!
//! Agents that join show a [`JoinSecret`], which makes nobody a caller; [`Failures`] bounds the guesses at it.
//!
//! An authenticator looks at a [`Caller`] and says *not mine*, *mine: this identity*, *mine: refused*, or *mine, but I cannot
//! check it now*. The first one whose credential it is decides alone, so that a broken provider, or a wrong token, never leads
//! to another authenticator's opinion. The credential itself shows which authenticator it is for, without a question to any
//! provider: a provider that hangs delays its own users only.
//!
//! Only this crate can make an [`Authenticated`], so that every way in is written, and tested, here. Traits such as
//! [`TokenStore`] hide the differences between installations.

mod cache;
mod caller;
mod certificate;
mod chain;
mod checks;
mod config;
mod error;
mod failures;
mod github;
mod join_secret;
mod jwt;
mod known;
mod ldap;
mod left_out;
mod lockouts;
mod names;
mod oidc;
mod password;
mod pod_review;
mod remote;
mod site;
mod source;
mod token;
mod token_review;
mod token_store;

use async_trait::async_trait;

use underpass_core::{AuthenticationMethod, Identity, Provenance, Revocation};
pub use underpass_https::{Proxy, Roots, RootsError};

pub use self::{
    caller::{
        AmbiguousBearer, Caller, Password, adopt_proxy_authorization, adopt_websocket_bearer,
    },
    certificate::{
        CertificatePrefixes, CertificateRequest, ClientCertificates, RevocationLists,
        RevocationListsError,
    },
    chain::{Chain, Step},
    config::{ConfigError, Misconfigured},
    error::{AuthenticateError, CredentialError},
    failures::Failures,
    github::{GitHub, GitHubAudience, GitHubConfig},
    join_secret::JoinSecret,
    ldap::{Bind, GroupMembership, GroupSearch, Ldap, LdapConfig, UserSearch},
    names::{Names, Unowned},
    oidc::{Algorithm, Claims, Oidc, OidcConfig, PrefixedClaim, RequiredClaim, UnknownAlgorithm},
    password::{LoginError, PasswordError, PasswordHash, Passwords},
    pod_review::{PodReviewError, PodReviewer, ReviewedPod},
    remote::{NoRandomness, RemoteOptions},
    source::{Assertion, Reserved, Source},
    token::{Token, TokenError, TokenHash},
    token_review::{TokenReview, TokenReviewConfig},
    token_store::{StoreError, TokenAuthenticator, TokenRecord, TokenStore},
};

/// Turns a credential into an identity.
#[async_trait]
pub trait Authenticator: Send + Sync {
    /// Vouches for the caller. `None`: this credential is of a kind that is not mine.
    ///
    /// # Errors
    /// The credential is mine and bad, or cannot be checked now.
    ///
    /// # Cancel safety
    /// The chain drops the future when its time is over. A check that other callers wait for as well goes on.
    async fn authenticate(
        &self,
        caller: &Caller<'_>,
    ) -> Result<Option<Authenticated>, AuthenticateError>;
}

/// A caller that an authenticator vouches for.
#[derive(Clone, Debug)]
pub struct Authenticated {
    pub(crate) identity: Identity,
    /// The authenticator's own identity, where the owner of the names adds or takes away.
    pub(crate) claimed: Option<Box<Identity>>,
    pub(crate) revocation: Revocation,
}

impl Authenticated {
    /// An authenticator vouches for this caller, for as long as `revocation` says.
    pub fn new(identity: Identity, revocation: Revocation) -> Self {
        Self {
            identity,
            claimed: None,
            revocation,
        }
    }

    /// The same caller as the owner of the names knows them, for as long as `decision` stands as well ([`Names`]).
    #[must_use]
    pub fn admitted_as(self, identity: Identity, decision: Revocation) -> Self {
        Self {
            identity,
            claimed: Some(Box::new(self.identity)),
            revocation: self.revocation.and(decision),
        }
    }

    /// The caller's identity.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The identity by the authenticator's word alone, for callers that store it: the owner of the names adds and takes away
    /// anew each time ([`Names`]).
    pub fn claimed(&self) -> &Identity {
        self.claimed.as_deref().unwrap_or(&self.identity)
    }

    /// Is it known by a credential that browsers attach by themselves, for any page (security rule 27)? An authenticator that
    /// does not say how they know it is taken to.
    pub fn is_ambient(&self) -> bool {
        let method = self.identity.provenance().map(Provenance::method);
        method.is_none_or(AuthenticationMethod::is_ambient)
    }

    /// The life of this decision.
    pub fn revocation(&self) -> &Revocation {
        &self.revocation
    }
}
