//! The command line.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::processes::Role;
use crate::scenarios::Scenario;

/// Underpass beside its peers and beside a floor, in one run. docs/PERFORMANCE.md says what is measured.
#[derive(Debug, Parser)]
#[command(name = "underpass-bench", max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Measure
    Run(Options),
    /// Build the peers, which `run` also does for those that it needs
    Setup(Choice),
    /// Write the tables and plots of a run again
    Render {
        /// A run's report.json
        report: PathBuf,
    },
    /// Be one of the processes that are measured
    #[command(hide = true, subcommand)]
    Process(Role),
}

/// The choice of systems.
#[derive(Debug, clap::Args)]
pub(crate) struct Choice {
    /// Systems, by name; all of them without
    #[arg(long, value_delimiter = ',', value_name = "SYSTEM")]
    pub(crate) only: Vec<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    pub(crate) choice: Choice,
    /// Scenarios; all of them without, in a short run all but those that build the product: kube, neighbour, forward, crowd, roles and flood
    #[arg(long, value_delimiter = ',', value_enum)]
    pub(crate) scenario: Vec<Scenario>,
    /// Only see that it runs: some seconds, figures that mean nothing, and without peers unless --only
    /// names some
    #[arg(long)]
    pub(crate) short: bool,
    /// Repetitions, in place of five
    #[arg(long)]
    pub(crate) repetitions: Option<usize>,
    /// Agents in a process, in the scenarios idle and crowd; several numbers make a curve
    #[arg(long, value_delimiter = ',', value_parser = clap::value_parser!(u32).range(2..))]
    pub(crate) agents: Vec<u32>,
    /// The folder for report.json, report.md and plots; it is made
    #[arg(long, value_name = "FOLDER", default_value = "target/underpass-bench")]
    pub(crate) output: PathBuf,
}
