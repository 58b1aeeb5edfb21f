//! Inside a shell of the kind `kubectl`, kubectl is the shell's user.
//!
//! Each such shell has an HTTPS listener of its own on this machine, and a kubeconfig for it in its home. A program that shows the
//! listener's token reaches the API server as the shell's user and as no other, by the way of the server's own streams ([`KubeApi`]). It
//! may ask for what the server has said that this user may ask for. The listener closes when the shell begins to end, with all that it
//! carries.

mod answer;
mod requests;
mod standing;

#[cfg(test)]
mod tests;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use underpass_agent_policy::ShellRule;
use underpass_agent_shell::{Given, HomeFile, Shells};
use underpass_core::{Identity, IdentityError, Permission, ShellId};
use underpass_loopback::{BindError, Entry, Loopback};

use self::requests::{Requests, Shared};
pub(super) use self::standing::Kept;
use self::standing::Standing;
use crate::kube_api::KubeApi;
use crate::limits;

/// The name of kubeconfig's only context.
const CONTEXT: &str = "shell";

const PROGRAM: &str = "kubectl";

const ANY_PORT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// The way of one shell's programs to the API server. It closes when this is dropped.
#[derive(Debug)]
pub(super) struct Kubectl {
    shared: Arc<Shared>,
    standing: Arc<Standing>,
    closing: CancellationToken,
}

/// Why a shell's kubectl has no way.
#[derive(Debug, thiserror::Error)]
pub(super) enum KubectlError {
    #[error("kubectl's listener cannot be made")]
    Bind(#[from] BindError),
    #[error("the caller's identity cannot be written")]
    Identity(#[from] IdentityError),
}

impl Kubectl {
    /// Listens for a shell of this caller's that is to be opened. Gives what the shell needs for it.
    pub(super) async fn open(
        kube: &KubeApi,
        rule: &Arc<ShellRule>,
        caller: &Identity,
        may: &[Permission],
    ) -> Result<(Self, Given), KubectlError> {
        let loopback = Loopback::bind(ANY_PORT).await?;
        let loopback = loopback.at_most(limits::SHELL_CONNECTIONS);
        let entry = Entry {
            name: CONTEXT.to_owned(),
            path: String::new(),
            server_name: None,
        };
        let kubeconfig = HomeFile {
            name: "kubeconfig".to_owned(),
            variable: Some("KUBECONFIG".to_owned()),
            content: loopback.kubeconfig(&[entry]).as_bytes().to_vec(),
        };
        let given = Given {
            files: vec![kubeconfig],
            notices: notices(kube, rule).await,
            ..Given::default()
        };
        let (standing, closing) = (Standing::new(may), CancellationToken::new());
        let shared = Shared::new(kube.clone(), caller, Arc::clone(&standing), closing.clone())?;
        let shared = Arc::new(shared);
        let serving = loopback.serve(Requests(Arc::clone(&shared)), closing.clone());
        tokio::spawn(serving);
        let kubectl = Self {
            shared,
            standing,
            closing,
        };
        Ok((kubectl, given))
    }

    /// Says of which shell it is, for the log.
    pub(super) fn is_of(&self, id: &ShellId) {
        self.shared.is_of(id);
    }

    /// Lets the shell ask for no more than this from now on, and ends its other requests.
    pub(super) fn narrow(&self, may: &[Permission]) {
        self.standing.narrow(may);
    }

    /// The server has a stream about the shell, by which it takes the permission back, until this is dropped.
    pub(super) fn kept(&self) -> Kept {
        self.standing.kept()
    }

    /// Closes it, and ends all that it carries.
    pub(super) fn close(&self) {
        self.closing.cancel();
    }
}

impl Drop for Kubectl {
    fn drop(&mut self) {
        self.close();
    }
}

/// Whether the shells of this rule have kubectl.
pub(super) async fn is_there(rule: &Arc<ShellRule>) -> bool {
    let rule = Arc::clone(rule);
    let looking = tokio::task::spawn_blocking(move || Shells::finds(&rule, PROGRAM));
    // A file system that hangs withholds no shell.
    match tokio::time::timeout(limits::SHELL_LOOK, looking).await {
        Ok(Ok(found)) => found,
        Ok(Err(_)) | Err(_) => true,
    }
}

/// The reasons that kubectl will not do in a shell, for its user.
async fn notices(kube: &KubeApi, rule: &Arc<ShellRule>) -> Vec<String> {
    let mut notices = Vec::new();
    if !is_there(rule).await {
        notices.push(format!("underpass: {MISSING}"));
    }
    if let Err(no_way) = kube.way() {
        notices.push(format!(
            "underpass: kubectl does not reach the API server from here: {no_way}"
        ));
    }
    notices
}

/// For the user, and for the agent's log.
pub(super) const MISSING: &str = "there is no kubectl on the PATH of this shell: install it on the node, or name its folder in the agent's \
                                  policy (shells.kubectl.environment.set.PATH)";
