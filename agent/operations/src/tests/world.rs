//! A node's records, in a folder of their own.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;
use underpass_agent_policy::{Operation, Policy};
use underpass_api::{OperationEvent, OperationId, OperationRecord, OperationRequest, OutputStream};

use crate::{Asking, Caller, Follower, OpenError, Operations, Retention, RunError};

pub(super) struct World {
    pub(super) folder: TempDir,
    pub(super) operations: Operations,
}

pub(super) fn id(text: &str) -> OperationId {
    text.parse().unwrap()
}

pub(super) fn alice() -> Caller {
    Caller {
        user: "alice".to_owned(),
        uid: None,
    }
}

/// An operation `a` that runs a script, with the parameter `x` as its `$1` and these fields beside.
pub(super) fn script(script: &str, fields: &str) -> Arc<Operation> {
    let script = serde_json::to_string(&script.replace('{', "{{").replace('}', "}}")).unwrap();
    operation(&format!(
        "{{name: a, command: /bin/sh, arguments: [-c, {script}, sh, '{{x}}'], \
         parameters: [{{name: x, longest: 200, default: none}}]{fields}}}"
    ))
}

pub(super) fn operation(fields: &str) -> Arc<Operation> {
    let mut yaml = format!("operations: [{fields}]");
    if !yaml.contains("timeLimit") {
        yaml = yaml.replace("{name: a,", "{name: a, timeLimit: 1h,");
    }
    let policy = Policy::from_yaml(&yaml).unwrap_or_else(|error| panic!("{yaml}: {error}"));
    Arc::clone(&policy.operations()[0])
}

/// For the operation `a`.
pub(super) fn request(run: &str, x: Option<&str>) -> OperationRequest {
    let x = x.map(|x| ("x".to_owned(), x.to_owned()));
    OperationRequest {
        id: id(run),
        operation: "a".to_owned(),
        arguments: BTreeMap::from_iter(x),
        detach: false,
    }
}

/// Every id, the newest first.
pub(super) fn all(operations: &Operations) -> Vec<OperationId> {
    operations.newest(usize::MAX, |_| true)
}

/// Changes a record's file.
pub(super) fn edit(record: &Path, change: impl FnOnce(&mut serde_json::Map<String, Value>)) {
    let text = std::fs::read_to_string(record).unwrap();
    let mut value: Value = serde_json::from_str(&text).unwrap();
    change(value.as_object_mut().unwrap());
    std::fs::write(record, value.to_string()).unwrap();
}

/// Has the record of a run as it was in its midst.
pub(super) fn make_running(record: &Path) {
    edit(record, |fields| {
        for later in ["ended", "exit", "output", "sequence", "on_disk"] {
            fields.remove(later);
        }
        fields.insert("state".to_owned(), "running".into());
    });
}

/// Whether a process lives: a zombie does not.
pub(super) fn lives(pid: &str) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let state = status.lines().find_map(|line| line.strip_prefix("State:"));
    state.is_some_and(|state| !state.trim().starts_with(['Z', 'X']))
}

/// The operations of an agent that is started again. A child of another test's has a copy of the lock's descriptor until it runs its
/// program, so that the lock is waited for.
pub(super) fn open_again(state: &Path, retention: Retention) -> Operations {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        match Operations::open(state, retention) {
            Err(OpenError::InUse(_)) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(2));
            }
            opened => return opened.unwrap(),
        }
    }
}

impl World {
    pub(super) fn new() -> Self {
        Self::keeping(Retention::default())
    }

    pub(super) fn keeping(retention: Retention) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let operations = Operations::open(&folder.path().join("state"), retention).unwrap();
        Self { folder, operations }
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Stops the agent, and gives the folder of its records.
    pub(super) async fn stop(self) -> (TempDir, PathBuf) {
        let state = self.path("state");
        self.operations.stop().await;
        (self.folder, state)
    }

    pub(super) async fn ask(
        &self,
        run: &str,
        operation: &Arc<Operation>,
        x: Option<&str>,
    ) -> Result<Asking, RunError> {
        let request = request(run, x);
        self.operations.run(&request, operation, &alice()).await
    }

    /// Starts a run, and gives its output and its record at the end.
    pub(super) async fn run(&self, run: &str, operation: &Arc<Operation>) -> Story {
        let asking = self.ask(run, operation, None).await.unwrap();
        assert!(asking.is_new);
        Story::of(asking.follower).await
    }
}

/// A follower's events.
pub(super) struct Story {
    pub(super) pieces: Vec<(OutputStream, String)>,
    pub(super) record: OperationRecord,
}

impl Story {
    pub(super) async fn of(mut follower: Follower) -> Self {
        let mut pieces = Vec::new();
        let mut last = None;
        while let Some(event) = follower.next().await.unwrap() {
            match event {
                OperationEvent::Output(piece) => {
                    pieces.push((piece.stream, String::from_utf8(piece.data).unwrap()));
                }
                OperationEvent::Record(record) => last = Some(record),
                OperationEvent::Refused(problem) => panic!("{problem}"),
            }
        }
        Self {
            pieces,
            record: last.unwrap(),
        }
    }

    pub(super) fn text(&self) -> String {
        self.pieces.iter().map(|(_, text)| text.as_str()).collect()
    }
}
