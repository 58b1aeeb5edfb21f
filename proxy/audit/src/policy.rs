//! Selects the calls that get an event: a `Policy` of `audit.k8s.io/v1`, as kube-apiserver's `--audit-policy-file` takes it.

use serde::{Deserialize, Serialize};

use super::{Stage, User};
use underpass_core::{ClusterName, RequestInfo};

/// How much of a call is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Level {
    /// Nothing.
    None,
    /// The user, the call, the time and the result.
    Metadata,
}

/// Rules, of which the first that matches a call decides.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    rules: Vec<Rule>,
    omit: Vec<Stage>,
}

/// Why a policy cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// It is not YAML of that form.
    #[error("the audit policy cannot be read")]
    Parse(#[source] Box<serde_saphyr::Error>),
    /// It is something else.
    #[error(
        "an audit policy is `kind: Policy` of `audit.k8s.io/v1`, and this is `{kind}` of `{version}`"
    )]
    EventKind {
        /// Its `kind`.
        kind: String,
        /// Its `apiVersion`.
        version: String,
    },
    /// A level that needs the bodies of requests.
    #[error(
        "rule {0} of the audit policy asks for `{1}`, but bodies pass unread: use `Metadata`, and the cluster's \
         own audit for bodies"
    )]
    Bodies(usize, &'static str),
    /// A rule is about resources and about other paths at once, as kube-apiserver refuses it, too.
    #[error("rule {0} of the audit policy has both `resources` and `nonResourceURLs`")]
    Both(usize),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    api_version: String,
    kind: String,
    #[serde(default)]
    #[allow(dead_code, reason = "it may stand there and says nothing")]
    metadata: serde_json::Value,
    #[serde(default)]
    rules: Vec<Rule>,
    #[serde(default)]
    omit_stages: Vec<Stage>,
    #[serde(default)]
    #[allow(dead_code, reason = "managed fields are in bodies")]
    omit_managed_fields: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
enum FileLevel {
    None,
    Metadata,
    Request,
    RequestResponse,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Rule {
    level: FileLevel,
    #[serde(default)]
    users: Vec<String>,
    #[serde(default)]
    user_groups: Vec<String>,
    #[serde(default)]
    verbs: Vec<String>,
    #[serde(default)]
    resources: Vec<Resources>,
    #[serde(default)]
    namespaces: Vec<String>,
    #[serde(default, rename = "nonResourceURLs")]
    non_resource_urls: Vec<String>,
    #[serde(default)]
    omit_stages: Vec<Stage>,
    #[serde(default)]
    #[allow(dead_code, reason = "managed fields are in bodies")]
    omit_managed_fields: Option<bool>,
    /// Ours: names of clusters.
    #[serde(default)]
    clusters: Vec<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Resources {
    #[serde(default)]
    group: String,
    #[serde(default)]
    resources: Vec<String>,
    #[serde(default)]
    resource_names: Vec<String>,
}

/// The facts that rules match.
#[derive(Clone, Copy)]
pub struct Call<'a> {
    /// The caller.
    pub user: &'a User,
    /// `None` where it is none of a cluster.
    pub cluster: Option<&'a ClusterName>,
    /// `None` where it was refused before that was read, and where it is no request to an API server.
    pub info: Option<&'a RequestInfo>,
    /// The verb where `info` has none; empty where it is not known.
    pub verb: &'a str,
    /// As the API server gets it.
    pub path: &'a str,
}

impl Policy {
    /// Reads a policy. Beside Kubernetes' fields a rule may have `clusters`, a list of names.
    ///
    /// # Errors
    /// It is no policy, or asks for something unsupported; with the rule's number, from 1.
    pub fn from_yaml(yaml: &str) -> Result<Self, PolicyError> {
        let file: File =
            serde_saphyr::from_str(yaml).map_err(|error| PolicyError::Parse(Box::new(error)))?;
        if file.kind != "Policy" || file.api_version != "audit.k8s.io/v1" {
            return Err(PolicyError::EventKind {
                kind: file.kind,
                version: file.api_version,
            });
        }
        for (number, rule) in (1..).zip(&file.rules) {
            match rule.level {
                FileLevel::Request => return Err(PolicyError::Bodies(number, "Request")),
                FileLevel::RequestResponse => {
                    return Err(PolicyError::Bodies(number, "RequestResponse"));
                }
                FileLevel::None | FileLevel::Metadata => {}
            }
            let of_resources = !rule.resources.is_empty() || !rule.namespaces.is_empty();
            if of_resources && !rule.non_resource_urls.is_empty() {
                return Err(PolicyError::Both(number));
            }
        }
        Ok(Self {
            rules: file.rules,
            omit: file.omit_stages,
        })
    }

    /// Everything that is written here, of every call.
    pub fn everything() -> Self {
        let rule = Rule {
            level: FileLevel::Metadata,
            users: Vec::new(),
            user_groups: Vec::new(),
            verbs: Vec::new(),
            resources: Vec::new(),
            namespaces: Vec::new(),
            non_resource_urls: Vec::new(),
            omit_stages: Vec::new(),
            omit_managed_fields: None,
            clusters: Vec::new(),
        };
        Self {
            rules: vec![rule],
            omit: Vec::new(),
        }
    }

    /// How much of a stage of a call is written. A call that no rule matches is not, as in kube-apiserver.
    pub fn level(&self, stage: Stage, call: Call<'_>) -> Level {
        let rule = self.rules.iter().find(|rule| rule.matches(call));
        match rule {
            Some(rule) if rule.level == FileLevel::Metadata => {
                let omitted = self.omit.contains(&stage) || rule.omit_stages.contains(&stage);
                if omitted {
                    Level::None
                } else {
                    Level::Metadata
                }
            }
            _ => Level::None,
        }
    }
}

/// An empty list says nothing.
fn allows(list: &[String], matches: impl FnMut(&String) -> bool) -> bool {
    list.is_empty() || list.iter().any(matches)
}

impl Rule {
    /// As kube-apiserver's policy checker (apiserver/pkg/audit/policy/checker.go).
    fn matches(&self, call: Call<'_>) -> bool {
        let verb = call.info.map_or(call.verb, RequestInfo::audit_verb);
        let cluster = call.cluster.map_or("", ClusterName::as_str);
        allows(&self.users, |user| user == call.user.name())
            && allows(&self.user_groups, |group| {
                call.user.groups().contains(group)
            })
            && allows(&self.verbs, |wanted| wanted == "*" || wanted == verb)
            && allows(&self.clusters, |wanted| wanted == cluster)
            && self.matches_target(call)
    }

    fn matches_target(&self, call: Call<'_>) -> bool {
        let of_resources = !self.resources.is_empty() || !self.namespaces.is_empty();
        let info = call.info.filter(|info| !info.resource().is_empty());
        match info {
            Some(_) if !self.non_resource_urls.is_empty() => false,
            Some(info) => {
                allows(&self.namespaces, |namespace| namespace == info.namespace())
                    && (self.resources.is_empty()
                        || self.resources.iter().any(|wanted| wanted.matches(info)))
            }
            None if of_resources => false,
            None => allows(&self.non_resource_urls, |url| match url.strip_suffix('*') {
                Some(front) => call.path.starts_with(front),
                None => call.path == url,
            }),
        }
    }
}

impl Resources {
    fn matches(&self, info: &RequestInfo) -> bool {
        self.group == info.api_group()
            && allows(&self.resources, |wanted| names(wanted, info))
            && allows(&self.resource_names, |name| name == info.name())
    }
}

/// `pods`, `pods/log`, `pods/*`, `*/log`, or `*` for all of the group, subresources included.
fn names(wanted: &str, info: &RequestInfo) -> bool {
    match wanted.split_once('/') {
        None => wanted == "*" || (wanted == info.resource() && info.subresource().is_empty()),
        Some((resource, subresource)) => {
            let is = |wanted, what| wanted == "*" || wanted == what;
            is(resource, info.resource())
                && !info.subresource().is_empty()
                && is(subresource, info.subresource())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use http::Method;

    use super::*;
    use underpass_core::Identity;

    fn policy(rules: &str) -> Result<Policy, PolicyError> {
        Policy::from_yaml(&format!(
            "apiVersion: audit.k8s.io/v1\nkind: Policy\n{rules}"
        ))
    }

    fn user(name: &str, groups: &[&str]) -> User {
        let groups = groups.iter().map(ToString::to_string).collect();
        (&Identity::new(name.to_owned(), None, groups, BTreeMap::new()).unwrap()).into()
    }

    /// Whether the end of alice's call is written.
    fn written(policy: &Policy, method: Method, path: &str) -> bool {
        let user = user("alice", &["dev"]);
        let cluster: ClusterName = "prod".parse().unwrap();
        let info = RequestInfo::parse(&method, path, None, false);
        let call = Call {
            user: &user,
            cluster: Some(&cluster),
            info: Some(&info),
            verb: "",
            path,
        };
        policy.level(Stage::ResponseComplete, call) == Level::Metadata
    }

    const PODS: &str = "/api/v1/namespaces/shop/pods";
    const LOG: &str = "/api/v1/namespaces/shop/pods/web/log";

    #[test]
    fn the_first_rule_that_matches_decides() {
        for (rules, list, log, version) in [
            ("rules: [{level: Metadata}]", true, true, true),
            ("rules: []", false, false, false),
            (
                "rules: [{level: None, verbs: [list]}, {level: Metadata}]",
                false,
                true,
                true,
            ),
            (
                "rules: [{level: Metadata, users: [alice]}]",
                true,
                true,
                true,
            ),
            (
                "rules: [{level: Metadata, users: [bob]}]",
                false,
                false,
                false,
            ),
            (
                "rules: [{level: Metadata, userGroups: [ops, dev]}]",
                true,
                true,
                true,
            ),
            (
                "rules: [{level: Metadata, clusters: [edge]}]",
                false,
                false,
                false,
            ),
            (
                "rules: [{level: Metadata, clusters: [edge, prod]}]",
                true,
                true,
                true,
            ),
            (
                "rules: [{level: Metadata, namespaces: [shop]}]",
                true,
                true,
                false,
            ),
            (
                "rules: [{level: Metadata, namespaces: ['']}]",
                false,
                false,
                false,
            ),
            (
                "rules: [{level: Metadata, resources: [{resources: [pods]}]}]",
                true,
                false,
                false,
            ),
            (
                "rules: [{level: Metadata, resources: [{resources: ['pods/*']}]}]",
                false,
                true,
                false,
            ),
            (
                "rules: [{level: Metadata, resources: [{resources: ['*/log']}]}]",
                false,
                true,
                false,
            ),
            (
                "rules: [{level: Metadata, resources: [{resources: ['*']}]}]",
                true,
                true,
                false,
            ),
            (
                "rules: [{level: Metadata, resources: [{group: apps}]}]",
                false,
                false,
                false,
            ),
            (
                "rules: [{level: Metadata, resources: [{resources: ['*'], resourceNames: [web]}]}]",
                false,
                true,
                false,
            ),
            (
                "rules: [{level: Metadata, nonResourceURLs: ['/ver*']}]",
                false,
                false,
                true,
            ),
            (
                "rules: [{level: Metadata, nonResourceURLs: [/ver]}]",
                false,
                false,
                false,
            ),
            (
                "omitStages: [ResponseComplete]\nrules: [{level: Metadata}]",
                false,
                false,
                false,
            ),
            (
                "rules: [{level: Metadata, omitStages: [ResponseStarted]}]",
                true,
                true,
                true,
            ),
        ] {
            let policy = policy(rules).unwrap();
            let got = [PODS, LOG, "/version"].map(|path| written(&policy, Method::GET, path));
            assert_eq!(got, [list, log, version], "{rules}");
        }
    }

    #[test]
    fn mistakes_are_named() {
        let error = |rules: &str| policy(rules).unwrap_err().to_string();
        assert!(error("rules: [{level: None}, {level: Request}]").contains("rule 2"));
        assert!(error("rules: [{level: RequestResponse}]").contains("bodies pass unread"));
        let both = "rules: [{level: None, namespaces: [a], nonResourceURLs: [/x]}]";
        assert!(error(both).contains("both"));
        assert!(matches!(policy("rulez: []"), Err(PolicyError::Parse(_))));
        let other = Policy::from_yaml("apiVersion: v1\nkind: Pod\n").unwrap_err();
        assert!(other.to_string().contains("`Pod` of `v1`"), "{other}");
    }
}
