//! `cargo xtask bench`

use std::path::Path;

use anyhow::Result;

use crate::{process, setup};

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Only see that it runs: some seconds, figures that mean nothing, and without peers unless --only
    /// names some
    #[arg(long)]
    short: bool,
    /// Systems, by name; all of them without
    #[arg(long, value_delimiter = ',', value_name = "SYSTEM")]
    only: Vec<String>,
    /// Passed on to `underpass-bench run`, like `--scenario bulk` or `--repetitions 3`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

/// Where Debian keeps the server of openssh, which installing may also start.
const SSHD: &str = "/usr/sbin/sshd";

pub(crate) fn run(options: &Options) -> Result<()> {
    if !options.short || !options.only.is_empty() {
        setup::for_peers()?;
        if !Path::new(SSHD).exists() {
            // To install it would also start one, for the whole machine: that is for its owner to decide.
            eprintln!("there is no {SSHD}: `ssh -R` will not be measured without openssh-server");
        }
    }
    let mut bench = process::cargo()?;
    bench.args([
        "run",
        "--release",
        "--package",
        "underpass-benches",
        "--bin",
        "underpass-bench",
        "--",
        "run",
    ]);
    if options.short {
        bench.arg("--short");
    }
    if !options.only.is_empty() {
        bench.arg("--only").arg(options.only.join(","));
    }
    process::run(bench.args(&options.arguments))
}
