//! The tokens that a credential makes, and how long they last.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::Frame;
use tokio::sync::oneshot;
use underpass_directory::{Binding, Draft, Expect, User};

use super::*;

const HOUR: u64 = 3600;
const PASSWORD: &str = "correct horse battery";

impl World {
    /// Gives the user a password, and the token of a login with it.
    async fn logged_in(&self, user: &str) -> String {
        let set = json!({"password": PASSWORD});
        let path = format!("/v1/users/{user}/password");
        self.operate(Method::PUT, &path, set).await.expect(204);
        let made = self.log_in_with(user, PASSWORD).await.expect(201);
        made["token"].as_str().unwrap().to_owned()
    }

    async fn make(&self, bearer: &str, wanted: Value) -> Answer {
        let who = self.holder(bearer).await;
        self.ask(&who, Method::POST, "/v1/tokens", &wanted, &[])
            .await
    }

    async fn made(&self, bearer: &str, wanted: Value) -> Made {
        Made::of(&self.make(bearer, wanted).await.expect(201))
    }

    async fn renewed(&self, bearer: &str) -> Made {
        let answer = self.log_in(&format!("Bearer {bearer}"), json!({})).await;
        Made::of(&answer.expect(201))
    }

    async fn counts(&self, token: &Made) -> bool {
        self.find_holder(&token.secret).await.is_some()
    }

    async fn revoke(&self, token: &Made) {
        let path = format!("/v1/tokens/{}", token.about["id"].as_str().unwrap());
        self.operate(Method::DELETE, &path, Value::Null)
            .await
            .expect(204);
    }
}

struct Made {
    secret: String,
    about: Value,
}

impl Made {
    fn of(made: &Value) -> Self {
        Self {
            secret: made["token"].as_str().unwrap().to_owned(),
            about: made["about"].clone(),
        }
    }
}

#[tokio::test]
async fn rule_24_a_token_ends_with_the_one_that_made_it_at_the_latest() {
    let world = World::new().await;
    let admin = json!({"allClusters": true, "role": "admin"});
    world.user("root", admin).await;
    world.user("alice", json!({})).await;
    for user in ["alice", "root"] {
        let login = world.logged_in(user).await;
        for wanted in [
            json!({"expiresInSeconds": 13 * HOUR}),
            json!({"expiresInSeconds": 95 * 365 * 24 * HOUR}),
            json!({"user": user, "expiresInSeconds": 13 * HOUR}),
            json!({"user": "alice", "expiresInSeconds": 13 * HOUR}),
        ] {
            let refused = world.make(&login, wanted).await.expect(422);
            let said = refused["detail"].as_str().unwrap();
            assert!(said.contains("outlast the credential"), "{said}");
        }
        let within = world.made(&login, json!({"expiresInSeconds": HOUR})).await;
        assert!(within.about["parent"].is_string());
        // Neither does the next generation outlast it, or get a right back.
        let further = world
            .make(&within.secret, json!({"expiresInSeconds": 2 * HOUR}))
            .await;
        further.expect(422);
        world
            .log_in(&format!("Bearer {}", within.secret), json!({}))
            .await
            .expect(403);
    }
    // An administrator's login makes no token without an end either; one without an end of its own may.
    let login = world.logged_in("root").await;
    world.make(&login, json!({})).await.expect(422);
    let access = json!({"user": "carol", "role": "view", "token": {}});
    let who = world.holder(&login).await;
    world
        .ask(&who, Method::POST, "/v1/access", &access, &[])
        .await
        .expect(422);
    let endless = json!({"user": "root"});
    let endless = world.operate(Method::POST, "/v1/tokens", endless).await;
    let endless = Made::of(&endless.expect(201));
    world.made(&endless.secret, json!({"user": "alice"})).await;
}

#[tokio::test]
async fn rule_24_what_ends_a_token_ends_what_it_made() {
    let world = World::new().await;
    world.user("alice", json!({})).await;
    let hour = json!({"expiresInSeconds": HOUR});
    let less = json!({"expiresInSeconds": HOUR / 2});

    // Taken back: children, their children, and renewals.
    let login = world.logged_in("alice").await;
    let renewed = world.renewed(&login).await;
    let again = world.renewed(&renewed.secret).await;
    let child = world.made(&renewed.secret, hour.clone()).await;
    let grandchild = world.made(&child.secret, less.clone()).await;
    let other = Made::of(&world.log_in_with("alice", PASSWORD).await.expect(201));
    world.revoke(&renewed).await;
    for gone in [&renewed, &again, &child, &grandchild] {
        assert!(!world.counts(gone).await, "{}", gone.about);
    }
    assert!(world.counts(&other).await);

    // Another password.
    let child = world.made(&other.secret, hour.clone()).await;
    world.logged_in("alice").await;
    for gone in [&other, &child] {
        assert!(!world.counts(gone).await, "{}", gone.about);
    }

    // An administrator who is suspended: tokens that they made for others wait with theirs.
    let admin = json!({"allClusters": true, "role": "admin"});
    world.user("root", admin).await;
    let login = world.logged_in("root").await;
    let made = json!({"user": "alice", "expiresInSeconds": HOUR});
    let child = world.made(&login, made).await;
    for (disabled, counts) in [(true, false), (false, true)] {
        let spec = json!({"disabled": disabled});
        world
            .operate(Method::PATCH, "/v1/users/root", spec)
            .await
            .expect(200);
        assert_eq!(world.counts(&child).await, counts);
    }
}

#[tokio::test]
async fn rule_12_a_token_that_was_made_with_another_ends_streams_with_it() {
    let world = World::new().await;
    world.user("alice", json!({})).await;
    let login = world.logged_in("alice").await;
    let child = world.made(&login, json!({"expiresInSeconds": HOUR})).await;
    let Requester::User { revocation, .. } = world.holder(&child.secret).await else {
        panic!("nobody");
    };
    let path = format!("/v1/tokens/{}", child.about["parent"].as_str().unwrap());
    world
        .operate(Method::DELETE, &path, Value::Null)
        .await
        .expect(204);
    assert!(revocation.is_revoked());
}

/// A body whose end waits.
struct Slow {
    end: oneshot::Receiver<()>,
    bytes: Option<Bytes>,
}

impl http_body::Body for Slow {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.bytes.is_some() && Pin::new(&mut self.end).poll(context).is_pending() {
            return Poll::Pending;
        }
        Poll::Ready(self.bytes.take().map(|bytes| Ok(Frame::data(bytes))))
    }
}

#[tokio::test]
async fn rule_25_what_was_taken_back_while_a_request_was_read_changes_nothing() {
    let world = World::new().await;
    let admin = json!({"allClusters": true, "role": "admin"});
    for (path, body) in [
        ("/v1/users", json!({"name": "eve", "spec": {}})),
        (
            "/v1/tokens",
            json!({"user": "root", "expiresInSeconds": 60}),
        ),
        (
            "/v1/access",
            json!({"user": "eve", "role": "admin", "allClusters": true}),
        ),
        (
            "/v1/agents",
            json!({"cluster": "edge", "makeCluster": true}),
        ),
    ] {
        world.user("root", admin.clone()).await;
        let login = world.logged_in("root").await;
        let who = world.holder(&login).await;
        let (end, waiting) = oneshot::channel();
        let slow = Slow {
            end: waiting,
            bytes: Some(Bytes::from(body.to_string())),
        };
        let request = Request::post(path)
            .header("content-type", "application/json")
            .body(slow)
            .unwrap();
        let before = world.directory.snapshot();
        let asking = world.api.answer(request, who, None);
        let revoking = async {
            world
                .operate(Method::DELETE, "/v1/users/root", Value::Null)
                .await
                .expect(204);
            end.send(()).unwrap();
        };
        let (answer, ()) = tokio::join!(asking, revoking);
        Answer::read(answer).await.expect(401);
        let after = world.directory.snapshot();
        assert!(after.get::<User>("eve").is_none());
        let bindings = after.all::<Binding>().len();
        assert!(bindings < before.all::<Binding>().len());
    }
}

#[tokio::test]
async fn rule_25_a_login_counts_the_password_as_it_is_when_the_token_is_made() {
    let world = World::new().await;
    world.user("alice", json!({})).await;
    world.logged_in("alice").await;
    for after in [
        |user: &User| User {
            disabled: true,
            ..user.clone()
        },
        |user: &User| User {
            password: None,
            ..user.clone()
        },
    ] {
        // Checking a password takes a thread some time; the change of a snapshot in memory does not.
        let before = User::clone(
            &world
                .directory
                .snapshot()
                .get::<User>("alice")
                .unwrap()
                .object,
        );
        let checking = world.log_in_with("alice", PASSWORD);
        let change = async {
            let change = |draft: &mut Draft| draft.put("alice", after(&before), Expect::Present);
            world.directory.change(change).await.unwrap();
        };
        let (answer, ()) = tokio::join!(biased; checking, change);
        answer.expect(401);
        let back = |draft: &mut Draft| draft.put("alice", before.clone(), Expect::Present);
        world.directory.change(back).await.unwrap();
        world.log_in_with("alice", PASSWORD).await.expect(201);
    }
}

#[tokio::test]
async fn rule_27_a_password_that_a_browser_remembers_logs_nobody_in_elsewhere() {
    let world = World::new().await;
    world.user("alice", json!({})).await;
    world.logged_in("alice").await;
    for (origin, status) in [
        ("https://evil.example", 403),
        ("null", 403),
        ("https://up.example", 201),
    ] {
        use base64::Engine as _;

        let basic = base64::engine::general_purpose::STANDARD.encode(format!("alice:{PASSWORD}"));
        let request = Request::post(LOGIN)
            .header("host", "up.example")
            .header("origin", origin)
            .header("authorization", format!("Basic {basic}"))
            .header("content-type", "application/json")
            .body(Full::from("{}"))
            .unwrap();
        let answer = world.api.admit(request, &connection()).await;
        Answer::read(answer).await.expect(status);
    }
}

/// Somebody whom an authenticator vouches for, without a token.
fn from_elsewhere(name: &str) -> Requester {
    use underpass_core::{AuthenticationMethod, Authority, Identity, Provenance, Revocation};

    let by = Authority::provider(AuthenticationMethod::Jwt, "corp".into());
    let identity = Identity::new(name.to_owned(), None, Vec::new(), Default::default()).unwrap();
    Requester::User {
        identity: Box::new(identity.vouched_for(Provenance::new(
            AuthenticationMethod::Jwt,
            "corp",
            by,
        ))),
        revocation: Revocation::never(),
    }
}

#[tokio::test]
async fn rule_24_tokens_are_made_with_a_token_of_a_login() {
    let world = World::new().await;
    let user = json!({"name": "root", "spec": {"links": ["jwt/corp"]}});
    world
        .operate(Method::POST, "/v1/users", user)
        .await
        .expect(201);
    let admin = json!({"user": "root", "role": "admin", "allClusters": true});
    world
        .operate(Method::POST, "/v1/access", admin)
        .await
        .expect(200);
    world.user("bob", json!({})).await;
    let root = from_elsewhere("root");
    let count = || {
        let snapshot = world.directory.snapshot();
        snapshot.all::<underpass_directory::AccessToken>().len()
    };
    let before = count();
    for (path, body) in [
        ("/v1/tokens", json!({"user": "bob", "expiresInSeconds": 60})),
        ("/v1/tokens", json!({"expiresInSeconds": 60})),
        (
            "/v1/access",
            json!({"user": "carol", "role": "view", "token": {"expiresInSeconds": 60}}),
        ),
    ] {
        let refused = world.ask(&root, Method::POST, path, &body, &[]).await;
        let refused = refused.expect(403);
        let said = refused["detail"].as_str().unwrap();
        assert!(said.starts_with("log in first"), "{said}");
    }
    assert_eq!(count(), before);
    // Access without a token is another matter.
    let access = json!({"user": "carol", "role": "view"});
    world
        .ask(&root, Method::POST, "/v1/access", &access, &[])
        .await
        .expect(200);
}

/// A token of a directory user's own that an administrator made after a login with a provider's credential.
#[tokio::test]
async fn rule_24_what_a_login_made_ends_when_the_directory_refuses_the_login() {
    for refuse in [
        // The link goes, the user is suspended, or the directory forgets the logins of the authenticator.
        Some(json!({"links": null})),
        Some(json!({"disabled": true})),
        None,
    ] {
        let world = World::new().await;
        let user = json!({"name": "root", "spec": {"links": ["jwt/corp"]}});
        world
            .operate(Method::POST, "/v1/users", user)
            .await
            .expect(201);
        let admin = json!({"user": "root", "role": "admin", "allClusters": true});
        world
            .operate(Method::POST, "/v1/access", admin)
            .await
            .expect(200);
        world.user("bob", json!({})).await;
        let login = underpass_authenticate::Token::generate().unwrap();
        let put = |draft: &mut Draft| {
            let token = underpass_directory::AccessToken {
                created: draft.now(),
                sha256: login.hash(),
                owner: underpass_directory::Owner::Login(underpass_directory::Login {
                    user: "root".to_owned(),
                    uid: None,
                    groups: Vec::new(),
                    extra: Default::default(),
                    authenticated_by: "jwt/corp".to_owned(),
                }),
                expires: Some(draft.now() + Duration::from_secs(HOUR)),
                renewable_until: None,
                parent: None,
                scope: Default::default(),
                description: String::new(),
            };
            draft.put("login", token, Expect::Absent)
        };
        world.directory.change(put).await.unwrap();
        let wanted = json!({"user": "bob", "expiresInSeconds": 60});
        let made = world.made(login.expose(), wanted).await;
        assert_eq!(made.about["parent"], "login");
        let bob = world.holder(&made.secret).await;
        bob.must_count().unwrap();
        match refuse {
            Some(change) => {
                let patched = world.operate(Method::PATCH, "/v1/users/root", change).await;
                patched.expect(200);
            }
            None => {
                let is_gone = |authenticator: &str| authenticator == "corp";
                world.directory.forget_logins(is_gone).await.unwrap();
            }
        }
        assert!(!world.counts(&made).await);
        // Its open streams end as well.
        bob.must_count().unwrap_err();
    }
}
