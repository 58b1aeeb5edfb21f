//! The command line of commands in pods.

use clap::Args;
use underpass_core::ClusterName;

use super::proxy::Protocol;

pub(super) const AFTER_EXEC: &str = "\
Examples:
  underpass exec edge -n shop web-0 -- ls /data
  underpass exec edge -n shop -it deploy/web -c app -- sh
  underpass exec edge -i db-0 -- psql < dump.sql

The command, its pod and its container are as in `kubectl exec`, and so are its standard streams and its exit status. A loss of your \
network, or a minute of sleep, does not end it: it goes on at the byte when the connection is back.";

#[derive(Debug, Args)]
pub(crate) struct Exec {
    /// Name of the cluster
    pub(crate) cluster: ClusterName,
    /// Name of the pod, or TYPE/NAME of an object that has pods, such as deploy/web, of which a ready one is taken
    #[arg(value_name = "POD|TYPE/NAME")]
    pub(crate) pod: String,
    /// Namespace of the pod
    #[arg(long, short, default_value = "default", value_name = "NAMESPACE")]
    pub(crate) namespace: String,
    /// Container of the pod. Without it, the one that the pod's annotation kubectl.kubernetes.io/default-container names, or else
    /// the first
    #[arg(long, short, value_name = "CONTAINER")]
    pub(crate) container: Option<String>,
    /// Pass standard input to the command
    #[arg(long, short = 'i')]
    pub(crate) stdin: bool,
    /// Give the command a terminal, with -i and at a terminal
    #[arg(long, short)]
    pub(crate) tty: bool,
    /// Say nothing but what the command says, and errors
    #[arg(long, short)]
    pub(crate) quiet: bool,
    /// Protocol between here and the server: QUIC, WebSocket where that fails, or one of them alone
    #[arg(long, default_value = "auto", value_name = "auto|quic|websocket")]
    pub(crate) transport: Protocol,
    /// Command, and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub(crate) command: Vec<String>,
}
