//! `cargo xtask test`

use std::ffi::OsString;
use std::num::NonZeroUsize;

use anyhow::Result;
use xtask::{step, watch};

use crate::{process, setup};

/// Folders of Go code of our own, each with the package to test.
const GO: &[(&str, &str)] = &[
    ("testenv/kubernetes", "./kubelet/..."),
    ("testenv/supervise", "./..."),
    ("benches/peers/remotedialer", "./..."),
];

/// The variable with the number of tests that run at once.
const THREADS: &str = "RUST_TEST_THREADS";

pub(crate) const HELP: &str = "\
Run every test

Usage: cargo xtask test [ARGUMENTS]

  ARGUMENTS  Passed on to `cargo test`, like `--package underpass-tunnel` or a test's name; the whole
             workspace without
";

#[derive(Debug)]
pub(crate) struct Options {
    arguments: Vec<OsString>,
}

impl Options {
    /// Reads the arguments; `None` where they ask for help.
    pub(crate) fn parse(arguments: &mut lexopt::Parser) -> Result<Option<Self>> {
        let arguments: Vec<_> = arguments.raw_args()?.collect();
        let help = arguments
            .first()
            .is_some_and(|first| first == "--help" || first == "-h");
        Ok((!help).then_some(Self { arguments }))
    }
}

pub(crate) fn run(options: &Options) -> Result<()> {
    setup::for_tests()?;
    // Now rather than in the first test that needs them: this may take minutes, and says so.
    step(
        "build the test environment: up to 8 min the first time on two busy cores, 1 s later",
        "get etcd and Kubernetes; build and run the tests",
    );
    watch(process::cargo()?.args(["build", "--package", "underpass-testenv"]))?;
    let testenv = std::env::current_exe()?.with_file_name("underpass-testenv");
    process::run(process::program(testenv)?.arg("--prepare"))?;
    let everything = options.arguments.is_empty();
    let mut tests = process::cargo()?;
    tests.arg("test");
    if everything {
        tests.args(["--workspace", "--no-fail-fast"]);
    }
    if std::env::var_os(THREADS).is_none() {
        let processors = std::thread::available_parallelism()?;
        tests.env(THREADS, threads(processors).to_string());
    }
    process::run(tests.args(&options.arguments))?;
    if everything {
        test_go()?;
    }
    Ok(())
}

/// Half as many tests again as there are processors: most of them wait for programs and timers.
fn threads(processors: NonZeroUsize) -> usize {
    let processors = processors.get();
    processors.saturating_add(processors.div_ceil(2))
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
