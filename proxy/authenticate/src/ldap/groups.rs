//! Which groups a user is in.

use std::collections::HashSet;

use super::{
    config::{GroupMembership, GroupSearch},
    connection::{Connections, LdapFailure},
    search::{Found, any_of},
};
use underpass_core::limits;

/// Active Directory's LDAP_MATCHING_RULE_IN_CHAIN.
const IN_CHAIN: &str = ":1.2.840.113556.1.4.1941:";

/// The names of the user's groups.
pub(super) async fn of(
    user: &Found,
    config: &GroupSearch,
    connections: &Connections,
) -> Result<Vec<String>, LdapFailure> {
    let walk = Walk {
        config,
        connections,
        seen: HashSet::new(),
        names: Vec::new(),
    };
    match &config.membership {
        GroupMembership::Member(attribute) => walk.up(attribute, user).await,
        GroupMembership::MemberValue { attribute, of_user } => {
            let values: Vec<_> = user.texts(of_user).map(str::to_owned).collect();
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
    /// In lower case: directories write the same name in several ways.
    seen: HashSet<String>,
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
        let mut named: Vec<_> = user.texts(attribute).map(str::to_owned).collect();
        for _ in 0..self.levels() {
            let mut next = Vec::new();
            for dn in named {
                if self.seen.contains(&dn.to_lowercase()) {
                    continue;
                }
                let attributes = [self.config.name_attribute.as_str(), attribute];
                let filter = &self.config.filter;
                let found = self.connections.read(&dn, filter, &attributes).await?;
                let of_group = |group: &Found| group.texts(attribute).map(str::to_owned).collect();
                let further: Vec<Vec<String>> = found.iter().map(of_group).collect();
                // Only below the base: a user's own entry must not lead to an entry that is no group here.
                let base = self.config.base.to_lowercase();
                let found = found
                    .into_iter()
                    .filter(|g| g.dn.to_lowercase().ends_with(&base));
                if !self.take(found.collect())?.is_empty() {
                    next.extend(further.into_iter().flatten());
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
        if !values.is_empty() {
            let groups = self.search(attribute, &values).await?;
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
            .search(&self.config.base, &filter, &name, most)
            .await
    }

    /// Takes groups that are new; gives their distinguished names.
    fn take(&mut self, groups: Vec<Found>) -> Result<Vec<String>, LdapFailure> {
        let mut new = Vec::new();
        for group in groups {
            if !self.seen.insert(group.dn.to_lowercase()) {
                continue;
            }
            if self.seen.len() > limits::GROUPS {
                return Err(LdapFailure::TooManyGroups);
            }
            let name = group.text(&self.config.name_attribute);
            if let Some(name) = name {
                self.names.push(format!("{}{name}", self.config.prefix));
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
