//! The directory as its users see it, over a store in memory.

mod agent_key;
mod full;
mod join;
mod join_account;
mod memory;
mod names;
mod registration;

use std::collections::BTreeSet;
use std::time::Duration;

use http::Method;
use time::OffsetDateTime;

use super::*;
use underpass_authenticate::Token;
use underpass_core::{ClusterName, Identity, RequestInfo, Scope};

pub(crate) async fn directory() -> Arc<Directory> {
    Directory::open(Arc::new(MemoryStore::default()))
        .await
        .unwrap()
}

fn cluster(name: &str) -> ClusterName {
    name.parse().unwrap()
}

fn name(name: &str) -> Name {
    name.parse().unwrap()
}

fn alice() -> Subject {
    Subject::user(name("alice"))
}

fn labelled(draft: &Draft, pairs: &[(&str, &str)]) -> Cluster {
    let pairs = pairs
        .iter()
        .map(|&(key, value)| (key.to_owned(), value.to_owned()));
    Cluster {
        labels: pairs
            .collect::<std::collections::BTreeMap<_, _>>()
            .try_into()
            .unwrap(),
        ..Cluster::new(draft.now())
    }
}

fn user(draft: &Draft) -> User {
    User::new(draft.now())
}

/// Clusters `prod` and `dev`, and `alice`.
async fn world() -> Arc<Directory> {
    let directory = directory().await;
    directory
        .change(|draft| {
            draft.put("prod", labelled(draft, &[("env", "prod")]), Expect::Absent)?;
            draft.put("dev", labelled(draft, &[("env", "dev")]), Expect::Absent)?;
            draft.put("alice", user(draft), Expect::Absent)
        })
        .await
        .unwrap();
    directory
}

async fn token(directory: &Arc<Directory>, owner: Owner) -> Token {
    let token = Token::generate().unwrap();
    let (sha256, id) = (token.hash(), token.hash().to_hex());
    directory
        .change(|draft| {
            let object = AccessToken {
                created: draft.now(),
                sha256,
                owner: owner.clone(),
                expires: None,
                renewable_until: None,
                parent: None,
                scope: Scope::default(),
                description: String::new(),
            };
            draft.put(&id, object, Expect::Absent)
        })
        .await
        .unwrap();
    token
}

async fn grant(directory: &Arc<Directory>, subject: Subject, clusters: &[&str], role: Role) {
    let clusters: Vec<_> = clusters.iter().map(|name| cluster(name)).collect();
    let granted = directory.change(|draft| draft.grant(&subject, &clusters, false, role));
    granted.await.unwrap();
}

/// A caller whom the directory's own token has authenticated.
fn known_here(user: &str, groups: &[&str]) -> Identity {
    let groups = groups.iter().map(|&group| group.to_owned()).collect();
    let identity = Identity::new(user.to_owned(), None, groups, Default::default()).unwrap();
    let authority = underpass_core::Authority::Directory;
    let method = underpass_core::AuthenticationMethod::Token;
    identity.vouched_for(underpass_core::Provenance::new(method, "tokens", authority))
}

async fn ask(
    directory: &Directory,
    user: &str,
    groups: &[&str],
    at: &str,
    path: &str,
) -> Result<Revocation, AuthorizeError> {
    let identity = known_here(user, groups);
    let request = RequestInfo::parse(&Method::GET, path, None, false);
    let at = cluster(at);
    directory
        .authorize(&Access::new(&identity, &at, &request))
        .await
}

#[tokio::test]
async fn rule_26_an_unknown_upgrade_needs_a_role_with_shells() {
    let prod = cluster("prod");
    let identity = known_here("alice", &[]);
    let vnc = "/apis/subresources.kubevirt.io/v1/namespaces/a/virtualmachineinstances/v/vnc";
    for role in Role::ALL {
        let directory = world().await;
        grant(&directory, alice(), &["prod"], role).await;
        for (path, query) in [(vnc, ""), (vnc, "watch="), ("/api/v1/pods", "watch=true")] {
            let request = RequestInfo::parse(&Method::GET, path, Some(query), true);
            let access = Access::new(&identity, &prod, &request);
            let allowed = directory.authorize(&access).await.is_ok();
            let expected = matches!(role, Role::Shell | Role::Operate | Role::Admin);
            assert_eq!(allowed, expected, "{role} {path}?{query}");
        }
    }
}

#[tokio::test]
async fn rule_8_a_binding_gives_what_its_role_allows() {
    let directory = world().await;
    grant(&directory, alice(), &["prod"], Role::View).await;
    let (pods, exec) = ("/api/v1/pods", "/api/v1/namespaces/a/pods/b/exec");
    ask(&directory, "alice", &[], "prod", pods).await.unwrap();
    let refused = ask(&directory, "alice", &[], "prod", exec).await;
    let Err(AuthorizeError::Denied {
        reason: Some(reason),
    }) = refused
    else {
        panic!("{refused:?}");
    };
    assert!(
        reason.contains("view") && reason.contains("a shell"),
        "{reason}"
    );
    for at in ["dev", "none"] {
        let refused = ask(&directory, "alice", &[], at, pods).await;
        assert!(matches!(
            refused,
            Err(AuthorizeError::Denied { reason: None })
        ));
    }
    let refused = ask(&directory, "bob", &["alice"], "prod", pods).await;
    assert!(matches!(
        refused,
        Err(AuthorizeError::Denied { reason: None })
    ));
}

#[tokio::test]
async fn groups_and_labels_choose() {
    let directory = world().await;
    directory
        .change(|draft| {
            let binding = Binding {
                created: draft.now(),
                subjects: BTreeSet::from([Subject::group(name("cn=ops,ou=groups"))]),
                clusters: Selector {
                    labels: labelled(draft, &[("env", "prod")]).labels,
                    ..Selector::default()
                },
                role: Role::Shell,
            };
            draft.put("ops", binding, Expect::Absent)
        })
        .await
        .unwrap();
    let groups = ["dev", "cn=ops,ou=groups"];
    let right = ask(&directory, "carol", &groups, "prod", "/version")
        .await
        .unwrap();
    ask(&directory, "carol", &groups, "dev", "/version")
        .await
        .unwrap_err();
    // Labels decide, and so do changes of them.
    directory
        .change(|draft| draft.put("prod", labelled(draft, &[]), Expect::Present))
        .await
        .unwrap();
    assert!(right.is_revoked());
    ask(&directory, "carol", &groups, "prod", "/version")
        .await
        .unwrap_err();
}

#[tokio::test]
async fn rule_12_what_a_binding_gave_ends_with_it() {
    let directory = world().await;
    grant(&directory, alice(), &["prod", "dev"], Role::Operate).await;
    let prod = ask(&directory, "alice", &[], "prod", "/version")
        .await
        .unwrap();
    let dev = ask(&directory, "alice", &[], "dev", "/version")
        .await
        .unwrap();
    let remove = directory.change(|draft| draft.remove::<Cluster>("prod", Expect::Present));
    remove.await.unwrap();
    assert!(prod.is_revoked() && !dev.is_revoked());
    let narrowed = directory.change(|draft| {
        let binding = draft.get::<Binding>("user-alice-operate").unwrap();
        let narrowed = Binding {
            role: Role::View,
            ..Binding::clone(&binding.object)
        };
        draft.put("user-alice-operate", narrowed, Expect::Present)
    });
    narrowed.await.unwrap();
    // Reading is still allowed.
    assert!(!dev.is_revoked());
    let remove =
        directory.change(|draft| draft.remove::<Binding>("user-alice-operate", Expect::Present));
    remove.await.unwrap();
    assert!(dev.is_revoked());
}

#[tokio::test]
async fn rule_12_a_token_ends_with_what_its_owner_is() {
    type Change = fn(&mut Draft) -> Result<(), ChangeError>;
    let changes: [Change; 5] = [
        |draft| draft.remove::<User>("alice", Expect::Present),
        |draft| {
            draft
                .join(&"ops".parse().unwrap(), &["alice".parse().unwrap()])
                .map(drop)
        },
        |draft| {
            let disabled = User {
                disabled: true,
                ..user(draft)
            };
            draft.put("alice", disabled, Expect::Present)
        },
        |draft| {
            let other = User {
                uid: Some("7".to_owned()),
                ..user(draft)
            };
            draft.put("alice", other, Expect::Present)
        },
        |draft| {
            let id = draft.all::<AccessToken>().keys().next().unwrap().clone();
            draft.remove::<AccessToken>(&id, Expect::Present)
        },
    ];
    for change in changes {
        let directory = world().await;
        let token = token(&directory, Owner::User(name("alice"))).await;
        let record = directory.find(&token.hash()).await.unwrap().unwrap();
        assert_eq!(record.user, "alice");
        directory.change(change).await.unwrap();
        assert!(record.revocation.is_revoked());
    }
}

#[tokio::test]
async fn a_removed_cluster_leaves_nothing_behind() {
    let directory = world().await;
    grant(&directory, alice(), &["prod"], Role::Operate).await;
    let agent = |draft: &Draft| Agent::new(draft.now(), cluster("prod"), "k".to_owned());
    directory
        .change(|draft| draft.put("a1", agent(draft), Expect::Absent))
        .await
        .unwrap();
    assert_eq!(
        directory.snapshot().cluster_of_agent("k"),
        Some(&cluster("prod"))
    );
    directory
        .change(|draft| {
            draft.remove::<Cluster>("prod", Expect::Present)?;
            draft.put("prod", labelled(draft, &[]), Expect::Absent)
        })
        .await
        .unwrap();
    let snapshot = directory.snapshot();
    assert_eq!(snapshot.cluster_of_agent("k"), None);
    assert!(snapshot.all::<Binding>().is_empty());
    ask(&directory, "alice", &[], "prod", "/version")
        .await
        .unwrap_err();
}

#[tokio::test]
async fn a_removed_user_leaves_nothing_behind() {
    let directory = world().await;
    grant(&directory, alice(), &["prod"], Role::Operate).await;
    let token = token(&directory, Owner::User(name("alice"))).await;
    directory.find(&token.hash()).await.unwrap().unwrap();
    directory.write_uses().await;
    assert_eq!(directory.snapshot().all::<TokenUse>().len(), 1);
    directory
        .change(|draft| {
            draft.join(&name("ops"), &[name("alice")])?;
            draft.remove::<User>("alice", Expect::Present)
        })
        .await
        .unwrap();
    let snapshot = directory.snapshot();
    assert!(snapshot.all::<AccessToken>().is_empty());
    assert!(snapshot.all::<TokenUse>().is_empty());
    assert!(snapshot.all::<Binding>().is_empty());
    assert!(
        snapshot
            .get::<Group>("ops")
            .unwrap()
            .object
            .members
            .is_empty()
    );
    assert!(directory.find(&token.hash()).await.unwrap().is_none());
}

#[tokio::test]
async fn uses_are_written_once_in_a_while() {
    let directory = world().await;
    let token = token(&directory, Owner::User(name("alice"))).await;
    let before = directory.snapshot().revision();
    for _ in 0..1000 {
        directory.find(&token.hash()).await.unwrap().unwrap();
    }
    assert_eq!(directory.snapshot().revision(), before);
    directory.write_uses().await;
    let id = token.hash().to_hex();
    let noted = directory
        .snapshot()
        .get::<TokenUse>(&id)
        .unwrap()
        .object
        .last;
    assert!(OffsetDateTime::now_utc() - noted < time::Duration::minutes(1));
    // Within a minute there is nothing new to say.
    directory.find(&token.hash()).await.unwrap().unwrap();
    let before = directory.snapshot().revision();
    directory.write_uses().await;
    assert_eq!(directory.snapshot().revision(), before);
}

#[tokio::test]
async fn rule_12_a_login_ends_with_who_vouched_for_it() {
    let directory = world().await;
    let login = |by: &str| {
        Owner::Login(Login {
            user: "carol".to_owned(),
            uid: None,
            groups: Vec::new(),
            extra: Default::default(),
            authenticated_by: by.to_owned(),
        })
    };
    let gone = token(&directory, login("ldap/corp")).await;
    let stays = token(&directory, login("github/hub")).await;
    let own = token(&directory, Owner::User(name("alice"))).await;
    let record = directory.find(&gone.hash()).await.unwrap().unwrap();
    directory.forget_logins(|by| by == "corp").await.unwrap();
    assert!(record.revocation.is_revoked());
    for (token, counts) in [(gone, false), (stays, true), (own, true)] {
        assert_eq!(
            directory.find(&token.hash()).await.unwrap().is_some(),
            counts
        );
    }
}

#[tokio::test]
async fn rule_11_nobody_fills_the_directory_with_tokens() {
    let directory = world().await;
    let put = |draft: &mut Draft, user: &str, number: usize, expires| {
        let token = AccessToken {
            created: draft.now(),
            sha256: Token::generate().unwrap().hash(),
            owner: Owner::User(name(user)),
            expires,
            renewable_until: None,
            parent: None,
            scope: Scope::default(),
            description: String::new(),
        };
        draft.put(&format!("{user}-{number}"), token, Expect::Absent)
    };
    let past = Some(OffsetDateTime::now_utc() - time::Duration::hours(1));
    let filled = directory.change(|draft| {
        draft.put("bob", user(draft), Expect::Absent)?;
        put(draft, "alice", 0, past)?;
        (1..=limits::TOKENS_PER_USER).try_for_each(|number| put(draft, "alice", number, None))
    });
    filled.await.unwrap();
    let more = directory.change(|draft| put(draft, "alice", usize::MAX, None));
    assert!(matches!(more.await, Err(ChangeError::TooManyTokens { .. })));
    directory
        .change(|draft| put(draft, "bob", 1, None))
        .await
        .unwrap();
}

#[tokio::test]
async fn tokens_that_expired_long_ago_are_forgotten() {
    let directory = world().await;
    let now = OffsetDateTime::now_utc();
    let ends = [
        None,
        Some(now - time::Duration::hours(1)),
        Some(now - time::Duration::days(2)),
    ];
    for end in ends {
        let token = token(&directory, Owner::User(name("alice"))).await;
        let id = token.hash().to_hex();
        let expire = directory.change(|draft| {
            let mut token = AccessToken::clone(&draft.get(&id).unwrap().object);
            token.expires = end;
            draft.put(&id, token, Expect::Present)
        });
        expire.await.unwrap();
    }
    directory.forget_expired().await;
    let left = directory.snapshot();
    let mut left = left.all::<AccessToken>().values();
    assert!(left.all(|token| ends[..2].contains(&token.object.expires)));
    assert_eq!(directory.snapshot().all::<AccessToken>().len(), 2);
}

#[tokio::test]
async fn whoever_has_not_seen_the_last_change_is_told() {
    let directory = world().await;
    let seen = directory
        .snapshot()
        .get::<Cluster>("prod")
        .unwrap()
        .revision;
    let relabel = |value: &'static str| {
        let directory = Arc::clone(&directory);
        async move {
            let change = directory.change(|draft| {
                let changed = labelled(draft, &[("env", value)]);
                draft.put("prod", changed, Expect::Unchanged(seen))
            });
            change.await
        }
    };
    relabel("a").await.unwrap();
    assert!(matches!(
        relabel("b").await,
        Err(ChangeError::Changed { .. })
    ));
    let again = directory.change(|draft| draft.put("prod", labelled(draft, &[]), Expect::Absent));
    assert!(matches!(again.await, Err(ChangeError::Exists { .. })));
    let none = directory.change(|draft| draft.remove::<Cluster>("none", Expect::Anything));
    assert!(matches!(none.await, Err(ChangeError::NotFound { .. })));
}

#[tokio::test]
async fn what_is_named_must_exist() {
    let directory = world().await;
    let nobody = directory.change(|draft| draft.join(&name("ops"), &[name("nobody")]));
    assert!(matches!(
        nobody.await,
        Err(ChangeError::NotFound {
            kind: ObjectKind::User,
            ..
        })
    ));
    let nowhere =
        directory.change(|draft| draft.grant(&alice(), &[cluster("none")], false, Role::View));
    assert!(matches!(
        nowhere.await,
        Err(ChangeError::NotFound {
            kind: ObjectKind::Cluster,
            ..
        })
    ));
    // Half of a change is no change.
    let half = directory.change(|draft| {
        draft.put("bob", user(draft), Expect::Absent)?;
        draft.join(&name("ops"), &[name("nobody")])
    });
    half.await.unwrap_err();
    assert!(directory.snapshot().get::<User>("bob").is_none());
}

#[tokio::test]
async fn a_grant_names_what_is_new() {
    let directory = world().await;
    let grant = |clusters: Vec<ClusterName>, all| {
        let directory = Arc::clone(&directory);
        async move {
            let change =
                directory.change(|draft| draft.grant(&alice(), &clusters, all, Role::Operate));
            change.await.unwrap().value
        }
    };
    let prod = vec![cluster("prod")];
    assert_eq!(grant(prod.clone(), false).await, prod);
    assert_eq!(grant(prod.clone(), false).await, []);
    assert_eq!(grant(vec![], true).await, []);
    assert_eq!(grant(vec![cluster("dev")], false).await, []);
    assert_eq!(directory.snapshot().all::<Binding>().len(), 1);
}

#[tokio::test]
async fn two_directories_share_a_store() {
    let store = Arc::new(MemoryStore::default());
    let one = Directory::open(store.clone()).await.unwrap();
    let two = Directory::open(store).await.unwrap();
    tokio::spawn(Arc::clone(&two).follow());
    let mut told = two.changes();
    one.change(|draft| draft.put("alice", user(draft), Expect::Absent))
        .await
        .unwrap();
    told.changed().await.unwrap();
    assert!(two.snapshot().get::<User>("alice").is_some());
    // Both change it at once: nothing is lost.
    let add = |directory: Arc<Directory>, prefix: &'static str| async move {
        for number in 0..20 {
            let put = directory.change(|draft| {
                draft.put(&format!("{prefix}{number}"), user(draft), Expect::Absent)
            });
            put.await.unwrap();
        }
    };
    tokio::join!(add(one.clone(), "one-"), add(two.clone(), "two-"));
    one.change(|draft| draft.put("last", user(draft), Expect::Absent))
        .await
        .unwrap();
    assert_eq!(one.snapshot().all::<User>().len(), 42);
}

#[tokio::test]
async fn rule_12_what_another_replica_takes_back_ends_here() {
    let store = Arc::new(MemoryStore::default());
    let one = Directory::open(store.clone()).await.unwrap();
    one.change(|draft| {
        draft.put("prod", labelled(draft, &[]), Expect::Absent)?;
        draft.grant(&alice(), &[cluster("prod")], false, Role::View)
    })
    .await
    .unwrap();
    let two = Directory::open(store).await.unwrap();
    tokio::spawn(Arc::clone(&two).follow());
    let right = ask(&two, "alice", &[], "prod", "/version").await.unwrap();
    one.change(|draft| draft.remove::<Binding>("user-alice-view", Expect::Present))
        .await
        .unwrap();
    right.revoked().await;
}

/// A newer version writes a kind of object that this one does not know; revocations may lie behind it.
#[tokio::test(start_paused = true)]
async fn rule_12_a_directory_that_cannot_read_anothers_changes_says_so_until_it_can() {
    let store = Arc::new(MemoryStore::default());
    let one = Directory::open(store.clone()).await.unwrap();
    let put = one.change(|draft| draft.put("alice", user(draft), Expect::Absent));
    put.await.unwrap();
    let two = Directory::open(store.clone()).await.unwrap();
    tokio::spawn(Arc::clone(&two).follow());
    tokio::spawn(Arc::clone(&two).keep_store());
    let write = async |value: Option<&[u8]>| {
        let key = (ObjectKind::User, "newer".to_owned());
        let value = value.map(<[u8]>::to_vec);
        let at = store.load().await.unwrap().revision;
        store.commit(at, vec![Write { key, value }]).await.unwrap();
    };
    write(Some(b"{unread")).await;
    let becomes = async |wanted: bool| {
        let mut writable = two.writable.subscribe();
        let becoming = writable.wait_for(|now| *now == wanted);
        let became = tokio::time::timeout(Duration::from_secs(60), becoming).await;
        became.expect("in time").unwrap();
    };
    becomes(false).await;
    // The store itself works all the time.
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert!(!two.is_writable());
    }
    write(None).await;
    becomes(true).await;
    let remove = one.change(|draft| draft.remove::<User>("alice", Expect::Present));
    remove.await.unwrap();
    let mut told = two.changes();
    while two.snapshot().get::<User>("alice").is_some() {
        told.changed().await.unwrap();
    }
}

#[tokio::test]
async fn only_admins_of_all_clusters_are_administrators() {
    let directory = world().await;
    grant(&directory, alice(), &["prod", "dev"], Role::Admin).await;
    assert!(
        !directory
            .snapshot()
            .is_administrator(Named::by_directory("alice", &[]))
    );
    let ops = Subject::group(name("ops"));
    directory
        .change(|draft| draft.grant(&ops, &[], true, Role::Admin))
        .await
        .unwrap();
    let snapshot = directory.snapshot();
    assert!(snapshot.is_administrator(Named::by_directory("bob", &["ops".to_owned()])));
    assert!(!snapshot.is_administrator(Named::by_directory("ops", &[])));
}

#[tokio::test]
async fn what_a_newer_version_wrote_is_not_guessed_at() {
    let store = Arc::new(MemoryStore::default());
    let newer = Write {
        key: (ObjectKind::Binding, "b".to_owned()),
        value: Some(br#"{"created":"2026-01-01T00:00:00Z","subjects":[],"clusters":{},"role":"view","unless":"x"}"#.to_vec()),
    };
    store.commit(Revision(0), vec![newer]).await.unwrap();
    let Err(OpenError::Unreadable(error)) = Directory::open(store).await else {
        panic!("it was read");
    };
    assert!(error.to_string().contains("binding \"b\""), "{error}");
}

#[tokio::test]
async fn rule_24_a_renewal_outlives_the_expired_token_and_not_the_revoked_one() {
    let directory = world().await;
    let now = OffsetDateTime::now_utc();
    let until = Some(now + time::Duration::days(5));
    let put = |id: &'static str, parent: Option<&'static str>, expires| {
        move |draft: &mut Draft| {
            let token = AccessToken {
                created: draft.now(),
                sha256: Token::generate().unwrap().hash(),
                owner: Owner::User(name("alice")),
                expires: Some(expires),
                renewable_until: until,
                parent: parent.map(str::to_owned),
                scope: Scope::default(),
                description: String::new(),
            };
            draft.put(id, token, Expect::Absent)
        }
    };
    let (past, future) = (
        now - time::Duration::days(2),
        now + time::Duration::hours(1),
    );
    directory.change(put("first", None, future)).await.unwrap();
    for (id, parent, expires) in [
        ("second", "first", past),
        ("third", "second", past),
        ("fourth", "third", future),
    ] {
        let put = directory.change(put(id, Some(parent), expires));
        put.await.unwrap();
    }
    directory.forget_expired().await;
    let snapshot = directory.snapshot();
    let ids: Vec<_> = snapshot.all::<AccessToken>().keys().collect();
    assert_eq!(ids, ["first", "fourth"]);
    let fourth = &snapshot.get::<AccessToken>("fourth").unwrap().object;
    assert_eq!(fourth.parent.as_deref(), Some("first"));
    assert!(snapshot.facts(fourth).is_some());
    let beyond = put("fifth", Some("fourth"), now + time::Duration::days(6));
    let beyond = directory.change(beyond).await;
    assert!(matches!(beyond, Err(ChangeError::Outlasts { .. })));
    let revoke = |draft: &mut Draft| draft.remove::<AccessToken>("first", Expect::Present);
    directory.change(revoke).await.unwrap();
    assert!(directory.snapshot().all::<AccessToken>().is_empty());
}

#[tokio::test]
async fn rule_24_a_login_that_gives_its_place_up_takes_what_it_made_along() {
    let directory = world().await;
    let now = OffsetDateTime::now_utc();
    let put = |draft: &mut Draft, id: &str, parent: Option<&str>, login: bool| {
        let token = AccessToken {
            // The first one is the oldest.
            created: draft.now() - time::Duration::hours(i64::from(parent.is_none())),
            sha256: Token::generate().unwrap().hash(),
            owner: Owner::User(name("alice")),
            expires: Some(now + time::Duration::hours(1)),
            renewable_until: login.then(|| now + time::Duration::days(5)),
            parent: parent.map(str::to_owned),
            scope: Scope::default(),
            description: String::new(),
        };
        draft.put(id, token, Expect::Absent)
    };
    let made = directory.change(|draft| {
        put(draft, "login", None, true)?;
        put(draft, "made", Some("login"), false)?;
        put(draft, "renewed", Some("login"), true)
    });
    made.await.unwrap();
    let crowded = directory.change(|draft| {
        (0..limits::LOGINS_PER_IDENTITY)
            .try_for_each(|number| put(draft, &format!("again-{number}"), Some("renewed"), true))
    });
    crowded.await.unwrap();
    let snapshot = directory.snapshot();
    assert!(snapshot.get::<AccessToken>("login").is_none());
    assert!(snapshot.get::<AccessToken>("renewed").is_some());
    // Nothing would end it with the login's holder any more.
    assert!(snapshot.get::<AccessToken>("made").is_none());
}

#[tokio::test]
async fn rule_24_generations_are_bounded() {
    let directory = world().await;
    let put = |draft: &mut Draft, number: usize| {
        let token = AccessToken {
            created: draft.now(),
            sha256: Token::generate().unwrap().hash(),
            owner: Owner::User(name("alice")),
            expires: None,
            renewable_until: None,
            parent: number.checked_sub(1).map(|parent| format!("n{parent}")),
            scope: Scope::default(),
            description: String::new(),
        };
        draft.put(&format!("n{number}"), token, Expect::Absent)
    };
    let made = directory
        .change(|draft| (0..limits::TOKEN_GENERATIONS).try_for_each(|number| put(draft, number)));
    made.await.unwrap();
    let more = directory.change(|draft| put(draft, limits::TOKEN_GENERATIONS));
    assert!(matches!(more.await, Err(ChangeError::TooManyGenerations)));
}
