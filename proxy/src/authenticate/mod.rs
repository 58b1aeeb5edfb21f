//! Who is calling: a [`Chain`] of authenticators, each of which knows one kind of credential.
//!
//! - [`TokenAuthenticator`]: Underpass's own bearer tokens.
//! - [`Oidc`]: ID tokens of OpenID Connect providers.
//! - [`ClientCertificates`]: TLS client certificates.
//! - [`Ldap`]: names and passwords of a directory.
//! - [`GitHub`]: GitHub's tokens.
//! - [`TokenReview`]: ServiceAccount tokens, which their cluster reviews.
//!
//! An authenticator looks at a [`Caller`] and says *not mine*, *mine: this identity*, *mine: refused*, or *mine, but
//! I cannot check it now*. The first one whose credential it is decides alone, so that a broken provider, or a wrong
//! token, never leads to another authenticator's opinion. Whose a credential is shows in the credential itself and
//! is decided without asking anybody: a provider that hangs delays its own users only.
//!
//! Only this crate can make an [`Authenticated`], so that every way in is written, and tested, here; what differs
//! between installations is behind traits such as [`TokenStore`].

mod cache;
mod caller;
mod certificate;
mod chain;
mod config;
mod error;
mod failures;
mod github;
mod https;
mod jwt;
mod ldap;
mod oidc;
mod password;
mod remote;
mod source;
mod token;
mod token_review;
mod token_store;

use async_trait::async_trait;

use crate::{Identity, Revocation};

pub(crate) use self::{caller::adopt_websocket_bearer, failures::network};
pub use self::{
    caller::{Caller, Password},
    certificate::{CertificatePrefixes, CertificateRequest, ClientCertificates},
    chain::{Chain, Step},
    config::{ConfigError, Misconfigured},
    error::{AuthenticateError, Rejection},
    github::{DeviceAuthorization, DeviceError, DeviceLogin, GitHub, GitHubConfig},
    https::{Roots, RootsError},
    ldap::{Bind, GroupMembership, GroupSearch, Ldap, LdapConfig, UserSearch},
    oidc::{
        Algorithm, Claims, Oidc, OidcConfig, PrefixedClaim, RequiredClaim, UnknownAlgorithm,
        UsernamePrefix,
    },
    password::{LoginError, PasswordError, PasswordHash, Passwords},
    remote::{NoRandomness, RemoteOptions},
    source::{Reserved, Source},
    token::{Token, TokenError, TokenHash},
    token_review::{REVIEWER, TokenReview, TokenReviewConfig},
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
    /// The chain drops the future when its time is over. What others wait for as well goes on.
    async fn authenticate(
        &self,
        caller: &Caller<'_>,
    ) -> Result<Option<Authenticated>, AuthenticateError>;
}

/// A caller that an authenticator vouches for.
#[derive(Clone, Debug)]
pub struct Authenticated {
    pub(crate) identity: Identity,
    pub(crate) revocation: Revocation,
}

impl Authenticated {
    /// Who it is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The life of this decision.
    pub fn revocation(&self) -> &Revocation {
        &self.revocation
    }
}
