//! Lanes: streams of the class bulk on a link of their own.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use underpass_proto::session::LinkRefused;
use underpass_tunnel::{
    Class, ConnectError, ConnectorConfig, OpenRequest, Session, Stream, Transports,
};

use crate::bytes::{incoming, read_whole, target};
use crate::harness::{Kind, acceptor_config, connector_config, fails, run, until, within};
use crate::moves::{Chat, Kept};
use crate::relay::Relay;
use crate::server::{Pki, Server};
use crate::survive::{Survivor, transfer};

const MIB: usize = 1024 * 1024;

/// A copy, from both its ends.
async fn copy(opener: &Session, other: &Session) -> (Stream, Stream) {
    let request = OpenRequest {
        class: Class::Bulk,
        ..target("copy")
    };
    let mut here = within("a copy begins", opener.open(request)).await.unwrap();
    let there = incoming(other).await.accept().await.unwrap();
    within("the answer comes", here.accepted()).await.unwrap();
    (here, there)
}

/// `total` bytes each way through a copy of each side's.
async fn copies(agent: &Session, server: &Session, total: usize) {
    let mut copies = Vec::new();
    for (opener, other) in [(agent, server), (server, agent)] {
        copies.push(copy(opener, other).await);
    }
    let copies = copies.into_iter().map(async |(here, there)| {
        let ((here_sent, here_got), (there_sent, there_got)) =
            tokio::join!(transfer(here, 1, total), transfer(there, 2, total));
        assert!(
            here_sent == there_got && there_sent == here_got,
            "bytes differ"
        );
    });
    join_all(copies).await;
}

/// Copies that have begun move to a lane, those that begin while it is there begin on it, and nothing else
/// goes there.
pub(crate) async fn copies_have_the_lane_to_themselves(kind: Kind) {
    let survivor = Survivor::start(kind).await;
    let Survivor { agent, server, .. } = &survivor;
    let chat = Chat::start(server, agent).await;
    let early = copy(server, agent).await;
    survivor.add_lane().await.unwrap();
    for session in [agent, server] {
        until("the lane is there", || session.stats().lane).await;
    }
    let before = survivor.lane_bytes();
    chat.goes_on().await;
    let idle = survivor.lane_bytes();
    copies(agent, server, MIB).await;
    let (sent, got) = tokio::join!(transfer(early.0, 1, MIB), transfer(early.1, 2, MIB));
    assert!(sent.0 == got.1 && sent.1 == got.0, "bytes differ");
    if let (Some(before), Some(idle), Some(after)) = (before, idle, survivor.lane_bytes()) {
        assert!(idle - before < 4096, "a keystroke is no copy: {idle}");
        let carried = after - idle;
        assert!(carried > 6 * MIB as u64, "{carried} of six MiB and more");
    }
    for session in [agent, server] {
        until("the lane is left", || !session.stats().lane).await;
        let stats = session.stats();
        assert_eq!((stats.resumes, stats.moves), (0, 0), "the rest stayed");
    }
    chat.goes_on().await;
    chat.over().await;
    survivor.over().await;
}

/// A lane that is lost costs its copies a moment, and the rest nothing.
pub(crate) async fn copies_go_on_without_their_lane(kind: Kind) {
    let survivor = Survivor::start(kind).await;
    let Survivor { agent, server, .. } = &survivor;
    let chat = Chat::start(agent, server).await;
    let over = Arc::new(AtomicBool::new(false));
    let done = async {
        copies(agent, server, 32 * MIB).await;
        over.store(true, Ordering::Relaxed);
    };
    let lanes = async {
        let mut lanes = 0;
        while !over.load(Ordering::Relaxed) {
            // The copies may have ended, or the one before may not be over on both sides.
            lanes += u32::from(survivor.add_lane().await.is_ok());
            tokio::time::sleep(Duration::from_millis(20)).await;
            survivor.cut_lane();
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        lanes
    };
    let ((), lanes) = tokio::join!(done, lanes);
    assert!(lanes > 1, "there were {lanes}");
    for session in [agent, server] {
        let stats = session.stats();
        assert_eq!((stats.resumes, stats.moves), (0, 0), "the rest stayed");
    }
    chat.goes_on().await;
    chat.over().await;
    survivor.over().await;
}

/// At any moment.
pub(crate) async fn copies_survive_the_loss_of_either_link(kind: Kind) {
    let survivor = Survivor::start(kind).await;
    let Survivor { agent, server, .. } = &survivor;
    let lanes = async {
        loop {
            // There may be nothing beside which it could be.
            let _ = survivor.add_lane().await;
            tokio::time::sleep(Duration::from_millis(30)).await;
            survivor.cut_lane();
        }
    };
    tokio::select! {
        () = copies(agent, server, 32 * MIB) => {}
        () = lanes => {}
        _ = survivor.keep_cutting(Duration::from_millis(50)) => {}
    }
    survivor.resume().await;
    survivor.over().await;
}

/// The same failure may have cut the other.
pub(crate) async fn a_lane_does_not_outlive_the_main_link(kind: Kind) {
    let survivor = Survivor::start(kind).await;
    let Survivor { agent, server, .. } = &survivor;
    let (here, there) = copy(server, agent).await;
    survivor.add_lane().await.unwrap();
    until("the server has it", || server.stats().lane).await;
    survivor.detach().await;
    assert!(!agent.stats().lane && !server.stats().lane);
    let error = fails("a lane alone", survivor.add_lane()).await;
    assert!(
        matches!(
            error,
            ConnectError::Resume(LinkRefused::Alone)
                | ConnectError::Handshake(_)
                | ConnectError::Transport(_)
        ),
        "{error:?}"
    );
    survivor.resume().await;
    let (sent, got) = tokio::join!(transfer(here, 1, MIB), transfer(there, 2, MIB));
    assert!(sent.0 == got.1 && sent.1 == got.0, "bytes differ");
    survivor.over().await;
}

fn config(port: u16, pki: &Pki, transports: Transports) -> ConnectorConfig {
    ConnectorConfig {
        transports,
        ..connector_config(port, pki)
    }
}

async fn ends(copy: (Stream, Stream)) {
    let (mut here, mut there) = copy;
    for stream in [&mut here, &mut there] {
        tokio::io::AsyncWriteExt::shutdown(stream).await.unwrap();
    }
    for stream in [&mut here, &mut there] {
        assert!(read_whole(stream).await.unwrap().is_empty());
    }
}

/// Also where a load balancer leads the first attempts to another server.
#[test]
fn a_connector_brings_a_lane_for_a_copy_that_lasts() {
    run(async {
        let pki = Pki::new();
        let mut server = Server::start(&pki, acceptor_config()).await;
        let other = Server::start(&pki, acceptor_config()).await;
        let relay = Relay::start(server.port).await;
        let kept = Kept::start(config(relay.port, &pki, Transports::WebSocket)).await;
        let session = server.session_of(&kept.agent).await;
        relay.lead_to(other.port);
        let chat = Chat::start(&session, &kept.agent).await;
        for round in 0..2 {
            let copy = copy(&session, &kept.agent).await;
            if round == 0 {
                let before = relay.carried();
                until("it was led astray", || relay.carried() > before + 1000).await;
                relay.lead_to(server.port);
            }
            for side in [&session, &kept.agent] {
                until("there is a lane", || side.stats().lane).await;
            }
            ends(copy).await;
            for side in [&session, &kept.agent] {
                until("it is left", || !side.stats().lane).await;
            }
        }
        chat.over().await;
        kept.over(&session).await;
    });
}

#[test]
fn an_old_lane_is_replaced() {
    run(async {
        let pki = Pki::new();
        let mut server = Server::start(&pki, acceptor_config()).await;
        let relay = Relay::start(server.port).await;
        let mut config = config(relay.port, &pki, Transports::WebSocket);
        // The main link's first; a lane comes after a second, and is replaced about as soon.
        config.websocket_max_age = Duration::from_millis(1500);
        let mut kept = Kept::start(config).await;
        let session = server.session_of(&kept.agent).await;
        let copy = copy(&session, &kept.agent).await;
        until("there is a lane", || session.stats().lane).await;
        let first = kept.agent.stats().lanes;
        until("there is another", || kept.agent.stats().lanes > first).await;
        kept.moves().await;
        ends(copy).await;
        kept.over(&session).await;
    });
}

/// Over QUIC nothing waits for a copy's lost packets; and where lanes are off there are none.
#[test]
fn no_lane_is_brought_where_none_is_wanted() {
    run(async {
        let pki = Pki::new();
        let mut cases = Vec::new();
        for (transports, lanes) in [
            (Transports::Quic, true),
            (Transports::WebSocket, false),
            // Last: when this one has its lane, the others have had time for theirs.
            (Transports::WebSocket, true),
        ] {
            let mut server = Server::start(&pki, acceptor_config()).await;
            let kept = Kept::start(ConnectorConfig {
                lanes,
                ..config(server.port, &pki, transports)
            })
            .await;
            let session = server.session_of(&kept.agent).await;
            let copy = copy(&session, &kept.agent).await;
            cases.push((server, kept, session, copy));
        }
        until("the last one has a lane", || {
            cases[2].1.agent.stats().lanes == 1
        })
        .await;
        for (_, kept, ..) in &cases[..2] {
            assert_eq!(kept.agent.stats().lanes, 0);
        }
        for (_server, kept, session, copy) in cases {
            ends(copy).await;
            kept.over(&session).await;
        }
    });
}
