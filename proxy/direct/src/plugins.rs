//! Which programs may be run as credential plugins, and with what.

use std::{collections::BTreeSet, path::PathBuf};

use underpass_core::Exec;

/// Which programs may be run as credential plugins. Whoever may change a cluster chooses the program and what it is called
/// with, so that the machine's operator says which there are.
#[derive(Clone, Debug)]
pub enum Plugins {
    /// These, and no other.
    Only {
        /// The programs, by absolute path.
        programs: BTreeSet<PathBuf>,
        /// Variables that a cluster may set for them, beside [`KNOWN_VARIABLES`].
        variables: BTreeSet<String>,
    },
    /// None is run here; what another process may run is not known.
    NotHere,
}

/// Variables of common plugins that say who asks, and name neither a file nor a program. Every other one needs the
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
        let none = BTreeSet::new();
        let (programs, variables) = match self {
            Self::Only {
                programs,
                variables,
            } => (programs, variables),
            Self::NotHere => (&BTreeSet::new(), &none),
        };
        // As it is written, since that is what runs.
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

    /// May a cluster have it? A process that runs no plugin leaves the answer to the one that does.
    ///
    /// # Errors
    /// As [`Plugins::check`].
    pub fn may_be_set(&self, exec: &Exec) -> Result<(), PluginError> {
        match self {
            Self::NotHere => Ok(()),
            Self::Only { .. } => self.check(exec),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rule_6_a_plugin_gets_no_variable_that_the_operator_does_not_know() {
        let plugins = Plugins::Only {
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
        Plugins::NotHere.check(&exec("/p", "STAGE")).unwrap_err();
        Plugins::NotHere
            .may_be_set(&exec("/p", "LD_PRELOAD"))
            .unwrap();
    }
}
