//! Passwords and logins.

use underpass_authenticate::Token;

use super::*;

#[tokio::test]
async fn a_password_gives_a_token_that_can_be_renewed() {
    let world = World::new().await;
    world.user("alice", json!({})).await;
    let (path, password) = ("/v1/users/alice/password", "correct horse battery");
    for early in [password, ""] {
        world.log_in_with("alice", early).await.expect(401);
    }
    let set = json!({"password": "short"});
    world.operate(Method::PUT, path, set).await.expect(422);
    let set = json!({"password": password});
    world.operate(Method::PUT, path, set).await.expect(204);
    let shown = world
        .operate(Method::GET, "/v1/users/alice", Value::Null)
        .await
        .expect(200);
    assert_eq!(shown["status"]["hasPassword"], true);
    assert!(!shown.to_string().contains("argon2"));
    // Other changes leave it.
    let patch = json!({"uid": "7"});
    world
        .operate(Method::PATCH, "/v1/users/alice", patch)
        .await
        .expect(200);

    let made = world.log_in_with("alice", password).await.expect(201);
    assert_eq!(made["about"]["user"], "alice");
    assert!(made["about"]["renewableUntil"].is_string());
    let first = made["token"].as_str().unwrap().to_owned();
    let renewed = world
        .log_in(&format!("Bearer {first}"), json!({}))
        .await
        .expect(201);
    assert_eq!(
        renewed["about"]["renewableUntil"],
        made["about"]["renewableUntil"]
    );
    world
        .log_in_with("alice", "correct horse batterx")
        .await
        .expect(401);
    world.log_in_with("nobody", password).await.expect(401);

    // Tokens that somebody made are not renewed.
    let api = json!({"user": "alice", "expiresInSeconds": 60});
    let made = world
        .operate(Method::POST, "/v1/tokens", api)
        .await
        .expect(201);
    let bearer = format!("Bearer {}", made["token"].as_str().unwrap());
    world.log_in(&bearer, json!({})).await.expect(403);
    // Nobody gets more than they came with.
    let scoped = json!({"scope": {"readOnly": true}});
    let made = world
        .log_in(&format!("Bearer {first}"), scoped)
        .await
        .expect(201);
    let bearer = format!("Bearer {}", made["token"].as_str().unwrap());
    world.log_in(&bearer, json!({})).await.expect(403);

    // One's own needs the one until now.
    let alice = world.user("alice", json!({})).await;
    let none = json!({"password": "another password"});
    world
        .ask(&alice, Method::PUT, path, &none, &[])
        .await
        .expect(422);
    let wrong = json!({"password": "another password", "current": "not it at all"});
    world
        .ask(&alice, Method::PUT, path, &wrong, &[])
        .await
        .expect(403);
    let right = json!({"password": "another password", "current": password});
    world
        .ask(&alice, Method::PUT, path, &right, &[])
        .await
        .expect(204);
    let bob = world.user("bob", json!({})).await;
    world
        .ask(&bob, Method::PUT, path, &right, &[])
        .await
        .expect(403);
    // Logins with the old one end; the other tokens stay.
    world
        .log_in(&format!("Bearer {first}"), json!({}))
        .await
        .expect(401);
    world.log_in_with("alice", password).await.expect(401);
    let disable = json!({"disabled": true});
    world
        .operate(Method::PATCH, "/v1/users/alice", disable)
        .await
        .expect(200);
    world
        .log_in_with("alice", "another password")
        .await
        .expect(401);
}

#[tokio::test]
async fn rule_11_whoever_guesses_a_password_waits() {
    let world = World::new().await;
    let mut answer = world.log_in_with("alice", "guess").await;
    let mut guesses = 1;
    while answer.status == 401 {
        answer = world.log_in_with("alice", "guess").await;
        guesses += 1;
    }
    // One more is looked at, which begins the wait; and some, where checking one takes longer than the wait.
    let tries = underpass_core::limits::PASSWORD_TRIES;
    assert!((tries + 2..tries + 6).contains(&guesses), "{guesses}");
    assert!(answer.headers.contains_key("retry-after"));
    let body = answer.expect(429);
    assert!(body["retryAfterSeconds"].as_u64().unwrap() >= 1);
    world.log_in_with("bob", "guess").await.expect(401);
}

/// An `exp` of 9999, with the clock's skew on top, and one in milliseconds: providers write both.
#[tokio::test]
async fn a_credential_that_ends_beyond_the_calendar_is_one_that_ends_with_it() {
    use underpass_core::{AuthenticationMethod, Authority, Identity, Provenance, Revocation};

    use crate::api::tokens::MadeBy;

    let world = World::new().await;
    for seconds in [
        253_402_300_799 + 10,
        4_102_444_800_000,
        i64::MAX.unsigned_abs(),
    ] {
        let far = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let by = Authority::provider(AuthenticationMethod::Jwt, "corp".into());
        let provenance = Provenance::new(AuthenticationMethod::Jwt, "corp", by)
            .with_end(Some(far))
            .with_login_until(Some(far));
        let alice = Identity::new("alice".to_owned(), None, Vec::new(), Default::default());
        let alice = alice.unwrap().vouched_for(provenance);

        let ends = MadeBy::login(&alice).ends.unwrap();
        assert_eq!(ends.year(), 9999, "{seconds}");
        let requester = Requester::User {
            identity: Box::new(alice),
            revocation: Revocation::never(),
        };
        let own = world
            .ask(&requester, Method::GET, "/v1/self", &Value::Null, &[])
            .await
            .expect(200);
        assert_eq!(own["expires"], "9999-12-31T23:59:59Z", "{seconds}");
    }
}

/// A body that says whether it was looked at.
pub(super) struct Watched(pub(super) Arc<std::sync::atomic::AtomicBool>);

impl http_body::Body for Watched {
    type Data = bytes::Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<bytes::Bytes>, Self::Error>>> {
        self.0.store(true, std::sync::atomic::Ordering::Relaxed);
        let piece = bytes::Bytes::from_static(&[b' '; 1024]);
        std::task::Poll::Ready(Some(Ok(http_body::Frame::data(piece))))
    }
}

#[tokio::test]
async fn rule_23_nothing_of_a_strangers_login_is_read() {
    use base64::Engine as _;

    let world = World::new().await;
    let basic = base64::engine::general_purpose::STANDARD.encode("alice:not it");
    let never_made = Token::generate().unwrap();
    for authorization in [
        String::new(),
        format!("Basic {basic}"),
        format!("Bearer {}", never_made.expose()),
    ] {
        let read = Arc::<std::sync::atomic::AtomicBool>::default();
        let request = Request::post(LOGIN)
            .header("authorization", &authorization)
            .header("content-type", "application/json")
            .body(Watched(Arc::clone(&read)))
            .unwrap();
        let answer = world.api.admit(request, &connection()).await;
        Answer::read(answer).await.expect(401);
        let read = read.load(std::sync::atomic::Ordering::Relaxed);
        assert!(!read, "{authorization}");
    }
}

#[tokio::test]
async fn rule_23_a_login_has_few_bytes() {
    let world = World::new().await;
    world.user("alice", json!({})).await;
    let set = json!({"password": "correct horse battery"});
    let path = "/v1/users/alice/password";
    world.operate(Method::PUT, path, set).await.expect(204);
    let made = world.log_in_with("alice", "correct horse battery").await;
    let bearer = format!("Bearer {}", made.expect(201)["token"].as_str().unwrap());
    let long = json!({"description": "x".repeat(limits::LOGIN_BODY)});
    let refused = world.log_in(&bearer, long).await.expect(413);
    assert_eq!(refused["detail"], "a login has at most 4096 bytes");
    let fits = json!({"description": "x".repeat(limits::DESCRIPTION_CHARS)});
    world.log_in(&bearer, fits).await.expect(201);
}
