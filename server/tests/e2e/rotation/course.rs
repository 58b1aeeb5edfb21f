//! A rotation from its beginning to its end, also one that was broken off.

use std::collections::BTreeSet;
use std::fs;

use underpass_api::NextKeyRefusal;
use underpass_testenv::testing::{Wire, eventually};
use underpass_testenv::{CLUSTER_NAME, Transport};
use underpass_tunnel::ConnectError;

use super::holder::{Holder, assert_refused, is_registered};
use super::{KeyFile, NEVER, SHORT, joined, new_key, public, rotated, waits};
use crate::audit::one_of_ours;
use crate::flight::InFlight;
use crate::join::JOINED;
use crate::over_both_transports;

over_both_transports!(
    keys_rotate_by_themselves_and_nothing_breaks,
    an_agent_rotates_its_key_when_it_is_asked_to,
    a_rotation_that_was_broken_off_anywhere_ends_well,
);

async fn keys_rotate_by_themselves_and_nothing_breaks(transport: Transport) {
    let (site, log) = joined(transport, &[SHORT]).await;
    let agent = site.connected().await;
    let admin = site.admin();
    let client = site.deployment.client(&admin, Wire::WebSocket);
    let open = [
        InFlight::watch(&client).await,
        InFlight::shell(&client, "rotates").await,
    ];
    let mut keys = BTreeSet::from([KeyFile::read(&site.key).key]);
    while keys.len() < 4 {
        let rotating = rotated(&site, &keys);
        let calling = async {
            loop {
                client.run(&["get", "--raw", "/version"]).await;
            }
        };
        let key = tokio::select! {
            key = rotating => key,
            never = calling => never,
        };
        keys.insert(key);
    }
    client.run(&["get", "--raw", "/version"]).await;
    for open in open {
        assert!(open.goes_on(), "a stream was broken by a rotation");
    }
    let again = site.connected().await;
    assert_eq!((&again[0], &again[4]), (&agent[0], &"1".to_owned()));
    let said = fs::read_to_string(log).unwrap();
    assert!(
        !said.contains("ERROR") && !said.contains("streams wait"),
        "{said}"
    );
    for key in &keys {
        assert!(!said.contains(&key[4..40]), "a secret in the log");
    }
    // An old one is told from an unknown one.
    site.stop();
    let now = KeyFile::read(&site.key);
    let old = keys
        .iter()
        .find(|key| **key != now.key && Some(*key) != now.next.as_ref());
    let refused = Holder::connect(&site, old.unwrap()).await.err().unwrap();
    assert!(
        refused.is_replaced_key() && !refused.is_unknown_key(),
        "{refused:?}"
    );
    let unknown = new_key().to_secret_text();
    let refused = Holder::connect(&site, &unknown).await.err().unwrap();
    assert!(refused.is_unknown_key(), "{refused:?}");
    site.start(&[NEVER]);
    assert_eq!(site.connected().await[0], agent[0]);
}

async fn an_agent_rotates_its_key_when_it_is_asked_to(transport: Transport) {
    let (site, _) = joined(transport, &[NEVER]).await;
    let agent = site.connected().await;
    let first = KeyFile::read(&site.key).key;
    site.administer(&["agent", "rotate", &agent[0]]);
    let second = KeyFile::read(&site.key).key;
    assert_ne!(first, second);
    assert!(!waits(&site), "none waits");
    // Rule 15: each step is the agent's, and the wish is the operator's.
    let of = |uri: &str| format!("/v1/agents/{}/{uri}", agent[0]);
    let by = format!("underpass:agent:{}", agent[0]);
    for (uri, user) in [("next-key", by.as_str()), ("key", by.as_str())] {
        let is_it = |event: &serde_json::Value| {
            event["requestURI"] == of(uri) && event["user"]["username"] == user
        };
        let event = one_of_ours(&site.deployment, is_it).await;
        let grant = event["annotations"]["underpass.dev/grant"]
            .as_str()
            .unwrap();
        assert!(grant.contains(&public(&second)), "{event}");
    }
    let wished = one_of_ours(&site.deployment, |event| {
        event["requestURI"] == of("rotate")
    })
    .await;
    let object = &wished["annotations"]["underpass.dev/object"];
    assert_eq!(*object, format!("agent/{}", agent[0]), "{wished}");
    let replaced = one_of_ours(&site.deployment, |event| event["requestURI"] == of("key")).await;
    let change = replaced["annotations"]["underpass.dev/change"]
        .as_str()
        .unwrap();
    assert!(change.contains(&public(&first)), "{replaced}");
    // All of a cluster's, and those that cannot be are named.
    let all = site.administer(&["agent", "rotate", "--all", JOINED]);
    let third = KeyFile::read(&site.key).key;
    assert_ne!(second, third);
    let wanted = format!(
        "Agent {} uses the key {} from now on",
        agent[0],
        public(&third)
    );
    assert!(all.contains(&wanted) && all.lines().count() == 1, "{all}");
    let all = site.administer(&["agent", "rotate", "--all", CLUSTER_NAME]);
    assert!(all.contains("is skipped: it has a static token"), "{all}");
    let none = ["agent", "rotate", "--all", "none"];
    assert!(site.deployment.administer(&none).is_err());
    // A key that cannot be rotated.
    let refused = |id: &str| {
        let error = site
            .deployment
            .administer(&["agent", "rotate", id])
            .unwrap_err();
        format!("{error:?}")
    };
    let list = site.administer(&["agent", "list", "--cluster", CLUSTER_NAME]);
    let fixed = list
        .lines()
        .nth(1)
        .unwrap()
        .split_whitespace()
        .next()
        .unwrap();
    assert!(refused(fixed).contains("static token"));
    assert!(refused("none").contains("no agent"));
    site.stop();
    eventually("the agent is gone", async || {
        let agents = site.agents();
        agents
            .iter()
            .all(|cells| cells[4] == "0")
            .then_some(())
            .ok_or(agents)
    })
    .await;
    let said = refused(&agent[0]);
    assert!(said.contains("not connected"), "{said}");
    let all = site.administer(&["agent", "rotate", "--all", JOINED]);
    assert!(all.contains("is skipped: it is not connected"), "{all}");
}

/// The states in which a process can end, each with a restart of the server: before the next key is registered, before it is proved,
/// and before the agent knows that it was. The first is also that of a lost answer.
async fn a_rotation_that_was_broken_off_anywhere_ends_well(transport: Transport) {
    let (site, _) = joined(transport, &[NEVER]).await;
    let agent = site.connected().await;
    for steps in 0..4 {
        site.stop();
        let before = KeyFile::read(&site.key).key;
        let next = new_key();
        let next_text = next.to_secret_text();
        if steps >= 1 {
            let holder = Holder::connect(&site, &before).await.unwrap();
            // The answer comes, or it is lost and asked for again.
            for _ in 0..2 {
                assert!(is_registered(&holder.register(&before, &next).await));
            }
        }
        if steps >= 2 {
            Holder::connect(&site, &next_text).await.unwrap();
            eventually("the next key is the only one", async || {
                let old = Holder::connect(&site, &before).await;
                old.err()
                    .filter(ConnectError::is_replaced_key)
                    .ok_or("not yet")
            })
            .await;
        }
        if steps == 3 {
            // All but the old key's removal from the file.
            let holder = Holder::connect(&site, &next_text).await.unwrap();
            assert_refused(
                &holder.register(&before, &new_key()).await,
                NextKeyRefusal::NotCurrent,
            );
        }
        let mut text = fs::read_to_string(&site.key).unwrap();
        text += &format!("next {}\n", next_text.as_str());
        fs::write(&site.key, text).unwrap();
        site.deployment
            .blocking(|u| {
                u.stop_server().unwrap();
                u.restart_server().unwrap();
            })
            .await;
        let log = site.start(&[NEVER]);
        let now = rotated(&site, &BTreeSet::from([before.clone()])).await;
        assert_eq!(now, *next_text, "step {steps}: the next key that was there");
        assert_eq!(site.connected().await[0], agent[0], "step {steps}");
        eventually("the old key counts for nothing", async || {
            let old = Holder::connect(&site, &before).await;
            old.err()
                .filter(ConnectError::is_replaced_key)
                .ok_or("not yet")
        })
        .await;
        assert!(!waits(&site), "step {steps}: none waits");
        let said = fs::read_to_string(log).unwrap();
        assert!(!said.contains("ERROR"), "step {steps}: {said}");
    }
}
