//! The policy's file, read strictly: a mistake is an error, and no permission.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::Deserialize;
use thiserror::Error;

use crate::host::{NamePattern, ServicePattern};
use crate::impersonation::Impersonation;
use crate::operation::{Entry, OperationError};
use crate::ports::Ports;
use crate::rule::{TcpRule, UnixRule};
use crate::shell::Shells;
use crate::values::{Address, List, Parsed, RuleName, SocketPath, list, present, values};
use crate::{Policy, limits};

/// The reason that a policy cannot be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// The file is larger than [`limits::POLICY_BYTES`].
    #[error("the policy has {0} bytes, and may have {most}", most = limits::POLICY_BYTES)]
    TooLarge(usize),
    /// The file says nothing: it may have been cut while it was written.
    #[error("the policy is empty: write {{}} to allow nothing but the API server")]
    Empty,
    /// It is not YAML of this form, or a value in it is none of its kind.
    #[error("the policy is not valid at {at}: {problem}")]
    Malformed {
        /// The field, as in `tcp[0].ports[1]`.
        at: String,
        /// The mistake, with its line.
        problem: String,
    },
    /// Two rules have one name, which refusals could not tell apart.
    #[error("the policy is not valid at {at}: another rule has the name `{name}`")]
    SameName {
        /// The field of the second one.
        at: String,
        /// The name.
        name: String,
    },
    /// The parts of an operation do not fit each other.
    #[error("the policy is not valid at {at}: {problem}")]
    Operation {
        /// The operation.
        at: String,
        /// The mistake.
        problem: OperationError,
    },
    /// A rule of TCP targets has ports, and no hosts.
    #[error("the policy is not valid at {at}: the rule needs `services`, `names` or `addresses`")]
    NoHosts {
        /// The rule.
        at: String,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default, rename = "apiServer", deserialize_with = "present")]
    api_server: Option<bool>,
    #[serde(default, deserialize_with = "present")]
    tcp: Option<List<Tcp>>,
    #[serde(default, deserialize_with = "present")]
    unix: Option<List<Unix>>,
    #[serde(default, deserialize_with = "present")]
    operations: Option<List<Entry>>,
    #[serde(default, deserialize_with = "present")]
    shells: Option<Shells>,
    #[serde(default)]
    impersonation: Impersonation,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Tcp {
    name: Parsed<RuleName>,
    #[serde(default, deserialize_with = "present")]
    services: Option<List<Parsed<ServicePattern>>>,
    #[serde(default, deserialize_with = "present")]
    names: Option<List<Parsed<NamePattern>>>,
    #[serde(default, deserialize_with = "present")]
    addresses: Option<List<Parsed<Address>>>,
    #[serde(default, deserialize_with = "present")]
    ports: Option<List<Ports>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Unix {
    name: Parsed<RuleName>,
    paths: List<Parsed<SocketPath>>,
}

/// Reads a policy.
pub(crate) fn read(yaml: &str) -> Result<Policy, PolicyError> {
    if yaml.len() > limits::POLICY_BYTES {
        return Err(PolicyError::TooLarge(yaml.len()));
    }
    let says = |line: &str| {
        let line = line.trim();
        !line.is_empty() && !line.starts_with('#') && line != "---"
    };
    if !yaml.lines().any(says) {
        return Err(PolicyError::Empty);
    }
    let mut at = String::new();
    let parsed = serde_saphyr::with_deserializer_from_str(yaml, |deserializer| {
        serde_path_to_error::deserialize(deserializer).map_err(|error| {
            at = error.path().to_string();
            error.into_inner()
        })
    });
    let file: File = parsed.map_err(|error| PolicyError::Malformed {
        at,
        problem: error.without_snippet().to_string(),
    })?;
    file.into_policy()
}

impl File {
    fn into_policy(self) -> Result<Policy, PolicyError> {
        let mut names = BTreeSet::new();
        let mut name = |at: String, name: Parsed<RuleName>| {
            let name: Arc<str> = name.0.0.into();
            match names.insert(Arc::clone(&name)) {
                true => Ok(name),
                false => Err(PolicyError::SameName {
                    at: format!("{at}.name"),
                    name: name.to_string(),
                }),
            }
        };
        let mut policy = Policy {
            api_server: self.api_server,
            shells: self.shells.map(Shells::into_rules).unwrap_or_default(),
            impersonation: self.impersonation,
            ..Policy::default()
        };
        for (number, rule) in list(self.tcp).into_iter().enumerate() {
            let at = format!("tcp[{number}]");
            let name = name(at.clone(), rule.name)?;
            let rule = TcpRule {
                name,
                services: values(rule.services),
                names: values(rule.names),
                addresses: values(rule.addresses).into_iter().map(|a| a.0).collect(),
                ports: list(rule.ports),
            };
            if rule.services.is_empty() && rule.names.is_empty() && rule.addresses.is_empty() {
                return Err(PolicyError::NoHosts { at });
            }
            policy.tcp.push(rule);
        }
        for (number, rule) in list(self.unix).into_iter().enumerate() {
            let name = name(format!("unix[{number}]"), rule.name)?;
            let paths = rule.paths.0.into_iter().map(|path| path.0.0).collect();
            policy.unix.push(UnixRule { name, paths });
        }
        for (number, entry) in list(self.operations).into_iter().enumerate() {
            let at = format!("operations[{number}]");
            let name = name(at.clone(), entry.name.clone())?;
            let operation = entry.into_operation(name);
            let operation = operation.map_err(|problem| PolicyError::Operation { at, problem })?;
            policy.operations.push(Arc::new(operation));
        }
        Ok(policy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(yaml: &str) -> String {
        read(yaml).unwrap_err().to_string()
    }

    #[test]
    fn rule_17_a_mistake_is_an_error_that_names_its_place() {
        for (yaml, parts) in [
            (
                "tcp: [{name: a, adresses: [10.0.0.0/8]}]",
                &["tcp[0]", "adresses", "line 1"][..],
            ),
            ("commands: []", &["commands", "line 1"]),
            ("shells: []", &["shells", "line 1"]),
            (
                "tcp:\n- name: a\n  addresses: [10.0.0.0/8]\n  addresses: [::1]\n",
                &["addresses", "line 4"],
            ),
            (
                "tcp: [{name: a, names: [a.b.c]}]\ntcp: [{name: b, names: [a.b.c]}]\n",
                &["tcp", "line 2"],
            ),
            (
                "tcp:\n- name: a\n  addresses: [10.0.0.0/33]\n",
                &["tcp[0].addresses[0]", "10.0.0.0/33", "line 3"],
            ),
            (
                "tcp: [{name: a, addresses: [10.0.0.1/8]}]",
                &["tcp[0].addresses[0]", "the network is 10.0.0.0/8"],
            ),
            (
                "tcp: [{name: a, addresses: ['::ffff:10.0.0.0/104']}]",
                &["tcp[0].addresses[0]", "IPv4 network"],
            ),
            (
                "tcp: [{name: a, addresses: [db.example.org]}]",
                &["tcp[0].addresses[0]", "db.example.org"],
            ),
            (
                "tcp: [{name: a, addresses: []}]",
                &["tcp[0].addresses", "empty"],
            ),
            ("tcp: [{name: a, addresses: }]", &["tcp[0].addresses"]),
            (
                "tcp: [{name: a, addresses: 10.0.0.0/8}]",
                &["tcp[0].addresses"],
            ),
            ("tcp: []", &["tcp", "empty"]),
            ("tcp:", &["tcp"]),
            ("unix: []", &["unix", "empty"]),
            (
                "tcp: [{name: a, names: [a.b.c], ports: []}]",
                &["tcp[0].ports", "empty"],
            ),
            (
                "tcp: [{name: a, names: [a.b.c], ports: [0]}]",
                &["tcp[0].ports[0]", "\"0\""],
            ),
            (
                "tcp: [{name: a, names: [a.b.c], ports: [-5]}]",
                &["tcp[0].ports[0]", "\"-5\""],
            ),
            (
                "tcp: [{name: a, names: [a.b.c], ports: [1, 65536]}]",
                &["tcp[0].ports[1]", "65536"],
            ),
            (
                "tcp: [{name: a, names: [a.b.c], ports: [9-7]}]",
                &["tcp[0].ports[0]", "write 7-9"],
            ),
            (
                "tcp: [{name: a, names: [a.b.c], ports: [ssh]}]",
                &["tcp[0].ports[0]", "ssh"],
            ),
            (
                "tcp: [{name: a, names: [a.b.c], ports: [1.5]}]",
                &["tcp[0].ports[0]"],
            ),
            (
                "tcp: [{name: a, names: [a.b.c], ports: 22}]",
                &["tcp[0].ports"],
            ),
            ("tcp: [{name: a, ports: [22]}]", &["tcp[0]", "services"]),
            ("tcp: [{addresses: [10.0.0.0/8]}]", &["tcp[0]", "name"]),
            (
                "tcp: [{name: '', addresses: [10.0.0.0/8]}]",
                &["tcp[0].name", "\"\""],
            ),
            (
                "tcp: [{name: 'a b', addresses: [10.0.0.0/8]}]",
                &["tcp[0].name", "\"a b\""],
            ),
            (
                "tcp: [{name: a, names: [a.b.c]}]\nunix: [{name: a, paths: [/x]}]",
                &["unix[0].name", "`a`"],
            ),
            (
                "tcp: [{name: a, services: [postgres]}]",
                &["tcp[0].services[0]", "NAMESPACE/SERVICE"],
            ),
            (
                "tcp: [{name: a, names: [db.prod]}]",
                &["tcp[0].names[0]", "services"],
            ),
            (
                "tcp: [{name: a, names: ['*.*.b.c']}]",
                &["tcp[0].names[0]", "*.*.b.c"],
            ),
            ("tcp: {name: a}", &["tcp"]),
            ("unix: [{name: a}]", &["unix[0]", "paths"]),
            (
                "unix: [{name: a, paths: [run/x.sock]}]",
                &["unix[0].paths[0]", "absolute"],
            ),
            (
                "unix: [{name: a, paths: [/run/../x.sock]}]",
                &["unix[0].paths[0]", "absolute"],
            ),
            (
                "unix: [{name: a, paths: ['~/x.sock']}]",
                &["unix[0].paths[0]", "absolute"],
            ),
            (
                "unix: [{name: a, paths: [/x], ports: [1]}]",
                &["unix[0]", "ports"],
            ),
            (
                "impersonation: {deniedUser: [a]}",
                &["impersonation", "deniedUser"],
            ),
            (
                "impersonation: {serviceAccountNamespaces: [Prod]}",
                &["impersonation.serviceAccountNamespaces[0]", "Prod"],
            ),
            (
                "impersonation: {deniedUsers: ['']}",
                &["impersonation.deniedUsers[0]"],
            ),
            ("[]", &["line 1"]),
            ("tcp: [", &["line"]),
            ("{}\n---\n{}", &["document"]),
        ] {
            let error = error(yaml);
            for part in parts {
                assert!(
                    error.contains(part),
                    "{yaml:?} gives {error:?}, without {part:?}"
                );
            }
        }
        let long = format!("unix: [{{name: a, paths: [/{}]}}]", "x".repeat(107));
        assert!(error(&long).contains("too long"), "{}", error(&long));
    }

    #[test]
    fn a_file_that_says_nothing_is_an_error() {
        for yaml in ["", "\n\n", "---\n", "# nothing\n\n"] {
            assert!(matches!(read(yaml), Err(PolicyError::Empty)), "{yaml:?}");
        }
        assert_eq!(read("{}").unwrap(), Policy::default());
    }

    #[test]
    fn rule_19_a_policy_has_an_end() {
        let large = format!("# {}\n{{}}", "x".repeat(limits::POLICY_BYTES));
        assert!(matches!(read(&large), Err(PolicyError::TooLarge(_))));
        let many = vec!["10.0.0.1"; limits::ENTRIES + 1].join(", ");
        let many = error(&format!("tcp: [{{name: a, addresses: [{many}]}}]"));
        assert!(many.contains("more than 1000 entries"), "{many}");
    }
}
