//! The programs that may run as credential plugins, and their variables.

use std::{collections::BTreeSet, path::PathBuf};

use underpass_core::Exec;

/// The programs that may be run as credential plugins. Administrators choose a cluster's program and its arguments, so that the
/// machine's operator says which programs there are. The default has none.
#[derive(Clone, Debug, Default)]
pub struct Plugins {
    /// The programs, by absolute path.
    pub programs: BTreeSet<PathBuf>,
    /// Variables that a cluster may set for them, beside [`KNOWN_VARIABLES`].
    pub variables: BTreeSet<String>,
}

/// Variables of common plugins that identify the caller, and name neither a file nor a program. Every other one needs the
/// operator's word: too many make a program run another's code (`LD_PRELOAD`, `CLOUDSDK_PYTHON`, a configuration file with
/// `credential_process`) for a list of those to be complete.
pub const KNOWN_VARIABLES: [&str; 16] = [
    "AAD_LOGIN_METHOD",
    "AAD_SERVICE_PRINCIPAL_CLIENT_ID",
    "AAD_SERVICE_PRINCIPAL_CLIENT_SECRET",
    "AWS_ACCESS_KEY_ID",
    "AWS_DEFAULT_REGION",
    "AWS_PROFILE",
    "AWS_REGION",
    "AWS_ROLE_ARN",
    "AWS_ROLE_SESSION_NAME",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_STS_REGIONAL_ENDPOINTS",
    "AZURE_CLIENT_ID",
    "AZURE_CLIENT_SECRET",
    "AZURE_ENVIRONMENT",
    "AZURE_TENANT_ID",
];

/// Why a plugin is not run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PluginError {
    /// It is not one of the programs that may be.
    #[error(
        "the exec plugin {0:?} is not allowed here: the server's operator has to start it with --allow-exec-plugin {0:?}"
    )]
    Program(String),
    /// The cluster sets a variable that it may not set.
    #[error(
        "the exec plugin may not have the variable {0:?} here: the server's operator has to start it with \
         --allow-exec-plugin-variable {0:?}"
    )]
    Variable(String),
}

impl Plugins {
    /// May it be run here?
    ///
    /// # Errors
    /// The program, or the first of its variables that may not be.
    pub fn check(&self, exec: &Exec) -> Result<(), PluginError> {
        let Self {
            programs,
            variables,
        } = self;
        // As it is written, since that path runs.
        let mut allowed = programs.iter();
        if !allowed.any(|path| path.as_os_str() == exec.command.as_str()) {
            return Err(PluginError::Program(exec.command.clone()));
        }
        let known = |name: &&String| {
            KNOWN_VARIABLES.contains(&name.as_str()) || variables.contains(name.as_str())
        };
        match exec.env.keys().find(|name| !known(name)) {
            Some(name) => Err(PluginError::Variable(name.clone())),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rule_6_a_plugin_gets_no_variable_that_the_operator_does_not_know() {
        let plugins = Plugins {
            programs: BTreeSet::from([PathBuf::from("/p")]),
            variables: BTreeSet::from(["STAGE".to_owned()]),
        };
        let exec = |command: &str, variable: &str| Exec {
            command: command.to_owned(),
            args: Vec::new(),
            env: [(variable.to_owned(), "x".to_owned().into())].into(),
        };
        for known in ["AWS_PROFILE", "STAGE"] {
            plugins.check(&exec("/p", known)).unwrap();
        }
        for unknown in [
            "LD_PRELOAD",
            "PATH",
            "BASH_ENV",
            "NODE_OPTIONS",
            "CLOUDSDK_PYTHON",
            "AWS_CONFIG_FILE",
            "GIT_SSH_COMMAND",
            "stage",
        ] {
            let refused = plugins.check(&exec("/p", unknown)).unwrap_err();
            assert_eq!(refused, PluginError::Variable(unknown.to_owned()));
        }
        let refused = plugins.check(&exec("/p/../q", "STAGE")).unwrap_err();
        assert!(matches!(refused, PluginError::Program(_)));
        let none = Plugins::default();
        none.check(&exec("/p", "STAGE")).unwrap_err();
    }
}
