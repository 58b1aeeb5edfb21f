//! `cargo xtask bench`

use std::ffi::OsString;
use std::path::Path;

use anyhow::Result;
use lexopt::{Arg, ValueExt as _};

use crate::{process, setup};

pub(crate) const HELP: &str = "\
Measure Underpass beside its peers and beside a floor

Usage: cargo xtask bench [OPTIONS] [-- ARGUMENTS]

      --short         Only see that it runs: some seconds, figures that mean nothing, and without peers
                      unless --only names some
      --only SYSTEMS  Systems, by name, with commas between; all of them without
  ARGUMENTS           Passed on to `underpass-bench run`, like `--scenario bulk` or `--repetitions 3`
";

#[derive(Debug, Default)]
pub(crate) struct Options {
    short: bool,
    only: Vec<String>,
    arguments: Vec<OsString>,
}

impl Options {
    /// Reads the arguments; `None` where they ask for help.
    pub(crate) fn parse(arguments: &mut lexopt::Parser) -> Result<Option<Self>> {
        let mut options = Self::default();
        while let Some(argument) = arguments.next()? {
            match argument {
                Arg::Long("short") => options.short = true,
                Arg::Long("only") => {
                    let systems = arguments.value()?.string()?;
                    options.only.extend(systems.split(',').map(str::to_owned));
                }
                Arg::Long("help") | Arg::Short('h') => return Ok(None),
                // After `--`, or after the first word, all is the benchmark's.
                Arg::Value(first) => {
                    options.arguments.push(first);
                    options.arguments.extend(arguments.raw_args()?);
                }
                other => return Err(other.unexpected().into()),
            }
        }
        Ok(Some(options))
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_after_the_dashes_are_passed_on() {
        let line = "--short --only a,b --only c -- --scenario bulk --repetitions 3";
        let mut arguments = lexopt::Parser::from_args(line.split(' '));
        let options = Options::parse(&mut arguments).unwrap().unwrap();
        assert!(options.short);
        assert_eq!(options.only, ["a", "b", "c"]);
        assert_eq!(
            options.arguments,
            ["--scenario", "bulk", "--repetitions", "3"]
        );
    }
}
