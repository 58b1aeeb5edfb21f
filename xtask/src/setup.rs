//! Checks that the machine has everything that the commands need.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Result, bail};

use crate::process;

/// A program that comes from a Debian package.
struct Needed {
    program: &'static str,
    package: &'static str,
    what_for: &'static str,
}

/// Programs for the demo, beside Rust and Go.
const FOR_DEMO: &[Needed] = &[
    Needed {
        program: "cc",
        package: "gcc",
        what_for: "the cryptography library",
    },
    Needed {
        program: "tar",
        package: "tar",
        what_for: "kubectl cp",
    },
];

/// Programs for the tests, beside those.
const FOR_TESTS: &[Needed] = &[
    Needed {
        program: "curl",
        package: "curl",
        what_for: "requests as users send them",
    },
    Needed {
        program: "psql",
        package: "postgresql-client",
        what_for: "a database behind a cluster",
    },
    Needed {
        // With the server's programs, which are in no folder of the PATH.
        program: "pg_ctlcluster",
        package: "postgresql",
        what_for: "a database behind a cluster",
    },
    Needed {
        program: "ip",
        package: "iproute2",
        what_for: "networks of the tests' own",
    },
    Needed {
        program: "node",
        package: "nodejs",
        what_for: "an OpenID Connect provider",
    },
    Needed {
        program: "npm",
        package: "npm",
        what_for: "an OpenID Connect provider",
    },
    Needed {
        program: "nft",
        package: "nftables",
        what_for: "networks that drop UDP",
    },
    Needed {
        program: "pip3",
        package: "python3-pip",
        what_for: "Schemathesis",
    },
    Needed {
        program: "python3",
        package: "python3",
        what_for: "Schemathesis",
    },
    Needed {
        program: "slapd",
        package: "slapd",
        what_for: "an LDAP directory",
    },
    Needed {
        program: "unshare",
        package: "util-linux",
        what_for: "networks of the tests' own",
    },
];

/// Programs for the benchmarks' peers.
const FOR_PEERS: &[Needed] = &[
    Needed {
        program: "pkg-config",
        package: "pkg-config",
        what_for: "rathole",
    },
    Needed {
        // A header: it is there or not, wherever programs are looked for.
        program: "/usr/include/openssl/ssl.h",
        package: "libssl-dev",
        what_for: "rathole",
    },
    Needed {
        program: "openssl",
        package: "openssl",
        what_for: "rathole's certificate",
    },
    Needed {
        program: "ssh",
        package: "openssh-client",
        what_for: "ssh -R",
    },
    Needed {
        program: "setpriv",
        package: "util-linux",
        what_for: "processes that end with the benchmark",
    },
];

/// Programs for fuzzing, beside those.
const FOR_FUZZING: &[Needed] = &[Needed {
    program: "c++",
    package: "g++",
    what_for: "the fuzzing library",
}];

pub(crate) fn for_demo() -> Result<()> {
    install(FOR_DEMO.iter())
}

pub(crate) fn for_tests() -> Result<()> {
    install(FOR_DEMO.iter().chain(FOR_TESTS))
}

pub(crate) fn for_peers() -> Result<()> {
    install(FOR_DEMO.iter().chain(FOR_PEERS))
}

pub(crate) fn for_fuzzing() -> Result<()> {
    install(FOR_FUZZING.iter())
}

/// Installs what is missing where that is possible, and says what is missing where it is not.
fn install(needed: impl Iterator<Item = &'static Needed>) -> Result<()> {
    let missing: Vec<_> = needed.filter(|needed| !is_there(needed.program)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    for Needed {
        program, what_for, ..
    } in &missing
    {
        eprintln!("missing: {program}, for {what_for}");
    }
    let packages: Vec<_> = missing.iter().map(|needed| needed.package).collect();
    let packages = packages.join(" ");
    if !Path::new("/etc/debian_version").exists() || !is_there("apt-get") {
        bail!("install what is missing; on Debian these are the packages: {packages}");
    }
    if !is_root() {
        bail!("install what is missing: sudo apt-get install {packages}");
    }
    process::run(process::program("apt-get")?.args(["update", "--quiet"]))?;
    if missing.iter().any(|needed| needed.package == "slapd") {
        without_a_directory_of_its_own()?;
    }
    if missing.iter().any(|needed| needed.package == "postgresql") {
        without_a_database_of_its_own()?;
    }
    let mut install = process::program("apt-get")?;
    install
        .env("DEBIAN_FRONTEND", "noninteractive")
        .args(["install", "--yes", "--quiet"])
        // Settings that are there stay.
        .args(["--option", "Dpkg::Options::=--force-confold"]);
    process::run(install.args(packages.split(' ')))
}

/// The package would make a directory, and serve it: the tests need the program only.
fn without_a_directory_of_its_own() -> Result<()> {
    let mut answer = process::program("debconf-set-selections")?
        .stdin(Stdio::piped())
        .spawn()?;
    if let Some(stdin) = &mut answer.stdin {
        stdin.write_all(b"slapd slapd/no_configuration boolean true\n")?;
    }
    // Waiting closes its input first.
    if !answer.wait()?.success() {
        bail!("debconf-set-selections does not take the answer for slapd");
    }
    Ok(())
}

/// The package would make a database, and serve it: the tests need the programs only.
fn without_a_database_of_its_own() -> Result<()> {
    let settings = Path::new("/etc/postgresql-common/createcluster.conf");
    if settings.exists() {
        return Ok(());
    }
    std::fs::create_dir_all("/etc/postgresql-common")?;
    std::fs::write(settings, "create_main_cluster = false\n")?;
    Ok(())
}

fn is_there(program: &str) -> bool {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let paths = std::env::split_paths(&paths);
    // Where Debian keeps what an administrator uses, and other users have no path to.
    let mut folders = paths.chain(["/usr/sbin".into(), "/sbin".into()]);
    folders.any(|folder| folder.join(program).is_file())
}

fn is_root() -> bool {
    let id = Command::new("id").arg("-u").stderr(Stdio::null()).output();
    id.is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}
