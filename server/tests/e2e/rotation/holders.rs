//! Several holders of one key: those that share it, and those that have stolen it.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use underpass_api::NextKeyRefusal;
use underpass_testenv::Transport;
use underpass_testenv::testing::{Wire, eventually};
use underpass_tunnel::{AgentKey, KeyChange, RotationProof};

use super::holder::{Holder, assert_refused, is_registered};
use super::{KeyFile, NEVER, SHORT, joined, new_key, public, rotated, waits};
use crate::audit::one_of_ours;
use crate::deployment::agent_account;
use crate::flight::{InFlight, assert_end_soon};
use crate::join::{JOINED, JOINER, Site};
use crate::over_both_transports;

over_both_transports!(
    rule_12_a_revoked_agent_has_neither_of_its_keys,
    rule_15_a_thief_who_rotates_a_key_is_seen,
);

async fn rule_12_a_revoked_agent_has_neither_of_its_keys(transport: Transport) {
    let (site, _) = joined(transport, &[NEVER]).await;
    let agent = site.connected().await;
    let key = KeyFile::read(&site.key).key;
    let next = new_key();
    let holder = Holder::connect(&site, &key).await.unwrap();
    assert!(is_registered(&holder.register(&key, &next).await));
    assert!(waits(&site), "it waits");
    let admin = site.admin();
    let client = site.deployment.client(&admin, Wire::WebSocket);
    let watch = InFlight::watch(&client).await;
    site.administer(&["agent", "revoke", &agent[0]]);
    assert_end_soon([watch]).await;
    let ended = tokio::time::timeout(Duration::from_secs(1), holder.session.closed());
    ended.await.expect("the other session ends as well");
    for key in [key.as_str(), next.to_secret_text().as_str()] {
        let refused = Holder::connect(&site, key).await.err().unwrap();
        assert!(refused.is_unknown_key(), "{refused:?}");
    }
}

/// Of two holders of one key, the one that rotates first has the agent: the other one hears of it, and so do the operators.
async fn rule_15_a_thief_who_rotates_a_key_is_seen(transport: Transport) {
    let (site, log) = joined(transport, &[NEVER]).await;
    let agent = site.connected().await;
    let stolen = KeyFile::read(&site.key).key;
    let thief = Holder::connect(&site, &stolen).await.unwrap();
    let next = new_key();
    // Not with proofs of one of the keys, or for another session.
    let key: AgentKey = stolen.parse().unwrap();
    let twice = thief.register_with(&key, &next, |change| {
        [(); 2].map(|()| RotationProof::new(&key, change))
    });
    assert_refused(&twice.await, NextKeyRefusal::BadProof);
    let elsewhere = thief.register_with(&key, &next, |change| {
        let other = KeyChange {
            session: [7; 16],
            ..*change
        };
        [&key, &next].map(|key| RotationProof::new(key, &other))
    });
    assert_refused(&elsewhere.await, NextKeyRefusal::BadProof);
    assert!(is_registered(&thief.register(&stolen, &next).await));
    thief
        .connector
        .renew_key(next.to_secret_text().parse().unwrap());
    thief.connector.prove(&thief.session).await.unwrap();
    let wanted = ["ERROR", "another key has taken the place", "a thief has"];
    site.log_says(&log, &wanted).await;
    let is_it =
        |event: &serde_json::Value| event["requestURI"] == format!("/v1/agents/{}/key", agent[0]);
    let event = one_of_ours(&site.deployment, is_it).await;
    let change = event["annotations"]["underpass.dev/change"]
        .as_str()
        .unwrap();
    assert!(change.contains(&public(&stolen)), "{event}");
    // The real agent's session, whose key counts for nothing, ends; it does not come back by itself.
    site.log_says(&log, &["ERROR", "replaced by another one at"])
        .await;
    eventually("one session is left", async || {
        let agents = site.agents();
        (agents[0][4] == "1").then_some(()).ok_or(agents)
    })
    .await;
    assert!(thief.session.is_open());
    // Revoked, the thief is out, and the agent joins with a new key.
    site.administer(&["agent", "revoke", &agent[0]]);
    tokio::time::timeout(Duration::from_secs(1), thief.session.closed())
        .await
        .expect("the thief's session ends");
    site.stop();
    fs::remove_file(&site.key).unwrap();
    site.put_token(&[]);
    site.start_with_token();
    assert_ne!(site.connected().await[0], agent[0]);
}

#[tokio::test]
async fn processes_that_share_a_key_file_rotate_it_together() {
    let (site, log) = joined(Transport::WebSocket, &[SHORT]).await;
    let key = site.key.to_str().unwrap();
    let second = site.start_as("second", &[("--key-file", key), SHORT]);
    let both = async || {
        let agents = site.agents();
        let both = agents.iter().find(|cells| cells[4] == "2");
        both.map(|_| ()).ok_or(agents)
    };
    eventually("two sessions of one agent", both).await;
    let sessions = || {
        let log = fs::read_to_string(&log).unwrap() + &fs::read_to_string(&second).unwrap();
        log.matches(" connected ").count()
    };
    let before = sessions();
    let mut keys = BTreeSet::from([KeyFile::read(&site.key).key]);
    while keys.len() < 5 {
        keys.insert(rotated(&site, &keys).await);
    }
    eventually("two sessions of one agent", both).await;
    assert_eq!(sessions(), before, "no session had to begin anew");
    for log in [&log, &second] {
        let said = fs::read_to_string(log).unwrap();
        assert!(!said.contains("ERROR"), "{said}");
    }
}

#[tokio::test]
async fn agents_that_share_a_secret_rotate_its_key_together() {
    const NAMESPACE: &str = "underpass-rotates";

    let site = Site::new(Transport::WebSocket).await;
    let account = agent_account(NAMESPACE, &["--key-secret", "agent-key"]);
    fs::write(&site.token, site.administer(&["cluster", "add", JOINED])).unwrap();
    let secret = format!("{NAMESPACE}/agent-key");
    let flags = [
        ("--key-secret", secret.as_str()),
        ("--kubeconfig", account.to_str().unwrap()),
        ("--join-token-file", site.token.to_str().unwrap()),
        NEVER,
    ];
    let logs = [JOINER, "second"].map(|name| site.start_as(name, &flags));
    let both = async || {
        let agents = site.agents();
        let both = agents.iter().find(|cells| cells[4] == "2");
        both.cloned().ok_or(agents)
    };
    let agent = eventually("two sessions of one agent", both).await;
    let connected = || {
        let said = logs.iter().map(|log| fs::read_to_string(log).unwrap());
        said.map(|said| said.matches(" connected ").count())
            .sum::<usize>()
    };
    let before = connected();
    for round in 1..=3 {
        site.administer(&["agent", "rotate", &agent[0]]);
        // The other one has heard of it, and proves the new key.
        eventually("both have the new key", async || {
            let said = logs.iter().map(|log| fs::read_to_string(log).unwrap());
            let proved = said.map(|said| said.matches("has proved the agent's new key").count());
            let proved: Vec<_> = proved.collect();
            let both = proved.iter().all(|times| *times >= round);
            both.then_some(()).ok_or(proved)
        })
        .await;
    }
    let agent_again = eventually("two sessions of one agent", both).await;
    assert_eq!(agent[0], agent_again[0]);
    assert_eq!(connected(), before, "no session had to begin anew");
    // Each starts with what the Secret has.
    site.stop();
    site.deployment.stop_another_agent("second").unwrap();
    site.start_as(JOINER, &flags);
    assert_eq!(site.connected().await[0], agent[0]);
    for log in &logs {
        let said = fs::read_to_string(log).unwrap();
        assert!(!said.contains("ERROR"), "{said}");
    }
}
