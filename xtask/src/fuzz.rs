//! `cargo xtask fuzz`

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use lexopt::{Arg, ValueExt as _};

use crate::{process, setup};

/// Coverage feedback for libFuzzer from a stable compiler: cargo-fuzz's flags, without the
/// sanitizer, which needs a nightly one. There is no unsafe code to sanitize.
const FLAGS: &str = "--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1 -Cdebug-assertions";

pub(crate) const HELP: &str = "\
Run each fuzz target for a while

Usage: cargo xtask fuzz [OPTIONS] [TARGETS]

      --seconds N  Seconds for each target [default: 60]
  TARGETS          The targets; all without
";

#[derive(Debug)]
pub(crate) struct Options {
    seconds: u32,
    targets: Vec<String>,
}

impl Options {
    /// Reads the arguments; `None` where they ask for help.
    pub(crate) fn parse(arguments: &mut lexopt::Parser) -> Result<Option<Self>> {
        let mut options = Self {
            seconds: 60,
            targets: Vec::new(),
        };
        while let Some(argument) = arguments.next()? {
            match argument {
                Arg::Long("seconds") => options.seconds = arguments.value()?.parse()?,
                Arg::Long("help") | Arg::Short('h') => return Ok(None),
                Arg::Value(target) => options.targets.push(target.string()?),
                other => return Err(other.unexpected().into()),
            }
        }
        Ok(Some(options))
    }
}

pub(crate) fn run(options: &Options) -> Result<()> {
    setup::for_fuzzing()?;
    let folder = process::root()?.join("fuzz");
    let targets = if options.targets.is_empty() {
        targets(&folder)?
    } else {
        options.targets.clone()
    };
    for target in &targets {
        let corpus = folder.join("corpus").join(target);
        fs::create_dir_all(&corpus).context("cannot make the corpus folder")?;
        let mut fuzz = process::cargo()?;
        // With --target the flags do not reach build scripts, which have no libFuzzer to link.
        fuzz.current_dir(&folder).env("RUSTFLAGS", FLAGS);
        fuzz.args([
            "run",
            "--quiet",
            "--release",
            "--target",
            host()?,
            "--bin",
            target,
            "--",
        ]);
        fuzz.arg(format!("-max_total_time={}", options.seconds))
            .arg("-print_final_stats=1");
        process::run(fuzz.arg(&corpus)).with_context(|| format!("fuzz target {target}"))?;
    }
    println!("{} passed, 0 failed", targets.len());
    Ok(())
}

fn targets(folder: &Path) -> Result<Vec<String>> {
    let files = fs::read_dir(folder.join("fuzz_targets")).context("no fuzz targets")?;
    let mut names = Vec::new();
    for file in files {
        let path = file?.path();
        if let Some(name) = path
            .file_stem()
            .filter(|_| path.extension().is_some_and(|e| e == "rs"))
        {
            names.push(name.to_string_lossy().into_owned());
        }
    }
    names.sort();
    if names.is_empty() {
        bail!("no fuzz targets in {}", folder.display());
    }
    Ok(names)
}

/// The machine's own target.
fn host() -> Result<&'static str> {
    if cfg!(all(target_arch = "x86_64", target_os = "linux")) {
        Ok("x86_64-unknown-linux-gnu")
    } else if cfg!(all(target_arch = "aarch64", target_os = "linux")) {
        Ok("aarch64-unknown-linux-gnu")
    } else {
        bail!("fuzzing is set up for Linux on x86_64 and aarch64")
    }
}
