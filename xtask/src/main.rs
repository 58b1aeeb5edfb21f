//! The project's own commands. `cargo xtask --help` lists them.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command line prints"
)]

mod bench;
mod demo;
mod fuzz;
mod language;
mod layers;
mod lint;
mod process;
mod rules;
mod setup;
mod test;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Underpass's own commands. Each installs or builds what it misses, outside the checkout.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run kubectl through a tunnel to a real API server, and keep it up until Ctrl-C
    Demo(demo::Options),
    /// Run every test
    Test(test::Options),
    /// Measure Underpass beside its peers and beside a floor
    Bench(bench::Options),
    /// Check format, lints, dependencies, docs and the table of rules
    Lint,
    /// Run each fuzz target for a while
    Fuzz(fuzz::Options),
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<()> {
    match command {
        Command::Demo(options) => demo::run(&options),
        Command::Test(options) => test::run(&options),
        Command::Bench(options) => bench::run(&options),
        Command::Lint => lint::run(),
        Command::Fuzz(options) => fuzz::run(&options),
    }
}
