//! What the subcommands change.

use std::time::Duration;

use thiserror::Error;
use time::OffsetDateTime;
use underpass_proxy::ClusterName;
use underpass_proxy::authenticate::{Token, TokenHash};
use underpass_tunnel::PublicKey;

use super::{Access, AccessError, AgentRecord, Cluster, TokenEntry, User};
use crate::data_dir::DataDir;

/// Why a change is not made.
#[derive(Debug, Error)]
pub(crate) enum EditError {
    #[error(transparent)]
    Access(#[from] AccessError),
    #[error("there is no cluster `{0}` (make it with `underpass-server cluster add {0}`)")]
    NoCluster(ClusterName),
    #[error("there is no user `{0}`")]
    NoUser(String),
    #[error("there is no token `{0}` (see `underpass-server token list`)")]
    NoToken(String),
    #[error("more than one token starts with `{0}`")]
    AmbiguousToken(String),
    #[error("a user needs a name")]
    EmptyName,
    #[error("no randomness for a token")]
    Token(#[from] underpass_proxy::authenticate::TokenError),
    #[error("an expiry of {0:?} is beyond the calendar")]
    Expiry(Duration),
}

/// A token as a list shows it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TokenSummary {
    pub(crate) id: String,
    pub(crate) user: String,
    pub(crate) created: OffsetDateTime,
    pub(crate) expires: Option<OffsetDateTime>,
}

impl Access {
    /// Changes the file under its lock, so that two commands at once lose nothing.
    pub(crate) fn edit<T>(
        data: &DataDir,
        change: impl FnOnce(&mut Self) -> Result<T, EditError>,
    ) -> Result<T, EditError> {
        let _lock = data.lock().map_err(AccessError::from)?;
        let mut access = Self::load(data)?;
        let result = change(&mut access)?;
        access.save(data)?;
        Ok(result)
    }

    /// Reads the file without changing it.
    pub(crate) fn read(data: &DataDir) -> Result<Self, EditError> {
        Ok(Self::load(data)?)
    }

    /// Makes the cluster where it does not exist, and lets one more agent serve it.
    pub(crate) fn add_agent(&mut self, name: &ClusterName, key: PublicKey) {
        let agent = AgentRecord { key };
        match self
            .clusters
            .iter_mut()
            .find(|cluster| cluster.name == *name)
        {
            Some(cluster) => cluster.agents.push(agent),
            None => self.clusters.push(Cluster {
                name: name.clone(),
                agents: vec![agent],
            }),
        }
    }

    /// Forgets the cluster, its agents, and who could reach it.
    pub(crate) fn remove_cluster(&mut self, name: &ClusterName) -> Result<(), EditError> {
        let position = self
            .clusters
            .iter()
            .position(|cluster| cluster.name == *name);
        let position = position.ok_or_else(|| EditError::NoCluster(name.clone()))?;
        self.clusters.remove(position);
        for user in &mut self.users {
            user.clusters.retain(|cluster| cluster != name.as_str());
        }
        Ok(())
    }

    /// The clusters' names, and how many agents may serve each.
    pub(crate) fn clusters(&self) -> impl Iterator<Item = (&ClusterName, usize)> {
        self.clusters
            .iter()
            .map(|cluster| (&cluster.name, cluster.agents.len()))
    }

    /// The users: name, groups, clusters.
    pub(crate) fn users(&self) -> impl Iterator<Item = (&str, &[String], &[String])> {
        self.users.iter().map(|user| {
            (
                user.name.as_str(),
                user.groups.as_slice(),
                user.clusters.as_slice(),
            )
        })
    }

    /// Makes the user where they don't exist; gives whether they were made.
    pub(crate) fn ensure_user(&mut self, name: &str) -> Result<bool, EditError> {
        if name.is_empty() {
            return Err(EditError::EmptyName);
        }
        if self.user(name).is_some() {
            return Ok(false);
        }
        self.users.push(User {
            name: name.to_owned(),
            uid: None,
            groups: Vec::new(),
            extra: Default::default(),
            clusters: Vec::new(),
            tokens: Vec::new(),
        });
        Ok(true)
    }

    fn user_mut(&mut self, name: &str) -> Result<&mut User, EditError> {
        let user = self.users.iter_mut().find(|user| user.name == name);
        user.ok_or_else(|| EditError::NoUser(name.to_owned()))
    }

    /// Adds the user to groups that they are not in.
    pub(crate) fn join_groups(&mut self, user: &str, groups: &[String]) -> Result<(), EditError> {
        let user = self.user_mut(user)?;
        add_missing(&mut user.groups, groups.iter().map(String::as_str));
        Ok(())
    }

    /// Lets the user reach the clusters; gives those that they could not reach before.
    pub(crate) fn grant(
        &mut self,
        user: &str,
        clusters: &[ClusterName],
    ) -> Result<Vec<ClusterName>, EditError> {
        if let Some(unknown) = clusters.iter().find(|cluster| !self.has_cluster(cluster)) {
            return Err(EditError::NoCluster(unknown.clone()));
        }
        let user = self.user_mut(user)?;
        let new: Vec<_> = clusters
            .iter()
            .filter(|cluster| !user.may_reach(cluster))
            .cloned()
            .collect();
        add_missing(&mut user.clusters, new.iter().map(ClusterName::as_str));
        Ok(new)
    }

    /// Lets the user reach every cluster, those to come included.
    pub(crate) fn grant_all(&mut self, user: &str) -> Result<(), EditError> {
        let user = self.user_mut(user)?;
        add_missing(&mut user.clusters, [super::ALL_CLUSTERS].into_iter());
        Ok(())
    }

    /// Forgets the user and their tokens.
    pub(crate) fn remove_user(&mut self, name: &str) -> Result<(), EditError> {
        let position = self.users.iter().position(|user| user.name == name);
        let position = position.ok_or_else(|| EditError::NoUser(name.to_owned()))?;
        self.users.remove(position);
        Ok(())
    }

    /// Makes a token for the user. It is in the result and nowhere else.
    pub(crate) fn issue_token(
        &mut self,
        user: &str,
        life: Option<Duration>,
    ) -> Result<Token, EditError> {
        let created = OffsetDateTime::now_utc()
            .replace_nanosecond(0)
            .unwrap_or(OffsetDateTime::UNIX_EPOCH);
        let expires = match life {
            None => None,
            Some(life) => Some(expiry(created, life).ok_or(EditError::Expiry(life))?),
        };
        let token = Token::generate()?;
        let entry = TokenEntry {
            sha256: token.hash(),
            created,
            expires,
        };
        self.user_mut(user)?.tokens.push(entry);
        Ok(token)
    }

    /// All tokens, of one user or of all.
    pub(crate) fn tokens(&self, of: Option<&str>) -> Vec<TokenSummary> {
        let users = self
            .users
            .iter()
            .filter(|user| of.is_none_or(|name| name == user.name));
        users
            .flat_map(|user| user.tokens.iter().map(|token| summary(user, token)))
            .collect()
    }

    /// Forgets the token whose id starts with `id`.
    pub(crate) fn revoke_token(&mut self, id: &str) -> Result<TokenSummary, EditError> {
        let matches = |token: &TokenEntry| token.sha256.to_hex().starts_with(id);
        let found: Vec<(TokenSummary, TokenHash)> = self
            .users
            .iter()
            .flat_map(|user| user.tokens.iter().map(move |token| (user, token)))
            .filter(|(_, token)| matches(token))
            .map(|(user, token)| (summary(user, token), token.sha256))
            .collect();
        let mut found = found.into_iter();
        match (found.next(), found.next()) {
            (None, _) => Err(EditError::NoToken(id.to_owned())),
            (Some(_), Some(_)) => Err(EditError::AmbiguousToken(id.to_owned())),
            (Some((summary, hash)), None) => {
                for user in &mut self.users {
                    user.tokens.retain(|token| token.sha256 != hash);
                }
                Ok(summary)
            }
        }
    }
}

fn add_missing<'a>(to: &mut Vec<String>, names: impl Iterator<Item = &'a str>) {
    for name in names {
        if !to.iter().any(|present| present == name) {
            to.push(name.to_owned());
        }
    }
}

fn summary(user: &User, token: &TokenEntry) -> TokenSummary {
    TokenSummary {
        id: token.id(),
        user: user.name.clone(),
        created: token.created,
        expires: token.expires,
    }
}

fn expiry(from: OffsetDateTime, life: Duration) -> Option<OffsetDateTime> {
    from.checked_add(time::Duration::try_from(life).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(name: &str) -> ClusterName {
        name.parse().unwrap()
    }

    fn with_alice() -> Access {
        let mut access = Access::default();
        access.add_agent(&name("prod"), key(1));
        access.ensure_user("alice").unwrap();
        access
    }

    fn key(seed: u8) -> PublicKey {
        underpass_tunnel::AgentKey::from_seed([seed; 32])
            .unwrap()
            .public_key()
    }

    #[test]
    fn a_grant_names_what_is_new() {
        let mut access = with_alice();
        assert_eq!(
            access.grant("alice", &[name("prod")]).unwrap(),
            [name("prod")]
        );
        assert_eq!(access.grant("alice", &[name("prod")]).unwrap(), []);
        let error = access.grant("alice", &[name("nope")]).unwrap_err();
        assert!(matches!(error, EditError::NoCluster(unknown) if unknown == name("nope")));
    }

    #[test]
    fn rule_14_a_token_is_kept_as_a_hash_only() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(dir.path()).unwrap();
        let token = Access::edit(&data, |access| {
            access.ensure_user("alice")?;
            access.issue_token("alice", Some(Duration::from_secs(60)))
        })
        .unwrap();
        let text = data.read(super::super::file::NAME).unwrap().unwrap();
        assert!(!text.contains(token.expose()));
        assert!(text.contains(&token.hash().to_hex()));
        let access = Access::read(&data).unwrap();
        let (user, entry) = access.token(&token.hash()).unwrap();
        assert_eq!(user.name, "alice");
        assert!(entry.expires.is_some());
    }

    #[test]
    fn a_token_is_revoked_by_the_front_of_its_id() {
        let mut access = with_alice();
        let token = access.issue_token("alice", None).unwrap();
        let id = access.tokens(None).first().unwrap().id.clone();
        assert!(matches!(
            access.revoke_token("zz"),
            Err(EditError::NoToken(_))
        ));
        assert_eq!(access.revoke_token(&id[..6]).unwrap().user, "alice");
        assert!(access.token(&token.hash()).is_none());
    }

    #[test]
    fn an_ambiguous_id_revokes_nothing() {
        let mut access = with_alice();
        access.issue_token("alice", None).unwrap();
        access.issue_token("alice", None).unwrap();
        assert!(matches!(
            access.revoke_token(""),
            Err(EditError::AmbiguousToken(_))
        ));
        assert_eq!(access.tokens(Some("alice")).len(), 2);
    }

    #[test]
    fn a_removed_cluster_leaves_no_grant_behind() {
        let mut access = with_alice();
        access.grant("alice", &[name("prod")]).unwrap();
        access.remove_cluster(&name("prod")).unwrap();
        access.add_agent(&name("prod"), key(2));
        assert!(!access.user("alice").unwrap().may_reach(&name("prod")));
    }
}
