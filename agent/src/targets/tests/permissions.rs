//! Rules 17 and 25: permissions.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::net::UnixListener;
use tokio::sync::Notify;
use underpass_agent_policy::Policy;
use underpass_dial::Resolve;
use underpass_dial::testing::Addresses;
use underpass_tunnel::{ResetCode, StreamError};

use super::world::*;

#[tokio::test]
async fn rule_17_the_identity_is_held_against_the_policy() {
    let (_listener, target) = listener().await;
    let world = World::new(OWN).await;
    for user in ["mallory", "system:node:n1"] {
        let (code, reason) = sentence(world.open_as(user, &target).await);
        assert_eq!(code, ResetCode::Forbidden);
        assert!(reason.contains("may not be impersonated"), "{reason}");
    }
    let unreadable = Bytes::from_static(b"{\"v\":1}");
    let (code, _) = sentence(world.open_with(unreadable, &target).await);
    assert_eq!(code, ResetCode::HeaderInvalid);
}

#[derive(Debug)]
enum Broken {
    Nothing,
    Hanging,
}

impl Resolve for Broken {
    fn resolve<'a>(&'a self, _: &'a str, _: u16) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>> {
        match self {
            Self::Nothing => Box::pin(async { Ok(Vec::new()) }),
            Self::Hanging => Box::pin(std::future::pending()),
        }
    }
}

const NAMES: &str = "tcp: [{name: names, names: ['*.example.org']}]";

async fn resolving(policy: &str, resolver: impl Resolve) -> World {
    let differs = Differs {
        resolver: Some(Arc::new(resolver)),
        ..Differs::default()
    };
    World::differing(policy, differs).await
}

#[tokio::test]
async fn a_name_that_does_not_resolve_says_so() {
    for (resolver, says) in [
        (Broken::Nothing, "the name does not resolve"),
        (Broken::Hanging, "looking it up takes longer than 2 s"),
    ] {
        let world = resolving(NAMES, resolver).await;
        let (code, reason) = world.refused("tcp:db.example.org:1").await;
        assert_eq!(code, ResetCode::TargetUnreachable);
        assert!(reason.contains(says), "{reason}");
    }
}

#[tokio::test]
async fn rule_17_a_name_that_leads_to_the_agents_machine_is_not_dialled() {
    let (listener, _) = listener().await;
    let address = listener.local_addr().unwrap();
    let mapped = SocketAddr::new("::ffff:127.0.0.1".parse().unwrap(), address.port());
    let target = format!("tcp:db.example.org:{}", address.port());
    for address in [address, mapped] {
        let world = resolving(NAMES, Addresses(vec![address])).await;
        let (code, reason) = world.refused(&target).await;
        assert_eq!(code, ResetCode::Forbidden);
        assert!(reason.contains("a loopback address"), "{reason}");
    }
    let mut accepting = std::pin::pin!(listener.accept());
    assert!(futures_util::poll!(&mut accepting).is_pending());
    // A rule for that very address lets it in.
    let both =
        "tcp: [{name: names, names: ['*.example.org']}, {name: own, addresses: [127.0.0.1]}]";
    let world = resolving(both, Addresses(vec![address])).await;
    let (accepted, stream) = within(async { tokio::join!(accepting, world.open(&target)) }).await;
    accepted.unwrap();
    stream.unwrap();
}

#[tokio::test]
async fn rule_17_of_a_names_addresses_the_allowed_ones_are_dialled() {
    let (listener, _) = listener().await;
    let own = listener.local_addr().unwrap();
    let elsewhere = SocketAddr::new("169.254.169.254".parse().unwrap(), own.port());
    let both =
        "tcp: [{name: names, names: ['*.example.org']}, {name: own, addresses: [127.0.0.1]}]";
    let world = resolving(both, Addresses(vec![elsewhere, own])).await;
    let target = format!("tcp:db.example.org:{}", own.port());
    joined(&world, &listener, &target).await;
}

#[tokio::test]
async fn rule_17_a_socket_is_opened_by_its_own_path_only() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().canonicalize().unwrap().join(name);
    let text = |name: &str| path(name).to_str().unwrap().to_owned();
    let _listening = UnixListener::bind(path("a.sock")).unwrap();
    let _other = UnixListener::bind(path("b.sock")).unwrap();
    let _secret = UnixListener::bind(path("secret.sock")).unwrap();
    std::os::unix::fs::symlink(path("b.sock"), path("link.sock")).unwrap();
    let policy = format!(
        "unix: [{{name: u, paths: [{}, {}, {}]}}]",
        text("a.sock"),
        text("link.sock"),
        text("secret.sock")
    );
    let differs = Differs {
        own: vec![path("secret.sock")],
        ..Differs::default()
    };
    let world = World::differing(&policy, differs).await;
    within(world.open(&format!("unix:{}", text("a.sock"))))
        .await
        .unwrap();
    for (name, says) in [
        ("b.sock", "no rule of the agent's policy"),
        ("link.sock", "by a symbolic link"),
        ("secret.sock", "belongs to the agent itself"),
    ] {
        let (code, reason) = world.refused(&format!("unix:{}", text(name))).await;
        assert_eq!(code, ResetCode::Forbidden);
        assert!(reason.contains(says), "{reason}");
    }
}

/// Finds its address once it is let go.
#[derive(Debug)]
struct Held {
    asked: Arc<Notify>,
    go: Arc<Notify>,
    address: SocketAddr,
}

impl Resolve for Held {
    fn resolve<'a>(&'a self, _: &'a str, _: u16) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>> {
        Box::pin(async {
            self.asked.notify_one();
            self.go.notified().await;
            Ok(vec![self.address])
        })
    }
}

#[tokio::test]
async fn rule_25_a_policy_that_changes_while_a_target_is_reached_counts() {
    let (listener, _) = listener().await;
    let address = listener.local_addr().unwrap();
    let (asked, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let held = Held {
        asked: Arc::clone(&asked),
        go: Arc::clone(&go),
        address,
    };
    let both =
        "tcp: [{name: names, names: ['*.example.org']}, {name: own, addresses: [127.0.0.1]}]";
    let world = resolving(both, held).await;
    let target = format!("tcp:db.example.org:{}", address.port());
    let changing = async {
        asked.notified().await;
        world.policies.enforce(Policy::default());
        go.notify_one();
    };
    // The reset may overtake the answer.
    let reading = async { world.open(&target).await?.read_bytes().await };
    let (read, ()) = within(async { tokio::join!(reading, changing) }).await;
    assert!(
        matches!(read, Err(StreamError::Reset(ResetCode::Forbidden))),
        "{read:?}"
    );
}
