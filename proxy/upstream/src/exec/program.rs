//! The program of a credential plugin, and what it is told.

use std::collections::BTreeMap;

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use kube::config::{ExecConfig, ExecInteractiveMode};
use serde_json::json;
use zeroize::Zeroizing;

use crate::tls;
use underpass_core::Exec;

/// `KUBERNETES_EXEC_INFO` of the directory's plugins is shorter: Linux starts no program with a variable of 128 KiB. The CAs of a
/// cluster may take as much.
const INFO_BYTES: usize = 96 * 1024;

/// The forms of questions and answers, which mean the same to us.
pub(super) static FORMS: [&str; 2] = [
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
    /// The forms that its answer may have: a kubeconfig asks for one, and the directory for none.
    pub(super) forms: &'static [&'static str],
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

impl Program {
    /// A plugin of the directory. It is told of its cluster without being asked: that is no secret, and the directory does not say
    /// whether the program wants it.
    pub(crate) fn of_directory(exec: Exec, config: &kube::Config) -> Self {
        let [form, _] = FORMS;
        let info = question(
            form,
            &json!({ "interactive": false, "cluster": cluster(config) }),
        );
        let info = match info.len() {
            0..INFO_BYTES => info,
            _ => question(form, &json!({ "interactive": false })),
        };
        Self {
            command: exec.command,
            args: exec.args,
            env: exec.env,
            info,
            forms: &FORMS,
            hint: None,
            chosen_by: ChosenBy::Directory,
        }
    }

    /// The plugin of a kubeconfig's user. Relative paths are the kubeconfig's reader's to resolve.
    pub(crate) fn of_kubeconfig(exec: &ExecConfig) -> Result<Self, ExecConfigError> {
        let command = exec.command.clone().filter(|command| !command.is_empty());
        let command = command.ok_or(ExecConfigError::Command)?;
        let version = exec.api_version.as_deref().unwrap_or_default();
        let forms = FORMS.chunks(1).find(|forms| forms.contains(&version));
        let forms = forms.ok_or_else(|| ExecConfigError::Version(version.to_owned()))?;
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
            forms,
            hint: exec.install_hint.clone().filter(|hint| !hint.is_empty()),
            chosen_by: ChosenBy::Operator,
        })
    }

    pub(crate) fn chosen_by(&self) -> ChosenBy {
        self.chosen_by
    }
}

/// The cluster of a configuration, in the form of `client.authentication.k8s.io`.
fn cluster(config: &kube::Config) -> serde_json::Value {
    let server = config.cluster_url.to_string();
    let server = server.trim_end_matches('/');
    let mut cluster = serde_json::Map::from_iter([("server".to_owned(), json!(server))]);
    if let Some(name) = &config.tls_server_name {
        cluster.insert("tls-server-name".to_owned(), json!(name));
    }
    if let Some(authorities) = &config.root_cert {
        let pem: String = authorities.iter().map(|der| tls::pem(der)).collect();
        let data = json!(BASE64.encode(pem));
        cluster.insert("certificate-authority-data".to_owned(), data);
    }
    cluster.into()
}

/// No user can be prompted, and the answer has this form.
fn question(form: &str, spec: &serde_json::Value) -> String {
    json!({ "apiVersion": form, "kind": "ExecCredential", "spec": spec }).to_string()
}

#[cfg(test)]
mod tests {
    use rustls_pki_types::{CertificateDer, pem::PemObject};

    use super::*;
    use crate::testing::make;

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
    fn a_plugin_of_the_directory_is_told_its_cluster() {
        let exec = Exec {
            command: "/p".to_owned(),
            args: Vec::new(),
            env: BTreeMap::new(),
        };
        let mut config = kube::Config::new("https://h:6443".parse().unwrap());
        let told = info(&Program::of_directory(exec.clone(), &config));
        assert_eq!(
            told["spec"],
            json!({ "interactive": false, "cluster": { "server": "https://h:6443" } })
        );
        let made = make();
        config.cluster_url = "https://h/k8s/clusters/x".parse().unwrap();
        config.tls_server_name = Some("n".to_owned());
        config.root_cert = Some(vec![made.certificate.der().to_vec()]);
        let told = info(&Program::of_directory(exec.clone(), &config));
        let cluster = &told["spec"]["cluster"];
        assert_eq!(cluster["server"], "https://h/k8s/clusters/x");
        assert_eq!(cluster["tls-server-name"], "n");
        let pem = BASE64.decode(cluster["certificate-authority-data"].as_str().unwrap());
        let read = CertificateDer::from_pem_slice(&pem.unwrap()).unwrap();
        assert_eq!(&read, made.certificate.der());
        config.root_cert = Some(vec![vec![0; INFO_BYTES]]);
        let told = info(&Program::of_directory(exec, &config));
        assert_eq!(told["spec"], json!({ "interactive": false }));
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
