//! `underpass-agent policy`

use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, Subcommand};
use underpass_agent_policy::{Denied, Host, Line, Policy, Remaining, ShellKind};
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
    /// As in `tcp:postgres.prod:5432`, `tcp:10.0.0.1:22`, `unix:/run/containerd/containerd.sock`, `operation:etcd-snapshot` or `shell:kubectl`
    #[arg(value_name = "TARGET", value_parser = asked)]
    target: Asked,
    /// The policy
    #[arg(long, env = "UNDERPASS_POLICY", value_name = "FILE")]
    policy: PathBuf,
}

/// The target in question. An operation's name and a shell's kind are no part of a stream's target.
#[derive(Debug, Clone)]
enum Asked {
    Target(Target),
    Operation(String),
    Shell(ShellKind),
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
                    Asked::Shell(kind) => shell(&policy, *kind),
                })
            }
        }
    }
}

fn asked(text: &str) -> Result<Asked, String> {
    if let Some(name) = text.strip_prefix("operation:") {
        return Ok(Asked::Operation(name.to_owned()));
    }
    if let Some(kind) = text.strip_prefix("shell:") {
        let kind = kind.parse().map(Asked::Shell);
        return kind.map_err(|error| format!("{error}"));
    }
    target(text).map(Asked::Target)
}

fn target(text: &str) -> Result<Target, String> {
    text.parse().map_err(|error| format!("{error}"))
}

fn operation(policy: &Policy, name: &str) -> Answer {
    let denied = Denied::NoOperation(name.to_owned());
    named(policy, "operation", name, &denied)
}

fn shell(policy: &Policy, kind: ShellKind) -> Answer {
    named(policy, "shell", kind.name(), &Denied::NoShell(kind))
}

/// About the rule of this kind and name: it may have callers of its own, and `explain` knows none.
fn named(policy: &Policy, kind: &str, name: &str, denied: &Denied) -> Answer {
    let mut lines = policy.lines();
    let line = lines.find(|line| line.kind == kind && line.name == name);
    match line {
        Some(line) => Answer {
            text: format!("{kind}:{name}: allowed: {}\n", line.content),
            yes: true,
        },
        None => Answer {
            text: format!("{kind}:{name}: denied: {denied}\n"),
            yes: false,
        },
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
        let kubectl = "shells: {kubectl: {program: /bin/bash, perUser: 2, groups: [ops]}}";
        let kubectl = Policy::from_yaml(kubectl).unwrap();
        let Answer { text, yes } = shell(&kubectl, ShellKind::Kubectl);
        assert!(
            yes && text.contains("/bin/bash") && text.contains("2 for each user"),
            "{text}"
        );
        assert!(text.ends_with(", for ops\n"), "{text}");
        let Answer { text, yes } = shell(&kubectl, ShellKind::Node);
        assert!(!yes && text.contains("no node shell"), "{text}");
        assert!(matches!(
            asked("shell:node"),
            Ok(Asked::Shell(ShellKind::Node))
        ));
        assert!(
            asked("shell:root")
                .unwrap_err()
                .contains("kubectl and node")
        );
        assert!(
            target("postgres.prod:5432")
                .unwrap_err()
                .contains("tcp:HOST:PORT")
        );
    }
}
