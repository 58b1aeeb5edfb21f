//! The address of a directory, and the mapping of its entries to identities.

use std::{fmt, sync::Arc};

use http::uri::Authority;
use rustls::pki_types::ServerName;
use underpass_dial::SystemResolver;
use zeroize::Zeroizing;

use super::{connection::Connections, message::Filter, open::Address, search::USERNAME};
use crate::{ConfigError, Misconfigured, RemoteOptions, Roots, config::not_empty};

/// A directory.
#[derive(Clone, Debug)]
pub struct LdapConfig {
    /// `ldaps://HOST[:PORT]`, or `ldap://HOST[:PORT]` with `start_tls`.
    pub url: String,
    /// Whether a connection becomes a TLS one before anything else is said on it.
    pub start_tls: bool,
    /// The roots of the directory's certificate.
    pub roots: Roots,
    /// The bind of the searches.
    pub bind: Bind,
    /// Users that are typed as `NAME@REALM` are this directory's; without a realm all are.
    pub realm: Option<String>,
    /// How a user is found.
    pub user: UserSearch,
    /// How their groups are found; without it they have none.
    pub groups: Option<GroupSearch>,
    /// How it asks.
    pub remote: RemoteOptions,
}

/// The account that searches. The password is cleared from memory when dropped, and not in `Debug`.
#[derive(Clone)]
pub struct Bind {
    /// Its distinguished name.
    pub dn: String,
    /// Its password.
    pub password: Zeroizing<String>,
}

impl fmt::Debug for Bind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bind({:?}, …)", self.dn)
    }
}

/// How a user is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserSearch {
    /// Below which entry.
    pub base: String,
    /// By which filter; `{username}` stands for the typed name, escaped. One entry must fit.
    pub filter: String,
    /// Which attribute is the user's name here: the typed name is not, since a directory ignores case.
    pub name_attribute: String,
    /// The prefix of that name.
    pub prefix: String,
    /// Which attribute is the uid, such as `entryUUID` or `objectGUID`; binary ones are written in hexadecimal.
    pub uid_attribute: Option<String>,
    /// Extras: a lower-case key, and the attribute.
    pub extra: Vec<(String, String)>,
}

/// How a user's groups are found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupSearch {
    /// Below which entry groups are looked for.
    pub base: String,
    /// Which entries are groups, like `(objectClass=groupOfNames)`.
    pub filter: String,
    /// Which attribute is a group's name.
    pub name_attribute: String,
    /// The prefix of that name.
    pub prefix: String,
    /// The sign of membership.
    pub membership: GroupMembership,
    /// Whether the groups that a user's groups are in count, too.
    pub nested: bool,
}

/// The sign of membership of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum GroupMembership {
    /// An attribute of the group, like `member`, which holds its members' distinguished names.
    Member(String),
    /// An attribute of the group, like `memberUid`, which holds this attribute of its members. Groups have none, so
    /// that nothing is nested.
    MemberValue {
        /// The group's.
        attribute: String,
        /// The user's.
        of_user: String,
    },
    /// An attribute of the user, and of groups in groups, which holds groups' distinguished names: `memberOf`.
    MemberOf(String),
    /// An attribute of the group, which Active Directory follows through all nested groups by itself
    /// (LDAP_MATCHING_RULE_IN_CHAIN).
    InChain(String),
}

impl GroupMembership {
    /// The attribute of the user's entry that the search needs.
    pub(super) fn user_attribute(&self) -> Option<&str> {
        match self {
            Self::MemberValue { of_user, .. } => Some(of_user),
            Self::MemberOf(attribute) => Some(attribute),
            Self::Member(_) | Self::InChain(_) => None,
        }
    }

    fn attribute(&self) -> &str {
        match self {
            Self::Member(attribute) | Self::MemberOf(attribute) | Self::InChain(attribute) => {
                attribute
            }
            Self::MemberValue { attribute, .. } => attribute,
        }
    }
}

impl LdapConfig {
    pub(super) fn connections(&self) -> Result<Arc<Connections>, ConfigError> {
        let at = self.check()?;
        let tls = self
            .roots
            .client()
            .map_err(|e| ConfigError::unusable("url", e))?;
        let usual = if self.start_tls { 389 } else { 636 };
        let address = Address {
            host: at.host().to_owned(),
            port: at.port_u16().unwrap_or(usual),
            name: server_name(&at)?,
            start_tls: self.start_tls,
            resolver: Arc::new(SystemResolver),
            tls: Arc::new(tls),
        };
        Ok(Arc::new(Connections::new(address, self.bind.clone())))
    }

    /// Where the directory is.
    fn check(&self) -> Result<Authority, ConfigError> {
        let at = self.check_url()?;
        not_empty("bindDN", &self.bind.dn)?;
        // RFC 4513, section 5.1.2: it would be an anonymous login that looks like one of the account.
        not_empty("bindPasswordFile", &self.bind.password)?;
        if let Some(realm) = &self.realm {
            not_empty("realm", realm)?;
        }
        let user = &self.user;
        not_empty("userSearch.base", &user.base)?;
        check_attribute("userSearch.nameAttribute", &user.name_attribute)?;
        if let Some(attribute) = &user.uid_attribute {
            check_attribute("userSearch.uidAttribute", attribute)?;
        }
        for (position, (key, attribute)) in user.extra.iter().enumerate() {
            not_empty(&format!("userSearch.extra[{position}].key"), key)?;
            check_attribute(
                &format!("userSearch.extra[{position}].attribute"),
                attribute,
            )?;
        }
        if !user.filter.contains(USERNAME) {
            let why = Misconfigured::Invalid("must hold {username}");
            return Err(ConfigError::new("userSearch.filter", why));
        }
        check_filter("userSearch.filter", &user.filter.replace(USERNAME, "x"))?;
        if let Some(groups) = &self.groups {
            not_empty("groupSearch.base", &groups.base)?;
            check_attribute("groupSearch.nameAttribute", &groups.name_attribute)?;
            check_attribute("groupSearch.membership", groups.membership.attribute())?;
            check_filter("groupSearch.filter", &groups.filter)?;
        }
        Ok(at)
    }

    fn check_url(&self) -> Result<Authority, ConfigError> {
        let scheme = if self.start_tls { "ldap" } else { "ldaps" };
        let authority = self
            .url
            .strip_prefix(scheme)
            .and_then(|rest| rest.strip_prefix("://"));
        let authority = authority.map(|rest| rest.strip_suffix('/').unwrap_or(rest));
        let parsed = authority.and_then(|text| text.parse::<Authority>().ok());
        parsed
            .filter(|a| !a.host().is_empty() && !a.as_str().contains('@'))
            .ok_or_else(|| ConfigError::new("url", Misconfigured::Url(scheme)))
    }
}

/// The name that a certificate has to have: without the brackets of an IPv6 address.
fn server_name(at: &Authority) -> Result<ServerName<'static>, ConfigError> {
    let host = at.host();
    let plain = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    let name = ServerName::try_from(plain.unwrap_or(host).to_owned());
    name.map_err(|error| ConfigError::unusable("url", error))
}

/// RFC 4512, section 2.5: an attribute description, which goes into filters as it is.
fn check_attribute(field: &str, name: &str) -> Result<(), ConfigError> {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | ';');
    if name.is_empty() || !name.chars().all(legal) {
        let why = Misconfigured::Invalid("must be the name of an attribute");
        return Err(ConfigError::new(field, why));
    }
    Ok(())
}

fn check_filter(field: &str, filter: &str) -> Result<(), ConfigError> {
    if !filter.starts_with('(') || Filter::parse(filter).is_err() {
        let why = Misconfigured::Invalid("must be a filter in parentheses (RFC 4515)");
        return Err(ConfigError::new(field, why));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> LdapConfig {
        let ca = rcgen::generate_simple_self_signed(["x".to_owned()]).unwrap();
        LdapConfig {
            url: "ldaps://dc.example.org:636".to_owned(),
            start_tls: false,
            roots: Roots::from_pem(ca.cert.pem().as_bytes()).unwrap(),
            bind: Bind {
                dn: "cn=underpass".to_owned(),
                password: Zeroizing::new("secret".to_owned()),
            },
            realm: None,
            user: UserSearch {
                base: "ou=people".to_owned(),
                filter: "(&(objectClass=person)(uid={username}))".to_owned(),
                name_attribute: "uid".to_owned(),
                prefix: String::new(),
                uid_attribute: None,
                extra: Vec::new(),
            },
            groups: Some(GroupSearch {
                base: "ou=groups".to_owned(),
                filter: "(objectClass=groupOfNames)".to_owned(),
                name_attribute: "cn".to_owned(),
                prefix: String::new(),
                membership: GroupMembership::Member("member".to_owned()),
                nested: true,
            }),
            remote: RemoteOptions::default(),
        }
    }

    #[test]
    fn mistakes_name_their_field() {
        config().check().unwrap();
        type Change = fn(&mut LdapConfig);
        let changes: [(&str, Change); 12] = [
            ("url", |c| c.url = "ldap://dc.example.org".to_owned()),
            ("url", |c| c.start_tls = true),
            ("url", |c| c.url = "ldaps://".to_owned()),
            ("url", |c| c.url = "ldaps://a@b".to_owned()),
            ("url", |c| c.url = "ldaps://a/dc=x??sub".to_owned()),
            ("bindDN", |c| c.bind.dn.clear()),
            ("bindPasswordFile", |c| {
                c.bind.password = Zeroizing::default()
            }),
            ("userSearch.filter", |c| {
                c.user.filter = "(uid=alice)".to_owned()
            }),
            ("userSearch.filter", |c| {
                c.user.filter = "(uid={username}".to_owned()
            }),
            ("userSearch.nameAttribute", |c| {
                c.user.name_attribute = "uid=*)(x".to_owned()
            }),
            ("groupSearch.filter", |c| {
                c.groups.as_mut().unwrap().filter.clear()
            }),
            ("groupSearch.membership", |c| {
                let membership = GroupMembership::Member("member)(".to_owned());
                c.groups.as_mut().unwrap().membership = membership;
            }),
        ];
        for (field, change) in changes {
            let mut config = config();
            change(&mut config);
            assert_eq!(config.check().unwrap_err().field, field);
        }
        let mut starting = config();
        starting.start_tls = true;
        starting.url = "ldap://[::1]:389/".to_owned();
        starting.check().unwrap();
    }

    #[test]
    fn a_certificate_is_for_a_name_or_an_address() {
        for (url, name) in [
            ("ldaps://dc.example.org", "dc.example.org"),
            ("ldaps://192.0.2.1:636", "192.0.2.1"),
            ("ldaps://[2001:db8::1]", "2001:db8::1"),
        ] {
            let mut config = config();
            config.url = url.to_owned();
            let found = server_name(&config.check().unwrap()).unwrap();
            assert_eq!(found.to_str(), name);
        }
        let mut config = config();
        config.url = "ldaps://dc..example.org".to_owned();
        assert_eq!(config.connections().err().unwrap().field, "url");
    }

    #[test]
    fn rule_11_debug_shows_no_password() {
        let text = format!("{:?}", config());
        assert!(
            text.contains("cn=underpass") && !text.contains("secret"),
            "{text}"
        );
    }
}
