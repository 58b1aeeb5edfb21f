//! A real slapd.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::{Duration, Instant},
};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use http::StatusCode;
use rustls::{ServerConfig, pki_types::PrivateKeyDer};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsAcceptor;
use underpass_authenticate::{
    AuthenticateError, Bind, Chain, CredentialError, GroupMembership, GroupSearch, Ldap,
    LdapConfig, Password, RemoteOptions, Roots, Step, Unowned, UserSearch,
};
use underpass_core::{AuthenticationMethod, Rejection, limits};
use underpass_testenv::testing::providers::{Directory, SEARCHER};
use zeroize::Zeroizing;

use crate::present::{Answer, identity, present, rejection, soon, source, unavailable};

const FILTER: &str = "(&(objectClass=inetOrgPerson)(|(uid={username})(mail={username})))";

pub(crate) fn config(directory: &Directory) -> LdapConfig {
    let roots = Roots::from_pem(directory.ca().as_bytes()).unwrap();
    config_at(directory.ldaps(), roots)
}

/// Of a directory with the entries of [`Directory`].
pub(crate) fn config_at(url: String, roots: Roots) -> LdapConfig {
    LdapConfig {
        url,
        start_tls: false,
        roots,
        bind: Bind {
            dn: SEARCHER.0.to_owned(),
            password: Zeroizing::new(SEARCHER.1.to_owned()),
        },
        realm: None,
        user: UserSearch {
            base: "ou=people,dc=example,dc=org".to_owned(),
            filter: FILTER.to_owned(),
            name_attribute: "uid".to_owned(),
            prefix: "ldap:".to_owned(),
            uid_attribute: Some("entryUUID".to_owned()),
            extra: vec![("example.org/team".to_owned(), "departmentNumber".to_owned())],
        },
        groups: Some(GroupSearch {
            base: "ou=groups,dc=example,dc=org".to_owned(),
            filter: "(objectClass=groupOfNames)".to_owned(),
            name_attribute: "cn".to_owned(),
            prefix: "ldap:".to_owned(),
            membership: GroupMembership::Member("member".to_owned()),
            nested: true,
        }),
        remote: RemoteOptions::default(),
    }
}

pub(crate) fn ldap(config: LdapConfig) -> Ldap {
    Ldap::new(source("directory", AuthenticationMethod::Ldap), config).unwrap()
}

pub(crate) async fn basic(ldap: &Ldap, user: &str, password: &str) -> Answer {
    let line = BASE64.encode(format!("{user}:{password}"));
    present(ldap, Some(&format!("Basic {line}")), &[]).await
}

pub(crate) fn groups(answer: Answer) -> Vec<String> {
    let mut groups = identity(answer).groups().to_vec();
    groups.sort();
    groups
}

#[tokio::test]
async fn a_password_gives_an_identity() {
    let directory = Directory::start().await;
    let ldap = ldap(config(&directory));
    // Typed in any case, or by another attribute: it is the same user.
    for typed in ["alice", "ALICE", "alice@example.org"] {
        let found = identity(basic(&ldap, typed, "alice-secret").await);
        assert_eq!(found.user(), "ldap:alice");
        assert_eq!(found.uid().map(str::len), Some(36));
        assert_eq!(found.extra()["example.org/team"], ["blue"]);
        assert_eq!(found.provenance().unwrap().to_string(), "ldap/directory");
    }
    assert!(present(&ldap, None, &[]).await.unwrap().is_none());
    assert!(
        present(&ldap, Some("Bearer x"), &[])
            .await
            .unwrap()
            .is_none()
    );
}

#[tokio::test]
async fn groups_are_found_in_every_way() {
    let directory = Directory::start().await;
    let nested = ["ldap:dev", "ldap:everyone", "ldap:platform"];
    let member = GroupMembership::Member("member".to_owned());
    let member_of = GroupMembership::MemberOf("memberOf".to_owned());
    let posix = GroupMembership::MemberValue {
        attribute: "memberUid".to_owned(),
        of_user: "uid".to_owned(),
    };
    for (membership, filter, deep, wanted) in [
        (
            member.clone(),
            "(objectClass=groupOfNames)",
            true,
            &nested[..],
        ),
        (member, "(objectClass=groupOfNames)", false, &["ldap:dev"]),
        (
            member_of.clone(),
            "(objectClass=groupOfNames)",
            true,
            &nested,
        ),
        (
            member_of,
            "(objectClass=groupOfNames)",
            false,
            &["ldap:dev"],
        ),
        (posix, "(objectClass=posixGroup)", true, &["ldap:posix"]),
    ] {
        let mut config = config(&directory);
        let search = config.groups.as_mut().unwrap();
        search.filter = filter.to_owned();
        search.nested = deep;
        search.membership = membership.clone();
        let ldap = ldap(config);
        let found = groups(basic(&ldap, "alice", "alice-secret").await);
        assert_eq!(found, wanted, "{membership:?} {deep}");
        assert!(groups(basic(&ldap, "bob", "bob-secret").await).is_empty());
    }
}

#[tokio::test]
async fn names_that_need_escaping_are_names() {
    let directory = Directory::start().await;
    for membership in [
        GroupMembership::Member("member".to_owned()),
        GroupMembership::MemberOf("memberOf".to_owned()),
    ] {
        let mut config = config(&directory);
        config.groups.as_mut().unwrap().membership = membership;
        let ldap = ldap(config);
        let answer = basic(&ldap, "zoe", "zoe-secret").await;
        let found = groups(answer);
        assert_eq!(found, ["ldap:on call (*), all"]);
    }
}

fn by_member_of(directory: &Directory) -> LdapConfig {
    let mut config = config(directory);
    config.groups.as_mut().unwrap().membership = GroupMembership::MemberOf("memberOf".to_owned());
    config
}

fn searches(directory: &Directory) -> usize {
    directory.log().matches(" SRCH base=").count()
}

fn flood(groups: usize) -> Vec<String> {
    let mut all: Vec<_> = (0..groups).map(|n| format!("ldap:flood-{n}")).collect();
    all.sort();
    all
}

#[tokio::test]
async fn five_hundred_groups_take_few_questions() {
    let directory = Directory::with_flood(500).await;
    let all = ldap(by_member_of(&directory));
    assert_eq!(groups(basic(&all, "bob", "bob-secret").await), flood(500));
    // The user, the root's entry, and a hundred groups to a question.
    assert_eq!(searches(&directory), 2 + 5, "{}", directory.log());

    // Those that are no groups here take another one for each hundred.
    let directory = Directory::with_flood(500).await;
    let mut config = by_member_of(&directory);
    let search = config.groups.as_mut().unwrap();
    search.filter = "(&(objectClass=groupOfNames)(cn=flood-7))".to_owned();
    let some = ldap(config);
    let found = groups(basic(&some, "bob", "bob-secret").await);
    assert_eq!(found, ["ldap:flood-7"]);
    assert_eq!(searches(&directory), 2 + 5 + 5, "{}", directory.log());
}

/// slapd has the groups, and no entry of the base's name.
#[tokio::test]
async fn a_directory_that_does_not_search_below_the_base_is_asked_about_each_group() {
    let directory = Directory::with_flood(20).await;
    let mut config = by_member_of(&directory);
    config.groups.as_mut().unwrap().base = "dc=org".to_owned();
    let found = groups(basic(&ldap(config), "bob", "bob-secret").await);
    assert_eq!(found, flood(20));
}

#[tokio::test]
async fn among_many_groups_one_of_another_directory_is_left_out() {
    let others = [
        "CN=Dev , ou=Groups,dc=example,dc=org",
        "cn=elsewhere,ou=groups,dc=example,dc=org",
        "cn=gone,ou=groups,dc=example,dc=org",
        "cn=far,dc=example,dc=net",
    ];
    let directory = Directory::with_flood_and(20, &others).await;
    let ldap = ldap(by_member_of(&directory));
    let found = groups(basic(&ldap, "bob", "bob-secret").await);
    let mut wanted = flood(20);
    // `dev` is in two others.
    wanted.extend(["dev", "everyone", "platform"].map(|name| format!("ldap:{name}")));
    wanted.sort();
    assert_eq!(found, wanted);
    let log = directory.log();
    let read = |dn: &str| log.matches(&format!("SRCH base=\"{dn}")).count();
    // Each of these was asked about by itself, so that the log says why it does not count.
    assert_eq!(log.matches("SEARCH RESULT tag=101 err=10").count(), 1);
    assert_eq!((read("cn=elsewhere,"), read("cn=gone,")), (1, 1), "{log}");
    assert_eq!((read("cn=far,"), read("cn=flood-")), (0, 0), "{log}");
}

#[tokio::test]
async fn a_group_that_another_directory_has_is_left_out() {
    let directory = Directory::start().await;
    let ldap = ldap(by_member_of(&directory));
    let found = groups(basic(&ldap, "carol", "carol-secret").await);
    assert_eq!(found, ["ldap:dev", "ldap:everyone", "ldap:platform"]);
    let log = directory.log();
    // The directory has referred elsewhere, and was not asked about what is not below the base.
    let referred = "SEARCH RESULT tag=101 err=10";
    assert_eq!(log.matches(referred).count(), 1, "{log}");
    assert!(!log.contains("SRCH base=\"cn=far,"), "{log}");
    // A search below the base finds a reference to it beside the groups.
    let ldap = self::ldap(config(&directory));
    let found = groups(basic(&ldap, "alice", "alice-secret").await);
    assert_eq!(found, ["ldap:dev", "ldap:everyone", "ldap:platform"]);
}

#[tokio::test]
async fn a_base_may_be_written_in_another_way() {
    let directory = Directory::start().await;
    let mut config = by_member_of(&directory);
    let search = config.groups.as_mut().unwrap();
    search.base = "OU=Groups , dc=Example,DC=org".to_owned();
    let found = groups(basic(&ldap(config), "alice", "alice-secret").await);
    assert_eq!(found, ["ldap:dev", "ldap:everyone", "ldap:platform"]);
}

#[tokio::test]
async fn a_base_that_is_not_there_gives_no_login_without_groups() {
    let directory = Directory::start().await;
    for (base, why) in [
        (
            "ou=gruops,dc=example,dc=org",
            "there is no entry \"ou=gruops",
        ),
        ("ou=groups,dc=example,dc=net", "refers to another one"),
    ] {
        let mut config = config(&directory);
        config.groups.as_mut().unwrap().base = base.to_owned();
        let said = unavailable(basic(&ldap(config), "alice", "alice-secret").await);
        assert!(said.contains(why), "{said}");
        let mut config = self::config(&directory);
        config.user.base = base.to_owned();
        let said = unavailable(basic(&ldap(config), "alice", "alice-secret").await);
        assert!(said.contains(why), "{said}");
    }
}

/// As SSSD has it.
#[tokio::test]
async fn of_several_names_that_of_the_distinguished_name_counts() {
    let directory = Directory::start().await;
    let ldap = ldap(config(&directory));
    let carol = identity(basic(&ldap, "c", "carol-secret").await);
    assert_eq!(carol.user(), "ldap:carol");
}

/// slapd does not know Active Directory's rule, takes such a filter for *undefined*, and finds nothing. So this test shows one
/// search by that rule, and that a directory without it breaks no login.
#[tokio::test]
async fn active_directory_is_asked_by_its_own_rule() {
    let directory = Directory::start().await;
    let mut config = config(&directory);
    let membership = GroupMembership::InChain("member".to_owned());
    config.groups.as_mut().unwrap().membership = membership;
    let ldap = ldap(config);
    assert!(groups(basic(&ldap, "alice", "alice-secret").await).is_empty());
    let log = directory.log();
    let asked = "filter=\"(&(objectClass=groupOfNames)(|(?=undefined)))\"";
    assert_eq!(log.matches(asked).count(), 1, "{log}");
}

#[tokio::test]
async fn start_tls_is_tls_before_anything_is_said() {
    let directory = Directory::start().await;
    let mut config = config(&directory);
    config.url = directory.ldap();
    config.start_tls = true;
    let ldap = ldap(config);
    identity(basic(&ldap, "alice", "alice-secret").await);
    let log = directory.log();
    let bind = log.find(" BIND dn=").unwrap();
    let tls = log.find("TLS established").unwrap();
    assert!(tls < bind, "{log}");
}

#[tokio::test]
async fn an_attribute_with_two_uses_is_asked_for_once() {
    let directory = Directory::start().await;
    let mut config = config(&directory);
    config.user.uid_attribute = Some("uid".to_owned());
    let found = identity(basic(&ldap(config), "alice", "alice-secret").await);
    assert_eq!(found.uid(), Some("alice"));
    let log = directory.log();
    assert!(log.contains("SRCH attr=departmentNumber uid\n"), "{log}");
}

#[tokio::test]
async fn another_certificate_is_not_believed() {
    let (directory, other) = (Directory::start().await, Directory::start().await);
    for start_tls in [false, true] {
        let mut config = config(&directory);
        config.roots = Roots::from_pem(other.ca().as_bytes()).unwrap();
        config.start_tls = start_tls;
        if start_tls {
            config.url = directory.ldap();
        }
        let said = unavailable(basic(&ldap(config), "alice", "alice-secret").await);
        assert!(said.contains("cannot be reached"), "{said}");
    }
    assert!(!directory.log().contains(" BIND dn="));
}

#[tokio::test]
async fn wrong_passwords_and_wrong_names_look_the_same() {
    let directory = Directory::start().await;
    let ldap = ldap(config(&directory));
    for (user, password) in [
        ("alice", "bob-secret"),
        ("alice", "alice-secret "),
        ("nobody", "alice-secret"),
        ("uid=alice,ou=people,dc=example,dc=org", "alice-secret"),
        ("underpass", SEARCHER.1),
    ] {
        let refused = rejection(basic(&ldap, user, password).await);
        assert_eq!(refused, CredentialError::WrongPassword, "{user}");
    }
    // Both cost a bind.
    let log = directory.log();
    assert!(log.contains("BIND dn=\"uid=underpass-nobody-"), "{log}");
    // Two entries fit: neither is meant.
    let refused = rejection(basic(&ldap, "twin@example.org", "twin-secret").await);
    assert_eq!(refused, CredentialError::Ambiguous);
}

#[tokio::test]
async fn rule_23_strangers_reach_no_lockout_threshold_of_the_directory() {
    let directory = Directory::start().await;
    let ldap = ldap(config(&directory));
    let binds = |user: &str| {
        let bind = format!("BIND dn=\"uid={user},ou=people,dc=example,dc=org\" method=128");
        directory.log().matches(&bind).count()
    };
    let mut waits = 0;
    for guess in 0..10 {
        // By any of her names.
        for typed in ["alice", "ALICE", "alice@example.org"] {
            match basic(&ldap, typed, &format!("guess-{guess}")).await {
                Err(AuthenticateError::Rejected(CredentialError::WrongPassword)) => {}
                Err(AuthenticateError::Wait(wait)) => {
                    assert!(wait <= limits::LDAP_WRONG_BINDS_TIME);
                    waits += 1;
                }
                other => panic!("{other:?}"),
            }
        }
    }
    let most = limits::LDAP_WRONG_BINDS_OF_STRANGERS as usize;
    assert_eq!((binds("alice"), waits), (most, 30 - most));
    // An unknown name has to wait as well, and no other name has to.
    for guess in 0..most {
        let refused = rejection(basic(&ldap, "nobody", &format!("guess-{guess}")).await);
        assert_eq!(refused, CredentialError::WrongPassword);
    }
    let refused = basic(&ldap, "nobody", "one more").await;
    assert!(
        matches!(refused, Err(AuthenticateError::Wait(_))),
        "{refused:?}"
    );
    identity(basic(&ldap, "bob", "bob-secret").await);
}

/// How a directory that breaks off answers a user's bind, which it has counted.
#[derive(Clone, Copy, Debug)]
enum Answers {
    /// Never.
    Late,
    /// By closing the connection.
    Gone,
    /// With a result that says nothing about the password: 51, busy.
    Busy,
    /// It does not get it: only the first connection is taken, that of searches.
    Unreached,
}

/// A way to the directory on which users' binds get there, and their answers do not come back.
async fn breaking(directory: &Directory, answers: Answers) -> (String, Roots) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let roots = Roots::from_pem(made.cert.pem().as_bytes()).unwrap();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let tls = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let tls = TlsAcceptor::from(Arc::new(tls));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!(
        "ldaps://localhost:{}",
        listener.local_addr().unwrap().port()
    );
    let upstream = directory.ldap().replace("ldap://", "");
    tokio::spawn(async move {
        let mut taken = 0;
        while let Ok((socket, _)) = listener.accept().await {
            taken += 1;
            if taken > 1 && matches!(answers, Answers::Unreached) {
                continue;
            }
            let (tls, upstream) = (tls.clone(), upstream.clone());
            tokio::spawn(async move {
                let Ok(client) = tls.accept(socket).await else {
                    return;
                };
                let directory = TcpStream::connect(upstream).await.unwrap();
                relay(client, directory, answers).await;
            });
        }
    });
    (url, roots)
}

async fn relay(
    mut client: impl AsyncRead + AsyncWrite + Unpin,
    mut directory: TcpStream,
    answers: Answers,
) {
    let mut bytes = vec![0; 4096];
    let read = client.read(&mut bytes).await.unwrap();
    directory.write_all(&bytes[..read]).await.unwrap();
    // The account that searches is no `uid=…`.
    if !bytes[..read].windows(4).any(|part| part == b"uid=") {
        let _ = tokio::io::copy_bidirectional(&mut client, &mut directory).await;
        return;
    }
    let read = directory.read(&mut bytes).await.unwrap();
    match answers {
        Answers::Late => std::future::pending().await,
        Answers::Gone | Answers::Unreached => {}
        Answers::Busy => {
            // An ENUMERATED of one byte: invalidCredentials.
            let answer = &mut bytes[..read];
            let at = answer.windows(3).position(|part| part == [10, 1, 49]);
            answer[at.unwrap() + 2] = 51;
            client.write_all(answer).await.unwrap();
            let _ = client.read(&mut [0; 64]).await;
        }
    }
}

#[tokio::test]
async fn rule_23_a_bind_that_was_sent_counts_whatever_the_directory_says() {
    for answers in [Answers::Late, Answers::Gone, Answers::Busy] {
        let directory = Directory::start().await;
        let mut config = config(&directory);
        (config.url, config.roots) = breaking(&directory, answers).await;
        config.remote.timeout = Duration::from_millis(500);
        let ldap = ldap(config);
        let mut waits = 0;
        for guess in 0..8 {
            match basic(&ldap, "alice", &format!("guess-{guess}")).await {
                Err(AuthenticateError::Unavailable(_)) => {}
                Err(AuthenticateError::Wait(_)) => waits += 1,
                other => panic!("{answers:?} {other:?}"),
            }
        }
        let bind = "BIND dn=\"uid=alice,ou=people,dc=example,dc=org\" method=128";
        let binds = directory.log().matches(bind).count();
        let most = limits::LDAP_WRONG_BINDS_OF_STRANGERS as usize;
        assert_eq!((binds, waits), (most, 8 - most), "{answers:?}");
    }
}

#[tokio::test]
async fn rule_23_a_bind_that_was_not_sent_does_not_count() {
    let directory = Directory::start().await;
    let mut config = config(&directory);
    (config.url, config.roots) = breaking(&directory, Answers::Unreached).await;
    let ldap = ldap(config);
    for guess in 0..8 {
        let said = unavailable(basic(&ldap, "alice", &format!("guess-{guess}")).await);
        assert!(said.contains("cannot be reached"), "{said}");
    }
    assert!(!directory.log().contains("BIND dn=\"uid="));
}

/// An entry below the base that no login finds, since the filter leaves it out, is bound like an unknown name.
#[tokio::test]
async fn rule_23_a_name_outside_the_filter_locks_nobodys_account() {
    let directory = Directory::start().await;
    let mut config = config(&directory);
    config.user.filter = "(&(objectClass=inetOrgPerson)(uid={username})(!(uid=bob)))".to_owned();
    let ldap = ldap(config);
    for typed in ["bob", "BOB", " bob", "bob  "] {
        let answer = basic(&ldap, typed, "guess").await;
        let refused = match answer {
            Err(AuthenticateError::Rejected(CredentialError::WrongPassword)) => false,
            Err(AuthenticateError::Wait(_)) => true,
            other => panic!("{typed:?} {other:?}"),
        };
        // One name, in each spelling.
        assert_eq!(refused, typed == "bob  ", "{typed:?}");
    }
    let log = directory.log();
    assert!(!log.to_lowercase().contains("bind dn=\"uid=bob"), "{log}");
    assert_eq!(
        log.matches("BIND dn=\"uid=underpass-nobody-").count(),
        3,
        "{log}"
    );
}

#[tokio::test]
async fn an_empty_password_is_no_login() {
    let directory = Directory::start().await;
    let ldap = ldap(config(&directory));
    let refused = rejection(basic(&ldap, "alice", "").await);
    assert_eq!(refused, CredentialError::EmptyPassword);
    // This directory would have said yes, but was not asked.
    assert!(!directory.log().contains(" BIND "), "{}", directory.log());
    assert_eq!(
        rejection(basic(&ldap, "", "x").await),
        CredentialError::Malformed
    );
    assert_eq!(
        rejection(basic(&ldap, "a\0b", "x").await),
        CredentialError::Malformed
    );
}

#[tokio::test]
async fn a_name_cannot_become_a_filter() {
    let directory = Directory::start().await;
    let ldap = ldap(config(&directory));
    for typed in [
        "*",
        "a*",
        "alice*",
        "*)(uid=*))(|(uid=*",
        "alice)(userPassword=*",
        "x)(|(objectClass=*)",
        "alice)(uid=alice",
        "\\61lice",
        "alice\\29",
        "(alice)",
        "&",
        "alice\n",
    ] {
        // With alice's own password: a changed filter that finds her would let the caller in.
        let refused = rejection(basic(&ldap, typed, "alice-secret").await);
        assert_eq!(refused, CredentialError::WrongPassword, "{typed:?}");
    }
}

#[tokio::test]
async fn rule_11_a_flood_of_groups_is_refused() {
    let directory = Directory::with_flood(limits::GROUPS + 1).await;
    let ldap = ldap(config(&directory));
    // No retry helps: the answer is no 503, and tells bob, whose password is right, the reason.
    let error = basic(&ldap, "bob", "bob-secret").await.unwrap_err();
    let told = Rejection::from(&error);
    assert_eq!(told.code(), StatusCode::FORBIDDEN);
    assert!(told.to_string().contains("more than 4096 groups"), "{told}");
    let refused = rejection(basic(&ldap, "bob", "wrong").await);
    assert_eq!(refused, CredentialError::WrongPassword);
    identity(basic(&ldap, "alice", "alice-secret").await);
}

#[tokio::test]
async fn a_login_is_what_basic_is() {
    let directory = Directory::start().await;
    let mut config = config(&directory);
    config.realm = Some("example.org".to_owned());
    let step = Step::new("directory", Arc::new(ldap(config)), Duration::from_secs(20));
    let chain = Chain::new(vec![step], Arc::new(Unowned));
    let login = async |user: &str, password: &str| {
        let login = Password::new(user, Zeroizing::new(password.to_owned()));
        let found = soon(chain.login(login, IpAddr::V4(Ipv4Addr::LOCALHOST))).await?;
        Ok(found.map(|found| found.identity().clone()))
    };
    let alice = identity(login("alice@Example.org", "alice-secret").await);
    assert_eq!(alice.user(), "ldap:alice");
    let refused = rejection(login("alice@example.org", "x").await);
    assert_eq!(refused, CredentialError::WrongPassword);
    // Other realms are others'.
    for other in ["alice", "alice@example.com", "alice@"] {
        assert!(login(other, "alice-secret").await.unwrap().is_none());
    }
}

#[tokio::test]
async fn searches_share_connections_that_may_end() {
    let directory = Directory::start().await;
    let ldap = ldap(config(&directory));
    for user in ["alice", "bob", "zoe"] {
        identity(basic(&ldap, user, &format!("{user}-secret")).await);
    }
    let searcher = format!("BIND dn=\"{}\" method=128", SEARCHER.0);
    assert_eq!(
        directory.log().matches(&searcher).count(),
        1,
        "{}",
        directory.log()
    );
    // Cached results count for a while, even when the directory is gone.
    directory.kill();
    identity(basic(&ldap, "alice", "alice-secret").await);
    let said = unavailable(basic(&ldap, "alice", "other").await);
    assert!(said.contains("cannot be reached"), "{said}");
}

#[tokio::test]
async fn a_directory_that_hangs_is_given_up() {
    let directory = Directory::start().await;
    // Takes connections, and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut config = config(&directory);
    config.url = format!("ldaps://localhost:{}", silent.local_addr().unwrap().port());
    config.remote.timeout = Duration::from_millis(500);
    let begin = Instant::now();
    let said = unavailable(basic(&ldap(config), "alice", "alice-secret").await);
    assert!(said.contains("longer than 500ms"), "{said}");
    assert!(begin.elapsed() < limits::PROVIDER_TIME);
}
