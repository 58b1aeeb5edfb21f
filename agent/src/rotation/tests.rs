//! A key file that changes while the key is rotated.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Parser as _;
use tokio::time::Instant;
use underpass_core::AgentRole;
use underpass_tunnel::AgentKey;

use super::*;
use crate::kube_api::KubeApi;
use crate::policy::Policies;
use crate::targets::{Ends, OwnFiles, Targets, pair};

fn key(seed: u8) -> AgentKey {
    AgentKey::from_seed([seed; 32]).unwrap()
}

fn own(seed: u8) -> OwnKey {
    OwnKey::read(&key(seed).to_secret_text()).unwrap()
}

/// An agent with a key file, which is not connected.
struct World {
    path: PathBuf,
    cli: Cli,
    sessions: Sessions,
    questions: mpsc::Receiver<Asked>,
    wake: Wake,
    _folder: tempfile::TempDir,
}

impl World {
    /// With this key, and this one after it.
    fn new(first: u8, next: Option<u8>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("agent.key");
        write(&path, first, next);
        let pin = format!("sha256:{}", "0".repeat(64));
        let file = path.to_str().unwrap();
        let line = [
            "underpass-agent",
            "--server",
            "https://127.0.0.1:1",
            "--key-file",
            file,
        ];
        let cli = Cli::try_parse_from(line.iter().chain(&["--ca-pin", &pin])).unwrap();
        let policies = Arc::new(Policies::read(None, cli.impersonation()).unwrap());
        let targets = Targets::new(Arc::clone(&policies), OwnFiles::new([]), None);
        let (asking, questions) = Questions::new();
        let kube = KubeApi::new(None, AgentRole::Cluster, policies);
        let sessions = Sessions::new(kube, Arc::new(targets), asking);
        Self {
            path,
            cli,
            sessions,
            questions,
            wake: Wake::default(),
            _folder: folder,
        }
    }

    fn rotating<'a>(&'a mut self, connection: &'a Connection) -> Rotating<'a> {
        Rotating {
            cli: &self.cli,
            connection,
            sessions: &self.sessions,
            asked: &mut self.questions,
            wake: &self.wake,
        }
    }
}

fn write(path: &Path, first: u8, next: Option<u8>) {
    let mut text = key(first).to_secret_text().to_string();
    if let Some(next) = next {
        text += &format!("\nnext {}\n", key(next).to_secret_text().as_str());
    }
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

#[tokio::test]
async fn a_key_that_was_replaced_meanwhile_is_used_and_not_rotated() {
    for next in [None, Some(8)] {
        let mut world = World::new(1, None);
        let connection = Connection::read(&world.cli).unwrap();
        // The agent has read its key, and an operator puts another one there.
        write(&world.path, 7, next);
        let (agent, server) = pair().await;
        let mut rotating = world.rotating(&connection);
        let first = key(1).public_key();
        let registers = async {
            server
                .accept()
                .await
                .map(|incoming| incoming.target().to_owned())
        };
        let used = tokio::select! {
            used = rotating.rotate_from(first, &agent) => used.unwrap(),
            opened = registers => panic!("the agent opens {opened:?}"),
        };
        assert_eq!(used, key(7).public_key());
        assert_eq!(connection.connector.public_key(), used, "it is proved next");
        assert_eq!(connection.own_key(), Some(own(7)));
        // And the file is as it was.
        let record = key::reread(&world.cli).await.unwrap();
        assert_eq!((record.key, record.next), (own(7), next.map(own)));
    }
}

#[tokio::test]
async fn where_a_key_is_refused_the_agents_own_is_used_again_and_not_anothers() {
    let mut world = World::new(1, Some(2));
    let connection = Connection::read(&world.cli).unwrap();
    let path = world.path.clone();
    let rotating = world.rotating(&connection);
    assert_eq!(rotating.key_before(&own(2)), Some(own(1)));
    assert_eq!(rotating.key_before(&own(1)), None, "it is the one in use");
    // Between the two: the file says beside which one the next one stands.
    connection.use_key(&own(2)).unwrap();
    assert_eq!(rotating.key_before(&own(2)), Some(own(1)));
    // It is another agent's by now.
    write(&path, 7, None);
    key::reread(rotating.cli).await.unwrap();
    assert_eq!(rotating.key_before(&own(2)), None);
    assert_eq!(rotating.key_before(&own(7)), Some(own(2)));
}

#[tokio::test]
async fn a_draining_session_whose_server_goes_holds_up_no_rotation() {
    let mut world = World::new(1, None);
    let connection = Connection::read(&world.cli).unwrap();
    let ends = Ends::new().await;
    let rotating = world.rotating(&connection);
    // Nothing listens where it would be proved.
    let key = key(8).public_key();
    let begun = Instant::now();
    let proving = rotating.prove_over_draining(vec![ends.agent.clone()], &key);
    let losing = async { ends.lose_transport() };
    tokio::join!(proving, losing);
    assert!(!ends.agent.has_proved(&key));
    let took = begun.elapsed();
    assert!(took < limits::PROVE_TIME / 2, "{took:?}");
}
