//! A program with a folder of its own.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::certs::Authority;
use crate::supervisor::{Start, Supervisor};
use crate::testing::eventually;
use crate::{build::Cache, progress_to_stderr, recipe};

/// A running program, its folder, and a CA that has signed a certificate for it. Dropping it ends the program and
/// removes the folder; it ends with the process that started it in any case.
#[derive(Debug)]
pub(super) struct Program {
    name: &'static str,
    pub(super) dir: PathBuf,
    pub(super) ca: String,
    supervisor: Supervisor,
}

/// Files that every program finds in its folder.
pub(super) const CERTIFICATE: &str = "certificate.pem";
pub(super) const KEY: &str = "key.pem";
pub(super) const CA: &str = "ca.pem";

impl Program {
    /// Makes the folder.
    pub(super) fn new(name: &'static str) -> Self {
        let cache = Cache::open().unwrap();
        let supervise = cache
            .ensure(&recipe::SUPERVISE, &mut progress_to_stderr)
            .unwrap()
            .join("supervise");
        let dir = tempfile::Builder::new()
            .prefix("underpass-testenv-")
            .permissions(Permissions::from_mode(0o700))
            .tempdir()
            .unwrap();
        let log = File::create(dir.path().join("supervise.log")).unwrap();
        let supervisor = Supervisor::spawn(&supervise, dir.path(), log).unwrap();
        // From here on the folder is the supervisor's to remove.
        let dir = dir.keep();
        let authority = Authority::generate().unwrap();
        let server = authority.server(&["localhost"]).unwrap();
        fs::write(dir.join(CERTIFICATE), server.certificate).unwrap();
        fs::write(dir.join(KEY), server.key).unwrap();
        fs::write(dir.join(CA), authority.pem()).unwrap();
        Self {
            name,
            dir,
            ca: authority.pem(),
            supervisor,
        }
    }

    pub(super) fn run(&self, argv: &[&str]) {
        self.supervisor.start(&self.start(argv)).unwrap();
    }

    /// Ends it as SIGKILL does.
    pub(super) fn kill(&self) {
        self.supervisor.stop(self.name, Duration::ZERO).unwrap();
    }

    /// Its output so far.
    pub(super) fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    /// Waits for a line of its output.
    pub(super) async fn line(&self, begins: &str) -> String {
        eventually(self.name, async || {
            let log = self.log();
            let mut whole = log
                .split_inclusive('\n')
                .filter(|line| line.ends_with('\n'));
            let line = whole.find(|line| line.starts_with(begins));
            line.map(|line| line.trim().to_owned()).ok_or(log.clone())
        })
        .await
    }

    fn log_file(&self) -> PathBuf {
        self.dir.join(format!("{}.log", self.name))
    }

    fn start(&self, argv: &[&str]) -> Start {
        Start {
            name: self.name,
            argv: argv.iter().map(|&word| word.to_owned()).collect(),
            env: vec![format!("PATH={}", path())],
            dir: self.dir.clone(),
            log: self.log_file(),
            grace_ms: 0,
            has_children: false,
        }
    }
}

fn path() -> String {
    std::env::var("PATH").unwrap_or_default()
}

/// A program of the PATH, or of where Debian keeps what an administrator uses.
pub(super) fn find(name: &str) -> PathBuf {
    let path = path();
    let mut folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    let found = folders.find_map(|folder| {
        let program = Path::new(&folder).join(name);
        program.is_file().then_some(program)
    });
    found.unwrap_or_else(|| panic!("{name} is missing: `cargo xtask test` installs it"))
}
