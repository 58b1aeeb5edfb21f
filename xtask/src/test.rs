//! `cargo xtask test`

use anyhow::{Context, Result};
use underpass_testenv::{Assets, progress_to_stderr};

use crate::{process, setup};

/// Folders of Go code of our own, each with the package to test.
const GO: &[(&str, &str)] = &[
    ("testenv/kubernetes", "./kubelet/..."),
    ("testenv/supervise", "./..."),
    ("benches/peers/remotedialer", "./..."),
];

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Passed on to `cargo test`, like `--package underpass-tunnel` or a test's name; the whole
    /// workspace without
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    setup::for_tests()?;
    // Now rather than in the first test that needs them: this may take minutes, and says so.
    Assets::ensure(progress_to_stderr).context("cannot get the Kubernetes programs")?;
    let everything = options.arguments.is_empty();
    let mut tests = process::cargo()?;
    tests.arg("test");
    if everything {
        tests.args(["--workspace", "--no-fail-fast"]);
    }
    process::run(tests.args(&options.arguments))?;
    if everything {
        test_go()?;
    }
    Ok(())
}

fn test_go() -> Result<()> {
    for (folder, package) in GO {
        for words in [["vet"].as_slice(), &["test"]] {
            let mut go = process::program("go")?;
            go.current_dir(process::root()?.join(folder))
                .env("CGO_ENABLED", "0");
            process::run(go.args(words).arg(package))?;
        }
    }
    Ok(())
}
