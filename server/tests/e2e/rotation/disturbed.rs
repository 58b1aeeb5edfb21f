//! Rotations under lost connections and killed agents.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use underpass_testenv::Transport;
use underpass_testenv::testing::{Wire, eventually};

use super::{KeyFile, NEVER, SHORT, joined, rotated};
use crate::cutter::{Cuts, Forgetful};
use crate::flight::InFlight;
use crate::join::JOINER;
use crate::over_both_transports;

over_both_transports!(keys_rotate_though_the_connection_is_cut_each_second,);

#[tokio::test]
async fn keys_rotate_though_both_links_are_cut_each_second() {
    keys_rotate_though_the_connection_is_cut_each_second(Transport::Auto).await;
}

async fn keys_rotate_though_the_connection_is_cut_each_second(transport: Transport) {
    // The rest of a pod's name does not tell both links from QUIC.
    let pod = match transport {
        Transport::Auto => "rotates-cut-both",
        _ => "rotates-cut",
    };
    let (site, _) = joined(transport, &[NEVER]).await;
    site.stop();
    let port = site.deployment.url().rsplit(':').next().unwrap();
    let path = Forgetful::start(port.parse().unwrap()).await;
    let through = format!("https://localhost:{}", path.port);
    let log = site.start(&[("--server", &through), SHORT]);
    let agent = site.connected().await;
    let admin = site.admin();
    let client = site.deployment.client(&admin, Wire::WebSocket);
    let open = [
        InFlight::watch(&client).await,
        InFlight::shell(&client, pod).await,
    ];
    let mut keys = BTreeSet::from([KeyFile::read(&site.key).key]);
    let cuts = Cuts::default();
    let rotating = async {
        while keys.len() < 5 {
            let key = rotated(&site, &keys).await;
            keys.insert(key);
        }
    };
    tokio::select! {
        () = rotating => {}
        never = path.forget_each(Duration::from_secs(1), &cuts) => match never {},
    }
    assert!(cuts.count() >= 3, "{} cuts", cuts.count());
    client.run(&["get", "--raw", "/version"]).await;
    for open in open {
        assert!(open.goes_on());
    }
    assert_eq!(site.agents()[0][0], agent[0]);
    let said = fs::read_to_string(log).unwrap();
    assert!(!said.contains("ERROR"), "{said}");
}

/// Each time at the moment at which the key file changes: with the next key in it, or without the old one.
#[tokio::test]
async fn an_agent_that_is_killed_while_it_rotates_comes_back() {
    let (site, _) = joined(Transport::WebSocket, &[SHORT]).await;
    let agent = site.connected().await;
    let mut with_next = 0;
    for _ in 0..8 {
        let before = fs::read_to_string(&site.key).unwrap();
        let after = eventually("the key file changes", async || {
            let after = fs::read_to_string(&site.key).unwrap();
            (after != before).then_some(after).ok_or("not yet")
        })
        .await;
        site.deployment.kill_another_agent(JOINER).unwrap();
        with_next += usize::from(after.contains("\nnext "));
        site.start(&[SHORT]);
        // A session of the one that was killed may last for a moment.
        eventually("it is connected", async || {
            let agents = site.agents();
            let client = agents.first().filter(|cells| cells[4] != "0");
            client.map(|_| ()).ok_or(agents.clone())
        })
        .await;
    }
    assert!(
        with_next > 0,
        "it was never killed in the midst of a rotation"
    );
    let keys = BTreeSet::from([KeyFile::read(&site.key).key]);
    rotated(&site, &keys).await;
    assert_eq!(site.agents()[0][0], agent[0]);
}
