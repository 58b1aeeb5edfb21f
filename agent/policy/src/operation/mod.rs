//! Operations: commands of the node that a policy names, with arguments by schema. No shell reads any of it.

mod parameter;
mod read;
mod template;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;

pub(crate) use self::parameter::Parameter;
pub use self::parameter::ValueError;
pub(crate) use self::read::Entry;
pub use self::read::OperationError;
pub(crate) use self::template::Template;
use crate::command::Callers;

/// A command that callers may run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    pub(crate) name: Arc<str>,
    pub(crate) command: PathBuf,
    pub(crate) arguments: Vec<Template>,
    pub(crate) parameters: Vec<Parameter>,
    pub(crate) user: Option<String>,
    pub(crate) directory: PathBuf,
    pub(crate) pass: Vec<String>,
    pub(crate) set: BTreeMap<String, String>,
    pub(crate) time_limit: Duration,
    pub(crate) output_limit: u64,
    pub(crate) is_exclusive: bool,
    pub(crate) callers: Callers,
}

/// Why arguments do not fit an operation's parameters: a sentence for the caller, who gets to know the parameter by its name.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ArgumentError {
    /// No parameter has this name.
    #[error("the operation `{operation}` has no parameter `{parameter}`{}", known(.parameters))]
    Unknown {
        /// The operation.
        operation: Arc<str>,
        /// The name that was given.
        parameter: String,
        /// Those that there are.
        parameters: Vec<String>,
    },
    /// A parameter that is not optional has no value.
    #[error("the operation `{operation}` needs a value of its parameter `{parameter}`")]
    Missing {
        /// The operation.
        operation: Arc<str>,
        /// The parameter.
        parameter: String,
    },
    /// A value is none of its parameter's.
    #[error("the value of the parameter `{parameter}` {problem}")]
    Value {
        /// The parameter.
        parameter: String,
        /// The mistake.
        problem: ValueError,
    },
    /// A value would be taken for a flag.
    #[error(
        "the value of the parameter `{parameter}` begins with '-', which the command could take for a flag"
    )]
    Flag {
        /// The parameter.
        parameter: String,
    },
}

impl ArgumentError {
    /// The parameter.
    pub fn parameter(&self) -> &str {
        match self {
            Self::Unknown { parameter, .. }
            | Self::Missing { parameter, .. }
            | Self::Value { parameter, .. }
            | Self::Flag { parameter } => parameter,
        }
    }
}

fn known(parameters: &[String]) -> String {
    match parameters.is_empty() {
        true => ": it has none".to_owned(),
        false => format!(": they are {}", parameters.join(", ")),
    }
}

impl Operation {
    /// Its name.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// The program, by its absolute path.
    pub fn command(&self) -> &Path {
        &self.command
    }

    /// The user that the command runs as, by name; `None` for the agent's own.
    pub fn user(&self) -> Option<&str> {
        self.user.as_deref()
    }

    /// The command's working directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Variables of the agent's environment that the command gets.
    pub fn passed_variables(&self) -> &[String] {
        &self.pass
    }

    /// Variables that the command gets beside them.
    pub fn set_variables(&self) -> &BTreeMap<String, String> {
        &self.set
    }

    /// The time after which the command is killed.
    pub fn time_limit(&self) -> Duration {
        self.time_limit
    }

    /// The bytes of output that are kept.
    pub fn output_limit(&self) -> u64 {
        self.output_limit
    }

    /// Whether one run at a time is allowed.
    pub fn is_exclusive(&self) -> bool {
        self.is_exclusive
    }

    /// May this caller run it?
    pub(crate) fn is_for(&self, user: &str, groups: &[String]) -> bool {
        self.callers.have(user, groups)
    }

    /// The command's arguments, without the program. Each placeholder stands inside one argument, and a value of any content stays
    /// in that one.
    ///
    /// # Errors
    /// The first argument that does not fit.
    pub fn argv(&self, given: &BTreeMap<String, String>) -> Result<Vec<String>, ArgumentError> {
        let names = || self.parameters.iter().map(|own| own.name.clone()).collect();
        let is_known = |name: &&String| self.parameters.iter().any(|own| own.name == **name);
        if let Some(unknown) = given.keys().find(|name| !is_known(name)) {
            return Err(ArgumentError::Unknown {
                operation: Arc::clone(&self.name),
                parameter: unknown
                    .chars()
                    .take(crate::limits::RULE_NAME_BYTES)
                    .collect(),
                parameters: names(),
            });
        }
        let mut values = BTreeMap::new();
        for parameter in &self.parameters {
            if let Some(value) = self.value(parameter, given)? {
                values.insert(parameter.name.as_str(), value);
            }
        }
        let mut argv = Vec::new();
        for template in &self.arguments {
            if let Some(first) = template.first_parameter()
                && let Some(value) = values.get(first)
                && value.starts_with('-')
                && self
                    .parameters
                    .iter()
                    .any(|own| own.name == first && own.is_free_text())
            {
                return Err(ArgumentError::Flag {
                    parameter: first.to_owned(),
                });
            }
            argv.extend(template.fill(&values));
        }
        Ok(argv)
    }

    /// The checked value of a parameter; `None` where it is optional and has none.
    fn value<'a>(
        &self,
        parameter: &'a Parameter,
        given: &'a BTreeMap<String, String>,
    ) -> Result<Option<&'a str>, ArgumentError> {
        let Some(value) = given.get(&parameter.name) else {
            return match (&parameter.default, parameter.is_optional) {
                (Some(default), _) => Ok(Some(default)),
                (None, true) => Ok(None),
                (None, false) => Err(ArgumentError::Missing {
                    operation: Arc::clone(&self.name),
                    parameter: parameter.name.clone(),
                }),
            };
        };
        parameter
            .check(value)
            .map_err(|problem| ArgumentError::Value {
                parameter: parameter.name.clone(),
                problem,
            })?;
        Ok(Some(value))
    }

    /// The command with its placeholders, and its bounds, for people.
    pub(crate) fn describe(&self) -> String {
        let mut text = self.command.display().to_string();
        for argument in &self.arguments {
            text.push(' ');
            text.push_str(&argument.to_string());
        }
        for parameter in &self.parameters {
            text.push_str(&format!("; {parameter}"));
        }
        let user = self.user.as_deref().unwrap_or("the agent's user");
        let limit = humantime::format_duration(self.time_limit);
        text.push_str(&format!("; as {user}, for {limit} at the most"));
        if self.is_exclusive {
            text.push_str(", one at a time");
        }
        text.push_str(&self.callers.describe());
        text
    }
}
