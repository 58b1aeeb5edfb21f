//! The command line of nodes and operations on them.

use std::str::FromStr;

use clap::{Args, Subcommand};
use underpass_api::OperationId;
use underpass_core::ClusterName;

const AFTER_RUN: &str = "\
Example: underpass node run edge worker-1 etcd-snapshot file=monday.db

The exit status is the command's: 128 and the signal's number where a signal ended it, and 124 where its time was over. Ctrl-C leaves \
the operation running: `underpass node operations CLUSTER NODE ID --output` shows the rest, and `underpass node cancel` ends it.";

#[derive(Debug, Subcommand)]
pub(crate) enum Node {
    /// List the nodes of a cluster whose agents are connected
    List {
        /// Name of the cluster
        cluster: ClusterName,
    },
    /// Run an operation that the policy of the node's agent names, and show its output
    #[command(after_help = AFTER_RUN)]
    Run(NodeRun),
    /// List the operations that ran on a node, or show one
    Operations(NodeOperations),
    /// Kill the command of an operation
    Cancel {
        /// Name of the cluster
        cluster: ClusterName,
        /// Name of the node
        node: String,
        /// Id of the operation
        id: OperationId,
    },
}

#[derive(Debug, Args)]
pub(crate) struct NodeRun {
    /// Name of the cluster
    pub(crate) cluster: ClusterName,
    /// Name of the node, from `node list`
    pub(crate) node: String,
    /// Name of the operation, in the policy of the node's agent
    pub(crate) operation: String,
    /// Values of the operation's parameters. They are no secrets: records and audit logs show them
    #[arg(value_name = "PARAM=VALUE")]
    pub(crate) arguments: Vec<Argument>,
    /// Id of the run. An id that was used before is that run, and starts nothing: so a script may ask again. Without it, a random one
    #[arg(long)]
    pub(crate) id: Option<OperationId>,
    /// Print the id once the command runs, and do not wait for its end
    #[arg(long)]
    pub(crate) detach: bool,
}

#[derive(Debug, Args)]
pub(crate) struct NodeOperations {
    /// Name of the cluster
    pub(crate) cluster: ClusterName,
    /// Name of the node
    pub(crate) node: String,
    /// Id of an operation. Without it, the newest hundred
    pub(crate) id: Option<OperationId>,
    /// Show its output, until it ends; the exit status is the command's then
    #[arg(long, requires = "id")]
    pub(crate) output: bool,
}

/// A parameter with its value.
#[derive(Clone, Debug)]
pub(crate) struct Argument {
    pub(crate) name: String,
    pub(crate) value: String,
}

impl FromStr for Argument {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, value) = text
            .split_once('=')
            .ok_or_else(|| format!("{text:?} is not PARAM=VALUE"))?;
        Ok(Self {
            name: name.to_owned(),
            value: value.to_owned(),
        })
    }
}
