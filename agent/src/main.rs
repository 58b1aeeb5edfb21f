//! The Underpass agent: parse, build, run, drain.

mod cli;
mod cluster;
mod connection;
mod rbac;
mod serve;
mod telemetry;

use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::task::AbortOnDropHandle;

use crate::cli::{Cli, LogFormat, Task};
use crate::rbac::Rbac;
use crate::serve::Sessions;

/// Buffers are filled in one thread and let go in another all the time, which with glibc's allocator costs a sixth of
/// the throughput (docs/PERFORMANCE.md).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let done = match Task::parse() {
        Task::Serve(cli) => {
            start_logging(&cli.log, cli.log_format);
            run(*cli)
        }
        Task::Rbac(options) => {
            start_logging(cli::LOG, LogFormat::Text);
            print(options)
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn print(options: Rbac) -> Result<()> {
    let manifests = rbac::manifests(options)?;
    // The reader of the pipe may have closed it.
    match std::io::stdout().write_all(manifests.as_bytes()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        written => written.context("cannot print"),
    }
}

fn start_logging(filter: &str, format: LogFormat) {
    let colours = std::io::stderr().is_terminal();
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(colours)
        .with_writer(move || underpass_terminal::Lines::new(std::io::stderr(), colours));
    match format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().init(),
    }
}

fn run(cli: Cli) -> Result<()> {
    let mut runtime = match cli.threads.get() {
        // Its tasks run in the order in which they were woken: the one that moves bytes on finds those of many others.
        1 => tokio::runtime::Builder::new_current_thread(),
        threads => {
            let mut runtime = tokio::runtime::Builder::new_multi_thread();
            runtime.worker_threads(threads);
            runtime
        }
    };
    let runtime = runtime
        .enable_all()
        .build()
        .context("cannot start threads")?;
    runtime.block_on(serve_until_stopped(cli))
}

async fn serve_until_stopped(cli: Cli) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let connector = connection::connector(&cli)?;
    let api_server = Arc::new(cluster::api_server(&cli).await?);
    let asked = Arc::clone(&api_server);
    let _asking = AbortOnDropHandle::new(tokio::spawn(async move {
        cluster::report(&asked).await;
    }));
    let sessions = Sessions::new(api_server);
    if let Some(address) = cli.metrics {
        telemetry::serve(address, sessions.clone())?;
    }
    let mut files = connection::Files::new(&cli);
    let connected = connector.run(
        |session| sessions.serve(session),
        |status| {
            files.look(&status, &connector);
            connection::report(status);
        },
    );
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
