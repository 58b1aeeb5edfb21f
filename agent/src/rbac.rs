//! `underpass-agent rbac`

use anyhow::Result;
use clap::Args;
use underpass_upstream::rbac::AgentRbac;

const AFTER_HELP: &str = "\
Example: underpass-agent rbac | kubectl apply -f -

Whom the agent may impersonate, the server's users and their groups must be among; what each of them may do \
is up to their own roles. RBAC cannot take names away: that system:masters, nodes and others are never \
impersonated, the agent sees to itself, and with --constrained the API server too, for some of them.";

/// Prints what the agent needs in its cluster, as manifests: a ServiceAccount that may impersonate
/// and nothing else
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP, max_term_width = 100)]
pub(crate) struct Rbac {
    /// The namespace of the agent's ServiceAccount
    #[arg(long, default_value = "underpass-system", value_name = "NAME")]
    namespace: String,
    /// Leave the namespace out: it is there
    #[arg(long)]
    no_namespace: bool,
    /// The ServiceAccount's name
    #[arg(long, default_value = "underpass-agent", value_name = "NAME")]
    service_account: String,
    /// Only these users may be impersonated
    #[arg(long, num_args = 1.., value_name = "NAME")]
    users: Vec<String>,
    /// Only these groups may be impersonated. A user who is in another one is refused
    #[arg(long, num_args = 1.., value_name = "NAME")]
    groups: Vec<String>,
    /// Only extras of these keys may be impersonated. With --constrained, needed beside --users or
    /// --groups where users have any
    #[arg(long, num_args = 1.., value_name = "KEY")]
    extras: Vec<String>,
    /// ServiceAccounts of this namespace may be impersonated; repeat for more. The agent needs the
    /// same flag
    #[arg(long = "allow-service-accounts", value_name = "NAMESPACE")]
    service_account_namespaces: Vec<String>,
    /// Use constrained impersonation (KEP-5284), so that the API server itself refuses nodes,
    /// ServiceAccounts and system:masters. For Kubernetes 1.36 and newer: others do not know it, and
    /// refuse everything. Keys of extras have to be of the form example.org/team
    #[arg(long)]
    constrained: bool,
    /// Do not let the server ask whether a user may impersonate another: nobody can use
    /// `kubectl --as` then
    #[arg(long)]
    no_access_reviewer: bool,
    /// Let the agent look up services of this namespace, or `*` for all: for a policy with `services`
    /// rules. Repeat for more
    #[arg(long, value_name = "NAMESPACE")]
    read_services: Vec<String>,
    /// Make this Secret in the agent's namespace, empty, and let the agent read and write it and no other: for
    /// `underpass-agent --key-secret`
    #[arg(long, value_name = "NAME")]
    key_secret: Option<String>,
    /// Let the agent request tokens of its own ServiceAccount, for `underpass-agent --register-credentials`. A thief of such a token
    /// could request further ones with it, without an end: --registered-account is better
    #[arg(long, conflicts_with = "registered_account")]
    register_credentials: bool,
    /// Make a ServiceAccount of this name, which may impersonate as the agent and nothing else, and let the agent request its
    /// tokens: for `underpass-agent --register-credentials --registered-account NAMESPACE/NAME`
    #[arg(long, value_name = "NAME")]
    registered_account: Option<String>,
    /// Let the server have ServiceAccounts' tokens reviewed, for users of the kind `tokenReview`
    #[arg(long)]
    token_reviewer: bool,
}

/// The printed text.
pub(crate) fn manifests(options: Rbac) -> Result<String> {
    let own = options
        .register_credentials
        .then(|| options.service_account.clone());
    let rbac = AgentRbac {
        namespace: options.namespace,
        create_namespace: !options.no_namespace,
        service_account: options.service_account,
        users: options.users,
        groups: options.groups,
        extras: options.extras,
        service_account_namespaces: options.service_account_namespaces,
        constrained: options.constrained,
        access_reviewer: !options.no_access_reviewer,
        token_reviewer: options.token_reviewer,
        services: options.read_services.into_iter().map(Into::into).collect(),
        key_secret: options.key_secret,
        registered_account: options.registered_account.or(own),
    };
    Ok(rbac.to_yaml()?)
}

#[cfg(test)]
mod tests {
    use clap::{Command, FromArgMatches as _};

    use super::*;

    #[test]
    fn the_defaults_are_the_librarys() {
        let command = Rbac::augment_args(Command::new("rbac"));
        let matches = command.try_get_matches_from(["rbac"]).unwrap();
        let printed = manifests(Rbac::from_arg_matches(&matches).unwrap()).unwrap();
        assert_eq!(printed, AgentRbac::default().to_yaml().unwrap());
    }

    #[test]
    fn rule_9_an_account_for_the_credential_requests_no_tokens() {
        let printed = |flags: &[&str]| {
            let command = Rbac::augment_args(Command::new("rbac"));
            let matches = command.try_get_matches_from([&["rbac"], flags].concat());
            manifests(Rbac::from_arg_matches(&matches.unwrap()).unwrap()).unwrap()
        };
        let usual = printed(&[]);
        assert!(!usual.contains("serviceaccounts/token"), "{usual}");
        for (flags, account) in [
            (&["--register-credentials"][..], "underpass-agent"),
            (&["--registered-account", "registered"], "registered"),
        ] {
            let printed = printed(flags);
            let mut roles = printed.split("---\n");
            let role = roles.find(|object| object.contains("serviceaccounts/token"));
            let role = role.unwrap();
            assert!(
                role.contains("kind: Role\n") && role.contains(account),
                "{role}"
            );
            // The right is bound to the agent's account alone.
            let binding = printed.split("---\n").find(|object| {
                object.contains("kind: RoleBinding") && object.contains("registered-token")
            });
            let binding = binding.unwrap();
            let subjects = binding.split_once("subjects:").unwrap().1;
            assert!(subjects.contains("name: underpass-agent"), "{binding}");
            assert!(!subjects.contains("name: registered\n"), "{binding}");
        }
    }
}
