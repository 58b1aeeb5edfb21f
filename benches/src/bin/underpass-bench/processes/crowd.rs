//! Many agents on nodes in one process: each is the product's, from its key's making and its joining on.

use std::ffi::OsString;
use std::path::PathBuf;

use anyhow::Result;
use metrics_exporter_prometheus::PrometheusBuilder;
use serde_json::json;

use super::questions;

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// The server's URL
    #[arg(long)]
    server: String,
    /// The server's CA (PEM)
    #[arg(long)]
    ca: PathBuf,
    /// The join token of all of them
    #[arg(long)]
    join_token: PathBuf,
    /// How to reach the server, as the agent's flag has it
    #[arg(long)]
    transport: String,
    /// Where the agents keep their keys
    #[arg(long)]
    keys: PathBuf,
    /// How many agents this process is
    #[arg(long)]
    count: u32,
    /// The number of the first one
    #[arg(long, default_value_t = 0)]
    first: u32,
}

impl Options {
    /// The command line of one agent.
    fn arguments(&self, number: u32) -> Vec<OsString> {
        let (key, name) = (
            self.keys.join(format!("{number}.key")),
            format!("node-{number}"),
        );
        let flags: [(&str, OsString); 7] = [
            ("--server", self.server.clone().into()),
            ("--ca-file", self.ca.clone().into()),
            ("--join-token-file", self.join_token.clone().into()),
            ("--key-file", key.into()),
            ("--role", "node".into()),
            ("--node-name", name.into()),
            ("--transport", self.transport.clone().into()),
        ];
        let flags = flags.into_iter();
        let program = std::iter::once("underpass-agent".into());
        program
            .chain(flags.flat_map(|(flag, value)| [flag.into(), value]))
            .collect()
    }
}

/// Starts all agents at once, and answers questions for their metrics.
pub(super) async fn run(options: Options) -> Result<()> {
    let recorder = PrometheusBuilder::new().install_recorder()?;
    questions::answer_with(move |_| Ok(json!({ "metrics": recorder.render() })));
    let mut agents = tokio::task::JoinSet::new();
    for number in options.first..options.first + options.count {
        agents.spawn(underpass_agent::serve(options.arguments(number)));
    }
    // None of them ends by itself.
    while let Some(ended) = agents.join_next().await {
        ended??;
    }
    Ok(())
}
