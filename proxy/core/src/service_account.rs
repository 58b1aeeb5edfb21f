//! How Kubernetes writes ServiceAccounts as users and groups (apiserver/pkg/authentication/serviceaccount/util.go).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The group of all of them.
pub const ALL: &str = "system:serviceaccounts";

const USER: &str = "system:serviceaccount:";

/// Namespace and name of the ServiceAccount that `user` is. A name that is almost one is not: Kubernetes takes it for an
/// ordinary user's.
pub fn split(user: &str) -> Option<(&str, &str)> {
    let (namespace, name) = user.strip_prefix(USER)?.split_once(':')?;
    (is_label(namespace) && is_subdomain(name)).then_some((namespace, name))
}

/// Its groups, which Kubernetes adds where a request states none.
pub fn groups(namespace: &str) -> [String; 2] {
    [ALL.to_owned(), format!("{ALL}:{namespace}")]
}

/// A ServiceAccount of some cluster, as `NAMESPACE/NAME`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Account {
    namespace: String,
    name: String,
}

/// The text names no ServiceAccount.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a ServiceAccount is named as NAMESPACE/NAME")]
pub struct NoAccount;

impl Account {
    /// The ServiceAccount that the user `system:serviceaccount:…` is.
    pub fn of_user(user: &str) -> Option<Self> {
        let (namespace, name) = split(user)?;
        Some(Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        })
    }

    /// Its namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Its name there.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl FromStr for Account {
    type Err = NoAccount;

    fn from_str(text: &str) -> Result<Self, NoAccount> {
        let (namespace, name) = text.split_once('/').ok_or(NoAccount)?;
        if !is_label(namespace) || !is_subdomain(name) {
            return Err(NoAccount);
        }
        Ok(Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        })
    }
}

impl TryFrom<String> for Account {
    type Error = NoAccount;

    fn try_from(text: String) -> Result<Self, NoAccount> {
        text.parse()
    }
}

impl From<Account> for String {
    fn from(account: Account) -> Self {
        account.to_string()
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A DNS label (RFC 1123).
pub fn is_label(text: &str) -> bool {
    text.len() <= 63 && is_part(text)
}

/// DNS labels, of any length, that dots join.
pub fn is_subdomain(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_part)
}

fn is_part(text: &str) -> bool {
    let legal = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    !text.is_empty() && text.bytes().all(legal) && !text.starts_with('-') && !text.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_is_named_by_namespace_and_name() {
        let account: Account = "ci/deploy.er-1".parse().unwrap();
        assert_eq!(account.to_string(), "ci/deploy.er-1");
        let user = "system:serviceaccount:ci:deploy.er-1";
        assert_eq!(Account::of_user(user), Some(account));
        assert_eq!(Account::of_user("ci/deploy.er-1"), None);
        for bad in ["", "ci", "ci/", "/x", "ci/a/b", "Ci/x", "c.i/x", "ci/a..b"] {
            assert_eq!(bad.parse::<Account>(), Err(NoAccount), "{bad}");
        }
    }

    #[test]
    fn only_what_kubernetes_takes_for_one_is_one() {
        let account = "system:serviceaccount:ci:deploy.er-1";
        assert_eq!(split(account), Some(("ci", "deploy.er-1")));
        for other in [
            "ci:deployer",
            "system:serviceaccount:ci",
            "system:serviceaccount:ci:",
            "system:serviceaccount::x",
            "system:serviceaccount:ci:a:b",
            "system:serviceaccount:Ci:x",
            "system:serviceaccount:c.i:x",
            "system:serviceaccount:ci:a..b",
            "system:serviceaccount:ci:-a",
            "system:serviceaccounts:ci:x",
        ] {
            assert_eq!(split(other), None, "{other}");
        }
        assert_eq!(groups("ci"), [ALL, "system:serviceaccounts:ci"]);
    }
}
