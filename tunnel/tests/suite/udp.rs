//! A network that stops carrying UDP, and begins again: real sockets in a network namespace of the test's own,
//! whose packet filter drops.

use std::os::unix::fs::MetadataExt;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use aws_lc_rs::digest::{Context, Digest, SHA256};
use underpass_tunnel::transport::TransportKind;
use underpass_tunnel::{ConnectorConfig, ReadHalf, ResumeWindow, Session};

use crate::bytes::{pour, stream};
use crate::harness::{acceptor_config, connector_config, run, until};
use crate::moves::{Chat, Kept};
use crate::server::{Pki, Server};

/// Set where a test runs in its namespace.
const INSIDE: &str = "UNDERPASS_TEST_IN_NAMESPACE";

/// In each direction of each of two streams: 256 MiB in all.
const TOTAL: usize = 64 * 1024 * 1024;

/// Runs `test` again as the only one of a process that has a network of its own, with nothing in it but
/// loopback. Gives whether this is that process.
fn inside(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        succeed(Command::new("ip").args(["link", "set", "lo", "up"]));
        return true;
    }
    let path = std::env::var("PATH").unwrap_or_default();
    let mut unshare = Command::new("unshare");
    unshare
        .arg("--net")
        // Not everybody's has them.
        .env("PATH", format!("{path}:/usr/sbin:/sbin"));
    if std::fs::metadata("/proc/self").unwrap().uid() != 0 {
        unshare.args(["--user", "--map-root-user"]);
    }
    unshare
        .arg("--")
        .arg(std::env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture"])
        .env(INSIDE, "1");
    let output = succeed(&mut unshare);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("1 passed"), "no such test: {said}");
    false
}

fn succeed(command: &mut Command) -> Output {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}; `cargo xtask test` installs it"));
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

/// The namespace's packet filter, while UDP does not get through it.
struct NoUdp;

impl NoUdp {
    fn new() -> Self {
        nft("add table inet underpass");
        nft("add chain inet underpass input { type filter hook input priority 0; }");
        nft("add rule inet underpass input meta l4proto udp counter drop");
        Self
    }

    fn over(self) {
        let rules = succeed(Command::new("nft").args(["list", "ruleset"]));
        let rules = String::from_utf8_lossy(&rules.stdout).into_owned();
        assert!(!rules.contains("packets 0 "), "it dropped: {rules}");
        nft("delete table inet underpass");
    }
}

fn nft(rule: &str) {
    succeed(Command::new("nft").args(rule.split(' ')));
}

/// Moves bytes both ways on a stream. `moved` counts those that arrived.
async fn transfer(opener: &Session, other: &Session, moved: &AtomicUsize) {
    let (here, there) = stream(opener, other).await;
    let (mut here_read, mut here_write) = here.into_split();
    let (mut there_read, mut there_write) = there.into_split();
    let (sent, received, sent_back, received_back) = tokio::join!(
        pour(&mut here_write, 1, TOTAL, 48 * 1024),
        count(&mut there_read, moved),
        pour(&mut there_write, 2, TOTAL, 48 * 1024),
        count(&mut here_read, moved),
    );
    for (sent, received) in [(sent, received), (sent_back, received_back)] {
        assert!(sent.unwrap().as_ref() == received.as_ref(), "bytes differ");
    }
}

async fn count(reader: &mut ReadHalf, moved: &AtomicUsize) -> Digest {
    let mut hash = Context::new(&SHA256);
    while let Some(bytes) = reader.read_bytes().await.unwrap() {
        moved.fetch_add(bytes.len(), Ordering::Relaxed);
        hash.update(&bytes);
    }
    hash.finish()
}

#[test]
fn a_transfer_goes_on_when_udp_dies_and_returns_when_it_comes_back() {
    if !inside("udp::a_transfer_goes_on_when_udp_dies_and_returns_when_it_comes_back") {
        return;
    }
    run(async {
        let pki = Pki::new();
        let mut server = Server::start(&pki, acceptor_config()).await;
        let config = ConnectorConfig {
            quic_probe: Duration::from_millis(500),
            resume_window: ResumeWindow::default(),
            ..connector_config(server.port, &pki)
        };
        // The connector also says that it looks for QUIC, and finds none.
        let mut kept = Kept::start_with(config, |_| {}).await;
        let session = server.session_of(&kept.agent).await;
        assert_eq!(kept.agent.transport(), Some(TransportKind::Quic));
        let chat = Chat::start(&session, &kept.agent).await;
        let moved = AtomicUsize::new(0);
        let (agent, moved) = (kept.agent.clone(), &moved);
        let transfers = async {
            tokio::join!(
                transfer(&agent, &session, moved),
                transfer(&session, &agent, moved)
            )
        };
        let network = async {
            until("some of it has moved", || {
                moved.load(Ordering::Relaxed) > TOTAL
            })
            .await;
            let outage = NoUdp::new();
            assert!(moved.load(Ordering::Relaxed) < 4 * TOTAL, "all of it has");
            outage
        };
        let (_, outage) = tokio::join!(transfers, network);
        assert_eq!(
            agent.transport(),
            Some(TransportKind::WebSocket),
            "it ended there"
        );
        chat.goes_on().await;
        assert_eq!(kept.moves().await, TransportKind::Quic);
        outage.over();
        assert_eq!(kept.moves().await, TransportKind::WebSocket);
        assert_eq!(agent.transport(), Some(TransportKind::Quic));
        chat.goes_on().await;
        chat.over().await;
        drop(agent);
        kept.over(&session).await;
    });
}
