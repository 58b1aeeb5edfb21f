//! RBAC rules for impersonation by the agent.

use k8s_openapi::api::rbac::v1::PolicyRule;

use super::AgentRbac;
use underpass_core::{names::ORIGINAL_USER_EXTRA, service_account};

const AUTHENTICATION: &str = "authentication.k8s.io";
const CLASSIC: &str = "impersonate";
const CONSTRAINED: &str = "impersonate:user-info";

/// Verbs of requests that may be impersonated (`RequestInfoFactory`).
const VERBS: [&str; 9] = [
    "get",
    "list",
    "watch",
    "create",
    "update",
    "patch",
    "delete",
    "deletecollection",
    "proxy",
];

/// The same for paths that are no resources, such as `/version`: HTTP's methods.
const METHODS: [&str; 7] = ["get", "head", "options", "post", "put", "patch", "delete"];

/// The rules of the agent's ClusterRole.
pub(super) fn impersonation(rbac: &AgentRbac) -> Vec<PolicyRule> {
    let (group, verb) = match rbac.constrained {
        false => ("", CLASSIC),
        true => (AUTHENTICATION, CONSTRAINED),
    };
    let mut users = rbac.users.clone();
    if !users.is_empty() {
        users.extend(rbac.reviewers().map(|(user, ..)| user.to_owned()));
    }
    let narrowed = !(rbac.users.is_empty() && rbac.groups.is_empty() && rbac.extras.is_empty());
    let mut rules = match (rbac.constrained, narrowed) {
        // Users and groups are among them.
        (true, false) => vec![rule(AUTHENTICATION, &["*"], &[verb])],
        (constrained, _) => {
            let more = match (constrained, rbac.extras.is_empty()) {
                (false, true) => rule(AUTHENTICATION, &["*"], &[verb]),
                _ => more(&rbac.extras, verb),
            };
            vec![
                named(rule(group, &["users"], &[verb]), users),
                named(rule(group, &["groups"], &[verb]), in_groups(rbac)),
                more,
            ]
        }
    };
    if rbac.constrained {
        rules.extend(on_requests());
        rules.extend(beside_accounts(rbac));
    }
    rules
}

/// ServiceAccounts of a namespace. Constrained impersonation has a form for them too, which takes no extra: it would lose the
/// caller's own name.
pub(super) fn accounts() -> PolicyRule {
    rule("", &["serviceaccounts"], &[CLASSIC])
}

/// Services by name, and the endpoints behind them, which only a label names.
pub(super) fn services() -> Vec<PolicyRule> {
    vec![
        rule("", &["services"], &["get"]),
        rule("discovery.k8s.io", &["endpointslices"], &["list"]),
    ]
}

/// The agent's own requests for the Secret of its key, which is there: RBAC cannot name an object that is to be created.
pub(super) fn key(secret: &str) -> Vec<PolicyRule> {
    let existing = rule("", &["secrets"], &["get", "update", "patch"]);
    vec![named(existing, vec![secret.to_owned()])]
}

/// Tokens of one ServiceAccount.
pub(super) fn tokens_of(account: &str) -> Vec<PolicyRule> {
    let tokens = rule("", &["serviceaccounts/token"], &["create"]);
    vec![named(tokens, vec![account.to_owned()])]
}

fn in_groups(rbac: &AgentRbac) -> Vec<String> {
    let mut groups = rbac.groups.clone();
    if !groups.is_empty() {
        groups.extend(account_groups(rbac));
    }
    groups
}

fn account_groups(rbac: &AgentRbac) -> Vec<String> {
    let namespaces = rbac.service_account_namespaces.iter();
    let mut groups: Vec<_> = namespaces
        .flat_map(|namespace| service_account::groups(namespace))
        .collect();
    groups.sort();
    groups.dedup();
    groups
}

/// Extras in a request of a ServiceAccount, under constrained impersonation.
fn beside_accounts(rbac: &AgentRbac) -> Vec<PolicyRule> {
    if rbac.service_account_namespaces.is_empty() {
        return Vec::new();
    }
    let groups = rule("", &["groups"], &[CLASSIC]);
    vec![
        named(groups, account_groups(rbac)),
        more(&rbac.extras, CLASSIC),
    ]
}

/// Uids, and extras by their keys.
fn more(extras: &[String], verb: &str) -> PolicyRule {
    let keys = extras.iter().map(String::as_str);
    let extras = [ORIGINAL_USER_EXTRA].into_iter().chain(keys);
    let extras = extras.map(|key| format!("userextras/{key}"));
    PolicyRule {
        resources: Some(["uids".to_owned()].into_iter().chain(extras).collect()),
        ..rule(AUTHENTICATION, &[], &[verb])
    }
}

fn on_requests() -> [PolicyRule; 2] {
    let on = |verbs: &[&str]| {
        let verbs = verbs.iter();
        verbs
            .map(|verb| format!("impersonate-on:user-info:{verb}"))
            .collect()
    };
    [
        PolicyRule {
            verbs: on(&VERBS),
            ..rule("*", &["*"], &[])
        },
        PolicyRule {
            non_resource_urls: Some(vec!["*".to_owned()]),
            verbs: on(&METHODS),
            ..PolicyRule::default()
        },
    ]
}

fn rule(group: &str, resources: &[&str], verbs: &[&str]) -> PolicyRule {
    let owned = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect();
    PolicyRule {
        api_groups: Some(vec![group.to_owned()]),
        resources: Some(owned(resources)),
        verbs: owned(verbs),
        ..PolicyRule::default()
    }
}

/// Only for these names; for any if there is none.
fn named(rule: PolicyRule, names: Vec<String>) -> PolicyRule {
    PolicyRule {
        resource_names: (!names.is_empty()).then_some(names),
        ..rule
    }
}
