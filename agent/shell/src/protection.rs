//! The protections of the node, of the agent and of other shells from a shell.
//!
//! **None of them is built yet**: a shell runs as the agent's own user, and has what that has. A rule of the policy therefore has to
//! name each protection of its kind as one that may be missing, and without that no shell is opened. Each that is built is listed in
//! [`BUILT`], is asked of the system here, and is entered by the [helper](crate::helper) between the new session and the program.

use underpass_agent_policy::{Protection, ShellRule};

use crate::error::OpenError;

/// The protections that this crate can give a shell, where the kernel allows them.
const BUILT: &[Protection] = &[];

/// The protections that shells of this rule's kind should have, and that this one will not have.
///
/// # Errors
/// The rule allows no shell without them.
pub(crate) fn missing(rule: &ShellRule) -> Result<Vec<Protection>, OpenError> {
    let is_missing = |wanted: &Protection| !BUILT.contains(wanted);
    let required: Vec<_> = rule.required_protections().filter(is_missing).collect();
    match required.is_empty() {
        true => {
            let wanted = rule.kind().protections().iter().copied();
            Ok(wanted.filter(is_missing).collect())
        }
        false => Err(OpenError::Unprotected {
            kind: rule.kind(),
            missing: required,
        }),
    }
}
