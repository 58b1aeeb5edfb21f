//! Which groups a user is in.

use std::collections::HashSet;

use futures_util::{StreamExt, stream};

use super::{
    batch::{Batch, Batches},
    budget::Budget,
    config::{GroupMembership, GroupSearch},
    connection::{Connections, Entry, LdapFailure},
    dn::Dn,
    search::{Found, any_of},
};
use crate::left_out::{LeftOut, Reason};
use underpass_core::limits;

/// Active Directory's LDAP_MATCHING_RULE_IN_CHAIN.
const IN_CHAIN: &str = ":1.2.840.113556.1.4.1941:";

/// The names of the user's groups.
pub(super) async fn of(
    user: &Found,
    config: &GroupSearch,
    connections: &Connections,
    left_out: &LeftOut,
    budget: &Budget,
) -> Result<Vec<String>, LdapFailure> {
    let walk = Walk {
        config,
        connections,
        left_out,
        budget,
        seen: HashSet::new(),
        names: Vec::new(),
    };
    match &config.membership {
        GroupMembership::Member(attribute) => walk.up(attribute, user).await,
        GroupMembership::MemberValue { attribute, of_user } => {
            let values = user.texts(of_user)?;
            walk.once(attribute, values).await
        }
        GroupMembership::InChain(attribute) => {
            let attribute = format!("{attribute}{IN_CHAIN}");
            walk.once(&attribute, vec![user.dn.clone()]).await
        }
        GroupMembership::MemberOf(attribute) => walk.along(attribute, user).await,
    }
}

/// Groups in groups may lead in a circle, and to more groups than any user has.
struct Walk<'a> {
    config: &'a GroupSearch,
    connections: &'a Connections,
    left_out: &'a LeftOut,
    budget: &'a Budget,
    seen: HashSet<Dn>,
    names: Vec<String>,
}

impl Walk<'_> {
    /// From members to the groups that name them.
    async fn up(mut self, attribute: &str, user: &Found) -> Result<Vec<String>, LdapFailure> {
        let mut members = vec![user.dn.clone()];
        for _ in 0..self.levels() {
            let mut next = Vec::new();
            for some in members.chunks(limits::LDAP_TERMS) {
                let groups = self.search(attribute, some).await?;
                next.extend(self.take(groups)?);
            }
            members = next;
            if members.is_empty() {
                break;
            }
        }
        Ok(self.names)
    }

    /// From entries to the groups that they name.
    async fn along(mut self, attribute: &str, user: &Found) -> Result<Vec<String>, LdapFailure> {
        let (config, connections, budget) = (self.config, self.connections, self.budget);
        let attributes = [config.name_attribute.as_str(), attribute];
        let base = Dn::parse(&config.base);
        let mut asked = HashSet::new();
        let mut named = user.texts(attribute)?;
        for _ in 0..self.levels() {
            // Only below the base: a user's own entry must not lead to an entry that is no group here, and a directory answers
            // with a referral, or not at all, about entries of another one.
            named.retain(|dn| {
                let parsed = Dn::parse(dn);
                let within = parsed.is_within(&base);
                if !within {
                    self.left_out.say(dn, Reason::OutsideBase);
                }
                within && asked.insert(parsed)
            });
            if asked.len() > limits::GROUPS {
                return Err(LdapFailure::TooManyGroups);
            }
            let batch = Batch {
                config,
                connections,
                budget,
                attributes: &attributes,
            };
            let Batches { found, left } = batch.ask(named).await?;
            let mut next = Vec::new();
            for group in found {
                let further = group.texts(attribute)?;
                if !self.take(vec![group])?.is_empty() {
                    next.extend(further);
                }
            }
            let reads = stream::iter(left).map(async |dn| {
                let read = connections.read(&dn, &config.filter, &attributes, budget);
                (read.await, dn)
            });
            let mut reads = std::pin::pin!(reads.buffered(limits::LDAP_READS));
            while let Some((read, dn)) = reads.next().await {
                let group = match read? {
                    Entry::Found(group) => group,
                    Entry::Other => continue,
                    Entry::Missing => {
                        self.left_out.say(&dn, Reason::Missing);
                        continue;
                    }
                    Entry::Elsewhere => {
                        self.left_out.say(&dn, Reason::Elsewhere);
                        continue;
                    }
                };
                let further = group.texts(attribute)?;
                // An alias may lead out of the base.
                let within = Dn::parse(&group.dn).is_within(&base);
                if within && !self.take(vec![group])?.is_empty() {
                    next.extend(further);
                }
            }
            named = next;
            if named.is_empty() {
                break;
            }
        }
        Ok(self.names)
    }

    async fn once(
        mut self,
        attribute: &str,
        values: Vec<String>,
    ) -> Result<Vec<String>, LdapFailure> {
        for some in values.chunks(limits::LDAP_TERMS) {
            let groups = self.search(attribute, some).await?;
            self.take(groups)?;
        }
        Ok(self.names)
    }

    async fn search(&self, attribute: &str, values: &[String]) -> Result<Vec<Found>, LdapFailure> {
        let filter = any_of(
            &self.config.filter,
            attribute,
            values.iter().map(String::as_str),
        );
        let name = [self.config.name_attribute.as_str()];
        let most = limits::GROUPS.saturating_add(1);
        self.connections
            .search(&self.config.base, &filter, &name, most, self.budget)
            .await
    }

    /// Takes groups that are new; gives their distinguished names.
    fn take(&mut self, groups: Vec<Found>) -> Result<Vec<String>, LdapFailure> {
        let mut new = Vec::new();
        for group in groups {
            if !self.seen.insert(Dn::parse(&group.dn)) {
                continue;
            }
            if self.seen.len() > limits::GROUPS {
                return Err(LdapFailure::TooManyGroups);
            }
            match group.name(&self.config.name_attribute) {
                Some(name) => self.names.push(format!("{}{name}", self.config.prefix)),
                None => self.left_out.say(&group.dn, Reason::NoName),
            }
            new.push(group.dn);
        }
        Ok(new)
    }

    fn levels(&self) -> usize {
        if self.config.nested {
            limits::LDAP_LEVELS
        } else {
            1
        }
    }
}
