//! The part of the policy about identities.

use serde::Deserialize;
use underpass_core::ImpersonationPolicy;

use crate::Line;
use crate::values::{Namespace, Parsed, Subject, texts};

/// The identities that the agent may impersonate, and those that it may not, beside its command line. Here an empty list has one
/// meaning.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Impersonation {
    #[serde(default)]
    service_account_namespaces: Vec<Parsed<Namespace>>,
    #[serde(default)]
    denied_users: Vec<Parsed<Subject>>,
    #[serde(default)]
    denied_groups: Vec<Parsed<Subject>>,
}

impl Impersonation {
    pub(crate) fn add_to(&self, policy: ImpersonationPolicy) -> ImpersonationPolicy {
        let namespaces = texts(&self.service_account_namespaces);
        let policy = namespaces.fold(policy, ImpersonationPolicy::allow_service_accounts);
        let users = texts(&self.denied_users);
        let policy = users.fold(policy, ImpersonationPolicy::deny_user);
        let groups = texts(&self.denied_groups);
        groups.fold(policy, ImpersonationPolicy::deny_group)
    }

    /// The lists that name something.
    pub(crate) fn lines(&self) -> impl Iterator<Item = Line> {
        let namespaces: Vec<_> = texts(&self.service_account_namespaces).collect();
        let users: Vec<_> = texts(&self.denied_users).collect();
        let groups: Vec<_> = texts(&self.denied_groups).collect();
        let lists = [
            ("serviceAccountNamespaces", namespaces.join(", ")),
            ("deniedUsers", users.join(", ")),
            ("deniedGroups", groups.join(", ")),
        ];
        let named = lists.into_iter().filter(|(_, content)| !content.is_empty());
        named.map(|(kind, content)| Line {
            kind,
            name: String::new(),
            content,
        })
    }
}

#[cfg(test)]
mod tests {
    use underpass_core::ImpersonationPolicy;

    use crate::Policy;

    #[test]
    fn impersonation_adds_to_the_command_line() {
        let yaml = "impersonation: {serviceAccountNamespaces: [ci], deniedUsers: [root, 'a b'], deniedGroups: []}";
        let policy = Policy::from_yaml(yaml).unwrap();
        let identity = |user: &str| {
            let user = user.to_owned();
            underpass_core::Identity::new(user, None, vec![], Default::default()).unwrap()
        };
        let flags = ImpersonationPolicy::default().deny_user("mallory");
        let both = policy.impersonation(flags);
        for denied in ["root", "a b", "mallory", "system:serviceaccount:prod:x"] {
            both.check(&identity(denied)).unwrap_err();
        }
        both.check(&identity("system:serviceaccount:ci:x")).unwrap();
        let lines: Vec<_> = policy
            .lines()
            .map(|line| (line.kind, line.content))
            .collect();
        let expected = [
            ("serviceAccountNamespaces", "ci"),
            ("deniedUsers", "root, a b"),
        ];
        assert_eq!(lines, expected.map(|(kind, text)| (kind, text.to_owned())));
    }
}
