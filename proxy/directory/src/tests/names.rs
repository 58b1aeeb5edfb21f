//! Names of the directory's that others give (security rule 22), by the chain and by the directory.

use std::{net::IpAddr, time::Duration};

use async_trait::async_trait;
use http::{HeaderMap, header};
use tokio_util::sync::CancellationToken;

use super::*;
use underpass_authenticate::{
    Assertion, AuthenticateError, Authenticated, Authenticator, Caller, Chain, CredentialError,
    Reserved, Source, Step, Token, TokenAuthenticator,
};
use underpass_core::{Authority, ConnectionInfo, Identity, Protocol, RequestInfo, Scope};

/// `ldap/corp`, which believes any bearer token: `USER`, or `USER:GROUP,GROUP`.
struct Corp;

#[async_trait]
impl Authenticator for Corp {
    async fn authenticate(
        &self,
        caller: &Caller<'_>,
    ) -> Result<Option<Authenticated>, AuthenticateError> {
        let said = caller.bearer().unwrap_or_default();
        let (user, groups) = said.split_once(':').unwrap_or((said, ""));
        let groups = groups.split(',').filter(|group| !group.is_empty());
        let retired = CancellationToken::new();
        let source = Source::new(
            "corp",
            underpass_core::AuthenticationMethod::Ldap,
            Reserved::default(),
            retired,
        );
        let assertion = Assertion {
            user: user.to_owned(),
            groups: groups.map(str::to_owned).collect(),
            uid: Some("corp-uid".to_owned()),
            ..Assertion::default()
        };
        Ok(Some(source.vouch(assertion)?))
    }
}

fn name(name: &str) -> Name {
    name.parse().unwrap()
}

fn corp() -> Authority {
    "ldap/corp".parse().unwrap()
}

/// The cluster `prod`, the users `alice` and `bob`, of whom bob is linked to `ldap/corp`, and the groups `ops` and `dev`,
/// of which dev is; both are in both.
async fn world() -> (Arc<Directory>, Chain) {
    let directory = Directory::open(Arc::new(MemoryStore::default()))
        .await
        .unwrap();
    let make = |draft: &mut Draft| {
        let cluster = Cluster::new(draft.now());
        draft.put("prod", cluster, Expect::Absent)?;
        let alice = User::new(draft.now());
        draft.put("alice", alice, Expect::Absent)?;
        let bob = User {
            links: [corp()].into(),
            uid: Some("bob-uid".to_owned()),
            ..User::new(draft.now())
        };
        draft.put("bob", bob, Expect::Absent)?;
        for (group, links) in [("ops", vec![]), ("dev", vec![corp()])] {
            let group_of = Group {
                created: draft.now(),
                members: [name("alice"), name("bob")].into(),
                links: links.into_iter().collect(),
            };
            draft.put(group, group_of, Expect::Absent)?;
        }
        Ok::<_, ChangeError>(())
    };
    directory.change(make).await.unwrap();
    let limit = Duration::from_secs(5);
    let tokens = Arc::new(TokenAuthenticator::new("tokens", directory.clone()));
    let steps = vec![
        Step::new("tokens", tokens, limit),
        Step::new("corp", Arc::new(Corp), limit),
    ];
    let chain = Chain::new(steps, directory.clone());
    (directory, chain)
}

async fn come(chain: &Chain, bearer: &str) -> Result<Authenticated, CredentialError> {
    let mut headers = HeaderMap::new();
    let line = format!("Bearer {bearer}").parse().unwrap();
    headers.insert(header::AUTHORIZATION, line);
    let info = ConnectionInfo {
        peer: IpAddr::from([127, 0, 0, 1]).into(),
        protocol: Protocol::Http1,
        server_name: None,
        certificates: vec![],
        unusable_certificate: None,
    };
    let caller = Caller::read(&headers, &info).unwrap();
    match chain.authenticate(&caller).await {
        Ok(found) => Ok(found.unwrap()),
        Err(AuthenticateError::Rejected(rejection)) => Err(rejection),
        Err(other) => panic!("{other}"),
    }
}

async fn change_user(directory: &Arc<Directory>, user: &str, change: impl Fn(&mut User)) {
    let amend = |draft: &mut Draft| {
        let mut amended = User::clone(&draft.get::<User>(user).unwrap().object);
        change(&mut amended);
        draft.put(user, amended, Expect::Present)
    };
    directory.change(amend).await.unwrap();
}

async fn bind(directory: &Arc<Directory>, subject: Subject) {
    let grant = |draft: &mut Draft| draft.grant(&subject, &[], true, Role::Admin);
    directory.change(grant).await.unwrap();
}

async fn may(directory: &Directory, identity: &Identity) -> bool {
    let cluster = "prod".parse().unwrap();
    let request = RequestInfo::parse(&http::Method::GET, "/api/v1/pods", None, false);
    let access = Access::new(identity, &cluster, &request);
    let allowed = directory.authorize(&access).await.is_ok();
    let named = Named::from(identity);
    assert_eq!(directory.snapshot().is_administrator(named), allowed);
    allowed
}

#[tokio::test]
async fn rule_22_a_name_of_the_directorys_is_given_by_links_only() {
    let (directory, chain) = world().await;
    let refused = come(&chain, "alice").await.unwrap_err();
    let wanted = CredentialError::AnothersName {
        name: "alice".to_owned(),
        authority: corp(),
    };
    assert_eq!(refused, wanted);
    assert!(refused.to_string().contains("user link"), "{refused}");
    let refused = come(&chain, "ALICE").await.unwrap_err();
    assert!(
        matches!(refused, CredentialError::LookAlike { .. }),
        "{refused}"
    );
    // Linked: the user themselves, with the directory's facts of them.
    let bob = come(&chain, "bob:dev,qa").await.unwrap();
    let identity = bob.identity();
    assert_eq!(identity.groups(), ["dev", "qa", "ops"]);
    assert_eq!(identity.uid(), Some("bob-uid"));
    assert_eq!(identity.provenance().unwrap().authority(), &corp());
    assert_eq!(bob.claimed().groups(), ["dev", "qa"]);
    // Another case is another name, which no link means.
    come(&chain, "Bob").await.unwrap_err();
    // A name without a user.
    come(&chain, "carol").await.unwrap();
    change_user(&directory, "bob", |bob| bob.disabled = true).await;
    let refused = come(&chain, "bob").await.unwrap_err();
    assert_eq!(refused, CredentialError::Disabled("bob".to_owned()));
}

#[tokio::test]
async fn rule_22_a_name_does_not_get_past_the_chain_into_rights() {
    let (directory, _) = world().await;
    let identity = |user: &str, groups: &[&str]| {
        let source = Source::new(
            "corp",
            underpass_core::AuthenticationMethod::Ldap,
            Reserved::default(),
            CancellationToken::new(),
        );
        source
            .identity(Assertion {
                user: user.to_owned(),
                groups: groups.iter().map(|&group| group.to_owned()).collect(),
                ..Assertion::default()
            })
            .unwrap()
    };
    for subject in [
        Subject::user(name("alice")),
        Subject::user(name("bob")),
        Subject::group(name("ops")),
        Subject::group(name("dev")),
        Subject::group(name("qa")),
    ] {
        bind(&directory, subject).await;
    }
    for (user, groups, allowed) in [
        ("alice", &[][..], false),
        ("bob", &[], true),
        ("carol", &[], false),
        ("carol", &["ops"], false),
        ("carol", &["Dev"], false),
        ("carol", &["dev"], true),
        ("carol", &["qa"], true),
    ] {
        let who = identity(user, groups);
        assert_eq!(may(&directory, &who).await, allowed, "{user} {groups:?}");
    }
}

#[tokio::test]
async fn rule_22_a_binding_may_name_the_authority() {
    for (subject, bearers) in [
        (Subject::user(name("bob")), [true, false, true]),
        (
            Subject::user(name("bob")).of(Authority::Directory),
            [true, false, true],
        ),
        (Subject::user(name("bob")).of(corp()), [true, false, false]),
        (
            Subject::user(name("carol")).of(Authority::Directory),
            [false; 3],
        ),
        (
            Subject::user(name("carol")).of(corp()),
            [false, true, false],
        ),
        (
            Subject::user(name("carol")).of("ldap/other".parse().unwrap()),
            [false; 3],
        ),
        (
            Subject::group(name("ops")).of(Authority::Directory),
            [true, false, true],
        ),
        (Subject::group(name("ops")).of(corp()), [false; 3]),
        (Subject::group(name("dev")).of(corp()), [true, true, false]),
        (Subject::group(name("qa")).of(corp()), [false, true, false]),
        (
            Subject::group(name("qa")).of(Authority::Directory),
            [false; 3],
        ),
    ] {
        let (directory, chain) = world().await;
        bind(&directory, subject.clone()).await;
        let token = token_of(&directory, Owner::User(name("bob"))).await;
        let bearers = ["bob", "carol:ops,dev,qa", token.expose()]
            .into_iter()
            .zip(bearers);
        for (bearer, allowed) in bearers {
            let found = come(&chain, bearer).await.unwrap();
            let may = may(&directory, found.identity()).await;
            assert_eq!(may, allowed, "{subject} {bearer}");
        }
    }
}

#[tokio::test]
async fn rule_22_a_group_of_the_directorys_is_given_by_links_only() {
    let (directory, chain) = world().await;
    let found = come(&chain, "carol:ops,OPS,dev,Dev,qa").await.unwrap();
    assert_eq!(found.identity().groups(), ["dev", "qa"]);
    assert!(!found.revocation().is_revoked());
    // A group that the directory gets afterwards is not theirs either.
    directory
        .change(|draft| draft.join(&name("qa"), &[name("alice")]))
        .await
        .unwrap();
    assert!(found.revocation().is_revoked());
    let found = come(&chain, "carol:dev,qa").await.unwrap();
    assert_eq!(found.identity().groups(), ["dev"]);
}

#[tokio::test]
async fn rule_12_what_a_link_gave_ends_with_it() {
    type Change = fn(&mut User);
    for change in [
        (|bob| bob.disabled = true) as Change,
        |bob| bob.links.clear(),
        |bob| bob.uid = None,
    ] {
        let (directory, chain) = world().await;
        let found = come(&chain, "bob").await.unwrap();
        change_user(&directory, "bob", |user| user.disabled = false).await;
        assert!(!found.revocation().is_revoked());
        change_user(&directory, "bob", change).await;
        assert!(found.revocation().is_revoked());
    }
    let (directory, chain) = world().await;
    let bob = come(&chain, "bob").await.unwrap();
    let carol = come(&chain, "carol").await.unwrap();
    let remove = |draft: &mut Draft| draft.remove::<User>("bob", Expect::Present);
    directory.change(remove).await.unwrap();
    assert!(bob.revocation().is_revoked());
    assert!(!carol.revocation().is_revoked());
    // A caller who bore the name before the directory had such a user.
    let make = |draft: &mut Draft| {
        let carol = User::new(draft.now());
        draft.put("carol", carol, Expect::Absent)
    };
    directory.change(make).await.unwrap();
    assert!(carol.revocation().is_revoked());
}

async fn token_of(directory: &Arc<Directory>, owner: Owner) -> Token {
    let token = Token::generate().unwrap();
    let (sha256, id) = (token.hash(), token.hash().to_hex());
    let keep = |draft: &mut Draft| {
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
    };
    directory.change(keep).await.unwrap();
    token
}

#[tokio::test]
async fn rule_22_a_logins_token_is_asked_whose_name_it_bears_each_time() {
    let (directory, chain) = world().await;
    let login = |user: &str| {
        Owner::Login(Login {
            user: user.to_owned(),
            uid: None,
            groups: vec!["ops".to_owned(), "qa".to_owned()],
            extra: Default::default(),
            authenticated_by: "ldap/corp".to_owned(),
        })
    };
    let alice = token_of(&directory, login("alice")).await;
    let refused = come(&chain, alice.expose()).await.unwrap_err();
    assert_eq!(refused, CredentialError::Unknown);
    let bob = token_of(&directory, login("bob")).await;
    let found = come(&chain, bob.expose()).await.unwrap();
    assert_eq!(found.identity().groups(), ["qa", "dev", "ops"]);
    assert_eq!(found.identity().provenance().unwrap().authority(), &corp());
    let carol = token_of(&directory, login("carol")).await;
    let found = come(&chain, carol.expose()).await.unwrap();
    assert_eq!(found.identity().groups(), ["qa"]);
    bind(&directory, Subject::user(name("carol"))).await;
    assert!(may(&directory, found.identity()).await);
    // A user who is made later is another one.
    let make = |draft: &mut Draft| {
        let carol = User::new(draft.now());
        draft.put("carol", carol, Expect::Absent)
    };
    directory.change(make).await.unwrap();
    assert!(found.revocation().is_revoked());
    come(&chain, carol.expose()).await.unwrap_err();
    assert!(!may(&directory, found.identity()).await);
    change_user(&directory, "bob", |bob| bob.links.clear()).await;
    come(&chain, bob.expose()).await.unwrap_err();
}

#[tokio::test]
async fn links_are_to_others_and_bounded() {
    let (directory, _) = world().await;
    let link = |links: Vec<Authority>| {
        let directory = Arc::clone(&directory);
        async move {
            let put = |draft: &mut Draft| {
                let user = User {
                    links: links.iter().cloned().collect(),
                    ..User::new(draft.now())
                };
                draft.put("alice", user, Expect::Present)
            };
            directory.change(put).await.err()
        }
    };
    let itself = link(vec![Authority::Directory]).await;
    assert!(matches!(itself, Some(ChangeError::LinkToDirectory)));
    let many = (0..=limits::LINKS).map(|number| format!("ldap/{number}").parse().unwrap());
    let many = link(many.collect()).await;
    assert!(matches!(many, Some(ChangeError::TooManyLinks)));
}
