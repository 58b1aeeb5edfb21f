//! The script of `deploy/operations` that installs a unit's binary.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests state expectations as tests do; the lints know only functions marked as tests"
)]

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::PathBuf;
use std::process::{Command, Output};

const SCRIPT: &str = include_str!("../../deploy/operations/install-unit");
const POLICY: &str = include_str!("../../deploy/operations/unit-binary.yaml");

/// A node's folders, in one that goes with the test.
struct Node(tempfile::TempDir);

impl Node {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut script = SCRIPT.to_owned();
        for (name, path) in [
            ("staged", "/var/lib/underpass/staged"),
            ("sums", "/etc/underpass"),
            ("programs", "/usr/local/bin"),
        ] {
            let line = format!("{name}={path}\n");
            assert!(script.contains(&line), "{name}");
            let here = folder.path().join(name);
            fs::create_dir(&here).unwrap();
            script = script.replace(&line, &format!("{name}={}\n", here.display()));
        }
        fs::write(folder.path().join("install-unit"), script).unwrap();
        Self(folder)
    }

    fn at(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    /// Lists the checksum of this content.
    fn list(&self, content: &str, file: &str) {
        fs::write(self.at("content"), content).unwrap();
        let sum = Command::new("sha256sum").arg(self.at("content")).output();
        let sum = String::from_utf8(sum.unwrap().stdout).unwrap();
        let sum = sum.split_whitespace().next().unwrap();
        fs::write(self.at("sums/tool.sha256"), format!("{sum}  {file}\n")).unwrap();
    }

    fn stage(&self, file: &str, content: &str) {
        fs::write(self.at("staged").join(file), content).unwrap();
    }

    fn install(&self, name: &str, version: &str) -> Output {
        // A script that waits for a second reading fails.
        let mut script = Command::new("timeout");
        script.args(["20", "sh"]).arg(self.at("install-unit"));
        script.args([name, version]).output().unwrap()
    }

    #[track_caller]
    fn refuses(&self, name: &str, version: &str) {
        let before = fs::read(self.at("programs/tool")).ok();
        let refused = self.install(name, version);
        assert_eq!(refused.status.code(), Some(1), "{refused:?}");
        assert_eq!(fs::read(self.at("programs/tool")).ok(), before);
        let left = fs::read_dir(self.at("programs")).unwrap().count();
        assert_eq!(left, usize::from(before.is_some()), "a copy is left");
    }
}

#[test]
fn rule_17_the_shipped_upgrade_of_a_unit_installs_what_its_owner_lists_and_nothing_else() {
    assert!(POLICY.contains("command: /usr/local/libexec/underpass/install-unit\n"));
    let node = Node::new();
    node.stage("tool-1.0.0", "good");
    node.refuses("tool", "1.0.0");
    node.list("good", "tool-1.0.0");
    let installed = node.install("tool", "1.0.0");
    assert!(installed.status.success(), "{installed:?}");
    let program = node.at("programs/tool");
    assert_eq!(fs::read_to_string(&program).unwrap(), "good");
    let mode = fs::metadata(&program).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o755);
    // Another content, another version, or a link.
    node.stage("tool-1.0.0", "evil");
    node.refuses("tool", "1.0.0");
    node.stage("tool-0.9.0", "good");
    node.refuses("tool", "0.9.0");
    fs::remove_file(node.at("staged/tool-1.0.0")).unwrap();
    symlink(node.at("staged/tool-0.9.0"), node.at("staged/tool-1.0.0")).unwrap();
    node.refuses("tool", "1.0.0");
    for (name, version) in [
        ("tool", ""),
        ("", "1.0.0"),
        ("tool", "../tool-0.9.0"),
        ("../staged/tool", "0.9.0"),
        ("tool", "1.0.0\n"),
        ("tool", "*"),
        ("-tool", "1"),
    ] {
        node.refuses(name, version);
    }
}

#[test]
fn rule_25_the_bytes_that_are_checked_are_those_that_are_installed() {
    let node = Node::new();
    node.list("good", "tool-1.0.0");
    // Each reading of a FIFO gives what is written next.
    let staged = node.at("staged/tool-1.0.0");
    let made = Command::new("mkfifo").arg(&staged).status().unwrap();
    assert!(made.success());
    let writer = std::thread::spawn(move || fs::write(staged, "good"));
    let installed = node.install("tool", "1.0.0");
    assert!(installed.status.success(), "{installed:?}");
    writer.join().unwrap().unwrap();
    assert_eq!(
        fs::read_to_string(node.at("programs/tool")).unwrap(),
        "good"
    );
}
