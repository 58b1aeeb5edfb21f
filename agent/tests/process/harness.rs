//! An agent process.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use underpass_tunnel::AgentKey;

pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// Nothing listens there.
pub(crate) const KUBECONFIG: &str = "{apiVersion: v1, kind: Config, current-context: x, clusters: [{name: c, cluster: {server: \
                          'https://127.0.0.1:1'}}], contexts: [{name: x, context: {cluster: c, user: u}}], users: [{name: \
                          u, user: {token: t}}]}";

/// An agent whose API server is away, unless a test says where it is. It ends with its owner.
pub(crate) struct Agent {
    pub(crate) child: Child,
    pub(crate) folder: tempfile::TempDir,
}

pub(crate) fn key(seed: u8) -> AgentKey {
    AgentKey::from_seed([seed; 32]).unwrap()
}

pub(crate) fn write_token(folder: &Path, seed: u8) {
    fs::write(folder.join("token"), key(seed).to_secret_text().as_str()).unwrap();
}

impl Agent {
    /// One whose server is away, too.
    pub(crate) fn start() -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), &Self::away())
    }

    /// The flags of an agent whose server is away.
    pub(crate) fn away() -> [&'static str; 4] {
        const PIN: &str = "sha256:0000000000000000000000000000000000000000000000000000000000000000";
        ["--server", "https://127.0.0.1:1", "--ca-pin", PIN]
    }

    /// One in a folder that may have a kubeconfig and other files, with these flags beside those of the token and the API server.
    pub(crate) fn start_in(folder: tempfile::TempDir, flags: &[&str]) -> Self {
        Self::start_with(folder, &["--token-file", "token"], flags)
    }

    /// The same, with these flags for its key.
    pub(crate) fn start_with(folder: tempfile::TempDir, key: &[&str], flags: &[&str]) -> Self {
        // A careless parent leaves a file open.
        let shell = "ulimit -S -n 64; exec 9</etc/passwd";
        Self::spawn(folder, shell, key, flags)
    }

    /// The same, of a parent that has run these commands.
    pub(crate) fn spawn(
        folder: tempfile::TempDir,
        shell: &str,
        key: &[&str],
        flags: &[&str],
    ) -> Self {
        write_token(folder.path(), 1);
        let kubeconfig = folder.path().join("kubeconfig");
        if !kubeconfig.exists() {
            fs::write(kubeconfig, KUBECONFIG).unwrap();
        }
        let log = File::create(folder.path().join("log")).unwrap();
        let child = Command::new("sh")
            .args(["-c", &format!("{shell}; exec \"$0\" \"$@\"")])
            .arg(env!("CARGO_BIN_EXE_underpass-agent"))
            .args(key)
            .args(["--kubeconfig", "kubeconfig"])
            .args(flags)
            .current_dir(folder.path())
            .env_remove("UNDERPASS_LOG")
            .env_remove("UNDERPASS_POLICY")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        Self { child, folder }
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap()
    }

    /// Waits until it has said so.
    pub(crate) fn logs(&mut self, what: &str) {
        let deadline = Instant::now() + DEADLINE;
        while !self.log().contains(what) {
            let ended = self.child.try_wait().unwrap();
            assert_eq!(ended, None, "{}", self.log());
            assert!(Instant::now() < deadline, "no {what}: {}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    pub(crate) fn ended(&mut self) -> ExitStatus {
        let deadline = Instant::now() + DEADLINE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// How many files it has open.
    pub(crate) fn open_files(&self) -> usize {
        let files = fs::read_dir(format!("/proc/{}/fd", self.child.id()));
        files.unwrap().count()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
