//! Underpass beside its peers and beside a floor, in one run. `underpass-bench --help` says how;
//! `docs/PERFORMANCE.md` has the settings and the results.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command line prints"
)]

mod cli;
mod link;
mod load;
mod peers;
mod plan;
mod ports;
mod process;
mod processes;
mod report;
mod run;
mod scenarios;
mod site;
mod statistics;
mod systems;
mod usage;

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Parser as _;

use crate::cli::{Cli, Command};
use crate::report::Report;

/// As the product's programs have it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match command(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("underpass-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn command(command: Command) -> Result<()> {
    match command {
        Command::Run(options) => run::run(&options),
        Command::Setup(choice) => run::setup(&choice),
        Command::Render { report } => {
            let folder = report.parent().context("the report lies in no folder")?;
            Report::read(&report)?.write(folder)
        }
        Command::Process(role) => processes::run(role),
    }
}
