//! Running commands, and looking at processes.

use std::io::Write as _;
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::process::{Child, Command};

use super::DEADLINE;

/// Starts a command with all of its streams piped. Dropping the child kills it.
pub fn spawn(command: &mut Command) -> Child {
    command
        .kill_on_drop(true)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Runs a command with the given input, which then ends.
pub async fn run(command: &mut Command, input: &[u8]) -> Output {
    run_within(DEADLINE, command, input).await
}

/// The same of a command that takes longer.
pub async fn run_within(deadline: Duration, command: &mut Command, input: &[u8]) -> Output {
    let mut child = spawn(command);
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let feed = tokio::spawn(async move {
        // A command that ends before it has read everything is not an error here.
        let _ = stdin.write_all(&input).await;
    });
    let output = tokio::time::timeout(deadline, child.wait_with_output())
        .await
        .unwrap_or_else(|_| panic!("{command:?} did not end"))
        .unwrap();
    feed.await.unwrap();
    output
}

/// Runs a command that has to succeed.
pub async fn succeed(command: &mut Command, input: &[u8]) -> Vec<u8> {
    let output = run(command, input).await;
    assert!(
        output.status.success(),
        "{command:?}: {}",
        text(&output.stderr)
    );
    output.stdout
}

/// Bytes as text, for looking at.
#[must_use]
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Whether a process exists and is not merely waiting to be reaped.
#[must_use]
pub fn alive(pid: u32) -> bool {
    after_name(pid).is_some_and(|stat| !stat.starts_with(" Z"))
}

/// A process and all of its descendants.
#[must_use]
pub fn family(root: u32) -> Vec<u32> {
    let parents: Vec<(u32, u32)> = std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| {
            let pid = entry.ok()?.file_name().to_str()?.parse().ok()?;
            let parent = after_name(pid)?.split_whitespace().nth(1)?.parse().ok()?;
            Some((pid, parent))
        })
        .collect();
    let mut family = vec![root];
    let mut next = 0;
    while let Some(&parent) = family.get(next) {
        let children = parents.iter().filter(|(_, p)| *p == parent);
        family.extend(children.map(|(pid, _)| *pid));
        next += 1;
    }
    family
}

/// `/proc/<pid>/stat` from after the program's name, which may hold anything.
fn after_name(pid: u32) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(stat.rsplit(')').next()?.to_owned())
}

/// Makes a program of a shell script, for its owner alone. Another process writes it: a file that this one had open for
/// writing cannot be run as long as a child, just forked for somebody else, has it open, too (`ETXTBSY`).
pub fn install_script(path: &Path, text: &str) {
    let install = r#"umask 077 && cat > "$1" && chmod 700 "$1""#;
    let mut child = std::process::Command::new("/bin/sh")
        .args(["-c", install, "sh"])
        .arg(path)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(text.as_bytes()).unwrap();
    drop(stdin);
    assert!(child.wait().unwrap().success());
}
