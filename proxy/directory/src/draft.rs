//! A change of the directory while it is being made. It keeps the invariants of the whole directory.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use time::OffsetDateTime;

use super::{
    direct::Registration,
    error::ChangeError,
    join_token::{self, JoinToken},
    object::{
        AccessToken, Agent, Binding, Cluster, Group, Object, ObjectKind, Owner, TokenUse, User,
    },
    room,
    snapshot::{Entry, Snapshot, Table, Tabled, Tables},
    store::{Key, Write},
};
use underpass_core::{Authority, ClusterName, Name, Revision, Role, Subject, SubjectKind, limits};

/// The precondition of a change of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// There, or not there.
    Anything,
    /// Not there.
    Absent,
    /// There.
    Present,
    /// As it was at this revision.
    Unchanged(Revision),
}

/// Changes that happen together or not at all. Each is checked when it is made. Removing an object removes its dependents (a
/// user's tokens, a cluster's agents).
#[derive(Debug)]
pub struct Draft {
    base: Arc<Snapshot>,
    tables: Tables,
    touched: BTreeSet<Key>,
    now: OffsetDateTime,
}

/// A draft that is ready to be written.
pub(super) struct Finished {
    pub(super) at: Revision,
    pub(super) tables: Tables,
    pub(super) writes: Vec<Write>,
    /// Some writes remove or replace an object.
    pub(super) revokes: bool,
}

impl Draft {
    pub(super) fn new(base: Arc<Snapshot>, now: OffsetDateTime) -> Self {
        let tables = base.tables.clone();
        Self {
            base,
            tables,
            touched: BTreeSet::new(),
            // Finer than the stored and shown times.
            now: now.replace_nanosecond(0).unwrap_or(now),
        }
    }

    /// The time of the change, in whole seconds.
    pub fn now(&self) -> OffsetDateTime {
        self.now
    }

    /// The directory before the change, with its indexes.
    pub fn before(&self) -> &Snapshot {
        &self.base
    }

    /// An object, as it is now.
    pub fn get<T: Tabled>(&self, name: &str) -> Option<&Entry<T>> {
        T::table(&self.tables).get(name)
    }

    /// All objects of a kind, as they are now.
    pub fn all<T: Tabled>(&self) -> &Table<T> {
        T::table(&self.tables)
    }

    /// A whole table, to fill it without checks.
    #[cfg(test)]
    pub(super) fn table_mut<T: Tabled>(&mut self) -> &mut Table<T> {
        T::table_mut(&mut self.tables)
    }

    /// Sets an object.
    ///
    /// # Errors
    /// It is not as expected, or names something that does not exist.
    pub fn put<T: Checked>(
        &mut self,
        name: &str,
        mut object: T,
        expect: Expect,
    ) -> Result<(), ChangeError> {
        self.expect::<T>(name, expect)?;
        object.succeed(self.get::<T>(name).map(|entry| &*entry.object));
        object.check(name, self)?;
        if self.get::<T>(name).is_none() {
            object.make_room(self)?;
        }
        let table = T::table_mut(&mut self.tables);
        if table.get(name).is_some_and(|entry| *entry.object == object) {
            return Ok(());
        }
        if !table.contains_key(name) && table.len() >= limits::OBJECTS {
            return Err(ChangeError::TooMany(T::KIND));
        }
        let entry = Entry {
            revision: self.base.revision.next(),
            object: Arc::new(object),
        };
        table.insert(name.to_owned(), entry);
        self.touched.insert((T::KIND, name.to_owned()));
        Ok(())
    }

    /// Removes an object and its dependents.
    ///
    /// # Errors
    /// It is not there, or not as expected.
    pub fn remove<T: Checked>(&mut self, name: &str, expect: Expect) -> Result<(), ChangeError> {
        self.expect::<T>(name, expect)?;
        if T::table_mut(&mut self.tables).remove(name).is_none() {
            return Err(ChangeError::NotFound {
                kind: T::KIND,
                name: name.to_owned(),
            });
        }
        self.touched.insert((T::KIND, name.to_owned()));
        T::removed(name, self);
        Ok(())
    }

    /// Adds users to a group, which is made if need be. Gives whether that changed anything.
    ///
    /// # Errors
    /// One of the users does not exist.
    pub fn join(&mut self, group: &Name, members: &[Name]) -> Result<bool, ChangeError> {
        let mut joined = match self.get::<Group>(group.as_str()) {
            Some(entry) => Group::clone(&entry.object),
            None => Group {
                created: self.now,
                members: BTreeSet::new(),
                links: BTreeSet::new(),
            },
        };
        let before = joined.members.len();
        joined.members.extend(members.iter().cloned());
        let changed = joined.members.len() != before;
        self.put(group.as_str(), joined, Expect::Anything)?;
        Ok(changed)
    }

    /// Adds to a subject's rights: to a binding of theirs alone with that role, which is made if need be. Gives the clusters
    /// that are new to them in that role.
    ///
    /// # Errors
    /// One of the clusters does not exist.
    pub fn grant(
        &mut self,
        subject: &Subject,
        clusters: &[ClusterName],
        all: bool,
        role: Role,
    ) -> Result<Vec<ClusterName>, ChangeError> {
        if clusters.is_empty() && !all {
            return Ok(Vec::new());
        }
        let only = BTreeSet::from([subject.clone()]);
        let own = self.all::<Binding>().iter().find(|(_, binding)| {
            let binding = &binding.object;
            binding.subjects == only && binding.role == role && binding.clusters.labels.is_empty()
        });
        let (name, mut binding) = match own {
            Some((name, entry)) => (name.clone(), Binding::clone(&entry.object)),
            None => {
                let binding = Binding {
                    created: self.now,
                    subjects: only,
                    clusters: Default::default(),
                    role,
                };
                (self.free_name(subject, role), binding)
            }
        };
        let new = clusters
            .iter()
            .filter(|cluster| !binding.clusters.all && !binding.clusters.names.contains(*cluster))
            .cloned()
            .collect();
        binding.clusters.names.extend(clusters.iter().cloned());
        binding.clusters.all |= all;
        self.put(&name, binding, Expect::Anything)?;
        Ok(new)
    }

    /// A descriptive name for a binding.
    fn free_name(&self, subject: &Subject, role: Role) -> String {
        let name = &subject.name;
        let whose = match subject.kind {
            SubjectKind::User => format!("user-{name}"),
            SubjectKind::Group => format!("group-{name}"),
        };
        let whose: String = whose.chars().take(limits::OBJECT_NAME_BYTES / 8).collect();
        let plain = format!("{whose}-{role}");
        let bindings = self.all::<Binding>();
        if !bindings.contains_key(&plain) {
            return plain;
        }
        let numbered = (2u64..).map(|number| format!("{plain}-{number}"));
        let mut free = numbered.filter(|name| !bindings.contains_key(name));
        free.next().unwrap_or(plain)
    }

    fn expect<T: Tabled>(&self, name: &str, expect: Expect) -> Result<(), ChangeError> {
        let there = self.get::<T>(name).map(|entry| entry.revision);
        let (kind, name) = (T::KIND, name.to_owned());
        match (expect, there) {
            (Expect::Absent, Some(_)) => Err(ChangeError::Exists { kind, name }),
            (Expect::Present | Expect::Unchanged(_), None) => {
                Err(ChangeError::NotFound { kind, name })
            }
            (Expect::Unchanged(at), Some(there)) if at != there => {
                Err(ChangeError::Changed { kind, name })
            }
            _ => Ok(()),
        }
    }

    /// Removes objects of a kind that `gone` is true of.
    pub(super) fn sweep<T: Checked>(&mut self, gone: impl Fn(&T) -> bool) {
        let names: Vec<_> = self
            .all::<T>()
            .iter()
            .filter(|(_, entry)| gone(&entry.object))
            .map(|(name, _)| name.clone())
            .collect();
        for name in names {
            // It was there a moment ago, and goes in any state.
            let _ = self.remove::<T>(&name, Expect::Anything);
        }
    }

    /// Removes tokens that ended by themselves, or that give their place to newer ones. This revokes no renewals: they go on,
    /// as children of the removed token's parent. Other tokens made with a removed one go: without their parent nothing would
    /// end them with its holder (rule 24).
    pub(super) fn forget_tokens(&mut self, gone: impl Fn(&AccessToken) -> bool) {
        let parents: HashMap<_, _> = self
            .all::<AccessToken>()
            .iter()
            .filter(|(_, entry)| gone(&entry.object))
            .map(|(name, entry)| (name.clone(), Arc::clone(&entry.object)))
            .collect();
        let is_child = |token: &AccessToken| {
            let parent = token.parent.as_ref();
            parent.is_some_and(|parent| parents.contains_key(parent))
        };
        self.amend(is_child, |mut token: AccessToken| {
            while let Some(parent) = token.parent.as_ref().and_then(|parent| parents.get(parent)) {
                if !token.renews(parent) {
                    return None;
                }
                token.parent.clone_from(&parent.parent);
            }
            Some(token)
        });
        self.sweep(gone);
    }

    /// Changes objects of a kind; `None` removes. Every other change waits for this one, and it may look at everything that
    /// there is: so only those are copied that `concerned` is true of.
    fn amend<T: Checked>(
        &mut self,
        concerned: impl Fn(&T) -> bool,
        amend: impl Fn(T) -> Option<T>,
    ) {
        let concerned: Vec<_> = self
            .all::<T>()
            .iter()
            .filter(|(_, entry)| concerned(&entry.object))
            .map(|(name, entry)| (name.clone(), copy::<T>(&entry.object)))
            .collect();
        for (name, before) in concerned {
            // An amendment only takes rights away.
            let _ = match amend(before) {
                Some(after) => self.put(&name, after, Expect::Anything),
                None => self.remove::<T>(&name, Expect::Anything),
            };
        }
    }

    /// Takes a name of the directory's out of every binding. A subject that a binding names together with its authenticator
    /// stays.
    fn forget_subject(&mut self, kind: SubjectKind, name: &str) {
        let goes = |subject: &Subject| {
            let is_it = subject.kind == kind && subject.name.as_str() == name;
            let by = subject.authority.as_ref();
            is_it && by.is_none_or(Authority::is_directory)
        };
        let concerned = |binding: &Binding| binding.subjects.iter().any(goes);
        self.amend(concerned, |mut binding: Binding| {
            binding.subjects.retain(|subject| !goes(subject));
            (!binding.subjects.is_empty()).then_some(binding)
        });
    }

    /// Removes tokens one of whose ancestors is gone (rule 24): once for the whole change, which may have removed many.
    fn sweep_orphans(&mut self) {
        let tokens = self.all::<AccessToken>();
        let is_gone = |(kind, name): &Key| *kind == ObjectKind::Token && !tokens.contains_key(name);
        if !self.touched.iter().any(is_gone) {
            return;
        }
        // From parents to children, each looked at once: generations may be many.
        let mut children = HashMap::<&str, Vec<&str>>::new();
        let mut found = Vec::new();
        for (name, entry) in tokens {
            if let Some(parent) = entry.object.parent.as_deref() {
                children.entry(parent).or_default().push(name);
                if !tokens.contains_key(parent) {
                    found.push(name.as_str());
                }
            }
        }
        let mut orphans = Vec::new();
        while let Some(name) = found.pop() {
            orphans.push(name.to_owned());
            found.extend(children.remove(name).into_iter().flatten());
        }
        for name in orphans {
            // It was there a moment ago.
            let _ = self.remove::<AccessToken>(&name, Expect::Anything);
        }
    }

    /// Removes registered credentials that their cluster does not allow any more, or whose agent is gone: once for the whole change.
    fn sweep_registrations(&mut self) {
        let concerns = |(kind, _): &Key| matches!(kind, ObjectKind::Cluster | ObjectKind::Agent);
        if !self.touched.iter().any(concerns) {
            return;
        }
        let all = self.all::<Registration>().iter();
        let gone = all.filter(|(name, entry)| entry.object.rules(name, self).is_none());
        let gone: Vec<_> = gone.map(|(name, _)| name.clone()).collect();
        for name in gone {
            // It was there a moment ago.
            let _ = self.remove::<Registration>(&name, Expect::Anything);
        }
    }

    /// Does the change of this object only note that a token was used, or renew a credential? That takes nothing back.
    fn is_use(&self, key: &Key) -> bool {
        match key.0 {
            ObjectKind::TokenUse => true,
            ObjectKind::JoinToken | ObjectKind::Registration => self.tables.has(key),
            _ => false,
        }
    }

    /// The writes to commit; `None` where nothing has changed.
    pub(super) fn finish(mut self) -> Result<Option<Finished>, ChangeError> {
        self.sweep_orphans();
        self.sweep_registrations();
        let mut writes = Vec::with_capacity(self.touched.len());
        let mut revokes = false;
        for key in std::mem::take(&mut self.touched) {
            revokes |= self.base.tables.has(&key) && !self.is_use(&key);
            let value = match key.0 {
                ObjectKind::Cluster => encode(&self.tables.clusters, &key)?,
                ObjectKind::Agent => encode(&self.tables.agents, &key)?,
                ObjectKind::User => encode(&self.tables.users, &key)?,
                ObjectKind::Group => encode(&self.tables.groups, &key)?,
                ObjectKind::Token => encode(&self.tables.tokens, &key)?,
                ObjectKind::Binding => encode(&self.tables.bindings, &key)?,
                ObjectKind::TokenUse => encode(&self.tables.uses, &key)?,
                ObjectKind::JoinToken => encode(&self.tables.join_tokens, &key)?,
                ObjectKind::Registration => encode(&self.tables.registrations, &key)?,
            };
            writes.push(Write { key, value });
        }
        let finished = Finished {
            at: self.base.revision,
            tables: self.tables,
            writes,
            revokes,
        };
        Ok((!finished.writes.is_empty()).then_some(finished))
    }
}

#[cfg(test)]
thread_local! {
    /// Objects that were copied to be changed, by this thread's tests.
    static COPIED: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

fn copy<T: Object>(object: &T) -> T {
    #[cfg(test)]
    COPIED.with(|copied| copied.set(copied.get() + 1));
    object.clone()
}

fn encode<T: Object>(table: &Table<T>, key: &Key) -> Result<Option<Vec<u8>>, ChangeError> {
    let Some(entry) = table.get(&key.1) else {
        return Ok(None);
    };
    let value = serde_json::to_vec(&*entry.object).map_err(ChangeError::Encode)?;
    if value.len() > limits::OBJECT_BYTES {
        return Err(ChangeError::TooLarge {
            kind: key.0,
            name: key.1.clone(),
        });
    }
    Ok(Some(value))
}

/// An object with invariants among the others.
pub trait Checked: Tabled {
    /// Could it be here?
    ///
    /// # Errors
    /// The violated invariant.
    fn check(&self, name: &str, draft: &Draft) -> Result<(), ChangeError>;

    /// Evicts older objects that have to make room for this new one.
    ///
    /// # Errors
    /// There is no place for it.
    fn make_room(&self, draft: &mut Draft) -> Result<(), ChangeError> {
        let _ = draft;
        Ok(())
    }

    /// Removes the dependents of this removed object.
    fn removed(name: &str, draft: &mut Draft) {
        let _ = (name, draft);
    }
}

/// A reference to something that must exist.
pub(super) fn must_exist<T: Tabled>(draft: &Draft, name: &str) -> Result<(), ChangeError> {
    match draft.get::<T>(name) {
        Some(_) => Ok(()),
        None => Err(ChangeError::NotFound {
            kind: T::KIND,
            name: name.to_owned(),
        }),
    }
}

pub(super) fn is_name(name: &str) -> Result<(), ChangeError> {
    Name::new(name).map(drop).map_err(ChangeError::Name)
}

fn check_links(links: &BTreeSet<Authority>) -> Result<(), ChangeError> {
    if links.len() > limits::LINKS {
        return Err(ChangeError::TooManyLinks);
    }
    match links.contains(&Authority::Directory) {
        true => Err(ChangeError::LinkToDirectory),
        false => Ok(()),
    }
}

impl Checked for Cluster {
    fn check(&self, name: &str, draft: &Draft) -> Result<(), ChangeError> {
        ClusterName::new(name).map_err(ChangeError::ClusterName)?;
        let mut agents = draft.all::<Agent>().values();
        if self.direct.is_some() && agents.any(|agent| agent.object.cluster.as_str() == name) {
            return Err(ChangeError::AgentsAndDirect(name.to_owned()));
        }
        if self.join_accounts.len() > limits::JOIN_ACCOUNTS {
            return Err(ChangeError::TooManyJoinAccounts);
        }
        let rules = self.registrations.as_ref();
        if rules.is_some_and(|rules| rules.addresses.len() > limits::REGISTRATION_NETWORKS) {
            return Err(ChangeError::TooManyRegistrationNetworks);
        }
        if rules.is_some() && self.direct.is_some() {
            return Err(ChangeError::RegistrationsAndDirect(name.to_owned()));
        }
        Ok(())
    }

    fn removed(name: &str, draft: &mut Draft) {
        draft.sweep(|agent: &Agent| agent.cluster.as_str() == name);
        draft.sweep(|token: &JoinToken| token.cluster.as_str() == name);
        // A cluster that is made again under this name is another one.
        let concerned = |binding: &Binding| binding.clusters.names.contains(name);
        draft.amend(concerned, |mut binding: Binding| {
            binding.clusters.names.remove(name);
            (!binding.clusters.is_empty()).then_some(binding)
        });
    }
}

impl Checked for Agent {
    fn check(&self, name: &str, draft: &Draft) -> Result<(), ChangeError> {
        is_name(name)?;
        let cluster = self.cluster.as_str();
        must_exist::<Cluster>(draft, cluster)?;
        let served = draft.get::<Cluster>(cluster);
        if served.is_some_and(|served| served.object.direct.is_some()) {
            return Err(ChangeError::AgentsAndDirect(cluster.to_owned()));
        }
        let mut others = draft.all::<Self>().iter();
        let shares = |other: &Self| self.keys().any(|(key, _)| other.has_had(key));
        match others.find(|(other, agent)| *other != name && shares(&agent.object)) {
            Some((other, _)) => Err(ChangeError::Twice {
                kind: ObjectKind::Agent,
                name: other.clone(),
            }),
            None => Ok(()),
        }
    }

    fn make_room(&self, draft: &mut Draft) -> Result<(), ChangeError> {
        join_token::room_for_agent(draft, &self.cluster)
    }
}

impl Checked for User {
    fn check(&self, name: &str, _: &Draft) -> Result<(), ChangeError> {
        is_name(name)?;
        check_links(&self.links)?;
        underpass_core::Identity::new(
            name.to_owned(),
            self.uid.clone(),
            Vec::new(),
            self.extra.clone(),
        )
        .map(drop)
        .map_err(ChangeError::Identity)
    }

    fn removed(name: &str, draft: &mut Draft) {
        draft.sweep(|token: &AccessToken| token.owner.name() == name);
        let concerned = |group: &Group| group.members.contains(name);
        draft.amend(concerned, |mut group: Group| {
            group.members.remove(name);
            Some(group)
        });
        draft.forget_subject(SubjectKind::User, name);
    }
}

impl Checked for Group {
    fn check(&self, name: &str, draft: &Draft) -> Result<(), ChangeError> {
        is_name(name)?;
        if self.members.len() > limits::GROUP_MEMBERS {
            return Err(ChangeError::TooMany(ObjectKind::User));
        }
        check_links(&self.links)?;
        self.members
            .iter()
            .try_for_each(|member| must_exist::<User>(draft, member.as_str()))
    }

    fn removed(name: &str, draft: &mut Draft) {
        draft.forget_subject(SubjectKind::Group, name);
    }
}

impl AccessToken {
    /// It names few clusters, which there are. Names that the token had before stay: clusters come and go, and the token is not
    /// made anew.
    fn check_scope(&self, name: &str, draft: &Draft) -> Result<(), ChangeError> {
        let Some(clusters) = &self.scope.clusters else {
            return Ok(());
        };
        let before = draft.get::<Self>(name);
        if before.is_some_and(|before| before.object.scope == self.scope) {
            return Ok(());
        }
        if clusters.len() > limits::SCOPE_CLUSTERS {
            return Err(ChangeError::ScopeTooWide);
        }
        clusters
            .iter()
            .try_for_each(|cluster| must_exist::<Cluster>(draft, cluster.as_str()))
    }

    /// Rule 24: a token made with a credential allows no more than the credential, and ends with it at the latest. A renewal
    /// may count for longer than the token that it renews, and no longer than their login.
    fn check_parent(&self, draft: &Draft) -> Result<(), ChangeError> {
        let Some(parent) = &self.parent else {
            return Ok(());
        };
        must_exist::<Self>(draft, parent)?;
        let mut generations = std::iter::successors(draft.get::<Self>(parent), |ancestor| {
            draft.get::<Self>(ancestor.object.parent.as_deref()?)
        });
        let Some(parent) = generations.next().map(|entry| &*entry.object) else {
            return Ok(());
        };
        let end = match (self.renewable_until, parent.renewable_until) {
            (Some(_), Some(end)) => Some(end),
            _ => parent.expires,
        };
        let own_end = self.expires.max(self.renewable_until);
        if let Some(end) = end
            && (self.expires.is_none() || own_end > Some(end))
        {
            return Err(ChangeError::Outlasts { end });
        }
        if !self.scope.is_within(&parent.scope) {
            return Err(ChangeError::WiderScope);
        }
        if generations.nth(limits::TOKEN_GENERATIONS - 2).is_some() {
            return Err(ChangeError::TooManyGenerations);
        }
        Ok(())
    }
}

impl Checked for AccessToken {
    fn check(&self, name: &str, draft: &Draft) -> Result<(), ChangeError> {
        is_name(name)?;
        if let Owner::User(user) = &self.owner {
            must_exist::<User>(draft, user.as_str())?;
        }
        self.check_scope(name, draft)?;
        self.check_parent(draft)
    }

    fn make_room(&self, draft: &mut Draft) -> Result<(), ChangeError> {
        room::make(draft, self)
    }

    fn removed(name: &str, draft: &mut Draft) {
        let _ = draft.remove::<TokenUse>(name, Expect::Anything);
    }
}

impl Checked for TokenUse {
    fn check(&self, name: &str, draft: &Draft) -> Result<(), ChangeError> {
        must_exist::<AccessToken>(draft, name)
    }
}

impl Checked for Binding {
    fn check(&self, name: &str, draft: &Draft) -> Result<(), ChangeError> {
        is_name(name)?;
        if self.subjects.is_empty() || self.clusters.is_empty() {
            return Err(ChangeError::EmptyBinding);
        }
        let many = self.subjects.len().max(self.clusters.names.len());
        if many > limits::BINDING_NAMES {
            return Err(ChangeError::TooMany(ObjectKind::Binding));
        }
        let before = draft
            .get::<Self>(name)
            .map(|entry| Arc::clone(&entry.object));
        let known = |cluster: &ClusterName| {
            let before = before.as_ref();
            before.is_some_and(|before| before.clusters.names.contains(cluster))
        };
        let mut new = self
            .clusters
            .names
            .iter()
            .filter(|&cluster| !known(cluster));
        new.try_for_each(|cluster| must_exist::<Cluster>(draft, cluster.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use time::Duration;
    use underpass_authenticate::Token;

    use super::*;

    fn token(draft: &Draft, owner: &str, parent: Option<&str>) -> AccessToken {
        AccessToken {
            created: draft.now(),
            sha256: Token::generate().unwrap().hash(),
            owner: Owner::User(owner.parse().unwrap()),
            expires: Some(draft.now() + Duration::hours(1)),
            renewable_until: None,
            parent: parent.map(str::to_owned),
            scope: underpass_core::Scope::default(),
            description: String::new(),
        }
    }

    /// While a change is made, every other one waits.
    #[test]
    fn rule_23_a_change_copies_what_it_changes_and_nothing_else() {
        let base = Arc::new(Snapshot::default());
        let mut draft = Draft::new(base, OffsetDateTime::now_utc());
        for user in 0..100 {
            let name = format!("u{user}");
            draft
                .put(&name, User::new(draft.now()), Expect::Absent)
                .unwrap();
            let group = Group {
                created: draft.now(),
                members: BTreeSet::from([name.parse().unwrap()]),
                links: BTreeSet::new(),
            };
            draft
                .put(&format!("g{user}"), group, Expect::Absent)
                .unwrap();
            let subject = Subject::user(name.parse().unwrap());
            let role = super::Role::View;
            draft.grant(&subject, &[], true, role).unwrap();
            for number in 0..10 {
                let (id, parent) = (format!("{name}-{number}"), format!("{name}-0"));
                let parent = (number > 0).then_some(parent.as_str());
                let token = token(&draft, &name, parent);
                draft.put(&id, token, Expect::Absent).unwrap();
            }
        }
        // A user's group and binding; their tokens go without a copy.
        COPIED.set(0);
        draft.remove::<User>("u0", Expect::Present).unwrap();
        assert_eq!(COPIED.get(), 2);
        // The children of a token that ended by itself.
        COPIED.set(0);
        let ended = draft.get::<AccessToken>("u1-0").unwrap().object.sha256;
        draft.forget_tokens(|token| token.sha256 == ended);
        assert_eq!(COPIED.get(), 9);
        // One that is taken back takes its children along, however many others there are.
        COPIED.set(0);
        draft
            .remove::<AccessToken>("u2-0", Expect::Present)
            .unwrap();
        draft.sweep_orphans();
        assert_eq!(COPIED.get(), 0);
        assert_eq!(draft.all::<AccessToken>().len(), 97 * 10);
    }
}
