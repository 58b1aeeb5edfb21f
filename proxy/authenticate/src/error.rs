//! Reasons why no authenticator vouches for a caller.

use std::{error::Error, fmt, sync::Arc, time::Duration};

use underpass_core::{Authority, BoxError, Rejection};

/// Reasons why no authenticator vouches for a caller.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuthenticateError {
    /// The credential is of a known kind and not valid. No other authenticator is asked.
    #[error("the credential was rejected")]
    Rejected(#[source] CredentialError),
    /// The client's certificate is not valid. It belongs to the connection, and a request on it may have another credential,
    /// which decides then.
    #[error("the client certificate {told}")]
    Certificate {
        /// The fault, for the client: nothing that it does not know.
        told: &'static str,
        /// The fault, for the log.
        #[source]
        why: CredentialError,
    },
    /// The authenticator's provider cannot be reached, or its answer is unusable.
    #[error("the authenticator is not available")]
    Unavailable(#[source] BoxError),
    /// Too many credentials are being checked, or too many of this client's were bad.
    #[error("too many credentials are being checked")]
    Busy,
    /// Too many credentials of this client, or passwords of this name, were wrong. The right one would not be looked at
    /// either.
    #[error("too many wrong passwords or bad credentials; wait {} s", .0.as_secs().saturating_add(1))]
    Wait(Duration),
}

impl AuthenticateError {
    /// Unavailable, for this reason.
    pub(crate) fn unavailable(reason: impl Error + Send + Sync + 'static) -> Self {
        Self::Unavailable(Box::new(reason))
    }
}

impl From<CredentialError> for AuthenticateError {
    fn from(rejection: CredentialError) -> Self {
        Self::Rejected(rejection)
    }
}

/// The reason for a credential's rejection. The log says it; the client only hears that it is unauthorized.
///
/// Values that appear here were vouched for by the credential's issuer, or belong to the configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CredentialError {
    /// It is no credential of its kind: cut off, mistyped, or made up.
    #[error("it is malformed")]
    Malformed,
    /// It is unknown, or no longer known.
    #[error("it is not known")]
    Unknown,
    /// Its time is over.
    #[error("it has expired")]
    Expired,
    /// Its time has not come.
    #[error("it is not valid yet")]
    NotYetValid,
    /// The name or the password is wrong: the client is not told which.
    #[error("the name or the password is wrong")]
    WrongPassword,
    /// An empty password, which some directories take for an anonymous login.
    #[error("the password is empty")]
    EmptyPassword,
    /// It is signed with an algorithm that is not allowed.
    #[error("its signature algorithm is not allowed")]
    Algorithm,
    /// The issuer has no key of this id.
    #[error("its issuer has no such key")]
    UnknownKey,
    /// Its signature does not fit.
    #[error("its signature is wrong")]
    Signature,
    /// It was made for another audience.
    #[error("it is meant for another audience")]
    Audience,
    /// It lacks something that the configuration needs.
    #[error("its claim {0:?} is missing or of the wrong type")]
    Claim(String),
    /// The token says that another server has the claim, which is not asked.
    #[error(
        "its claim {0:?} is not in the token: the provider keeps it elsewhere (_claim_names or hasgroups; Microsoft Entra ID does so \
         above 200 groups), and is not asked for it. Let the provider put it into the token; in Entra: the groups that are assigned to the \
         application only, or application roles"
    )]
    ClaimElsewhere(String),
    /// A value that the configuration requires is another one.
    #[error("its claim {0:?} does not have the required value")]
    RequiredClaim(String),
    /// The provider says that the address was never checked.
    #[error("its e-mail address is not verified")]
    EmailNotVerified,
    /// It does not lead to one of the configured authorities, or is not meant for clients.
    #[error("the certificate is not accepted: {0}")]
    Certificate(String),
    /// It is genuine, and its owner is none of those who may come in.
    #[error("its owner is not among those who are allowed")]
    NotAllowed,
    /// More than one entry fits the name.
    #[error("more than one user fits the name")]
    Ambiguous,
    /// A browser attached it by itself, to a request of another origin's page.
    #[error("a page of another origin sent it")]
    ForeignOrigin,
    /// The name, or a group, is one that this authenticator may not give.
    #[error("it would give the reserved name {0:?}")]
    Reserved(String),
    /// A user of the directory bears the name, and the directory does not say that they are one (security rule 22).
    #[error(
        "its name {name:?} is that of a user of the directory, who has no link to {authority}: make one if they are the same \
         person (underpass user link), or give the authenticator a prefix"
    )]
    AnothersName {
        /// The name.
        name: String,
        /// The authority that gave it.
        authority: Authority,
    },
    /// The name differs from that of a user of the directory in the case of its letters only.
    #[error(
        "its name {name:?} could be taken for the directory's user {owner:?}: give the authenticator a prefix, or rename one \
         of them"
    )]
    LookAlike {
        /// The name.
        name: String,
        /// The user's.
        owner: String,
    },
    /// It is linked to a user of the directory who is disabled.
    #[error("the directory's user {0:?}, who is linked to it, is disabled")]
    Disabled(String),
    /// Its claims about its owner cannot be an identity: too many groups, a name that no header can hold.
    #[error("its owner cannot be an identity: {0}")]
    Identity(String),
    /// There is more about the owner of the name than is read, and the password was not tried.
    #[error("its owner's entry cannot be read: {0}")]
    Entry(String),
}

/// One failure, shared by all callers that wait for the same check.
#[derive(Clone, Debug)]
pub(crate) struct Shared(pub(crate) Arc<BoxError>);

impl fmt::Display for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Error for Shared {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0.source()
    }
}

/// An authenticator took longer than it may.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("it took longer than {0:?}")]
pub(crate) struct TooSlow(pub(crate) std::time::Duration);

/// The authenticators have said more in the log.
impl From<&AuthenticateError> for Rejection {
    fn from(error: &AuthenticateError) -> Self {
        match error {
            AuthenticateError::Rejected(CredentialError::ForeignOrigin) => Self::ForeignOrigin,
            // It is genuine: its owner may know, and another login does not help.
            AuthenticateError::Rejected(CredentialError::Identity(why)) => {
                Self::NoIdentity(why.clone())
            }
            AuthenticateError::Rejected(_) => Self::Unauthorized,
            AuthenticateError::Certificate { told, .. } => Self::BadCertificate(told),
            AuthenticateError::Unavailable(_) => Self::Unavailable,
            AuthenticateError::Busy => Self::TooManyRequests,
            AuthenticateError::Wait(wait) => Self::TooManyFailures(*wait),
        }
    }
}
