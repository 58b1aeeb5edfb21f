//! How a caller was authenticated.

use std::{fmt, sync::Arc, time::SystemTime};

use crate::{Authority, Scope};

/// The kind of proof that a caller gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum AuthenticationMethod {
    /// A bearer token of Underpass's own.
    Token,
    /// A name and password of Underpass's own.
    Password,
    /// A signed token of an OpenID Connect provider.
    Jwt,
    /// A name and password that an LDAP directory has accepted.
    Ldap,
    /// A token of GitHub's.
    GitHub,
    /// A TLS client certificate.
    Certificate,
    /// A ServiceAccount's token that its cluster has accepted.
    TokenReview,
}

impl AuthenticationMethod {
    /// As logs and metrics write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::Password => "password",
            Self::Jwt => "jwt",
            Self::Ldap => "ldap",
            Self::GitHub => "github",
            Self::Certificate => "certificate",
            Self::TokenReview => "token-review",
        }
    }
}

impl AuthenticationMethod {
    /// Do browsers attach it by themselves, for requests of any page? They remember HTTP Basic for a server, and a client
    /// certificate belongs to the connection.
    pub const fn is_ambient(self) -> bool {
        match self {
            Self::Password | Self::Ldap | Self::Certificate => true,
            Self::Token | Self::Jwt | Self::GitHub | Self::TokenReview => false,
        }
    }
}

impl fmt::Display for AuthenticationMethod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The proof behind an [`Identity`](crate::Identity): its authenticator, kind, end and scope.
///
/// It stays at the server: an agent needs only the user to impersonate, and could not check the rest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Provenance {
    method: AuthenticationMethod,
    authenticator: Arc<str>,
    authority: Authority,
    expires_at: Option<SystemTime>,
    login_until: Option<SystemTime>,
    scope: Scope,
    token: Option<Arc<str>>,
}

impl Provenance {
    /// The authenticator of this name has checked a proof of this kind; `authority` gave the names. The proof says nothing
    /// of its end, and is for everything, unless the methods below say otherwise.
    pub fn new(
        method: AuthenticationMethod,
        authenticator: impl Into<Arc<str>>,
        authority: Authority,
    ) -> Self {
        Self {
            method,
            authenticator: authenticator.into(),
            authority,
            expires_at: None,
            login_until: None,
            scope: Scope::default(),
            token: None,
        }
    }

    /// The proof is worth nothing from then on.
    #[must_use]
    pub fn with_end(mut self, expires_at: Option<SystemTime>) -> Self {
        self.expires_at = expires_at;
        self
    }

    /// A login with the proof counts until then, even where the proof ends sooner.
    #[must_use]
    pub fn with_login_until(mut self, login_until: Option<SystemTime>) -> Self {
        self.login_until = login_until;
        self
    }

    /// The credential is for this and nothing else.
    #[must_use]
    pub fn with_scope(mut self, scope: Scope) -> Self {
        self.scope = scope;
        self
    }

    /// The proof was the directory's token of this id. Only the authenticator that checked the token knows this: a token
    /// beside another credential has proved nothing (security rule 21).
    #[must_use]
    pub fn with_token(mut self, id: impl Into<Arc<str>>) -> Self {
        self.token = Some(id.into());
        self
    }

    /// The kind of proof.
    pub fn method(&self) -> AuthenticationMethod {
        self.method
    }

    /// The authenticator's name in the configuration.
    pub fn authenticator(&self) -> &str {
        &self.authenticator
    }

    /// The authority that gave the names. A token of a login has the authority that vouched for the login.
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// From when on the proof is worth nothing; `None` where it says nothing of its end.
    pub fn expires_at(&self) -> Option<SystemTime> {
        self.expires_at
    }

    /// Until when a login with the proof counts, where the authenticator's configuration lets logins outlast their proof;
    /// `None` where a login ends with its proof.
    pub fn login_until(&self) -> Option<SystemTime> {
        self.login_until
    }

    /// The scope of the credential.
    pub fn scope(&self) -> &Scope {
        &self.scope
    }

    /// The id of the token of our own that was the proof; `None` where another kind of credential was.
    pub fn token(&self) -> Option<&str> {
        self.token.as_deref()
    }
}

impl fmt::Display for Provenance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.method, self.authenticator)
    }
}
