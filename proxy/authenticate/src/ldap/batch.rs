//! Groups that are known by their distinguished names: many of them to a question.

use std::collections::HashMap;

use super::{
    budget::Budget,
    config::GroupSearch,
    connection::{Connections, LdapFailure},
    dn::Dn,
    exchange::ExchangeError,
    search::{Found, any_of},
};
use underpass_core::limits;

/// No attributes (RFC 4511, section 4.5.1.8).
const NONE: &str = "1.1";

/// The entries among some groups, as far as questions about many say.
#[derive(Default)]
pub(super) struct Batches {
    /// Those that fit the filter.
    pub(super) found: Vec<Found>,
    /// Those about which the directory has said nothing: each is to be read by itself, which tells why.
    pub(super) left: Vec<String>,
}

/// Asks for groups by their names.
pub(super) struct Batch<'a> {
    pub(super) config: &'a GroupSearch,
    pub(super) connections: &'a Connections,
    pub(super) budget: &'a Budget,
    /// The attributes that a found one comes with.
    pub(super) attributes: &'a [&'a str],
}

impl Batch<'_> {
    /// Looks for all of these, with [`limits::LDAP_TERMS`] of them to a question. A few are not worth one.
    pub(super) async fn ask(&self, named: Vec<String>) -> Result<Batches, LdapFailure> {
        let mut all = Batches::default();
        if named.len() <= limits::LDAP_READS {
            all.left = named;
            return Ok(all);
        }
        let name = self.connections.name_of_entries(self.budget).await?;
        let mut answers = true;
        for some in named.chunks(limits::LDAP_TERMS) {
            if !answers {
                all.left.extend_from_slice(some);
                continue;
            }
            let Batches { found, left } = self.ask_some(name, some).await?;
            // A directory that cannot search by names finds none.
            answers = left.len() < some.len();
            all.found.extend(found);
            all.left.extend(left);
        }
        Ok(all)
    }

    async fn ask_some(&self, name: &str, some: &[String]) -> Result<Batches, LdapFailure> {
        let mut wanted: HashMap<_, _> = some.iter().map(|dn| (Dn::parse(dn), dn)).collect();
        let fitting = self.search(name, &self.config.filter, &wanted, self.attributes);
        let mut found = fitting.await?;
        // A directory may have an attribute of this name that others' entries hold.
        found.retain(|group| wanted.remove(&Dn::parse(&group.dn)).is_some());
        if !wanted.is_empty() {
            // Those that are there, and do not fit the filter, are no groups here.
            let there = self.search(name, "(objectClass=*)", &wanted, &[NONE]);
            for other in there.await? {
                wanted.remove(&Dn::parse(&other.dn));
            }
        }
        let left = wanted.into_values().cloned().collect();
        Ok(Batches { found, left })
    }

    /// Nothing, where the directory does not search like this: it may read single entries all the same.
    async fn search(
        &self,
        name: &str,
        filter: &str,
        wanted: &HashMap<Dn, &String>,
        attributes: &[&str],
    ) -> Result<Vec<Found>, LdapFailure> {
        let filter = any_of(filter, name, wanted.values().map(|dn| dn.as_str()));
        let base = &self.config.base;
        let most = wanted.len();
        let search = self
            .connections
            .search(base, &filter, attributes, most, self.budget);
        match search.await {
            Err(
                LdapFailure::NoBase(_)
                | LdapFailure::BaseElsewhere(_)
                | LdapFailure::Search(ExchangeError::Refused(_)),
            ) => Ok(Vec::new()),
            answered => answered,
        }
    }
}
