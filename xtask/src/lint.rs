//! `cargo xtask lint`

use std::path::PathBuf;

use anyhow::Result;
use xtask::{step, watch};

use crate::{language, layers, process, rules};

/// Pinned, so that a new lint of theirs never turns an old commit red.
const CARGO_DENY: &str = "0.20.2";

pub(crate) const HELP: &str = "\
Check format, lints, dependencies, docs and the table of rules

Usage: cargo xtask lint
";

pub(crate) fn run() -> Result<()> {
    let root = process::root()?;
    rules::check(&root)?;
    layers::check(&root)?;
    language::check(&root)?;
    process::run(process::cargo()?.args(["fmt", "--all", "--check"]))?;
    let mut clippy = process::cargo()?;
    clippy.args([
        "clippy",
        "--workspace",
        "--all-targets",
        // The tests compile the code without them.
        "--all-features",
        "--",
        "--deny",
        "warnings",
    ]);
    process::run(&mut clippy)?;
    let mut docs = process::cargo()?;
    docs.args([
        "doc",
        "--workspace",
        "--all-features",
        "--no-deps",
        "--document-private-items",
    ]);
    process::run(docs.env("RUSTDOCFLAGS", "--deny warnings"))?;
    // Advisories need a database from the network beside the package registries; without it the
    // other checks must still run.
    let deny = cargo_deny()?;
    process::run(process::program(&deny)?.args(["check", "bans", "licenses", "sources"]))?;
    if let Err(error) = process::run(process::program(&deny)?.args(["fetch", "db"])) {
        eprintln!("advisories are NOT checked: their database cannot be had ({error:#})");
        return Ok(());
    }
    process::run(process::program(&deny)?.args(["check", "advisories"]))
}

/// cargo-deny, built once and kept outside the checkout.
fn cargo_deny() -> Result<PathBuf> {
    let root = process::tools()?.join(format!("cargo-deny-{CARGO_DENY}"));
    let program = root.join("bin/cargo-deny");
    if !program.exists() {
        step(
            &format!("build cargo-deny {CARGO_DENY}, once: some minutes"),
            "check licences and sources",
        );
        let mut install = process::cargo()?;
        install.args(["install", "--locked", "cargo-deny", "--version", CARGO_DENY]);
        watch(install.arg("--root").arg(&root))?;
    }
    Ok(program)
}
