//! The program of a credential plugin, and what it is told.

use std::collections::BTreeMap;

use kube::config::{ExecConfig, ExecInteractiveMode};
use serde_json::json;
use zeroize::Zeroizing;

use underpass_core::Exec;

/// The forms of questions and answers, which mean the same to us.
pub(super) const FORMS: [&str; 2] = [
    "client.authentication.k8s.io/v1",
    "client.authentication.k8s.io/v1beta1",
];

/// Why a kubeconfig's plugin cannot be run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExecConfigError {
    /// There is no `command`.
    #[error("the kubeconfig's exec plugin has no command")]
    Command,
    /// Another `apiVersion`, or none.
    #[error(
        "the kubeconfig's exec plugin has the apiVersion {0:?}; supported are client.authentication.k8s.io/v1 and v1beta1"
    )]
    Version(String),
    /// `interactiveMode: Always`.
    #[error(
        "the kubeconfig's exec plugin has the interactiveMode Always, but nobody sits at a terminal here: use a plugin that needs \
         no user"
    )]
    Interactive,
    /// `provideClusterInfo` without a cluster.
    #[error(
        "the kubeconfig's exec plugin asks for its cluster (provideClusterInfo), which is not known"
    )]
    Cluster,
}

/// A program and its input.
#[derive(PartialEq)]
pub(crate) struct Program {
    pub(super) command: String,
    pub(super) args: Vec<Zeroizing<String>>,
    pub(super) env: BTreeMap<String, Zeroizing<String>>,
    /// `KUBERNETES_EXEC_INFO`.
    pub(super) info: String,
    /// How to install it.
    pub(super) hint: Option<String>,
    pub(super) chosen_by: ChosenBy,
}

/// The chooser of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ChosenBy {
    /// An administrator of the directory: it gets nothing of our environment but `PATH` and `HOME`.
    Directory,
    /// The machine's operator, by a kubeconfig: it gets our environment, as client-go's plugins do.
    Operator,
}

impl std::fmt::Debug for Program {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Program")
            .field("command", &self.command)
            .field("chosen_by", &self.chosen_by)
            .finish_non_exhaustive()
    }
}

impl From<Exec> for Program {
    fn from(exec: Exec) -> Self {
        let [form, _] = FORMS;
        Self {
            command: exec.command,
            args: exec.args,
            env: exec.env,
            info: question(form, &json!({ "interactive": false })),
            hint: None,
            chosen_by: ChosenBy::Directory,
        }
    }
}

impl Program {
    /// The plugin of a kubeconfig's user. Relative paths are the kubeconfig's reader's to resolve.
    pub(crate) fn of_kubeconfig(exec: &ExecConfig) -> Result<Self, ExecConfigError> {
        let command = exec.command.clone().filter(|command| !command.is_empty());
        let command = command.ok_or(ExecConfigError::Command)?;
        let version = exec.api_version.as_deref().unwrap_or_default();
        if !FORMS.contains(&version) {
            return Err(ExecConfigError::Version(version.to_owned()));
        }
        if exec.interactive_mode == Some(ExecInteractiveMode::Always) {
            return Err(ExecConfigError::Interactive);
        }
        let mut spec = json!({ "interactive": false });
        if exec.provide_cluster_info {
            let cluster = exec.cluster.as_ref().ok_or(ExecConfigError::Cluster)?;
            let cluster = serde_json::to_value(cluster).map_err(|_| ExecConfigError::Cluster)?;
            spec = json!({ "interactive": false, "cluster": cluster });
        }
        let args = exec.args.iter().flatten();
        let env = exec.env.iter().flatten().filter_map(|one| {
            let value = one.get("value").cloned().unwrap_or_default();
            Some((one.get("name")?.clone(), Zeroizing::new(value)))
        });
        Ok(Self {
            command,
            args: args.cloned().map(Zeroizing::new).collect(),
            env: env.collect(),
            info: question(version, &spec),
            hint: exec.install_hint.clone().filter(|hint| !hint.is_empty()),
            chosen_by: ChosenBy::Operator,
        })
    }

    pub(crate) fn chosen_by(&self) -> ChosenBy {
        self.chosen_by
    }
}

/// No user can be prompted, and the answer has this form.
fn question(form: &str, spec: &serde_json::Value) -> String {
    json!({ "apiVersion": form, "kind": "ExecCredential", "spec": spec }).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(exec: serde_json::Value) -> Result<Program, ExecConfigError> {
        Program::of_kubeconfig(&serde_json::from_value(exec).unwrap())
    }

    fn info(program: &Program) -> serde_json::Value {
        serde_json::from_str(&program.info).unwrap()
    }

    #[test]
    fn a_plugin_is_told_what_client_go_tells_it() {
        for form in FORMS {
            let exec = json!({
                "apiVersion": form,
                "command": "p",
                "args": ["a"],
                "env": [{ "name": "A", "value": "b" }, { "name": "EMPTY" }],
                "interactiveMode": "IfAvailable",
                "installHint": "brew install p",
            });
            let program = program(exec).unwrap();
            assert_eq!(
                info(&program),
                json!({ "apiVersion": form, "kind": "ExecCredential", "spec": { "interactive": false } })
            );
            assert_eq!(program.env["A"].as_str(), "b");
            assert_eq!(program.env["EMPTY"].as_str(), "");
            assert_eq!(program.args[0].as_str(), "a");
            assert_eq!(program.hint.as_deref(), Some("brew install p"));
        }
    }

    #[test]
    fn a_plugin_is_told_its_cluster_where_it_asks() {
        let exec = json!({ "apiVersion": FORMS[0], "command": "p", "provideClusterInfo": true });
        let mut exec: ExecConfig = serde_json::from_value(exec).unwrap();
        let without = Program::of_kubeconfig(&exec);
        assert!(matches!(without, Err(ExecConfigError::Cluster)));
        let cluster = json!({
            "server": "https://h:6443",
            "tls-server-name": "n",
            "certificate-authority-data": "Y2E=",
            "config": { "audience": "x" },
        });
        exec.cluster = Some(serde_json::from_value(cluster.clone()).unwrap());
        let program = Program::of_kubeconfig(&exec).unwrap();
        assert_eq!(info(&program)["spec"]["cluster"], cluster);
    }

    #[test]
    fn a_plugin_that_cannot_be_run_here_is_refused() {
        let none = program(json!({ "apiVersion": FORMS[0] }));
        assert!(matches!(none, Err(ExecConfigError::Command)));
        for version in ["", "client.authentication.k8s.io/v1alpha1"] {
            let old = program(json!({ "apiVersion": version, "command": "p" }));
            assert!(matches!(old, Err(ExecConfigError::Version(named)) if named == version));
        }
        let prompts =
            json!({ "apiVersion": FORMS[0], "command": "p", "interactiveMode": "Always" });
        assert!(matches!(
            program(prompts),
            Err(ExecConfigError::Interactive)
        ));
    }

    #[test]
    fn rule_11_a_plugins_input_is_not_shown() {
        let exec = json!({
            "apiVersion": FORMS[0],
            "command": "p",
            "args": ["hunter2"],
            "env": [{ "name": "A", "value": "hunter2" }],
        });
        assert!(!format!("{:?}", program(exec).unwrap()).contains("hunter2"));
    }
}
