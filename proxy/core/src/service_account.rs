//! How Kubernetes writes ServiceAccounts as users and groups (apiserver/pkg/authentication/serviceaccount/util.go).

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
