//! Credentials that agents have registered.

use std::collections::BTreeSet;

use serde_json::json;
use underpass_core::RegistrationRules;

use super::*;
use crate::direct::testing::jwt;
use crate::seal::{Keyring, SealingKey, UnsealError};

const ACCOUNT: &str = "system:serviceaccount:underpass-system:underpass-agent";

fn ring() -> Keyring {
    let text = SealingKey::generate().unwrap();
    Keyring::new(SealingKey::from_text(&text).unwrap(), vec![])
}

fn token(life: i64) -> RegisteredToken {
    let now = OffsetDateTime::now_utc();
    let text = jwt(&json!({ "sub": ACCOUNT, "exp": now.unix_timestamp() + life }));
    RegisteredToken::new(text, now).unwrap()
}

/// With the key that the agent has.
fn registration(agent: &str, keys: &Keyring) -> Registration {
    registration_by(Registrant { agent, key: agent }, keys)
}

fn registration_by(by: Registrant<'_>, keys: &Keyring) -> Registration {
    let endpoint = Endpoint::new("https://10.0.0.1:6443".to_owned(), None, None).unwrap();
    let namespaces = BTreeSet::from(["ci".to_owned()]);
    let now = OffsetDateTime::now_utc();
    Registration::new(
        &cluster("prod"),
        by,
        endpoint,
        namespaces,
        &token(3600),
        now,
        keys,
    )
    .unwrap()
}

/// `prod` allows registrations, and its agent `a` of the role cluster has registered one. `n` is an agent on a node, and `d` serves `dev`.
async fn registered(keys: &Keyring) -> Arc<Directory> {
    let directory = world().await;
    let put = |draft: &mut Draft| {
        let mut prod = Cluster::clone(&draft.get("prod").unwrap().object);
        prod.registrations = Some(RegistrationRules::default());
        draft.put("prod", prod, Expect::Present)?;
        for (id, serves, role) in [
            ("a", "prod", AgentRole::Cluster),
            ("n", "prod", AgentRole::Node),
            ("d", "dev", AgentRole::Cluster),
        ] {
            let agent = Agent {
                role,
                ..Agent::new(draft.now(), cluster(serves), id.to_owned())
            };
            draft.put(id, agent, Expect::Absent)?;
        }
        draft.put("prod", registration("a", keys), Expect::Absent)
    };
    directory.change(put).await.unwrap();
    directory
}

fn is_kept(directory: &Directory) -> bool {
    directory.snapshot().get::<Registration>("prod").is_some()
}

#[tokio::test]
async fn rule_12_a_registered_credential_goes_with_what_allows_it() {
    type Change = fn(&mut Draft) -> Result<(), ChangeError>;
    let gone: [(&str, Change); 4] = [
        ("the agent is revoked", |draft| {
            draft.remove::<Agent>("a", Expect::Present)
        }),
        ("the agent gets another role", |draft| {
            let mut agent = Agent::clone(&draft.get("a").unwrap().object);
            agent.role = AgentRole::Node;
            draft.put("a", agent, Expect::Present)
        }),
        ("the cluster is removed", |draft| {
            draft.remove::<Cluster>("prod", Expect::Present)
        }),
        ("the administrator forbids it", |draft| {
            let mut prod = Cluster::clone(&draft.get("prod").unwrap().object);
            prod.registrations = None;
            draft.put("prod", prod, Expect::Present)
        }),
    ];
    for (what, change) in gone {
        let directory = registered(&ring()).await;
        assert!(is_kept(&directory));
        directory.change(change).await.unwrap();
        assert!(!is_kept(&directory), "{what}");
    }
    // Another change leaves it.
    let directory = registered(&ring()).await;
    let other = |draft: &mut Draft| draft.remove::<Agent>("n", Expect::Present);
    directory.change(other).await.unwrap();
    assert!(is_kept(&directory));
}

#[tokio::test]
async fn rule_8_only_the_clusters_own_agent_registers_a_credential() {
    let keys = ring();
    let directory = registered(&keys).await;
    for agent in ["n", "d", "nobody"] {
        let put =
            |draft: &mut Draft| draft.put("prod", registration(agent, &keys), Expect::Anything);
        let refused = directory.change(put).await.map(drop);
        assert!(
            matches!(refused, Err(ChangeError::NoRegistration(_))),
            "{agent}"
        );
    }
    // Nor for a cluster that does not allow it.
    let put = |draft: &mut Draft| draft.put("dev", registration("d", &keys), Expect::Anything);
    let refused = directory.change(put).await.map(drop);
    assert!(matches!(refused, Err(ChangeError::NoRegistration(_))));
    assert_eq!(
        directory
            .snapshot()
            .get::<Registration>("prod")
            .unwrap()
            .object
            .agent,
        "a"
    );
}

#[test]
fn rule_9_a_registered_token_opens_for_its_agent_policy_and_end_alone() {
    let keys = ring();
    let prod = cluster("prod");
    let whole = registration("a", &keys);
    let opened = whole.open(&prod, &keys).unwrap();
    assert_eq!(opened.split('.').count(), 3);
    let text = serde_json::to_value(&whole).unwrap();
    for (field, value) in [
        ("agent", json!("b")),
        ("allowServiceAccounts", json!(["ci", "kube-system"])),
        ("allowServiceAccounts", json!([])),
        ("account", json!("kube-system/root")),
        ("expires", json!("2100-01-01T00:00:00Z")),
        ("endpoint", json!({ "server": "https://attacker.example" })),
    ] {
        let mut changed = text.clone();
        changed[field] = value;
        let changed: Registration = serde_json::from_value(changed).unwrap();
        let error = changed.open(&prod, &keys).unwrap_err();
        assert!(
            matches!(error, OpenCredentialError::Unseal(UnsealError::Misplaced)),
            "{field}: {error:?}"
        );
    }
    whole.open(&cluster("dev"), &keys).unwrap_err();
    whole.open(&prod, &ring()).unwrap_err();
    for shown in [text.to_string(), format!("{whole:?}")] {
        assert!(!shown.contains(opened.as_str()), "{shown}");
        assert!(
            !shown.contains(opened.split('.').nth(1).unwrap()),
            "{shown}"
        );
    }
}

#[test]
fn rule_9_a_registered_token_is_encrypted_with_the_first_key() {
    let first = SealingKey::generate().unwrap();
    let key = |text: &str| SealingKey::from_text(text).unwrap();
    let old = Keyring::new(key(&first), vec![]);
    let registration = registration("a", &old);
    assert!(
        registration
            .renewed(&cluster("prod"), &old)
            .unwrap()
            .is_none()
    );
    let second = SealingKey::generate().unwrap();
    let both = Keyring::new(key(&second), vec![key(&first)]);
    let renewed = registration
        .renewed(&cluster("prod"), &both)
        .unwrap()
        .unwrap();
    let alone = Keyring::new(key(&second), vec![]);
    assert_eq!(
        renewed.open(&cluster("prod"), &alone).unwrap(),
        registration.open(&cluster("prod"), &old).unwrap()
    );
}

#[test]
fn rule_9_a_registered_token_is_not_used_to_its_last_second() {
    let registration = registration("a", &ring());
    let margin = limits::REGISTERED_TOKEN_MARGIN;
    let second = time::Duration::SECOND;
    assert!(registration.counts(registration.expires - margin - second));
    assert!(!registration.counts(registration.expires - margin));
    assert!(!registration.counts(registration.expires + second));
}

#[test]
fn rule_17_a_registered_credential_becomes_nobody_whom_no_agent_becomes() {
    let policy = registration("a", &ring()).impersonation();
    let check = |user: &str, groups: &[&str]| {
        let groups = groups.iter().map(|&group| group.to_owned()).collect();
        let identity = Identity::new(user.to_owned(), None, groups, Default::default());
        policy.check(&identity.unwrap()).is_ok()
    };
    assert!(check("alice", &["dev"]));
    assert!(check("system:serviceaccount:ci:builder", &[]));
    assert!(!check("alice", &["system:masters"]));
    assert!(!check("system:node:n1", &[]));
    assert!(!check("system:serviceaccount:kube-system:x", &[]));
}

#[tokio::test]
async fn rule_12_a_registration_ends_with_the_key_that_made_it() {
    let keys = ring();
    let directory = registered(&keys).await;
    // Keys of static tokens are not rotated.
    let joined = |draft: &mut Draft| {
        let mut agent = Agent::clone(&draft.get("a").unwrap().object);
        agent.join_token = Some("j".to_owned());
        draft.put("a", agent, Expect::Present)
    };
    directory.change(joined).await.unwrap();
    let register_next = |draft: &mut Draft| {
        draft.register_next_key(&Rotation {
            agent: "a",
            key: "a",
            next: "b",
        })
    };
    directory.change(register_next).await.unwrap();
    assert!(directory.snapshot().get::<Registration>("prod").is_some());
    let replace = |next: &'static str| move |draft: &mut Draft| draft.replace_key(next);
    directory.change(replace("b")).await.unwrap();
    assert!(directory.snapshot().get::<Registration>("prod").is_none());
    // One by the key that follows stays.
    let register_next = |draft: &mut Draft| {
        draft.register_next_key(&Rotation {
            agent: "a",
            key: "b",
            next: "c",
        })
    };
    directory.change(register_next).await.unwrap();
    let by = Registrant {
        agent: "a",
        key: "c",
    };
    let put = |draft: &mut Draft| draft.put("prod", registration_by(by, &keys), Expect::Absent);
    directory.change(put).await.unwrap();
    directory.change(replace("c")).await.unwrap();
    assert!(directory.snapshot().get::<Registration>("prod").is_some());
}
