//! The file's form of shells.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;

use super::{Protection, ShellResources, ShellRule, ShellUids};
use crate::command::{AbsolutePath, Callers, Environment};
use crate::limits;
use crate::values::{List, Parsed, Subject, present, values};
use underpass_core::ShellKind;

pub(super) const MEBIBYTE: u64 = 1024 * 1024;

/// One rule for each kind, so that the file cannot have two programs for one.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Shells {
    #[serde(default, deserialize_with = "present")]
    uids: Option<Parsed<ShellUids>>,
    #[serde(default, deserialize_with = "present")]
    kubectl: Option<Entry>,
    #[serde(default, deserialize_with = "present")]
    node: Option<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Entry {
    program: Parsed<AbsolutePath>,
    #[serde(default, deserialize_with = "present")]
    arguments: Option<List<Parsed<Argument>>>,
    #[serde(default)]
    command: bool,
    #[serde(default, deserialize_with = "present")]
    directory: Option<Parsed<AbsolutePath>>,
    #[serde(default, deserialize_with = "present")]
    environment: Option<Environment>,
    #[serde(default, deserialize_with = "present")]
    users: Option<List<Parsed<Subject>>>,
    #[serde(default, deserialize_with = "present")]
    groups: Option<List<Parsed<Subject>>>,
    #[serde(default, deserialize_with = "present")]
    memory: Option<Parsed<Memory>>,
    #[serde(default, deserialize_with = "present")]
    processes: Option<Parsed<Processes>>,
    #[serde(default, deserialize_with = "present")]
    cpu: Option<Parsed<Cpu>>,
    #[serde(default, deserialize_with = "present")]
    idle: Option<Parsed<Time>>,
    #[serde(default, deserialize_with = "present")]
    detached: Option<Parsed<Time>>,
    #[serde(default, deserialize_with = "present")]
    per_user: Option<Parsed<Number>>,
    #[serde(default, deserialize_with = "present")]
    per_node: Option<Parsed<Number>>,
    #[serde(default, deserialize_with = "present")]
    may_be_missing: Option<List<Parsed<Protection>>>,
}

impl Shells {
    pub(crate) fn into_rules(self) -> Vec<Arc<ShellRule>> {
        let uids = self.uids.map_or_else(ShellUids::default, |own| own.0);
        let kinds = [
            (ShellKind::Kubectl, self.kubectl),
            (ShellKind::Node, self.node),
        ];
        let entries = kinds.into_iter();
        let rules = entries.filter_map(|(kind, entry)| Some(entry?.into_rule(kind, uids)));
        rules.map(Arc::new).collect()
    }
}

impl Entry {
    fn into_rule(self, kind: ShellKind, uids: ShellUids) -> ShellRule {
        let (pass, set) = self.environment.unwrap_or_default().into_parts();
        let arguments = values(self.arguments).into_iter();
        let mut may_be_missing = values(self.may_be_missing);
        may_be_missing.sort_unstable();
        may_be_missing.dedup();
        ShellRule {
            kind,
            program: self.program.0.0,
            arguments: arguments.map(|argument| argument.0).collect(),
            takes_command: self.command,
            command: None,
            directory: self.directory.map(|path| path.0.0),
            pass,
            set,
            callers: Callers::new(self.users, self.groups),
            resources: ShellResources {
                memory: self.memory.map_or(limits::SHELL_MEMORY, |own| own.0.0),
                processes: self
                    .processes
                    .map_or(limits::SHELL_PROCESSES, |own| own.0.0),
                cpu_millis: self.cpu.map_or(limits::SHELL_CPU_MILLIS, |own| own.0.0),
            },
            idle: self.idle.map_or(limits::SHELL_IDLE, |own| own.0.0),
            detached: self.detached.map_or(limits::SHELL_DETACHED, |own| own.0.0),
            per_user: self.per_user.map_or(limits::SHELLS_OF_USER, |own| own.0.0),
            per_node: self.per_node.map_or(limits::SHELLS_OF_NODE, |own| own.0.0),
            may_be_missing,
            uids,
        }
    }
}

struct Argument(String);

impl FromStr for Argument {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let most = limits::ARGUMENT_BYTES;
        match text.len() <= most && !text.chars().any(char::is_control) {
            true => Ok(Self(text.to_owned())),
            false => Err(format!(
                "an argument has {most} bytes at the most, and no control characters"
            )),
        }
    }
}

struct Memory(u64);

impl FromStr for Memory {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let units = [("Mi", MEBIBYTE), ("Gi", 1024 * MEBIBYTE)];
        let mut units = units.into_iter();
        let bytes = units.find_map(|(unit, bytes)| {
            let number: u64 = text.strip_suffix(unit)?.parse().ok()?;
            number.checked_mul(bytes)
        });
        let bytes = bytes.filter(|bytes| limits::SHELL_MEMORY_RANGE.contains(bytes));
        bytes.map(Self).ok_or_else(|| {
            format!("{text:?} is no memory of a shell: as in 512Mi or 2Gi, 16Mi to 1024Gi")
        })
    }
}

struct Processes(u32);

impl FromStr for Processes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = text.parse().ok();
        let number = number.filter(|number| limits::SHELL_PROCESSES_RANGE.contains(number));
        number
            .map(Self)
            .ok_or_else(|| format!("{text:?} is no number of processes: 4 to 100000"))
    }
}

/// As Kubernetes writes it: whole processors, or thousandths of one.
struct Cpu(u32);

impl FromStr for Cpu {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let millis = match text.strip_suffix('m') {
            Some(millis) => millis.parse().ok(),
            None => text
                .parse::<u32>()
                .ok()
                .and_then(|number| number.checked_mul(1000)),
        };
        let millis = millis.filter(|millis| limits::SHELL_CPU_RANGE.contains(millis));
        millis.map(Self).ok_or_else(|| {
            format!("{text:?} is no processor time: as in 500m or 2, 10m to 1024 processors")
        })
    }
}

struct Time(Duration);

impl FromStr for Time {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |problem: String| format!("{text:?} is no time of a shell: {problem}");
        let time = humantime::parse_duration(text).map_err(|error| wrong(error.to_string()))?;
        match limits::SHELL_TIME_RANGE.contains(&time) {
            true => Ok(Self(time)),
            false => Err(wrong(
                "it has 1s at the least, and 7days at the most".to_owned(),
            )),
        }
    }
}

struct Number(usize);

impl FromStr for Number {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let most = limits::SHELLS;
        let number = text.parse().ok();
        let number = number.filter(|number| (1..=most).contains(number));
        number
            .map(Self)
            .ok_or_else(|| format!("{text:?} is no number of shells: 1 to {most}"))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use underpass_core::ShellKind;

    use crate::{Denied, Policy, Protection};

    const FULL: &str = "
shells:
  kubectl:
    program: /bin/bash
    arguments: [--login]
    directory: /home
    environment: {pass: [LANG], set: {EDITOR: vi}}
    groups: [ops]
    memory: 1Gi
    processes: 64
    cpu: 500m
    idle: 30m
    detached: 1h
    perUser: 2
    perNode: 8
    mayBeMissing: [cgroup, pidNamespace, cgroup]
";

    #[test]
    fn rule_17_no_shell_is_allowed_by_default_and_each_kind_needs_its_own_rule() {
        let decide = |yaml: &str, kind| {
            let policy = Policy::from_yaml(yaml).unwrap();
            policy.decide_shell(kind, "alice", &[])
        };
        let (kubectl, node) = (
            "shells: {kubectl: {program: /bin/sh}}",
            "shells: {node: {program: /bin/sh}}",
        );
        for (yaml, allows) in [
            ("{}", [false, false]),
            ("shells: {}", [false, false]),
            ("shells:", [false, false]),
            (kubectl, [true, false]),
            (node, [false, true]),
        ] {
            let allowed = ShellKind::ALL.map(|kind| decide(yaml, kind).is_ok());
            assert_eq!(allowed, allows, "{yaml}");
        }
        let denied = decide(kubectl, ShellKind::Node).unwrap_err();
        assert_eq!(denied, Denied::NoShell(ShellKind::Node));
        assert!(denied.to_string().contains("`shells.node`"), "{denied}");
    }

    #[test]
    fn rule_17_a_shell_is_for_those_whom_its_rule_names() {
        let policy = Policy::from_yaml(FULL).unwrap();
        let decide = |groups: &[&str]| {
            let groups: Vec<_> = groups.iter().map(|group| (*group).to_owned()).collect();
            policy.decide_shell(ShellKind::Kubectl, "alice", &groups)
        };
        decide(&["dev", "ops"]).unwrap();
        let denied = decide(&["dev"]).unwrap_err();
        assert_eq!(denied, Denied::ShellCaller(ShellKind::Kubectl));
    }

    #[test]
    fn rule_17_a_shell_runs_a_callers_command_where_its_rule_says_so() {
        let rule = |yaml: &str| {
            let policy = Policy::from_yaml(yaml).unwrap();
            let line = policy.lines().next().unwrap().content;
            let rule = policy.decide_shell(ShellKind::Kubectl, "alice", &[]);
            (rule.unwrap(), line)
        };
        let own = "program: /bin/bash, arguments: [--login]";
        let words = ["kubectl", "get", "pods"].map(str::to_owned);
        let shown = |rule: &crate::ShellRule| {
            let (program, arguments) = rule.command();
            format!("{} {}", program.display(), arguments.join(" "))
        };
        let (closed, line) = rule(&format!("shells: {{kubectl: {{{own}}}}}"));
        let denied = closed.with_command(&words).unwrap_err();
        assert_eq!(denied, Denied::ShellCommand(ShellKind::Kubectl));
        assert!(denied.to_string().contains("`shells.kubectl`"), "{denied}");
        assert_eq!(
            shown(&closed.with_command(&[]).unwrap()),
            "/bin/bash --login"
        );
        assert!(line.starts_with("/bin/bash --login; "), "{line}");
        let (open, line) = rule(&format!("shells: {{kubectl: {{{own}, command: true}}}}"));
        assert_eq!(
            shown(&open.with_command(&words).unwrap()),
            "kubectl get pods"
        );
        assert_eq!(shown(&open), "/bin/bash --login");
        let words = "/bin/bash --login, or the caller's command; ";
        assert!(line.starts_with(words), "{line}");
    }

    #[test]
    fn a_shell_is_what_its_rule_says() {
        let policy = Policy::from_yaml(FULL).unwrap();
        let ops = ["ops".to_owned()];
        let rule = policy.decide_shell(ShellKind::Kubectl, "alice", &ops);
        let rule = rule.unwrap();
        assert_eq!(rule.resources().memory, 1024 * 1024 * 1024);
        assert_eq!(rule.resources().cpu_millis, 500);
        assert_eq!(rule.detached_lifetime(), Duration::from_secs(3600));
        let required: Vec<_> = rule.required_protections().collect();
        assert_eq!(required.len(), Protection::ALL.len() - 2);
        assert!(!required.contains(&Protection::Cgroup), "{required:?}");
        let lines: Vec<_> = policy.lines().collect();
        assert_eq!(
            (lines[0].kind, lines[0].name.as_str()),
            ("shell", "kubectl")
        );
        assert_eq!(
            lines[0].content,
            "/bin/bash --login; 1024Mi of memory, 64 processes, 500m of a processor; idle for 30m and detached for 1h at the \
             most; 2 for each user and 8 for the node; also without pidNamespace, cgroup, for ops"
        );
        let usual = Policy::from_yaml("shells: {node: {program: /bin/sh}}").unwrap();
        let usual = usual.decide_shell(ShellKind::Node, "alice", &[]).unwrap();
        assert_eq!(usual.detached_lifetime(), Duration::from_secs(900));
        let required: Vec<_> = usual.required_protections().collect();
        assert_eq!(required, [Protection::Cgroup]);
    }

    #[test]
    fn the_uids_of_shells_are_a_range_clear_of_the_systems_own() {
        let kubectl = "kubectl: {program: /bin/sh}";
        let rule = |uids: &str| {
            let policy = Policy::from_yaml(&format!("shells: {{{uids}{kubectl}}}"));
            let rule = policy.map(|policy| {
                let line = policy.lines().next().map(|line| line.content);
                let rule = policy.decide_shell(ShellKind::Kubectl, "alice", &[]);
                (rule.unwrap(), line.unwrap())
            });
            rule.map_err(|error| error.to_string())
        };
        let ends = |uids: &str| {
            let (rule, _) = rule(uids).unwrap();
            (rule.uids().first(), rule.uids().last())
        };
        assert_eq!(ends(""), (2_000_000_000, 2_000_000_063));
        assert_eq!(ends("uids: 70000-70000, "), (70_000, 70_000));
        assert_eq!(
            ends("uids: 4294967200-4294967294, "),
            (4_294_967_200, 4_294_967_294)
        );
        let (_, line) = rule("uids: 70000-70007, ").unwrap();
        assert!(line.contains("uids 70000-70007"), "{line}");
        for wrong in [
            "0-10",
            "999-1001",
            "5000-4000",
            "4294967290-4294967295",
            "70000",
            "70000-",
            "a-b",
            "100000-104096",
        ] {
            let error = rule(&format!("uids: {wrong}, ")).unwrap_err();
            assert!(
                error.contains("shells.uids") && error.contains("range of uids"),
                "{error}"
            );
        }
    }

    #[test]
    fn rule_17_a_mistake_in_a_shell_names_its_place() {
        for (fields, parts) in [
            ("", &["shells.kubectl", "program"][..]),
            ("program: bash", &["shells.kubectl.program", "absolute"]),
            ("program: /bin/sh, user: root", &["shells.kubectl", "user"]),
            ("program: /bin/sh, memory: 1", &["memory", "512Mi"]),
            ("program: /bin/sh, memory: 8Mi", &["memory", "16Mi"]),
            ("program: /bin/sh, processes: 1", &["processes", "4 to"]),
            ("program: /bin/sh, cpu: 0", &["cpu", "500m"]),
            ("program: /bin/sh, cpu: 5000000", &["cpu", "1024"]),
            ("program: /bin/sh, idle: 0s", &["idle", "1s"]),
            ("program: /bin/sh, detached: 15", &["detached", "\"15\""]),
            ("program: /bin/sh, detached: 8days", &["detached", "7days"]),
            ("program: /bin/sh, perUser: 0", &["perUser", "1 to 64"]),
            ("program: /bin/sh, perNode: 65", &["perNode", "1 to 64"]),
            ("program: /bin/sh, arguments: []", &["arguments", "empty"]),
            (
                "program: /bin/sh, arguments: [\"a\\nb\"]",
                &["arguments[0]", "control"],
            ),
            (
                "program: /bin/sh, mayBeMissing: [pid]",
                &["mayBeMissing[0]", "pidNamespace"],
            ),
            ("program: /bin/sh, command: free", &["command"]),
            ("program: /bin/sh, users: []", &["users", "empty"]),
        ] {
            let yaml = format!("shells: {{kubectl: {{{fields}}}}}");
            let error = Policy::from_yaml(&yaml).unwrap_err().to_string();
            for part in parts {
                assert!(
                    error.contains(part),
                    "{yaml:?} gives {error:?}, without {part:?}"
                );
            }
        }
        let error = |yaml: &str| Policy::from_yaml(yaml).unwrap_err().to_string();
        let other = error("shells: {root: {program: /bin/sh}}");
        assert!(other.contains("root"), "{other}");
        assert!(error("shells: {node: }").contains("shells.node"));
    }
}
