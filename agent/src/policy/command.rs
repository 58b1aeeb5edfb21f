//! `underpass-agent policy`

use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, Subcommand};
use underpass_agent_policy::{Denied, Host, Line, Policy, Remaining};
use underpass_core::{AgentRole, Target};

const AFTER_EXPLAIN: &str = "\
Example: underpass-agent policy explain tcp:postgres.prod:5432 --policy policy.yaml

Nothing is looked up or connected: where a name leads is decided when a stream begins.";

/// Checks a policy, or explains its decision about a target
#[derive(Debug, Subcommand)]
pub(crate) enum PolicyCommand {
    /// Prints the rules of a policy, or the mistake in it
    Check(Check),
    /// Prints the rule that allows a target, or the reason that none does; the exit status is 1 then
    #[command(after_help = AFTER_EXPLAIN)]
    Explain(Explain),
}

#[derive(Debug, Args)]
pub(crate) struct Check {
    /// The policy
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct Explain {
    /// As in `tcp:postgres.prod:5432`, `tcp:10.0.0.1:22`, `unix:/run/containerd/containerd.sock` or `operation:etcd-snapshot`
    #[arg(value_name = "TARGET", value_parser = asked)]
    target: Asked,
    /// The policy
    #[arg(long, env = "UNDERPASS_POLICY", value_name = "FILE")]
    policy: PathBuf,
}

/// The target in question. An operation's name is no part of a stream's target.
#[derive(Debug, Clone)]
enum Asked {
    Target(Target),
    Operation(String),
}

/// The answer to a command.
pub(crate) struct Answer {
    pub(crate) text: String,
    /// Whether the command's exit status says yes.
    pub(crate) yes: bool,
}

impl PolicyCommand {
    pub(crate) fn run(&self) -> Result<Answer> {
        match self {
            Self::Check(check) => {
                let policy = super::read(&check.file)?;
                Ok(Answer {
                    text: table(&policy),
                    yes: true,
                })
            }
            Self::Explain(explain) => {
                let policy = super::read(&explain.policy)?;
                Ok(match &explain.target {
                    Asked::Target(target) => explanation(&policy, target),
                    Asked::Operation(name) => operation(&policy, name),
                })
            }
        }
    }
}

fn asked(text: &str) -> Result<Asked, String> {
    match text.strip_prefix("operation:") {
        Some(name) => Ok(Asked::Operation(name.to_owned())),
        None => target(text).map(Asked::Target),
    }
}

fn target(text: &str) -> Result<Target, String> {
    text.parse().map_err(|error| format!("{error}"))
}

fn operation(policy: &Policy, name: &str) -> Answer {
    let mut lines = policy.lines();
    let line = lines.find(|line| line.kind == "operation" && line.name == name);
    match line {
        Some(line) => Answer {
            text: format!("operation:{name}: allowed: {}\n", line.content),
            yes: true,
        },
        None => {
            let denied = Denied::NoOperation(name.to_owned());
            Answer {
                text: format!("operation:{name}: denied: {denied}\n"),
                yes: false,
            }
        }
    }
}

fn table(policy: &Policy) -> String {
    let lines: Vec<_> = policy.lines().collect();
    if lines.is_empty() {
        return "ok: nothing but the API server is allowed\n".to_owned();
    }
    let width = |heading: &str, of: fn(&Line) -> usize| {
        lines
            .iter()
            .map(of)
            .max()
            .unwrap_or_default()
            .max(heading.len())
    };
    let kind = width("KIND", |line| line.kind.len());
    let name = width("NAME", |line| line.name.len());
    let mut table = String::new();
    let mut add = |a: &str, b: &str, c: &str| {
        // Writing into a String does not fail.
        let _ = writeln!(table, "{a:kind$}  {b:name$}  {c}");
    };
    add("KIND", "NAME", "ALLOWS");
    for line in &lines {
        add(line.kind, &line.name, &line.content);
    }
    table
}

fn explanation(policy: &Policy, target: &Target) -> Answer {
    match policy.decide(target) {
        Ok(allowed) => {
            let by = match &allowed.rule {
                Some(rule) => format!("rule `{rule}`"),
                None if policy.decide_api_server(AgentRole::Node).is_ok() => {
                    "`apiServer`".to_owned()
                }
                None => "every policy, for an agent of the role cluster (one of the role node needs `apiServer: true`)"
                    .to_owned(),
            };
            let text = format!(
                "{target}: allowed by {by}{}\n",
                remaining(target, allowed.remaining)
            );
            Answer { text, yes: true }
        }
        Err(denied) => Answer {
            text: refusal(target, &denied),
            yes: false,
        },
    }
}

/// The question that is left, as a further sentence.
fn remaining(target: &Target, remaining: Remaining) -> String {
    match (remaining, target) {
        (Remaining::Addresses, Target::Tcp(tcp)) => {
            let found = match Host::of(tcp) {
                Host::Service(service) => format!("the ready endpoints of the service {service}"),
                host => format!("the addresses of {host}"),
            };
            format!(
                ". Of {found}, loopback, link-local and other special addresses need an `addresses` rule of their own"
            )
        }
        (Remaining::Path, _) => {
            ". Where it is a symbolic link, the path that it leads to needs a rule as well"
                .to_owned()
        }
        _ => String::new(),
    }
}

fn refusal(target: &Target, denied: &Denied) -> String {
    format!("{target}: denied: {denied}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: &str = "\
tcp:
  - {name: databases, services: [prod/postgres], addresses: [10.0.0.0/8], ports: [5432]}
unix:
  - {name: containerd, paths: [/run/containerd/containerd.sock]}
impersonation: {deniedGroups: [admins]}
";

    #[test]
    fn a_policy_is_shown_as_a_table() {
        let policy = Policy::from_yaml(POLICY).unwrap();
        let expected = "\
KIND          NAME        ALLOWS
tcp           databases   prod/postgres, 10.0.0.0/8; port 5432
unix          containerd  /run/containerd/containerd.sock
deniedGroups              admins
";
        assert_eq!(table(&policy), expected);
        assert!(table(&Policy::default()).starts_with("ok: nothing but"));
    }

    #[test]
    fn a_target_is_explained() {
        let policy = Policy::from_yaml(POLICY).unwrap();
        let explain = |text: &str| {
            let Answer { text, yes } = explanation(&policy, &target(text).unwrap());
            (text, yes)
        };
        let (text, yes) = explain("tcp:postgres.prod:5432");
        assert!(
            yes && text.contains("rule `databases`") && text.contains("prod/postgres"),
            "{text}"
        );
        let (text, yes) = explain("tcp:10.0.0.1:5432");
        assert_eq!(
            (text.as_str(), yes),
            ("tcp:10.0.0.1:5432: allowed by rule `databases`\n", true)
        );
        let (text, yes) = explain("tcp:10.0.0.1:22");
        assert!(!yes && text.contains("but not its port 22"), "{text}");
        let (text, yes) = explain("unix:/run/containerd/containerd.sock");
        assert!(yes && text.contains("symbolic link"), "{text}");
        assert!(explain("kube-api").1 && !explain("shell").1);
        let backup =
            "operations: [{name: backup, command: /bin/backup, timeLimit: 1h, groups: [ops]}]";
        let backup = Policy::from_yaml(backup).unwrap();
        let Answer { text, yes } = operation(&backup, "backup");
        assert!(
            yes && text.contains("/bin/backup") && text.contains("for ops"),
            "{text}"
        );
        let Answer { text, yes } = operation(&backup, "restore");
        assert!(!yes && text.contains("no operation `restore`"), "{text}");
        assert!(matches!(asked("operation:a"), Ok(Asked::Operation(_))));
        assert!(
            target("postgres.prod:5432")
                .unwrap_err()
                .contains("tcp:HOST:PORT")
        );
    }
}
