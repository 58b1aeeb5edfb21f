//! The file's form of operations.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use thiserror::Error;

use super::parameter::{Pattern, Schema};
use super::{Operation, Parameter, Template};
use crate::command::{AbsolutePath, Callers, Environment, UserName};
use crate::limits;
use crate::values::{List, Parsed, RuleName, Subject, list, present, values};

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Entry {
    pub(crate) name: Parsed<RuleName>,
    command: Parsed<AbsolutePath>,
    #[serde(default, deserialize_with = "present")]
    arguments: Option<List<Parsed<Template>>>,
    #[serde(default, deserialize_with = "present")]
    parameters: Option<List<ParameterEntry>>,
    #[serde(default, deserialize_with = "present")]
    user: Option<Parsed<UserName>>,
    #[serde(default, deserialize_with = "present")]
    directory: Option<Parsed<AbsolutePath>>,
    #[serde(default, deserialize_with = "present")]
    environment: Option<Environment>,
    time_limit: Parsed<TimeLimit>,
    #[serde(default, deserialize_with = "present")]
    output_limit: Option<Parsed<OutputLimit>>,
    #[serde(default)]
    exclusive: bool,
    #[serde(default, deserialize_with = "present")]
    users: Option<List<Parsed<Subject>>>,
    #[serde(default, deserialize_with = "present")]
    groups: Option<List<Parsed<Subject>>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct ParameterEntry {
    name: Parsed<RuleName>,
    #[serde(default, deserialize_with = "present")]
    pattern: Option<Parsed<Pattern>>,
    #[serde(default, deserialize_with = "present")]
    longest: Option<usize>,
    #[serde(default, deserialize_with = "present")]
    one_of: Option<List<String>>,
    #[serde(default, deserialize_with = "present")]
    integer: Option<Range>,
    #[serde(default)]
    optional: bool,
    #[serde(default, deserialize_with = "present")]
    default: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Range {
    from: i64,
    to: i64,
}

/// A mistake in an operation that no single value of it has.
#[derive(Debug, PartialEq, Eq, Error)]
pub enum OperationError {
    /// Two parameters have one name.
    #[error("two parameters have the name `{0}`")]
    SameParameter(String),
    /// A parameter has no schema, or several.
    #[error(
        "the parameter `{0}` needs one of `pattern`, `oneOf`, `integer` and, alone or beside `pattern`, `longest`"
    )]
    Schema(String),
    /// It may be longer than any value.
    #[error("`longest` of the parameter `{0}` is 1 to {most}", most = limits::VALUE_BYTES)]
    Longest(String),
    /// The range has no numbers.
    #[error("`integer` of the parameter `{0}` goes from a larger number to a smaller one")]
    Range(String),
    /// The default is none of the parameter's values.
    #[error("the default of the parameter `{0}` {1}")]
    Default(String, String),
    /// It has a default, and is optional.
    #[error("the parameter `{0}` has a default, and so a value always: leave `optional` out")]
    DefaultAndOptional(String),
    /// An argument has a parameter that there is not.
    #[error("no parameter has the name `{0}`, which an argument has in braces")]
    Unknown(String),
    /// A parameter is in no argument.
    #[error("no argument has the parameter `{0}`")]
    Unused(String),
}

impl Entry {
    /// The operation of this name.
    pub(crate) fn into_operation(self, name: Arc<str>) -> Result<Operation, OperationError> {
        let arguments = values(self.arguments);
        let mut names = BTreeSet::new();
        let mut parameters = Vec::new();
        for entry in list(self.parameters) {
            let parameter = entry.into_parameter()?;
            if !names.insert(parameter.name.clone()) {
                return Err(OperationError::SameParameter(parameter.name));
            }
            parameters.push(parameter);
        }
        let used: BTreeSet<_> = arguments.iter().flat_map(Template::parameters).collect();
        if let Some(unknown) = used.iter().find(|name| !names.contains(**name)) {
            return Err(OperationError::Unknown((*unknown).to_owned()));
        }
        if let Some(unused) = names.iter().find(|name| !used.contains(name.as_str())) {
            return Err(OperationError::Unused(unused.clone()));
        }
        let (pass, set) = self.environment.unwrap_or_default().into_parts();
        let output_limit = self.output_limit.map(|limit| limit.0.0);
        Ok(Operation {
            name,
            command: self.command.0.0,
            arguments,
            parameters,
            user: self.user.map(|user| user.0.0),
            directory: self.directory.map_or_else(|| "/".into(), |path| path.0.0),
            pass,
            set,
            time_limit: self.time_limit.0.0,
            output_limit: output_limit.unwrap_or(limits::OUTPUT_BYTES_DEFAULT),
            is_exclusive: self.exclusive,
            callers: Callers::new(self.users, self.groups),
        })
    }
}

impl ParameterEntry {
    fn into_parameter(self) -> Result<Parameter, OperationError> {
        let name = self.name.0.0;
        let longest = self.longest.unwrap_or(limits::VALUE_BYTES_DEFAULT);
        if !(1..=limits::VALUE_BYTES).contains(&longest) {
            return Err(OperationError::Longest(name));
        }
        let schema = match (self.pattern, self.one_of, self.integer, self.longest) {
            (Some(pattern), None, None, _) => Schema::Pattern {
                pattern: pattern.0,
                longest,
            },
            (None, Some(values), None, None) => Schema::OneOf(values.0),
            (None, None, Some(Range { from, to }), None) if from <= to => {
                Schema::Integer(from..=to)
            }
            (None, None, Some(_), None) => return Err(OperationError::Range(name)),
            (None, None, None, Some(longest)) => Schema::Text { longest },
            _ => return Err(OperationError::Schema(name)),
        };
        if let Some(default) = &self.default {
            if self.optional {
                return Err(OperationError::DefaultAndOptional(name));
            }
            let checked = schema.check(default);
            checked
                .map_err(|problem| OperationError::Default(name.clone(), problem.to_string()))?;
        }
        Ok(Parameter {
            name,
            schema,
            is_optional: self.optional,
            default: self.default,
        })
    }
}

impl FromStr for Pattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::new(text).map_err(|error| format!("{text:?} is no pattern: {error}"))
    }
}

struct TimeLimit(Duration);

impl FromStr for TimeLimit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |problem: &dyn fmt::Display| format!("{text:?} is no time limit: {problem}");
        let limit = humantime::parse_duration(text).map_err(|error| wrong(&error))?;
        match limit.is_zero() || limit > limits::TIME_LIMIT {
            true => Err(wrong(&"it is more than 0s, and 7days at the most")),
            false => Ok(Self(limit)),
        }
    }
}

struct OutputLimit(u64);

impl FromStr for OutputLimit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no output limit: as in 64Ki or 16Mi, up to 1024Mi");
        let (digits, unit) = match text.find(|c: char| !c.is_ascii_digit()) {
            Some(at) => text.split_at(at),
            None => (text, ""),
        };
        let unit = match unit {
            "" => 1,
            "Ki" => 1024,
            "Mi" => 1024 * 1024,
            _ => return Err(wrong()),
        };
        let bytes = digits.parse::<u64>().ok().and_then(|n| n.checked_mul(unit));
        let bytes = bytes.filter(|bytes| (1..=limits::OUTPUT_BYTES).contains(bytes));
        bytes.map(Self).ok_or_else(wrong)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use crate::{ArgumentError, Denied, Policy};

    const BACKUP: &str = r#"
operations:
  - name: backup
    command: /usr/bin/etcdctl
    arguments: [snapshot, save, "/var/backups/{file}", "--retries={retries}", "--label={label}", "{mode}"]
    parameters:
      - {name: file, pattern: '[a-z0-9-]+\.db', longest: 32}
      - {name: retries, integer: {from: 0, to: 9}, default: "3"}
      - {name: label, longest: 10, optional: true}
      - {name: mode, longest: 10, optional: true}
    user: etcd
    directory: /var/backups
    environment: {pass: [PATH], set: {ETCDCTL_API: "3"}}
    timeLimit: 10m
    outputLimit: 64Ki
    exclusive: true
    groups: [ops]
"#;

    fn arguments(given: &[(&str, &str)]) -> Result<Vec<String>, ArgumentError> {
        let policy = Policy::from_yaml(BACKUP).unwrap();
        let ops = ["ops".to_owned()];
        let operation = policy.decide_operation("backup", "alice", &ops).unwrap();
        let given: BTreeMap<_, _> = given
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        operation.argv(&given)
    }

    #[test]
    fn rule_17_a_parameter_is_exactly_one_argument() {
        let argv = arguments(&[("file", "a.db"), ("label", "x y; $(z)")]).unwrap();
        let expected = [
            "snapshot",
            "save",
            "/var/backups/a.db",
            "--retries=3",
            "--label=x y; $(z)",
        ];
        assert_eq!(argv, expected);
    }

    #[test]
    fn rule_17_arguments_that_do_not_fit_name_their_parameter() {
        for (given, parameter, part) in [
            (&[][..], "file", "needs a value"),
            (
                &[("file", "../x.db")],
                "file",
                "does not match [a-z0-9-]+\\.db",
            ),
            (&[("file", "a.db\n")], "file", "control"),
            (&[("file", "a.db"), ("retries", "10")], "retries", "0 to 9"),
            (
                &[("file", "a.db"), ("force", "1")],
                "force",
                "they are file, retries",
            ),
            (
                &[("file", "a.db"), ("label", "0123456789a")],
                "label",
                "may have 10",
            ),
            (&[("file", "a.db"), ("mode", "--force")], "mode", "flag"),
        ] {
            let error = arguments(given).unwrap_err();
            assert_eq!(error.parameter(), parameter);
            assert!(error.to_string().contains(part), "{error}");
        }
        // Behind text of the policy's, it is no flag.
        arguments(&[("file", "a.db"), ("label", "--x")]).unwrap();
    }

    #[test]
    fn rule_17_an_operation_is_for_those_whom_its_rule_names() {
        let policy = Policy::from_yaml(BACKUP).unwrap();
        let decide = |operation: &str, groups: &[String]| {
            policy.decide_operation(operation, "alice", groups).err()
        };
        assert_eq!(decide("backup", &["ops".to_owned()]), None);
        let denied = decide("backup", &["dev".to_owned()]);
        assert_eq!(denied, Some(Denied::Caller("backup".into())));
        let denied = decide("restore", &[]);
        assert_eq!(denied, Some(Denied::NoOperation("restore".to_owned())));
        let none = Policy::default()
            .decide_operation("backup", "alice", &[])
            .err();
        assert_eq!(none, Some(Denied::NoOperation("backup".to_owned())));
    }

    #[test]
    fn an_operation_is_described() {
        let policy = Policy::from_yaml(BACKUP).unwrap();
        let line = policy.lines().next().unwrap();
        assert_eq!((line.kind, line.name.as_str()), ("operation", "backup"));
        for part in [
            "/usr/bin/etcdctl snapshot save /var/backups/{file}",
            "file matches [a-z0-9-]+\\.db",
            "retries is 0 to 9, or 3",
            "label has 10 bytes at the most, or left out",
            "as etcd, for 10m at the most, one at a time",
        ] {
            assert!(line.content.contains(part), "{}", line.content);
        }
    }

    #[test]
    fn the_policies_that_we_ship_are_valid() {
        for yaml in [
            include_str!("../../../../deploy/operations/etcd.yaml"),
            include_str!("../../../../deploy/operations/journal.yaml"),
            include_str!("../../../../deploy/operations/unit-binary.yaml"),
        ] {
            let policy = Policy::from_yaml(yaml).unwrap_or_else(|error| panic!("{error}: {yaml}"));
            assert!(!policy.operations().is_empty());
        }
    }

    #[test]
    fn rule_17_a_mistake_in_an_operation_names_its_place() {
        let usual = "name: a, command: /bin/x, timeLimit: 1m";
        for (fields, parts) in [
            (
                "command: /bin/x, timeLimit: 1m",
                &["operations[0]", "name"][..],
            ),
            ("name: a, timeLimit: 1m", &["operations[0]", "command"]),
            ("name: a, command: /bin/x", &["operations[0]", "timeLimit"]),
            (
                "name: a, command: x, timeLimit: 1m",
                &["command", "absolute"],
            ),
            (
                "name: a, command: /bin/../x, timeLimit: 1m",
                &["command", "absolute"],
            ),
            (
                "name: a, command: /bin/x, timeLimit: 0s",
                &["timeLimit", "0s"],
            ),
            (
                "name: a, command: /bin/x, timeLimit: 8days",
                &["timeLimit", "7days"],
            ),
            (
                "name: a, command: /bin/x, timeLimit: 5",
                &["timeLimit", "\"5\""],
            ),
            (
                &format!("{usual}, shell: true"),
                &["operations[0]", "shell"],
            ),
            (&format!("{usual}, user: '0'"), &["user", "\"0\""]),
            (&format!("{usual}, user: ''"), &["user"]),
            (
                &format!("{usual}, directory: tmp"),
                &["directory", "absolute"],
            ),
            (
                &format!("{usual}, outputLimit: 2Gi"),
                &["outputLimit", "2Gi"],
            ),
            (
                &format!("{usual}, outputLimit: 0"),
                &["outputLimit", "\"0\""],
            ),
            (&format!("{usual}, arguments: []"), &["arguments", "empty"]),
            (
                &format!("{usual}, arguments: ['{{a']"),
                &["arguments[0]", "{a"],
            ),
            (
                &format!("{usual}, arguments: ['{{a}}']"),
                &["operations[0]", "no parameter has the name `a`"],
            ),
            (
                &format!("{usual}, parameters: [{{name: p, longest: 3}}]"),
                &["operations[0]", "no argument has the parameter `p`"],
            ),
            (
                &format!("{usual}, parameters: [{{name: p}}]"),
                &["operations[0]", "needs one of"],
            ),
            (
                &format!("{usual}, parameters: [{{name: p, pattern: a, oneOf: [b]}}]"),
                &["needs one of"],
            ),
            (
                &format!("{usual}, parameters: [{{name: p, pattern: '('}}]"),
                &["parameters[0].pattern", "no pattern"],
            ),
            (
                &format!("{usual}, parameters: [{{name: p, integer: {{from: 2, to: 1}}}}]"),
                &["from a larger number"],
            ),
            (
                &format!("{usual}, parameters: [{{name: p, longest: 0}}]"),
                &["`longest`"],
            ),
            (
                &format!("{usual}, parameters: [{{name: p, oneOf: [a], default: b}}]"),
                &["default", "none of a"],
            ),
            (
                &format!(
                    "{usual}, parameters: [{{name: p, oneOf: [a], default: a, optional: true}}]"
                ),
                &["leave `optional` out"],
            ),
            (
                &format!("{usual}, parameters: [{{name: p, longest: 3}}, {{name: p, longest: 3}}]"),
                &["two parameters"],
            ),
            (
                &format!("{usual}, environment: {{pass: ['A=B']}}"),
                &["environment.pass[0]", "A=B"],
            ),
            (
                &format!("{usual}, environment: {{set: {{'A B': x}}}}"),
                &["environment", "A B"],
            ),
            (&format!("{usual}, users: []"), &["users", "empty"]),
        ] {
            let yaml = format!("operations: [{{{fields}}}]");
            let error = Policy::from_yaml(&yaml).unwrap_err().to_string();
            for part in parts {
                assert!(
                    error.contains(part),
                    "{yaml:?} gives {error:?}, without {part:?}"
                );
            }
        }
        let twice = format!("operations: [{{{usual}}}, {{{usual}}}]");
        let error = Policy::from_yaml(&twice).unwrap_err().to_string();
        assert!(error.contains("operations[1].name"), "{error}");
    }
}
