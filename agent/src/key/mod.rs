//! The agent's key: its own, in a file or in a Secret of its cluster, or one that the server has made.

mod file;
mod secret;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use underpass_core::{AgentRole, ClusterName, Labels, NodeName};
use underpass_tunnel::{Backoff, chain};
use zeroize::Zeroizing;

use self::secret::SecretName;
use crate::cli::Cli;
use crate::{cluster, files, limits};

/// A key that is there now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// It was there before.
    Found,
    /// It was made now: no server knows it.
    Made,
}

/// The agent's key.
#[derive(Debug, Args)]
pub(crate) struct KeyOptions {
    /// File of the agent's own key, which the first start makes. With it the agent joins by a join token, and needs
    /// the token no more. To join anew, delete the file
    #[arg(
        long,
        env = "UNDERPASS_KEY_FILE",
        value_name = "FILE",
        group = "agent_key"
    )]
    key_file: Option<PathBuf>,
    /// The same in a Secret of the agent's cluster, for pods without a volume. `underpass-agent rbac --key-secret NAME`
    /// prints the Role that lets the agent read and write this one Secret
    #[arg(
        long,
        env = "UNDERPASS_KEY_SECRET",
        value_name = "NAMESPACE/NAME",
        group = "agent_key"
    )]
    key_secret: Option<SecretName>,
    /// File with a join token (`underpass cluster add` prints one), which may also stand in the environment, as
    /// UNDERPASS_JOIN_TOKEN. It is used when the server does not know the key, and read again when it changes
    #[arg(
        long,
        env = "UNDERPASS_JOIN_TOKEN_FILE",
        value_name = "FILE",
        conflicts_with = "token_file"
    )]
    pub(crate) join_token_file: Option<PathBuf>,
    /// File with a ServiceAccount's token of the agent's own pod (a projected volume, whose audience is the server's URL), with which it
    /// joins instead of a join token: an agent of the cluster that is connected already has the cluster review it. `underpass cluster
    /// join-account add` names the account
    #[arg(
        long,
        env = "UNDERPASS_JOIN_SERVICE_ACCOUNT_TOKEN",
        value_name = "FILE",
        requires = "cluster",
        conflicts_with_all = ["token_file", "join_token_file"]
    )]
    pub(crate) join_service_account_token: Option<PathBuf>,
    /// The cluster's name at the server, for --join-service-account-token
    #[arg(
        long,
        env = "UNDERPASS_CLUSTER",
        value_name = "NAME",
        requires = "join_service_account_token"
    )]
    pub(crate) cluster: Option<ClusterName>,
    /// The role to join in: a join token for another one is refused. Without it, the token's. An agent on a node needs it:
    /// `node` is served the API server only where its policy says so, and needs no --kubeconfig otherwise
    #[arg(
        long,
        env = "UNDERPASS_ROLE",
        value_name = "cluster|node",
        conflicts_with = "token_file"
    )]
    pub(crate) role: Option<AgentRole>,
    /// The name of the node that the agent runs on, which it joins by; without it, with `--role node`, the machine's host name
    #[arg(
        long,
        env = "UNDERPASS_NODE_NAME",
        value_name = "NAME",
        conflicts_with = "token_file"
    )]
    node_name: Option<NodeName>,
    /// A label of the node, which `underpass node list` shows; repeat for more. The agent registers them when it joins
    #[arg(
        long = "node-label",
        env = "UNDERPASS_NODE_LABELS",
        value_name = "KEY=VALUE",
        value_delimiter = ',',
        value_parser = label,
        conflicts_with = "token_file"
    )]
    node_labels: Vec<(String, String)>,
    /// File with a static token, a key that the server has made (`underpass cluster add --static-token` prints one),
    /// instead of a key of the agent's own
    #[arg(
        long,
        env = "UNDERPASS_TOKEN_FILE",
        value_name = "FILE",
        group = "agent_key"
    )]
    pub(crate) token_file: Option<PathBuf>,
    /// The key of the Secret, once it is known.
    #[arg(skip)]
    held: Held,
}

/// A key in memory. It shows nothing of itself.
#[derive(Default)]
struct Held(OnceLock<Zeroizing<String>>);

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Held(…)")
    }
}

impl KeyOptions {
    /// Files that hold the key, or let somebody have one.
    pub(crate) fn files(&self) -> impl Iterator<Item = &PathBuf> {
        let files = [
            &self.key_file,
            &self.join_token_file,
            &self.join_service_account_token,
            &self.token_file,
        ];
        files.into_iter().flatten()
    }

    /// The place of the key, for people.
    pub(crate) fn place(&self) -> String {
        let path = self.key_file.as_deref().or(self.token_file.as_deref());
        match (&self.key_secret, path) {
            (Some(secret), _) => format!("the Secret {secret}"),
            (None, path) => path.unwrap_or(Path::new("")).display().to_string(),
        }
    }

    /// The role that the agent takes itself to be in.
    pub(crate) fn role(&self) -> AgentRole {
        self.role.unwrap_or_default()
    }

    /// Is it a key of the agent's own?
    pub(crate) fn is_own(&self) -> bool {
        self.key_file.is_some() || self.key_secret.is_some()
    }

    /// The name of the node that the agent runs on; `None` where it is none of the node's.
    pub(crate) fn node(&self) -> Option<NodeName> {
        if self.node_name.is_some() || self.role != Some(AgentRole::Node) {
            return self.node_name.clone();
        }
        let system = rustix::system::uname();
        let host = system.nodename().to_str().unwrap_or_default();
        host.to_ascii_lowercase().parse().ok()
    }

    /// The labels of the node.
    pub(crate) fn labels(&self) -> Result<Labels> {
        let labels: BTreeMap<_, _> = self.node_labels.iter().cloned().collect();
        Labels::try_from(labels).context("--node-label")
    }

    /// The text of the key. Blocks.
    pub(crate) fn read(&self) -> Result<Zeroizing<String>> {
        if let Some(path) = &self.key_file {
            return Ok(file::read(path)?);
        }
        if let Some(path) = &self.token_file {
            return Ok(files::read(path, limits::KEY_FILE_BYTES)?);
        }
        match self.held.0.get() {
            Some(text) => Ok(text.clone()),
            None => bail!("there is no key yet"),
        }
    }
}

fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text
        .split_once('=')
        .ok_or_else(|| format!("{text:?} is not KEY=VALUE"))?;
    let pair = (key.to_owned(), value.to_owned());
    let checked = Labels::try_from(BTreeMap::from([pair.clone()]));
    checked.map(|_| pair).map_err(|error| error.to_string())
}

/// Makes the agent's own key, where it is to have one and has none. Waits for an API server that is away, where the key is in a
/// Secret.
pub(crate) async fn prepare(cli: &Cli) -> Result<Origin> {
    let key = &cli.key;
    if let Some(path) = &key.key_file {
        return Ok(file::prepare(path)?);
    }
    let Some(name) = &key.key_secret else {
        return Ok(Origin::Found);
    };
    let mut backoff = Backoff::new(limits::KEY_SECRET_AGAIN, limits::KEY_SECRET_AGAIN_MOST);
    loop {
        match secret::prepare(cluster::config(cli).await?, name).await {
            Ok((text, origin)) => {
                let _ = key.held.0.set(text);
                return Ok(origin);
            }
            Err(error) if error.is_transient() => {
                let wait = backoff.failed(rand::random());
                tracing::warn!("{} (trying again in {wait:.1?})", chain(&error));
                tokio::time::sleep(wait).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rule_11_a_key_in_memory_is_not_shown() {
        let held = Held::default();
        held.0.set(Zeroizing::new("upa_secret".to_owned())).unwrap();
        assert_eq!(format!("{held:?}"), "Held(…)");
    }
}
