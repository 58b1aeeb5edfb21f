//! The protections of the node, of the agent and of other shells from a shell, and those that are missing.
//!
//! The process that becomes a shell's program tries each of them: the kernel's configuration, the rights of a container and the settings of an
//! administrator cannot be known otherwise. A trial without a program is [`Shells::probe`](crate::Shells::probe).

use std::fmt;

use underpass_agent_policy::{Protection, ShellRule};

use crate::error::OpenError;

/// A protection that is missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lack {
    /// The protection.
    pub protection: Protection,
    /// The call that the system refuses, and its reason.
    pub why: String,
}

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.protection, self.why)
    }
}

/// The protections that a shell should have, and that it lacks.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lacks(Vec<Lack>);

impl Lacks {
    /// The first reason for each stays.
    pub(crate) fn add(&mut self, protection: Protection, why: impl Into<String>) {
        if !self.have(protection) {
            let why = why.into();
            self.0.push(Lack { protection, why });
            self.0.sort_by_key(|own| own.protection);
        }
    }

    pub(crate) fn have(&self, protection: Protection) -> bool {
        self.0.iter().any(|own| own.protection == protection)
    }

    /// Those without which its rule allows no shell.
    fn required(&self, rule: &ShellRule) -> Vec<Lack> {
        let required: Vec<_> = rule.required_protections().collect();
        let lacks = self.0.iter();
        lacks
            .filter(|own| required.contains(&own.protection))
            .cloned()
            .collect()
    }

    /// # Errors
    /// The rule allows no shell without these.
    pub(crate) fn check(&self, rule: &ShellRule) -> Result<(), OpenError> {
        let missing = self.required(rule);
        match missing.is_empty() {
            true => Ok(()),
            false => Err(OpenError::Unprotected {
                kind: rule.kind(),
                missing,
            }),
        }
    }

    pub(crate) fn into_all(self) -> Vec<Lack> {
        self.0
    }
}
