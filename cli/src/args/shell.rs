//! The command line of shells.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use underpass_core::{ClusterName, NodeName, ShellId, ShellKind};

use super::proxy::Protocol;

pub(crate) const AFTER_SHELL: &str = "\
Examples:
  underpass shell edge                      a shell at the cluster's agent
  underpass shell edge --node worker-1      a shell at that node's agent
  underpass shell list edge
  underpass shell edge --attach ID
  underpass shell recordings edge
  underpass shell play edge ID --max-wait 1s
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
    /// List the recordings of a cluster's shells: yours, and with the role admin everybody's. CHANGED in the last column says that
    /// a recording's file is not as it was when it was finished
    Recordings {
        /// Name of the cluster
        cluster: ClusterName,
        /// Remove this recording, in place of listing them
        #[arg(long, value_name = "ID")]
        remove: Option<ShellId>,
    },
    /// Play the recording of a shell in this terminal, as far as it draws there: nothing of it reaches the clipboard or asks the terminal
    /// anything. Ctrl-C and q end it
    Play(Play),
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

#[derive(Debug, Args)]
pub(crate) struct Play {
    /// Name of the cluster
    pub(crate) cluster: ClusterName,
    /// Id of the shell, which `underpass shell recordings` shows
    pub(crate) id: ShellId,
    /// Play so many times as fast
    #[arg(long, value_name = "N", default_value = "1", value_parser = speed)]
    pub(crate) speed: f64,
    /// Wait no longer than this between two events
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub(crate) max_wait: Option<Duration>,
    /// Write the recording to this new file, as asciicast v2 and for its owner alone, in place of playing it
    #[arg(long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// Replace the file that there is
    #[arg(long, requires = "output")]
    pub(crate) force: bool,
}

fn speed(text: &str) -> Result<f64, String> {
    let speed = text.parse().ok();
    let speed = speed.filter(|speed| (0.01..=1000.0).contains(speed));
    speed.ok_or_else(|| "a speed is a number from 0.01 to 1000".to_owned())
}
