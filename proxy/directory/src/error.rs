//! Why the directory is not changed.

use time::OffsetDateTime;

use super::{
    object::ObjectKind,
    snapshot::Unreadable,
    store::{CommitError, StoreError},
};
use underpass_core::{ClusterName, ClusterNameError, IdentityError, NameError, limits};

/// Why a directory cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The store does not work.
    #[error("the directory cannot be read")]
    Store(#[from] StoreError),
    /// The store holds an object that this version does not understand.
    #[error("the directory cannot be used")]
    Unreadable(#[from] Unreadable),
}

/// Why a change does not happen. Nothing has changed, except perhaps after [`ChangeError::Unknown`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChangeError {
    /// There is no such object.
    #[error("there is no {kind} {name:?}")]
    NotFound {
        /// Its kind.
        kind: ObjectKind,
        /// Its name.
        name: String,
    },
    /// There is one already.
    #[error("there is a {kind} {name:?} already")]
    Exists {
        /// Its kind.
        kind: ObjectKind,
        /// Its name.
        name: String,
    },
    /// It is not as the caller has seen it.
    #[error("{kind} {name:?} was changed meanwhile; read it again")]
    Changed {
        /// Its kind.
        kind: ObjectKind,
        /// Its name.
        name: String,
    },
    /// Another one has the same key.
    #[error("{kind} {name:?} has the same key")]
    Twice {
        /// The other's kind.
        kind: ObjectKind,
        /// The other's name.
        name: String,
    },
    /// The name cannot be one.
    #[error(transparent)]
    Name(NameError),
    /// The name cannot be a cluster's.
    #[error(transparent)]
    ClusterName(ClusterNameError),
    /// Clusters could not be told of such a user.
    #[error(transparent)]
    Identity(IdentityError),
    /// A link of the directory to itself.
    #[error(
        "a link is to an authenticator that asks somebody else, such as ldap/corp; the directory needs none to itself"
    )]
    LinkToDirectory,
    /// More than [`limits::LINKS`] links.
    #[error("there are more than {} links", limits::LINKS)]
    TooManyLinks,
    /// A token would count for longer than the one that it was made with.
    #[error(
        "the token would outlast the credential that asks for it, which ends at {end}; ask for an earlier end, or with a credential that lasts longer"
    )]
    Outlasts {
        /// When the other one ends.
        end: OffsetDateTime,
    },
    /// A token would allow more than its parent.
    #[error("the token would be for more than the credential that asks for it")]
    WiderScope,
    /// More than [`limits::SCOPE_CLUSTERS`] clusters in the scope of a token.
    #[error(
        "the scope of a token names {} clusters at the most; leave them out, and the token is for those that its user may reach",
        limits::SCOPE_CLUSTERS
    )]
    ScopeTooWide,
    /// Too many tokens were made with one another.
    #[error(
        "tokens may descend from each other over {} generations; ask with the credential that this one was made with",
        limits::TOKEN_GENERATIONS
    )]
    TooManyGenerations,
    /// A binding without subjects or clusters.
    #[error("a binding needs at least one subject, and clusters by name, by label, or all")]
    EmptyBinding,
    /// A cluster that the server reaches itself would have agents.
    #[error(
        "cluster {0:?} would have both agents and a direct endpoint; it has one or the other, so remove what is there first"
    )]
    AgentsAndDirect(String),
    /// The object is larger than [`limits::OBJECT_BYTES`].
    #[error("{kind} {name:?} is larger than {} bytes", limits::OBJECT_BYTES)]
    TooLarge {
        /// Its kind.
        kind: ObjectKind,
        /// Its name.
        name: String,
    },
    /// The directory, or the object, holds as many as it may.
    #[error("there are too many objects of kind {0}")]
    TooMany(ObjectKind),
    /// The user has [`limits::TOKENS_PER_USER`] tokens that count.
    #[error(
        "user {user:?} has {} tokens already; revoke some",
        limits::TOKENS_PER_USER
    )]
    TooManyTokens {
        /// Their owner.
        user: String,
    },
    /// The cluster has [`limits::JOIN_TOKENS_PER_CLUSTER`] join tokens that count.
    #[error(
        "cluster {cluster} has {} join tokens that count; delete some, or make one with more uses",
        limits::JOIN_TOKENS_PER_CLUSTER
    )]
    TooManyJoinTokens {
        /// The cluster.
        cluster: ClusterName,
    },
    /// A cluster with too many ServiceAccounts whose pods join.
    #[error(
        "a cluster has at most {} ServiceAccounts whose pods join as agents",
        limits::JOIN_ACCOUNTS
    )]
    TooManyJoinAccounts,
    /// A cluster with too many networks for its API server's addresses.
    #[error(
        "a cluster has at most {} networks in which its registered API server may be",
        limits::REGISTRATION_NETWORKS
    )]
    TooManyRegistrationNetworks,
    /// A cluster that the server reaches itself would have its agents register a credential.
    #[error("cluster {0:?} has a direct endpoint, and no agents that register a credential")]
    RegistrationsAndDirect(String),
    /// No credential is kept for the cluster, or none of this agent.
    #[error("cluster {0:?} keeps no credential of this agent")]
    NoRegistration(String),
    /// A join token for no agent, or for too many.
    #[error("a join token is for 1 to {} agents", limits::JOIN_TOKEN_USES)]
    JoinTokenUses,
    /// It cannot be written as JSON.
    #[error("the object cannot be written")]
    Encode(#[source] serde_json::Error),
    /// Others change the directory all the time.
    #[error("the directory is being changed by others, try again")]
    Busy,
    /// The store does not work.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Whether the change has happened is not known.
    #[error("it is not known whether the directory was changed")]
    Unknown(#[source] underpass_core::BoxError),
    /// Objects that another writer has stored cannot be read.
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
}

impl From<CommitError> for ChangeError {
    fn from(error: CommitError) -> Self {
        match error {
            CommitError::Conflict => Self::Busy,
            CommitError::Store(error) => Self::Store(error),
            CommitError::Unknown(source) => Self::Unknown(source),
        }
    }
}
