//! `underpass proxy`

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use underpass_core::ClusterName;
use underpass_session::Transports;

pub(super) const AFTER_PROXY: &str = "\
Examples:
  underpass proxy edge -- kubectl logs --follow deploy/web
  underpass proxy -- k9s
  underpass proxy edge prod        # prints `export KUBECONFIG=…`, and serves until Ctrl-C";

#[derive(Debug, Args)]
pub(crate) struct Proxy {
    /// Names of the clusters, the first of which is the current context. Without any, all that you may reach
    pub(crate) clusters: Vec<ClusterName>,
    /// Address of this machine to listen on; port 0 is any free one
    #[arg(long, default_value = "127.0.0.1:0", value_name = "ADDRESS:PORT")]
    pub(crate) listen: SocketAddr,
    /// File for the kubeconfig, which must not exist, and is removed at the end. Without it, one in a private folder
    #[arg(long, value_name = "PATH")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// Protocol between here and the server: QUIC, WebSocket where that fails, or one of them alone
    #[arg(long, default_value = "auto", value_name = "auto|quic|websocket")]
    pub(crate) transport: Protocol,
    /// Command to run with the kubeconfig. The proxy ends with it, and with its exit status
    #[arg(last = true, value_name = "COMMAND")]
    pub(crate) command: Vec<OsString>,
}

/// A choice of protocols.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Protocol {
    Auto,
    Quic,
    #[value(name = "websocket")]
    WebSocket,
}

impl From<Protocol> for Transports {
    fn from(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Auto => Self::Auto,
            Protocol::Quic => Self::Quic,
            Protocol::WebSocket => Self::WebSocket,
        }
    }
}
