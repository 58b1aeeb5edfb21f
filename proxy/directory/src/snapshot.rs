//! The directory at one moment, and every question that is decided from it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use super::{
    agent_key::KeyStanding,
    direct::Registration,
    earlier_keys::KeyDigest,
    join_token::JoinToken,
    object::{
        AccessToken, Agent, Binding, Cluster, Group, Object, ObjectKind, Owner, TokenUse, User,
    },
    standing::{Facts, Named},
    store::{Contents, Key, Record},
};
use underpass_authenticate::TokenHash;
use underpass_core::{
    AgentRole, Authority, ClusterName, Labels, NodeName, Permission, Revision, Role, Subject,
    SubjectKind, limits,
};

/// An object, and when it was last changed.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry<T> {
    /// The revision of its last change.
    pub revision: Revision,
    /// The object.
    pub object: Arc<T>,
}

/// Objects of one kind, by name.
pub type Table<T> = BTreeMap<String, Entry<T>>;

/// Every object, with indexes.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    pub(super) revision: Revision,
    pub(super) tables: Tables,
    index: Index,
}

/// The objects themselves.
#[derive(Clone, Debug, Default)]
pub struct Tables {
    pub(super) clusters: Table<Cluster>,
    pub(super) agents: Table<Agent>,
    pub(super) users: Table<User>,
    pub(super) groups: Table<Group>,
    pub(super) tokens: Table<AccessToken>,
    pub(super) bindings: Table<Binding>,
    pub(super) uses: Table<TokenUse>,
    pub(super) join_tokens: Table<JoinToken>,
    pub(super) registrations: Table<Registration>,
}

impl Tables {
    pub(super) fn has(&self, (kind, name): &Key) -> bool {
        match kind {
            ObjectKind::Cluster => self.clusters.contains_key(name),
            ObjectKind::Agent => self.agents.contains_key(name),
            ObjectKind::User => self.users.contains_key(name),
            ObjectKind::Group => self.groups.contains_key(name),
            ObjectKind::Token => self.tokens.contains_key(name),
            ObjectKind::Binding => self.bindings.contains_key(name),
            ObjectKind::TokenUse => self.uses.contains_key(name),
            ObjectKind::JoinToken => self.join_tokens.contains_key(name),
            ObjectKind::Registration => self.registrations.contains_key(name),
        }
    }
}

#[derive(Clone, Debug, Default)]
struct Index {
    tokens: HashMap<TokenHash, String>,
    /// By their keys: the current ones, the next ones, and those that were replaced.
    agents: HashMap<String, (String, KeyStanding)>,
    join_tokens: HashMap<TokenHash, String>,
    /// The groups of each user, in the order of their names.
    groups: HashMap<String, Vec<String>>,
    user_bindings: HashMap<String, Vec<(Subject, String)>>,
    group_bindings: HashMap<String, Vec<(Subject, String)>>,
    /// Names by their letters in lower case.
    users_by_letters: HashMap<String, String>,
    groups_by_letters: HashMap<String, String>,
}

/// An object that this version cannot read.
#[derive(Debug, thiserror::Error)]
#[error("the directory's {kind} {name:?} cannot be read (is it from a newer version?)")]
pub struct Unreadable {
    kind: ObjectKind,
    name: String,
    source: serde_json::Error,
}

/// A kind that has a table of its own: all of them.
pub trait Tabled: Object {
    /// Its table.
    fn table(tables: &Tables) -> &Table<Self>;
    /// Its table, to change it.
    fn table_mut(tables: &mut Tables) -> &mut Table<Self>;
}

macro_rules! tabled {
    ($($object:ident: $field:ident),+ $(,)?) => {
        $(impl Tabled for $object {
            fn table(tables: &Tables) -> &Table<Self> {
                &tables.$field
            }

            fn table_mut(tables: &mut Tables) -> &mut Table<Self> {
                &mut tables.$field
            }
        })+
    };
}

tabled!(
    Cluster: clusters,
    Agent: agents,
    User: users,
    Group: groups,
    AccessToken: tokens,
    Binding: bindings,
    TokenUse: uses,
    JoinToken: join_tokens,
    Registration: registrations,
);

/// A right, and the binding that it comes from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Right {
    pub(super) binding: String,
    pub(super) subject: Subject,
    pub(super) cluster: ClusterName,
    pub(super) permission: Permission,
}

impl Snapshot {
    /// Reads a store's contents.
    pub(super) fn read(contents: Contents) -> Result<Self, Unreadable> {
        let mut tables = Tables::default();
        for (key, record) in contents.records {
            match key.0 {
                ObjectKind::Cluster => read(&mut tables.clusters, key, &record)?,
                ObjectKind::Agent => read(&mut tables.agents, key, &record)?,
                ObjectKind::User => read(&mut tables.users, key, &record)?,
                ObjectKind::Group => read(&mut tables.groups, key, &record)?,
                ObjectKind::Token => read(&mut tables.tokens, key, &record)?,
                ObjectKind::Binding => read(&mut tables.bindings, key, &record)?,
                ObjectKind::TokenUse => read(&mut tables.uses, key, &record)?,
                ObjectKind::JoinToken => read(&mut tables.join_tokens, key, &record)?,
                ObjectKind::Registration => read(&mut tables.registrations, key, &record)?,
            }
        }
        Ok(Self::new(contents.revision, tables))
    }

    pub(super) fn new(revision: Revision, tables: Tables) -> Self {
        let index = Index::of(&tables);
        Self {
            revision,
            tables,
            index,
        }
    }

    /// The state of the store that it shows.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// All objects of a kind.
    pub fn all<T: Tabled>(&self) -> &Table<T> {
        T::table(&self.tables)
    }

    /// One object.
    pub fn get<T: Tabled>(&self, name: &str) -> Option<&Entry<T>> {
        T::table(&self.tables).get(name)
    }

    /// The token with this hash, and its id.
    pub fn token(&self, hash: &TokenHash) -> Option<(&str, &AccessToken)> {
        let id = self.index.tokens.get(hash)?;
        let entry = self.tables.tokens.get(id)?;
        Some((id, &entry.object))
    }

    /// The cluster that the holder of this key may serve.
    pub fn cluster_of_agent(&self, key: &str) -> Option<&ClusterName> {
        self.agent_with_key(key).map(|(_, agent)| &agent.cluster)
    }

    /// The agent whose holder of this public key counts, and its id.
    pub fn agent_with_key(&self, key: &str) -> Option<(&str, &Agent)> {
        let (id, agent, standing) = self.standing_of_key(key)?;
        standing.counts().then_some((id, agent))
    }

    /// The agent that this public key is or was of, and its id, as far as that is remembered.
    pub fn standing_of_key(&self, key: &str) -> Option<(&str, &Agent, KeyStanding)> {
        let Some((id, standing)) = self.index.agents.get(key) else {
            return self.agent_of_earlier_key(key);
        };
        let entry = self.tables.agents.get(id)?;
        Some((id, &entry.object, *standing))
    }

    /// Without an index, which each change would make anew: the key is no agent's current one, and its holder has paid with a handshake,
    /// or with a turn among the joins.
    fn agent_of_earlier_key(&self, key: &str) -> Option<(&str, &Agent, KeyStanding)> {
        let (agents, digest) = (&self.tables.agents, KeyDigest::of(key));
        // An agent's first key is the one that its id is of.
        let first = agents.get_key_value(&Agent::id_of(key));
        let has_had = |entry: &Entry<Agent>| entry.object.earlier_keys.contains(digest);
        let (id, entry) = first.or_else(|| agents.iter().find(|(_, entry)| has_had(entry)))?;
        Some((id, &entry.object, KeyStanding::Replaced(None)))
    }

    /// Has another key taken the place of this one?
    pub fn is_replaced_key(&self, key: &str) -> bool {
        let standing = self.standing_of_key(key);
        standing.is_some_and(|(_, _, standing)| !standing.counts())
    }

    /// The join token with this hash, and its id.
    pub fn join_token(&self, hash: &TokenHash) -> Option<(&str, &JoinToken)> {
        let id = self.index.join_tokens.get(hash)?;
        let entry = self.tables.join_tokens.get(id)?;
        Some((id, &entry.object))
    }

    /// The groups that a user of the directory is in.
    pub fn groups_of(&self, user: &str) -> &[String] {
        self.index.groups.get(user).map_or(&[], Vec::as_slice)
    }

    /// The token's owner as clusters see them; `None` where the token counts for nothing.
    pub(super) fn facts(&self, token: &AccessToken) -> Option<Facts> {
        let mut ancestor = token;
        for _ in 0..limits::TOKEN_GENERATIONS {
            let Some(parent) = &ancestor.parent else {
                return self.owner_facts(token);
            };
            ancestor = &self.get::<AccessToken>(parent)?.object;
            self.owner_facts(ancestor)?;
        }
        // This program never writes so many generations to a store.
        None
    }

    fn owner_facts(&self, token: &AccessToken) -> Option<Facts> {
        match &token.owner {
            Owner::User(name) => {
                let user = &self.get::<User>(name.as_str())?.object;
                (!user.disabled).then(|| Facts {
                    authority: Authority::Directory,
                    is_user: true,
                    user: name.to_string(),
                    uid: user.uid.clone(),
                    groups: self.groups_of(name.as_str()).to_vec(),
                    extra: user.extra.clone(),
                })
            }
            Owner::Login(login) => self.admit(&Facts::of_login(login)?).ok(),
        }
    }

    /// The bindings that name a subject or one of their groups.
    pub(super) fn bindings_of<'a>(
        &'a self,
        named: Named<'a>,
    ) -> impl Iterator<Item = (Subject, &'a str, &'a Binding)> + 'a {
        self.subjects_of(named).filter_map(|(subject, name)| {
            let binding = self.tables.bindings.get(name)?;
            Some((subject, name, &*binding.object))
        })
    }

    /// The subjects of bindings that have this name, and the bindings.
    pub(super) fn bindings_for(&self, kind: SubjectKind, name: &str) -> &[(Subject, String)] {
        let bindings = match kind {
            SubjectKind::User => self.index.user_bindings.get(name),
            SubjectKind::Group => self.index.group_bindings.get(name),
        };
        bindings.map_or(&[], Vec::as_slice)
    }

    /// A user whose name differs from this one in the case of its letters at the most.
    pub(super) fn user_like(&self, name: &str) -> Option<&str> {
        let user = self.index.users_by_letters.get(&letters(name));
        user.map(String::as_str)
    }

    /// The same of groups.
    pub(super) fn group_like(&self, name: &str) -> Option<&str> {
        let group = self.index.groups_by_letters.get(&letters(name));
        group.map(String::as_str)
    }

    /// The right that allows it, if one does.
    pub(super) fn right(
        &self,
        named: Named<'_>,
        cluster: &ClusterName,
        permission: Permission,
    ) -> Option<Right> {
        let labels = self.labels(cluster);
        let mut bindings = self.bindings_of(named);
        bindings.find_map(|(subject, name, binding)| {
            let fits = binding.role.allows(permission) && binding.clusters.selects(cluster, labels);
            fits.then(|| Right {
                binding: name.to_owned(),
                subject,
                cluster: cluster.clone(),
                permission,
            })
        })
    }

    /// Does the binding still give the right?
    pub(super) fn gives(&self, right: &Right) -> bool {
        let Some(binding) = self.get::<Binding>(&right.binding) else {
            return false;
        };
        let binding = &binding.object;
        binding.subjects.contains(&right.subject)
            && binding.role.allows(right.permission)
            && binding
                .clusters
                .selects(&right.cluster, self.labels(&right.cluster))
    }

    /// A subject's roles in a cluster.
    pub fn roles(&self, named: Named<'_>, cluster: &ClusterName) -> BTreeSet<Role> {
        self.effective_roles(named).roles(cluster)
    }

    /// May the subject change the whole directory?
    pub fn is_administrator(&self, named: Named<'_>) -> bool {
        self.effective_roles(named).is_administrator()
    }

    /// The clusters of a user's bindings, and of those of their groups in the directory, by role: clusters by name, `*` for
    /// all, `key=value` for a label.
    pub fn reach_of(&self, user: &str) -> BTreeMap<Role, BTreeSet<String>> {
        let mut reach = BTreeMap::<_, BTreeSet<String>>::new();
        let named = Named::by_directory(user, self.groups_of(user));
        for (_, _, binding) in self.bindings_of(named) {
            let chosen = reach.entry(binding.role).or_default();
            let selector = &binding.clusters;
            chosen.extend(selector.names.iter().map(ToString::to_string));
            chosen.extend(selector.all.then(|| "*".to_owned()));
            let labels = selector.labels.iter();
            chosen.extend(labels.map(|(key, value)| format!("{key}={value}")));
        }
        reach
    }

    /// Is there such a cluster?
    pub fn has_cluster(&self, name: &ClusterName) -> bool {
        self.tables.clusters.contains_key(name.as_str())
    }

    /// The ids of the agents that this name of a node in a cluster stands for: those of the node, else the one with that id, as the list
    /// of nodes names an agent that has joined without a node's name. A node has two while the pod of its agent is replaced.
    pub fn agents_of_node(&self, cluster: &ClusterName, node: &NodeName) -> Vec<&str> {
        let is_nodes = |agent: &Agent| agent.role == AgentRole::Node && agent.cluster == *cluster;
        let agents = self.all::<Agent>();
        let of_node = agents.iter().filter(|(_, entry)| {
            is_nodes(&entry.object) && entry.object.node.as_ref() == Some(node)
        });
        let found: Vec<_> = of_node.map(|(id, _)| id.as_str()).collect();
        if !found.is_empty() {
            return found;
        }
        let by_id = agents.get_key_value(node.as_str());
        let by_id = by_id.filter(|(_, entry)| is_nodes(&entry.object));
        by_id.map(|(id, _)| id.as_str()).into_iter().collect()
    }

    pub(super) fn labels(&self, cluster: &ClusterName) -> &Labels {
        static NONE: std::sync::LazyLock<Labels> = std::sync::LazyLock::new(Labels::default);
        self.get::<Cluster>(cluster.as_str())
            .map_or(&NONE, |cluster| &cluster.object.labels)
    }
}

fn read<T: Object>(table: &mut Table<T>, key: Key, record: &Record) -> Result<(), Unreadable> {
    let (kind, name) = key;
    match serde_json::from_slice(&record.value) {
        Ok(object) => {
            let entry = Entry {
                revision: record.revision,
                object: Arc::new(object),
            };
            table.insert(name, entry);
            Ok(())
        }
        Err(source) => Err(Unreadable { kind, name, source }),
    }
}

/// A name without regard to the case of its letters.
fn letters(name: &str) -> String {
    name.to_lowercase()
}

impl Index {
    fn of(tables: &Tables) -> Self {
        let mut index = Self::default();
        for (id, token) in &tables.tokens {
            index.tokens.insert(token.object.sha256, id.clone());
        }
        for (id, token) in &tables.join_tokens {
            index.join_tokens.insert(token.object.sha256, id.clone());
        }
        for (id, agent) in &tables.agents {
            for (key, standing) in agent.object.keys() {
                index.agents.insert(key.to_owned(), (id.clone(), standing));
            }
        }
        let by_letters = |name: &String| (letters(name), name.clone());
        index.users_by_letters = tables.users.keys().map(by_letters).collect();
        index.groups_by_letters = tables.groups.keys().map(by_letters).collect();
        for (name, group) in &tables.groups {
            for member in &group.object.members {
                let groups = index.groups.entry(member.to_string()).or_default();
                groups.push(name.clone());
            }
        }
        for (name, binding) in &tables.bindings {
            for subject in &binding.object.subjects {
                let bindings = match subject.kind {
                    SubjectKind::User => &mut index.user_bindings,
                    SubjectKind::Group => &mut index.group_bindings,
                };
                let bindings = bindings.entry(subject.name.to_string()).or_default();
                bindings.push((subject.clone(), name.clone()));
            }
        }
        index
    }
}
