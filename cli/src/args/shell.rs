//! The command line of shells.

use clap::{Args, Subcommand};
use underpass_core::{ClusterName, NodeName, ShellId, ShellKind};

use super::proxy::Protocol;

pub(crate) const AFTER_SHELL: &str = "\
Examples:
  underpass shell edge                      a shell at the cluster's agent
  underpass shell edge --node worker-1      a shell at that node's agent
  underpass shell list edge
  underpass shell edge --attach ID
  underpass shell edge -- kubectl get pods --watch      where the agent's policy takes commands
  underpass shell edge --detach -- ./backup.sh          prints the id of the shell, which goes on

At the beginning of a line, Enter ~ leads to: ~. detaches and the shell goes on, ~t takes the keyboard over from another viewer, \
~? shows these keys, and ~~ types a ~. The shell outlives this program: it ends with its program, when it is idle or detached for \
longer than its agent's policy allows, and with the permission for it. The exit status is the shell's, and 0 after detaching.";

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct Shell {
    #[command(subcommand)]
    pub(crate) command: Option<ShellCommand>,
    /// Name of the cluster
    #[arg(required = true)]
    pub(crate) cluster: Option<ClusterName>,
    #[command(flatten)]
    pub(crate) at: At,
    /// Attach to this shell, which `underpass shell list` shows, in place of opening one
    #[arg(long, value_name = "ID")]
    pub(crate) attach: Option<ShellId>,
    /// Kind of the shell: kubectl is the caller's own, and node is one of the node itself, which is a permission of its own
    #[arg(
        long,
        default_value_t,
        value_name = "kubectl|node",
        conflicts_with = "attach"
    )]
    pub(crate) kind: ShellKind,
    /// Write to the shell though another viewer does, which then watches
    #[arg(long, requires = "attach", conflicts_with = "watch")]
    pub(crate) take_over: bool,
    /// Watch the shell, and type nothing
    #[arg(long, requires = "attach")]
    pub(crate) watch: bool,
    /// Protocol between here and the server: QUIC, WebSocket where that fails, or one of them alone
    #[arg(long, default_value = "auto", value_name = "auto|quic|websocket")]
    pub(crate) transport: Protocol,
    /// Open the shell, print its id, and do not attach
    #[arg(long, conflicts_with = "attach")]
    pub(crate) detach: bool,
    /// Program and arguments for the shell, in the place of those that the agent's policy names, where that allows it
    #[arg(last = true, value_name = "COMMAND", conflicts_with = "attach")]
    pub(crate) words: Vec<String>,
}

/// The agent that has the shells.
#[derive(Clone, Debug, Args)]
pub(crate) struct At {
    /// The agent of this node, in place of the cluster's. `underpass node list` shows the nodes
    #[arg(long, value_name = "NODE")]
    pub(crate) node: Option<NodeName>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ShellCommand {
    /// List your shells
    List {
        /// Name of the cluster
        cluster: ClusterName,
        #[command(flatten)]
        at: At,
    },
    /// End a shell, with all of its processes
    End {
        /// Name of the cluster
        cluster: ClusterName,
        /// Id of the shell
        id: ShellId,
        #[command(flatten)]
        at: At,
    },
}
