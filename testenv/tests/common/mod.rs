//! What the test binaries share. Each uses a part of it.
#![allow(dead_code, reason = "every test binary compiles this and uses a part")]

use std::fmt::Debug;
use std::process::{Output, Stdio};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, Command};
use underpass_testenv::{Cluster, ClusterOptions};

/// Longer than anything takes on a busy machine; what waits for it fails.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

const POLL: Duration = Duration::from_millis(50);

/// One cluster for all tests of a binary. Nothing drops it: it ends with the process.
pub(crate) static CLUSTER: LazyLock<Cluster> = LazyLock::new(|| {
    Cluster::start_blocking(ClusterOptions::default()).unwrap_or_else(|e| panic!("{e:?}"))
});

/// Asks until there is an answer.
pub(crate) async fn eventually<T, E: Debug>(
    what: &str,
    mut ask: impl AsyncFnMut() -> Result<T, E>,
) -> T {
    let begin = Instant::now();
    loop {
        match ask().await {
            Ok(answer) => return answer,
            Err(last) if begin.elapsed() > DEADLINE => panic!("{what}: {last:?}"),
            Err(_) => tokio::time::sleep(POLL).await,
        }
    }
}

/// How kubectl streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wire {
    WebSocket,
    Spdy,
}

impl Wire {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::WebSocket => "ws",
            Self::Spdy => "spdy",
        }
    }

    /// The verb that the API server sees: WebSocket starts with a GET, SPDY with a POST.
    pub(crate) fn verb(self) -> &'static str {
        match self {
            Self::WebSocket => "get",
            Self::Spdy => "create",
        }
    }

    pub(crate) fn kubectl(self, cluster: &Cluster) -> Command {
        let on = (self == Self::WebSocket).to_string();
        let mut command = Command::from(cluster.kubectl());
        command
            .env("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", &on)
            .env("KUBECTL_PORT_FORWARD_WEBSOCKETS", &on)
            .kill_on_drop(true);
        command
    }
}

/// Starts a command with all of its streams piped.
pub(crate) fn spawn(command: &mut Command) -> Child {
    command
        .kill_on_drop(true)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Runs a command with the given input, which then ends.
pub(crate) async fn run(command: &mut Command, input: &[u8]) -> Output {
    let mut child = spawn(command);
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let feed = tokio::spawn(async move {
        // A command that ends before it has read everything is not an error here.
        let _ = stdin.write_all(&input).await;
    });
    let output = tokio::time::timeout(DEADLINE, child.wait_with_output())
        .await
        .unwrap_or_else(|_| panic!("{command:?} did not end"))
        .unwrap();
    feed.await.unwrap();
    output
}

/// Runs a command that has to succeed.
pub(crate) async fn succeed(command: &mut Command, input: &[u8]) -> Vec<u8> {
    let output = run(command, input).await;
    assert!(
        output.status.success(),
        "{command:?}: {}",
        text(&output.stderr)
    );
    output.stdout
}

/// kubectl as the administrator, which has to succeed.
pub(crate) async fn kubectl(cluster: &Cluster, arguments: &[&str]) -> String {
    let mut command = Command::from(cluster.kubectl());
    text(&succeed(command.args(arguments), b"").await)
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A stream that is read up to what is looked for, and not further.
pub(crate) struct Reading<R> {
    from: R,
    unread: String,
}

impl<R: AsyncRead + Unpin> Reading<R> {
    pub(crate) fn new(from: R) -> Self {
        Self {
            from,
            unread: String::new(),
        }
    }

    /// Reads up to the text.
    pub(crate) async fn until(&mut self, wanted: &str) -> String {
        self.until_some(wanted, |unread| {
            let end = unread.find(wanted)? + wanted.len();
            Some((unread[..end].to_owned(), end))
        })
        .await
    }

    /// Reads until something is found, which is returned with where it ends.
    pub(crate) async fn until_some<T>(
        &mut self,
        wanted: &str,
        find: impl Fn(&str) -> Option<(T, usize)>,
    ) -> T {
        let read = async {
            let mut buffer = [0; 4096];
            loop {
                if let Some((found, end)) = find(&self.unread) {
                    self.unread.drain(..end);
                    return found;
                }
                let n = self.from.read(&mut buffer).await.unwrap();
                assert_ne!(n, 0, "ended without {wanted:?}: {:?}", self.unread);
                self.unread.push_str(&text(&buffer[..n]));
            }
        };
        match tokio::time::timeout(DEADLINE, read).await {
            Ok(found) => found,
            Err(_) => panic!("no {wanted:?} in {:?}", self.unread),
        }
    }
}

/// A pod that runs a shell script.
pub(crate) fn pod(name: &str, script: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "name": name, "labels": { "app": name } },
        "spec": {
            "terminationGracePeriodSeconds": 2,
            "containers": [{
                "name": "main",
                "image": "none",
                "command": ["sh", "-c", script],
            }],
        },
    })
}

pub(crate) async fn create(cluster: &Cluster, manifest: &Value) {
    let mut command = Command::from(cluster.kubectl());
    succeed(
        command.args(["create", "-f", "-"]),
        manifest.to_string().as_bytes(),
    )
    .await;
}

pub(crate) async fn wait_ready(cluster: &Cluster, pod: &str) {
    kubectl(
        cluster,
        &[
            "wait",
            "--for=condition=Ready",
            "--timeout=60s",
            &format!("pod/{pod}"),
        ],
    )
    .await;
}

/// Creates a pod that idles, and waits until it is ready.
pub(crate) async fn idle_pod(cluster: &Cluster, name: &str) {
    create(cluster, &pod(name, "exec sleep 100000")).await;
    wait_ready(cluster, name).await;
}

/// A field of an object, by JSONPath.
pub(crate) async fn field(cluster: &Cluster, object: &str, path: &str) -> String {
    kubectl(
        cluster,
        &["get", object, "-o", &format!("jsonpath={{{path}}}")],
    )
    .await
}

/// Bytes that repeat in no short period, so that what is lost or doubled shows.
pub(crate) fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// Whether a process exists and is not merely waiting to be reaped.
pub(crate) fn alive(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
        !stat
            .rsplit(')')
            .next()
            .unwrap_or_default()
            .starts_with(" Z")
    })
}

/// A process and all of its descendants.
pub(crate) fn family(root: u32) -> Vec<u32> {
    let mut family = vec![root];
    let parents: Vec<(u32, u32)> = std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| {
            let pid = entry.ok()?.file_name().to_str()?.parse().ok()?;
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            let parent = stat
                .rsplit(')')
                .next()?
                .split_whitespace()
                .nth(1)?
                .parse()
                .ok()?;
            Some((pid, parent))
        })
        .collect();
    let mut next = 0;
    while let Some(&parent) = family.get(next) {
        family.extend(
            parents
                .iter()
                .filter(|(_, p)| *p == parent)
                .map(|(pid, _)| *pid),
        );
        next += 1;
    }
    family
}
