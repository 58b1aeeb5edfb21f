//! The agent's key: its own, in a file or in a Secret of its cluster, or one that the server has made.

mod file;
mod lifetime;
mod record;
mod secret;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result, bail};
use clap::Args;
use underpass_core::limits::NODE_LABELS_BYTES;
use underpass_core::{AgentRole, ClusterName, Labels, NodeName};
use underpass_tunnel::{Backoff, KeyError, PublicKey, chain};
use zeroize::Zeroizing;

pub(crate) use self::lifetime::KeyLifetime;
pub(crate) use self::record::{KeyRecord, OwnKey};
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
    /// How old a key of the agent's own becomes before a new one takes its place, without a break; half of it at the least, so that
    /// agents that joined together do not do so together. 1s to 3650d; never, or 0: it stays as it is
    #[arg(
        long,
        env = "UNDERPASS_KEY_LIFETIME",
        default_value = "30d",
        value_name = "TIME|never"
    )]
    pub(crate) key_lifetime: KeyLifetime,
    /// The agent's own keys, as they were read last.
    #[arg(skip)]
    held: Mutex<Option<KeyRecord>>,
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

    /// The role that the agent takes itself to be in: the command line's, or else the one that it has joined in.
    pub(crate) fn role(&self) -> AgentRole {
        let joined = self.record().and_then(|record| record.role);
        self.role.or(joined).unwrap_or_default()
    }

    /// The command line and the keys must not speak of two agents.
    fn must_agree(&self, record: &KeyRecord) -> Result<()> {
        let place = self.place();
        if let (Some(asked), Some(joined)) = (self.role, record.role)
            && asked != joined
        {
            bail!(
                "the agent has joined in the role {joined}, as {place} says, and --role is {asked}: leave --role out, or give the \
                 agent another key and join anew"
            );
        }
        if let (Some(asked), Some(joined)) = (&self.node_name, &record.node)
            && asked != joined
        {
            bail!(
                "the agent has joined as the node {joined}, as {place} says, and --node-name is {asked}: leave --node-name out, or \
                 give the agent another key and join anew"
            );
        }
        Ok(())
    }

    fn held(&self) -> MutexGuard<'_, Option<KeyRecord>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The agent's own keys, as they were read last; `None` for a static token.
    pub(crate) fn record(&self) -> Option<KeyRecord> {
        self.held().clone()
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
        let bytes: usize = labels
            .iter()
            .map(|(key, value)| key.len() + value.len())
            .sum();
        if bytes > NODE_LABELS_BYTES {
            bail!("--node-label: the labels have {bytes} bytes, and {NODE_LABELS_BYTES} may be");
        }
        Labels::try_from(labels).context("--node-label")
    }

    /// The text of the key. Blocks. That of a Secret is as it was read last.
    pub(crate) fn read(&self) -> Result<Zeroizing<String>> {
        if let Some(path) = &self.token_file {
            return Ok(files::read(path, limits::KEY_FILE_BYTES)?);
        }
        if let Some(path) = &self.key_file {
            let record = file::read(path)?;
            *self.held() = Some(record);
        }
        match &*self.held() {
            Some(record) => Ok(record.key.text().clone()),
            None => bail!("there is no key yet"),
        }
    }
}

/// Reads the agent's own keys again, from their file or their Secret.
pub(crate) async fn reread(cli: &Cli) -> Result<KeyRecord> {
    let key = &cli.key;
    let record = if let Some(name) = &key.key_secret {
        secret::read(cluster::config(cli).await?, name).await?
    } else {
        let path = key.key_file.clone().context(NOT_OWN)?;
        blocking(move || Ok(file::read(&path)?)).await?
    };
    *key.held() = Some(record.clone());
    Ok(record)
}

/// Changes the agent's own keys where they are kept, unless `change` says that there is nothing to change. It is called again where
/// another process was faster.
async fn change(
    cli: &Cli,
    change: impl Fn(&mut KeyRecord) -> Result<bool, KeyError> + Send + 'static,
) -> Result<KeyRecord> {
    let key = &cli.key;
    let record = if let Some(name) = &key.key_secret {
        secret::change(cluster::config(cli).await?, name, change).await?
    } else {
        let path = key.key_file.clone().context(NOT_OWN)?;
        blocking(move || Ok(file::change(&path, change)?)).await?
    };
    *key.held() = Some(record.clone());
    Ok(record)
}

/// Makes a next key, and keeps it beside the key with this public half, unless there is one or that key has gone: another process was
/// faster.
pub(crate) async fn begin(cli: &Cli, key: PublicKey) -> Result<KeyRecord> {
    change(cli, move |record| record.begin_after(&key)).await
}

/// Puts the next key with this public half into the place of the key, if it is still the next one.
pub(crate) async fn finish(cli: &Cli, next: PublicKey) -> Result<KeyRecord> {
    change(cli, move |record| Ok(record.finish(&next))).await
}

/// Keeps the role beside the key, and the name of the node, that the agent has joined in.
pub(crate) async fn joined(
    cli: &Cli,
    role: AgentRole,
    node: Option<NodeName>,
) -> Result<KeyRecord> {
    let note = move |record: &mut KeyRecord| {
        let (before, node) = ((record.role, record.node.clone()), node.clone());
        (record.role, record.node) = (Some(role), node);
        Ok(before != (record.role, record.node.clone()))
    };
    change(cli, note).await
}

const NOT_OWN: &str = "the agent has no key of its own";

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.context("the key was not read or written")?
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
        let origin = file::prepare(path)?;
        let record = file::read(path)?;
        key.must_agree(&record)?;
        *key.held() = Some(record);
        return Ok(origin);
    }
    let Some(name) = &key.key_secret else {
        return Ok(Origin::Found);
    };
    let mut backoff = Backoff::new(limits::KEY_SECRET_AGAIN, limits::KEY_SECRET_AGAIN_MOST);
    loop {
        match secret::prepare(cluster::config(cli).await?, name).await {
            Ok((record, origin)) => {
                key.must_agree(&record)?;
                *key.held() = Some(record);
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
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        key: KeyOptions,
    }

    fn options(flags: &[&str]) -> KeyOptions {
        let line = [&["x", "--key-file", "k"][..], flags].concat();
        Line::try_parse_from(line).unwrap().key
    }

    fn record(role: Option<AgentRole>, node: Option<&str>) -> KeyRecord {
        let mut record = KeyRecord::new(OwnKey::generate().unwrap());
        record.role = role;
        record.node = node.map(|node| node.parse().unwrap());
        record
    }

    #[test]
    fn an_agent_is_in_the_role_that_it_has_joined_in() {
        let asked = options(&[]);
        assert_eq!(asked.role(), AgentRole::Cluster, "before it joins");
        *asked.held() = Some(record(Some(AgentRole::Node), None));
        assert_eq!(asked.role(), AgentRole::Node);
        *asked.held() = Some(record(None, None));
        assert_eq!(asked.role(), AgentRole::Cluster, "a key of an older agent");
        let asked = options(&["--role", "node"]);
        *asked.held() = Some(record(None, None));
        assert_eq!(asked.role(), AgentRole::Node);
    }

    #[test]
    fn another_role_or_node_than_the_keys_is_refused_by_name() {
        let joined = record(Some(AgentRole::Node), Some("worker-1"));
        for flags in [
            &["--role", "node"][..],
            &["--role", "node", "--node-name", "worker-1"],
            &[],
        ] {
            options(flags).must_agree(&joined).unwrap();
        }
        let said = |flags: &[&str]| options(flags).must_agree(&joined).unwrap_err().to_string();
        let role = said(&["--role", "cluster"]);
        assert!(
            role.contains("role node, as k says") && role.contains("--role is cluster"),
            "{role}"
        );
        let node = said(&["--node-name", "worker-2"]);
        assert!(
            node.contains("worker-1") && node.contains("--node-name is worker-2"),
            "{node}"
        );
        options(&["--role", "node", "--node-name", "any"])
            .must_agree(&record(None, None))
            .unwrap();
    }
}
