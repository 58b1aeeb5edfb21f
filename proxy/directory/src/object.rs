//! The objects of the directory.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use time::OffsetDateTime;

use super::{
    agent_key::{NextKey, ReplacedKey},
    creation::CreationId,
    direct::{Direct, Registration},
    earlier_keys::EarlierKeys,
    join_token::JoinToken,
};
use underpass_authenticate::{PasswordHash, TokenHash};
use underpass_core::service_account::Account;
use underpass_core::{
    AgentRole, Authority, ClusterName, Labels, Name, NodeName, RegistrationRules, Role, Scope,
    Selector, Subject,
};

/// A kind of object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ObjectKind {
    /// [`Cluster`].
    Cluster,
    /// [`Agent`].
    Agent,
    /// [`User`].
    User,
    /// [`Group`].
    Group,
    /// [`AccessToken`].
    Token,
    /// [`Binding`].
    Binding,
    /// [`TokenUse`].
    TokenUse,
    /// [`JoinToken`].
    JoinToken,
    /// [`Registration`].
    Registration,
}

impl ObjectKind {
    /// Every kind.
    pub const ALL: [Self; 9] = [
        Self::Cluster,
        Self::Agent,
        Self::User,
        Self::Group,
        Self::Token,
        Self::Binding,
        Self::TokenUse,
        Self::JoinToken,
        Self::Registration,
    ];

    /// As stores and errors write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cluster => "cluster",
            Self::Agent => "agent",
            Self::User => "user",
            Self::Group => "group",
            Self::Token => "token",
            Self::Binding => "binding",
            Self::TokenUse => "token-use",
            Self::JoinToken => "join-token",
            Self::Registration => "registration",
        }
    }

    /// Reads the output of [`ObjectKind::as_str`].
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }
}

impl std::fmt::Display for ObjectKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Something that the directory keeps under a kind and a name. Stores see JSON: unknown fields are refused, since one that this
/// version does not know might restrict a right.
pub trait Object: Clone + PartialEq + Serialize + DeserializeOwned + Send + Sync + 'static {
    /// Its kind.
    const KIND: ObjectKind;

    /// Takes over what an object keeps for as long as it is there, from the one whose place it takes.
    fn succeed(&mut self, before: Option<&Self>) {
        let _ = before;
    }
}

/// A cluster.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Cluster {
    /// When it was made.
    #[serde(with = "time::serde::rfc3339")]
    pub created: OffsetDateTime,
    /// Its creation. The directory sets it; `None` where an earlier version has made the object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub creation: Option<CreationId>,
    /// Bindings may select the cluster by these.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub labels: Labels,
    /// Its API server, where the server reaches it itself; agents serve it otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub direct: Option<Direct>,
    /// May agents on its nodes serve its API server while no agent of the role `cluster` is connected? Then each node's administrator
    /// can answer for the cluster.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub nodes_may_stand_in: bool,
    /// Its ServiceAccounts whose pods join as agents, and their roles.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub join_accounts: BTreeMap<Account, AgentRole>,
    /// The rules by which its agents register a credential for its API server; none may without them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registrations: Option<RegistrationRules>,
}

impl Cluster {
    /// A cluster without labels that agents of the role `cluster` serve, made at this time.
    pub fn new(created: OffsetDateTime) -> Self {
        Self {
            created,
            creation: None,
            labels: Labels::default(),
            direct: None,
            nodes_may_stand_in: false,
            join_accounts: BTreeMap::new(),
            registrations: None,
        }
    }

    /// Its creation. A cluster that is made again under its name has another one.
    pub fn creation_id(&self) -> CreationId {
        CreationId::of(self.creation.as_ref(), self.created)
    }
}

/// An agent's key: the holder of its private half may serve the cluster.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Agent {
    /// When it was made.
    #[serde(with = "time::serde::rfc3339")]
    pub created: OffsetDateTime,
    /// Which cluster it may serve.
    pub cluster: ClusterName,
    /// The public key, as the tunnel writes it.
    pub key: String,
    /// Since when it has that key, where that is not its first; `None` is since it was made.
    #[serde(
        default,
        with = "time::serde::rfc3339::option",
        skip_serializing_if = "Option::is_none"
    )]
    pub key_since: Option<OffsetDateTime>,
    /// The key that takes the place of that one once the agent has proved it. Until then both count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_key: Option<NextKey>,
    /// Its last keys, the newest first. They count for nothing, and their holders are told so.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub replaced_keys: Vec<ReplacedKey>,
    /// Those before.
    #[serde(default, skip_serializing_if = "EarlierKeys::is_empty")]
    pub earlier_keys: EarlierKeys,
    /// Its work there.
    #[serde(default, skip_serializing_if = "AgentRole::is_default")]
    pub role: AgentRole,
    /// The join token that the agent registered its key with, by id, whether there still is one or not; `None` where this server
    /// has made the key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub join_token: Option<String>,
    /// The pod that it joined as, where it joined by a ServiceAccount.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<JoinedPod>,
    /// The node that it runs on: by the cluster's word where it joined by a ServiceAccount, else by its own, where its role is that of nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeName>,
    /// Labels of the node, by the agent's own word when it joined: for people, and for nothing that is decided.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub labels: Labels,
}

/// A pod of a cluster that has joined as an agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct JoinedPod {
    /// Its ServiceAccount.
    pub account: Account,
    /// Its uid.
    pub uid: String,
}

impl Agent {
    /// An agent whose key this server made at this time, in the usual role.
    pub fn new(created: OffsetDateTime, cluster: ClusterName, key: String) -> Self {
        Self {
            created,
            cluster,
            key,
            key_since: None,
            next_key: None,
            replaced_keys: Vec::new(),
            earlier_keys: EarlierKeys::default(),
            role: AgentRole::default(),
            join_token: None,
            pod: None,
            node: None,
            labels: Labels::default(),
        }
    }

    /// Since when it has its key.
    pub fn key_since(&self) -> OffsetDateTime {
        self.key_since.unwrap_or(self.created)
    }

    /// Did this server make its key? Then it stays as it is: its copies are files that no agent writes.
    pub fn has_static_token(&self) -> bool {
        self.join_token.is_none() && self.pod.is_none()
    }

    /// The id of an agent whose first key this is: the beginning of the SHA-256 of the public key's text.
    pub fn id(&self) -> String {
        Self::id_of(&self.key)
    }

    pub(super) fn id_of(first_key: &str) -> String {
        let hash = TokenHash::of(first_key).to_hex();
        hash.chars().take(16).collect()
    }
}

/// A user of this directory. Users of identity providers need no entry, and cannot come by the name of one that has no link to
/// their provider.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct User {
    /// When they were made.
    #[serde(with = "time::serde::rfc3339")]
    pub created: OffsetDateTime,
    /// Their creation. The directory sets it; `None` where an earlier version has made the user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub creation: Option<CreationId>,
    /// Their uid, for clusters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    /// Further facts for clusters, by lower-case key.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub extra: BTreeMap<String, Vec<String>>,
    /// The hash of the password that they log in with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<PasswordHash>,
    /// Their tokens count for nothing while this is set, and they cannot log in.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub disabled: bool,
    /// Authenticators that may give the name: its bearer there is this user (security rule 22).
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub links: BTreeSet<Authority>,
}

/// Users of this directory that clusters and bindings see together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Group {
    /// When it was made.
    #[serde(with = "time::serde::rfc3339")]
    pub created: OffsetDateTime,
    /// The users in it.
    #[serde(default)]
    pub members: BTreeSet<Name>,
    /// Authenticators that may give the name: a member of their group is in this one (security rule 22).
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub links: BTreeSet<Authority>,
}

/// A bearer token: never the secret, only its hash.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct AccessToken {
    /// When it was made.
    #[serde(with = "time::serde::rfc3339")]
    pub created: OffsetDateTime,
    /// SHA-256 of the token.
    #[serde(with = "super::hex")]
    pub sha256: TokenHash,
    /// The user.
    pub owner: Owner,
    /// From when on it counts for nothing; `None` is never.
    #[serde(
        default,
        with = "time::serde::rfc3339::option",
        skip_serializing_if = "Option::is_none"
    )]
    pub expires: Option<OffsetDateTime>,
    /// Until when its holder may have another one for it, where it comes from a login.
    #[serde(
        default,
        with = "time::serde::rfc3339::option",
        skip_serializing_if = "Option::is_none"
    )]
    pub renewable_until: Option<OffsetDateTime>,
    /// The token that it was made with, by id. It counts for nothing once that one was taken back, and while the owner
    /// of that one is disabled (security rule 24).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// The clusters and requests that it is for.
    #[serde(default, skip_serializing_if = "Scope::is_everything")]
    pub scope: Scope,
    /// A name for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
}

impl AccessToken {
    /// Does it still count at this time, as far as its own end says?
    pub(super) fn is_unexpired(&self, now: OffsetDateTime) -> bool {
        self.expires.is_none_or(|end| end > now)
    }
}

/// The owner of a token.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub enum Owner {
    /// A user of the directory, with the groups that they are in when the token is used.
    User(Name),
    /// A user whom an authenticator vouched for when they logged in, as they were then.
    Login(Login),
}

impl User {
    /// A user who was made at this time.
    pub fn new(created: OffsetDateTime) -> Self {
        Self {
            created,
            creation: None,
            uid: None,
            extra: BTreeMap::new(),
            password: None,
            disabled: false,
            links: BTreeSet::new(),
        }
    }

    /// Their creation. A user who is made again under their name has another one.
    pub fn creation_id(&self) -> CreationId {
        CreationId::of(self.creation.as_ref(), self.created)
    }
}

impl Owner {
    /// The user's name.
    pub fn name(&self) -> &str {
        match self {
            Self::User(name) => name.as_str(),
            Self::Login(login) => &login.user,
        }
    }
}

/// The identity of a login.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Login {
    /// The user's name.
    pub user: String,
    /// Their uid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    /// Their groups at that time.
    #[serde(default)]
    pub groups: Vec<String>,
    /// Further facts, by lower-case key.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub extra: BTreeMap<String, Vec<String>>,
    /// ObjectKind and name of the authenticator that vouched for them.
    pub authenticated_by: String,
}

impl Login {
    /// The authenticator that vouched for them, by kind and name; `None` where this version knows no such kind.
    pub fn authority(&self) -> Option<Authority> {
        self.authenticated_by.parse().ok()
    }

    /// The name of the authenticator that vouched for them.
    pub fn authenticator(&self) -> &str {
        let by = self.authenticated_by.split_once('/');
        by.map_or("", |(_, name)| name)
    }
}

/// When a token was last used, to the minute.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct TokenUse {
    /// The time.
    #[serde(with = "time::serde::rfc3339")]
    pub last: OffsetDateTime,
}

/// Gives subjects a role in clusters.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Binding {
    /// When it was made.
    #[serde(with = "time::serde::rfc3339")]
    pub created: OffsetDateTime,
    /// Users and groups, of the directory or of identity providers.
    pub subjects: BTreeSet<Subject>,
    /// The clusters.
    pub clusters: Selector,
    /// The subjects' role there.
    pub role: Role,
}

macro_rules! objects {
    ($($object:ident: $kind:ident),+ $(,)?) => {
        $(impl Object for $object {
            const KIND: ObjectKind = ObjectKind::$kind;
        })+
    };
}

objects!(
    Agent: Agent,
    Group: Group,
    AccessToken: Token,
    Binding: Binding,
    TokenUse: TokenUse,
    JoinToken: JoinToken,
    Registration: Registration,
);

impl Object for Cluster {
    const KIND: ObjectKind = ObjectKind::Cluster;

    fn succeed(&mut self, before: Option<&Self>) {
        self.creation = CreationId::succeed(before.map(|before| before.creation.as_ref()));
    }
}

impl Object for User {
    const KIND: ObjectKind = ObjectKind::User;

    fn succeed(&mut self, before: Option<&Self>) {
        self.creation = CreationId::succeed(before.map(|before| before.creation.as_ref()));
    }
}
