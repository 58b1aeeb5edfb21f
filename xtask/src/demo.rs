//! `cargo xtask demo`

use std::os::unix::process::CommandExt as _;

use anyhow::{Context, Result};
use xtask::{DemoOptions, step, watch};

use crate::{process, setup};

pub(crate) fn run(options: &DemoOptions) -> Result<()> {
    step(
        "build underpass, underpass-server, underpass-agent and the demo: minutes the first time, seconds later",
        "get etcd and Kubernetes; start a cluster, the server and an agent; run kubectl through the tunnel",
    );
    setup::for_demo()?;
    // One build, so that cargo compiles shared dependencies once.
    let mut build = process::cargo()?;
    build.arg("build");
    for package in [
        "underpass-cli",
        "underpass-server",
        "underpass-agent",
        "xtask-demo",
    ] {
        build.args(["--package", package]);
    }
    watch(&mut build)?;
    // Cargo puts all programs of a profile beside each other. A replaced process leaves no parent that Ctrl-C would end
    // before the demo has cleaned up.
    let demo = std::env::current_exe()?.with_file_name("xtask-demo");
    let mut demo = std::process::Command::new(demo);
    Err(demo.args(options.to_arguments()).exec()).context("cannot run the demo")
}
