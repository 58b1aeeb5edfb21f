//! The Underpass agent: parse, build, run, drain.

mod cli;
mod cluster;
mod serve;

use std::io::IsTerminal;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;
use underpass_tunnel::{AgentKey, ConnectError, Connector, ConnectorConfig, Status, chain};

use crate::cli::{Cli, LogFormat};
use crate::serve::Sessions;

fn main() -> ExitCode {
    let cli = Cli::parse();
    start_logging(cli.log_format);
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start_logging(format: LogFormat) {
    let filter =
        EnvFilter::try_from_env("UNDERPASS_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    match format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().init(),
    }
}

#[tokio::main]
async fn run(cli: Cli) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let connector = connector(&cli)?;
    let sessions = Sessions::new(cluster::api_server(&cli).await?);
    let connected = connector.run(|session| sessions.serve(session), report);
    tokio::select! {
        never = connected => match never {},
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!(deadline = ?cli.drain, "stopping; the signal again stops at once");
    tokio::select! {
        () = sessions.drain(cli.drain) => {}
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("stopped");
    Ok(())
}

fn connector(cli: &Cli) -> Result<Connector> {
    let read = |path: &std::path::Path| {
        std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
    };
    let ca_pem = read(&cli.ca_file)?.into_bytes();
    let token = read(&cli.token_file)?;
    let key: AgentKey = token
        .parse()
        .with_context(|| format!("no agent token in {}", cli.token_file.display()))?;
    let mut config = ConnectorConfig::new(cli.server.host.clone(), cli.server.port, ca_pem, key);
    config.transports = cli.transport.into();
    config.quic = cli.quic.config()?;
    config.software = concat!("underpass-agent/", env!("CARGO_PKG_VERSION")).to_owned();
    Ok(Connector::new(config)?)
}

/// What mends an error that does not go away by itself.
fn advice(error: &ConnectError) -> &'static str {
    match error {
        ConnectError::Dial(_) => "give --ca-file the `ca.pem` of this server's data directory",
        _ => {
            "give --token-file a token that `underpass-server cluster add` has printed on this \
             server, or bring agent and server to versions that know each other"
        }
    }
}

fn report(status: Status<'_>) {
    match status {
        Status::Connected(info) => tracing::info!(
            cluster = info.agent, session = %info.id, transport = %info.transport,
            server = info.remote.map(tracing::field::display), software = info.software,
            "connected"
        ),
        Status::Failed(error, wait) if error.needs_attention() => {
            let advice = advice(error);
            tracing::error!("{}; {advice} (trying again in {wait:.1?})", chain(error));
        }
        Status::Failed(error, wait) => {
            tracing::warn!("{} (trying again in {wait:.1?})", chain(error));
        }
        Status::Ended(error, wait) => {
            tracing::warn!("{} (connecting again in {wait:.1?})", chain(error));
        }
    }
}
