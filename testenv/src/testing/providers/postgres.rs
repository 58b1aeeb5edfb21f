//! A real PostgreSQL, with a folder of its own.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::program::{Program, find};
use crate::ports;

/// Where Debian keeps the programs of each version.
const DEBIAN: &str = "/usr/lib/postgresql";

/// A running PostgreSQL, which takes every client at loopback for the user `postgres`.
#[derive(Debug)]
pub struct Postgres {
    program: Program,
    port: u16,
}

impl Postgres {
    /// Starts one on a free port.
    pub async fn start() -> Self {
        let program = Program::new("postgres");
        let data = program.dir.join("data").to_string_lossy().into_owned();
        let initdb = [
            "-D",
            &data,
            "-U",
            "postgres",
            "-A",
            "trust",
            "-E",
            "UTF8",
            "--no-locale",
            "--no-sync",
        ];
        let argv = argv("initdb", &initdb);
        let made = Command::new(&argv[0]).args(&argv[1..]).output().unwrap();
        let said = String::from_utf8_lossy(&made.stderr);
        assert!(made.status.success(), "initdb: {said}");
        let [port] = ports::free::<1>().unwrap();
        let listens = port.to_string();
        let flags = [
            "-D",
            &data,
            "-p",
            &listens,
            "-c",
            "listen_addresses=127.0.0.1",
            "-c",
            "unix_socket_directories=",
            "-c",
            "fsync=off",
        ];
        let argv = self::argv("postgres", &flags);
        let argv: Vec<&str> = argv.iter().map(String::as_str).collect();
        program.run(&argv);
        let this = Self { program, port };
        crate::testing::eventually("PostgreSQL", async || {
            let log = this.program.log();
            match log.contains("ready to accept connections") {
                true => Ok(()),
                false => Err(log),
            }
        })
        .await;
        this
    }

    /// Its port at 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }
}

/// PostgreSQL does not run as root; in a user namespace of its own, root is nobody in particular.
fn argv(name: &str, arguments: &[&str]) -> Vec<String> {
    let program = program(name).to_string_lossy().into_owned();
    let unshare = find("unshare").to_string_lossy().into_owned();
    let unshare = [unshare, "--user".to_owned(), "--".to_owned()];
    let prefix = match fs::metadata("/proc/self").is_ok_and(|this| this.uid() == 0) {
        true => Vec::from(unshare),
        false => Vec::new(),
    };
    let arguments = arguments.iter().map(ToString::to_string);
    prefix
        .into_iter()
        .chain([program])
        .chain(arguments)
        .collect()
}

/// Of the latest version that is there.
fn program(name: &str) -> PathBuf {
    let versions = fs::read_dir(DEBIAN).into_iter().flatten().flatten();
    let number = |path: &Path| -> u32 {
        let name = path.file_name().unwrap_or_default();
        name.to_string_lossy().parse().unwrap_or_default()
    };
    let latest = versions
        .map(|version| version.path())
        .max_by_key(|path| number(path));
    let found = latest.map(|version| version.join("bin").join(name));
    found
        .filter(|program| program.is_file())
        .unwrap_or_else(|| find(name))
}
