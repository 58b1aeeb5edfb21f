//! Keys of agents that give way to others, while everything goes on.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufStream};
use underpass_api::{AGENT_KEY, NextKeyAnswer, NextKeyChallenge, NextKeyRefusal, NextKeyRequest};
use underpass_testenv::testing::{Wire, eventually};
use underpass_testenv::{CLUSTER_NAME, Transport};
use underpass_tunnel::{
    AgentKey, ConnectError, Connector, ConnectorConfig, Dialer, KeyChange, RotationProof, Session,
    Transports,
};

use crate::audit::one_of_ours;
use crate::cutter::{Cuts, Forgetful};
use crate::deployment::agent_account;
use crate::flight::{InFlight, assert_end_soon};
use crate::join::{JOINED, JOINER, Site};
use crate::over_both_transports;

over_both_transports!(
    keys_rotate_by_themselves_and_nothing_breaks,
    keys_rotate_though_the_connection_is_cut_each_second,
    an_agent_rotates_its_key_when_it_is_asked_to,
    a_rotation_that_was_broken_off_anywhere_ends_well,
    rule_12_a_revoked_agent_has_neither_of_its_keys,
    rule_15_a_thief_who_rotates_a_key_is_seen,
);

/// Short: keys are rotated each second or two.
const SHORT: (&str, &str) = ("--key-lifetime", "2s");

const NEVER: (&str, &str) = ("--key-lifetime", "never");

/// The lines of a key file.
struct KeyFile {
    key: String,
    next: Option<String>,
}

impl KeyFile {
    fn read(path: &Path) -> Self {
        let text = fs::read_to_string(path).unwrap();
        let next = text.lines().find_map(|line| line.strip_prefix("next "));
        Self {
            key: text.lines().next().unwrap().to_owned(),
            next: next.map(str::to_owned),
        }
    }
}

fn public(key: &str) -> String {
    let key: AgentKey = key.parse().unwrap();
    key.public_key().to_string()
}

fn new_key() -> AgentKey {
    AgentKey::from_seed(rand::random()).unwrap()
}

/// A site whose agent has joined.
async fn joined(transport: Transport, flags: &[(&str, &str)]) -> (Site, PathBuf) {
    let site = Site::new(transport).await;
    fs::write(&site.token, site.administer(&["cluster", "add", JOINED])).unwrap();
    let token = site.token.to_str().unwrap();
    let log = site.start(&[flags, &[("--join-token-file", token)]].concat());
    site.connected().await;
    (site, log)
}

/// Whether a next key of the site's agent waits at the server.
fn waits(site: &Site) -> bool {
    let agents = site.administer(&["agent", "list", "--cluster", JOINED]);
    let row = agents.lines().nth(1).unwrap();
    row.contains("(rotating)")
}

/// Waits until the file has a key that is none of these, and no next one.
async fn rotated(site: &Site, before: &BTreeSet<String>) -> String {
    eventually("another key is in the file", async || {
        let file = KeyFile::read(&site.key);
        let is_new = !before.contains(&file.key) && file.next.is_none();
        is_new.then(|| file.key.clone()).ok_or(file.next)
    })
    .await
}

/// A holder of an agent's key, which speaks the protocol without the agent's program.
struct Holder {
    connector: Connector,
    session: Session,
}

impl Holder {
    async fn connect(site: &Site, key: &str) -> Result<Self, ConnectError> {
        let ca = fs::read(site.deployment.ca_file()).unwrap();
        let port = site.deployment.url().rsplit(':').next().unwrap();
        let port = port.parse().unwrap();
        let config = ConnectorConfig {
            transports: match site.deployment.transport {
                Transport::WebSocket => Transports::WebSocket,
                _ => Transports::Quic,
            },
            ..ConnectorConfig::new("localhost", port, ca, key.parse().unwrap())
        };
        let connector = Connector::new(config).unwrap();
        let session = connector.connect().await?;
        Ok(Self { connector, session })
    }

    /// Registers a next key, with these proofs of the two.
    async fn register(&self, key: &str, next: &AgentKey) -> NextKeyAnswer {
        let key: AgentKey = key.parse().unwrap();
        self.register_with(&key, next, |change| {
            [
                RotationProof::new(&key, change),
                RotationProof::new(next, change),
            ]
        })
        .await
    }

    async fn register_with(
        &self,
        key: &AgentKey,
        next: &AgentKey,
        prove: impl FnOnce(&KeyChange<'_>) -> [RotationProof; 2],
    ) -> NextKeyAnswer {
        let dialled = Dialer::new(self.session.clone(), AGENT_KEY).dial().await;
        let mut stream = BufStream::new(dialled.unwrap());
        let mut line = String::new();
        stream.read_line(&mut line).await.unwrap();
        let challenge: NextKeyChallenge = serde_json::from_str(&line).unwrap();
        let change = KeyChange {
            session: self.session.info().id.0,
            challenge: challenge.challenge,
            key: key.public_key(),
            next: next.public_key(),
            agent: &challenge.agent,
        };
        let [proof, next_proof] = prove(&change).map(|proof| proof.to_string());
        let request = NextKeyRequest {
            key: key.public_key().to_string(),
            next_key: next.public_key().to_string(),
            proof,
            next_proof,
        };
        let request = serde_json::to_string(&request).unwrap() + "\n";
        stream.write_all(request.as_bytes()).await.unwrap();
        stream.flush().await.unwrap();
        line.clear();
        stream.read_line(&mut line).await.unwrap();
        serde_json::from_str(&line).unwrap()
    }
}

fn is_registered(answer: &NextKeyAnswer) -> bool {
    matches!(answer, NextKeyAnswer::Registered { .. })
}

#[track_caller]
fn assert_refused(answer: &NextKeyAnswer, wanted: NextKeyRefusal) {
    let refused = matches!(answer, NextKeyAnswer::Refused { reason, .. } if *reason == wanted);
    assert!(refused, "{answer:?}");
}

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

#[tokio::test]
async fn an_agent_keeps_the_role_and_the_node_that_it_has_joined_in() {
    let site = Site::new(Transport::WebSocket).await;
    site.administer(&["cluster", "add", JOINED, "--static-token"]);
    site.put_token(&["--role", "node"]);
    let token = site.token.to_str().unwrap();
    let flags = [
        ("--join-token-file", token),
        ("--role", "node"),
        ("--node-name", "worker-7"),
    ];
    site.start(&flags);
    let agent = site.connected().await;
    assert_eq!(agent[2], "node");
    let text = fs::read_to_string(&site.key).unwrap();
    assert!(
        text.contains("\nrole node\n") && text.contains("\nnode worker-7\n"),
        "{agent:?}"
    );
    site.stop();
    // Without --role it is what it was: its policy is that of a node, which does not serve the API server.
    site.start(&[]);
    site.connected().await;
    let stand_in = ["cluster", "stand-in", JOINED, "allow"];
    site.administer(&stand_in);
    let admin = site.admin();
    let client = site.deployment.client(&admin, Wire::WebSocket);
    client.fail(&["get", "--raw", "/version"]).await;
    site.stop();
    for (flags, wanted) in [
        (&[("--role", "cluster")][..], "has joined in the role node"),
        (
            &[("--role", "node"), ("--node-name", "worker-8")],
            "has joined as the node worker-7",
        ),
    ] {
        let log = site.start(flags);
        site.log_says(&log, &["ERROR", wanted]).await;
    }
}
