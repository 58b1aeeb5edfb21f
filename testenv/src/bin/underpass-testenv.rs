//! Starts a cluster, says how to use it, and ends it on Ctrl-C. With `--prepare` it only gets the cluster's programs.
#![allow(
    clippy::print_stdout,
    reason = "a command line; what it prints is for the shell"
)]

use std::error::Error;
use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};
use underpass_testenv::{Assets, Cluster, ClusterOptions, progress_to_stderr};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let Err(error) = run().await else {
        return ExitCode::SUCCESS;
    };
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        line.push_str(": ");
        line.push_str(&error.to_string());
        source = error.source();
    }
    progress_to_stderr(&line);
    ExitCode::FAILURE
}

const HELP: &str = "\
Start a real kube-apiserver with etcd, say how to use it, and end it on Ctrl-C

Usage: underpass-testenv [--prepare]

      --prepare  Only get and build the cluster's programs
  -h, --help     Print this";

async fn run() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    let only_prepare = match arguments[..] {
        [] => false,
        ["--prepare"] => true,
        ["-h" | "--help"] => {
            println!("{HELP}");
            return Ok(());
        }
        _ => return Err(format!("unknown arguments {arguments:?}; see --help").into()),
    };
    let mut terminate = signal(SignalKind::terminate())?;
    let assets = Assets::ensure(progress_to_stderr)?;
    if only_prepare {
        return Ok(());
    }
    let kubectl = assets.kubectl().to_owned();
    progress_to_stderr("starting a cluster");
    let cluster = Cluster::start(ClusterOptions::default().with_assets(assets)).await?;
    println!("export KUBECONFIG={}", cluster.admin_kubeconfig().display());
    println!("# kubectl of the same release: {}", kubectl.display());
    println!("# logs: {}", cluster.dir().display());
    progress_to_stderr("ready; Ctrl-C ends it");
    tokio::select! {
        result = tokio::signal::ctrl_c() => result?,
        _ = terminate.recv() => {}
    }
    cluster.stop().await;
    Ok(())
}
