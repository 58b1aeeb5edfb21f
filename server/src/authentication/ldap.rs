//! `ldap`

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use underpass_authenticate::{
    Authenticator, Bind, ConfigError, GroupMembership, GroupSearch, LdapConfig, Source, UserSearch,
};
use zeroize::Zeroizing;

use super::entry::{prefix, roots};
use super::file::{Contents, duration};
use super::prefixes::{Prefix, Prefixes};
use super::token_review::remote;

/// Names and passwords of a directory.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Ldap {
    url: String,
    #[serde(default, rename = "startTLS")]
    start_tls: bool,
    #[serde(default)]
    certificate_authority_file: Option<PathBuf>,
    #[serde(rename = "bindDN")]
    bind_dn: String,
    bind_password_file: PathBuf,
    #[serde(default)]
    realm: Option<String>,
    user_search: Users,
    #[serde(default)]
    group_search: Option<Groups>,
    #[serde(default, deserialize_with = "duration")]
    cache: Option<Duration>,
}

#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Users {
    base: String,
    filter: String,
    name_attribute: String,
    #[serde(default)]
    prefix: Option<String>,
    #[serde(default)]
    uid_attribute: Option<String>,
    #[serde(default)]
    extra: Vec<Extra>,
}

#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Extra {
    key: String,
    attribute: String,
}

#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Groups {
    base: String,
    filter: String,
    name_attribute: String,
    #[serde(default)]
    prefix: Option<String>,
    membership: Membership,
    #[serde(default = "yes")]
    nested: bool,
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
enum Membership {
    Member(String),
    MemberOf(String),
    InChain(String),
    MemberValue(Value),
}

#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Value {
    attribute: String,
    of_user: String,
}

fn yes() -> bool {
    true
}

impl Ldap {
    pub(super) fn realm(&self) -> Option<&str> {
        self.realm.as_deref()
    }

    pub(super) fn prefixes(&self) -> Prefixes<'_> {
        let groups = self.group_search.as_ref();
        let groups = groups.and_then(|groups| groups.prefix.as_ref());
        Prefixes {
            users: Prefix::said("ldap.userSearch.prefix", self.user_search.prefix.as_ref()),
            groups: Prefix::said("ldap.groupSearch.prefix", groups),
        }
    }

    pub(super) fn files(&self) -> Vec<(String, &Path)> {
        let authority = self.certificate_authority_file.as_deref();
        let authority = authority.map(|path| ("ldap.certificateAuthorityFile".to_owned(), path));
        let password = (
            "ldap.bindPasswordFile".to_owned(),
            self.bind_password_file.as_path(),
        );
        authority.into_iter().chain([password]).collect()
    }

    pub(super) fn build(
        &self,
        source: Source,
        limit: Option<Duration>,
        contents: &Contents,
    ) -> Result<Arc<dyn Authenticator>, ConfigError> {
        let file = self.certificate_authority_file.as_deref();
        let password = String::from_utf8_lossy(contents.of(&self.bind_password_file));
        // Editors end a file with a line feed.
        let password = password.trim_end_matches(['\r', '\n']);
        let config = LdapConfig {
            url: self.url.clone(),
            start_tls: self.start_tls,
            roots: roots("certificateAuthorityFile", file, contents)?,
            bind: Bind {
                dn: self.bind_dn.clone(),
                password: Zeroizing::new(password.to_owned()),
            },
            realm: self.realm.clone(),
            user: self.user_search.search()?,
            groups: self.group_search.as_ref().map(Groups::search).transpose()?,
            remote: remote(self.cache, limit),
        };
        let built = underpass_authenticate::Ldap::new(source, config)?;
        Ok(Arc::new(built))
    }
}

impl Users {
    fn search(&self) -> Result<UserSearch, ConfigError> {
        let extra = self.extra.iter();
        let extra = extra.map(|extra| (extra.key.clone(), extra.attribute.clone()));
        Ok(UserSearch {
            base: self.base.clone(),
            filter: self.filter.clone(),
            name_attribute: self.name_attribute.clone(),
            prefix: prefix("userSearch.prefix", self.prefix.as_ref())?,
            uid_attribute: self.uid_attribute.clone(),
            extra: extra.collect(),
        })
    }
}

impl Groups {
    fn search(&self) -> Result<GroupSearch, ConfigError> {
        let membership = match self.membership.clone() {
            Membership::Member(attribute) => GroupMembership::Member(attribute),
            Membership::MemberOf(attribute) => GroupMembership::MemberOf(attribute),
            Membership::InChain(attribute) => GroupMembership::InChain(attribute),
            Membership::MemberValue(Value { attribute, of_user }) => {
                GroupMembership::MemberValue { attribute, of_user }
            }
        };
        Ok(GroupSearch {
            base: self.base.clone(),
            filter: self.filter.clone(),
            name_attribute: self.name_attribute.clone(),
            prefix: prefix("groupSearch.prefix", self.prefix.as_ref())?,
            membership,
            nested: self.nested,
        })
    }
}
