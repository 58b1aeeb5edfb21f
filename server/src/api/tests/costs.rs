//! The cost of callers to the API, with rights and without (security rule 23).

use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use async_trait::async_trait;
use bytes::Bytes;
use http_body::Frame;
use underpass_audit::{Backend, BackendConfig, Full as WhenFull, Policy, Sink};
use underpass_core::{BoxError, limits as bounds};
use underpass_directory::{Cluster, Expect};

use super::*;

/// A disk that is stuck until it is told otherwise.
struct Stuck(tokio::sync::oneshot::Receiver<()>);

#[async_trait]
impl Sink for Stuck {
    async fn write(&mut self, _: &[Bytes]) -> Result<(), BoxError> {
        let _ = (&mut self.0).await;
        Ok(())
    }
}

/// An audit log with room for one event; and what lets it go on.
fn stuck() -> (AuditLog, Backend, tokio::sync::oneshot::Sender<()>) {
    let (go_on, told) = tokio::sync::oneshot::channel();
    let config = BackendConfig {
        capacity: 1,
        full: WhenFull::Block,
        ..BackendConfig::default()
    };
    let backend = Backend::start("stuck", Box::new(Stuck(told)), config);
    let audit_log = AuditLog::new(Policy::everything(), vec![backend.clone()]);
    (audit_log, backend, go_on)
}

fn somebody(name: &str) -> Requester {
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

fn get(path: &str) -> Request<Full<Bytes>> {
    Request::get(path).body(Full::default()).unwrap()
}

/// A body that says whether anybody wants it.
struct Wanted(Arc<std::sync::atomic::AtomicBool>);

impl http_body::Body for Wanted {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.store(true, std::sync::atomic::Ordering::Release);
        Poll::Ready(None)
    }
}

#[tokio::test(start_paused = true)]
async fn rule_23_the_api_waits_for_the_audit_log_and_does_nothing_unwritten() {
    let (audit_log, backend, go_on) = stuck();
    let world = World::audited(audit_log.clone()).await;
    let user = |name: &str| json!({"name": name, "spec": {}});
    // There is room for the first; later ones wait, and are refused.
    world
        .operate(Method::POST, "/v1/users", user("alice"))
        .await
        .expect(201);
    assert_eq!(backend.waiting(), 1);
    let revision = world.directory.snapshot().revision();
    for who in [Requester::Operator, somebody("mallory")] {
        for method in [Method::POST, Method::GET] {
            let refused = world
                .ask(&who, method, "/v1/users", &user("bob"), &[])
                .await;
            assert!(refused.headers.contains_key("retry-after"));
            let refused = refused.expect(503);
            let said = refused["detail"].as_str().unwrap();
            assert!(said.contains("the audit log cannot be written"), "{said}");
        }
    }
    assert_eq!(world.directory.snapshot().revision(), revision);
    assert_eq!(backend.waiting(), 1, "and nothing of it is kept");
    go_on.send(()).unwrap();
    assert_eq!(audit_log.flush(Duration::from_secs(20)).await, 0);
    world
        .operate(Method::POST, "/v1/users", user("bob"))
        .await
        .expect(201);
}

#[tokio::test(start_paused = true)]
async fn rule_12_what_is_taken_back_has_room_in_an_audit_log_that_calls_have_filled() {
    let (audit_log, backend, go_on) = stuck();
    let world = World::audited(audit_log).await;
    let set_up = world.directory.change(|draft| {
        ["alice", "bob"].into_iter().try_for_each(|name| {
            let user = underpass_directory::User::new(draft.now());
            draft.put(name, user, Expect::Absent)
        })
    });
    set_up.await.unwrap();
    let create = json!({"name": "carol", "spec": {}});
    world
        .operate(Method::POST, "/v1/users", create.clone())
        .await
        .expect(201);
    world
        .operate(Method::POST, "/v1/users", create)
        .await
        .expect(503);
    world
        .operate(Method::DELETE, "/v1/users/alice", json!({}))
        .await
        .expect(204);
    assert_eq!(backend.waiting(), 2, "its event waits like others");
    // That room has an end, too: nothing happens unwritten.
    world
        .operate(Method::DELETE, "/v1/users/bob", json!({}))
        .await
        .expect(503);
    let left = world.directory.snapshot();
    assert!(left.get::<underpass_directory::User>("bob").is_some());
    drop(go_on);
}

#[tokio::test(start_paused = true)]
async fn rule_23_a_login_waits_for_the_audit_log() {
    let (audit_log, _, go_on) = stuck();
    let world = World::audited(audit_log).await;
    let alice = world.user("alice", json!({})).await;
    let tokens = |world: &World| {
        let snapshot = world.directory.snapshot();
        snapshot.all::<underpass_directory::AccessToken>().len()
    };
    let before = tokens(&world);
    let set = underpass_directory::User {
        password: Some(underpass_authenticate::PasswordHash::new("correct horse battery").unwrap()),
        ..underpass_directory::User::new(OffsetDateTime::now_utc())
    };
    let put = |draft: &mut Draft| draft.put("alice", set.clone(), Expect::Present);
    world.directory.change(put).await.unwrap();
    let login = world.log_in_with("alice", "correct horse battery").await;
    login.expect(503);
    assert_eq!(tokens(&world), before);
    drop((go_on, alice));
    world
        .log_in_with("alice", "correct horse battery")
        .await
        .expect(201);
}

#[tokio::test]
async fn rule_15_a_change_is_written_down_whether_its_client_waits_or_not() {
    let (audit_log, backend, _go_on) = stuck();
    let world = World::audited(audit_log).await;
    let mut changes = world.directory.changes();
    let request = Request::post("/v1/users")
        .header("content-type", "application/json")
        .body(Full::from(r#"{"name": "alice", "spec": {}}"#))
        .unwrap();
    {
        // It has been sent, and its client is gone.
        let mut answering = pin!(world.api.answer(request, Requester::Operator, None));
        let mut cx = Context::from_waker(Waker::noop());
        assert!(answering.as_mut().poll(&mut cx).is_pending());
    }
    let written = async {
        changes.changed().await.unwrap();
        while backend.waiting() == 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), written)
        .await
        .expect("an event of what was changed");
}

/// A login takes the place of the user's oldest one, and what that made along.
#[tokio::test]
async fn rule_15_a_login_is_written_down_whether_its_client_waits_or_not() {
    use base64::Engine as _;

    let (audit_log, backend, go_on) = stuck();
    let world = World::audited(audit_log.clone()).await;
    let set = underpass_directory::User {
        password: Some(underpass_authenticate::PasswordHash::new("correct horse battery").unwrap()),
        ..underpass_directory::User::new(OffsetDateTime::now_utc())
    };
    let put = |draft: &mut Draft| draft.put("alice", set.clone(), Expect::Absent);
    world.directory.change(put).await.unwrap();
    let mut changes = world.directory.changes();
    let basic = base64::engine::general_purpose::STANDARD.encode("alice:correct horse battery");
    let (asked, is_asked) = tokio::sync::oneshot::channel();
    let (come, comes) = tokio::sync::oneshot::channel();
    let request = Request::post(LOGIN)
        .header("authorization", format!("Basic {basic}"))
        .header("content-type", "application/json")
        .body(Later {
            asked: Some(asked),
            comes: Some(comes),
        })
        .unwrap();
    let connection = connection();
    tokio::select! {
        _ = world.api.admit(request, &connection) => panic!("it waits for its body"),
        // It has proved who it is, and goes away.
        asked = is_asked => asked.unwrap(),
    }
    come.send(()).unwrap();
    let written = async {
        changes.changed().await.unwrap();
        while backend.waiting() == 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), written)
        .await
        .expect("an event of the login");
    drop(go_on);
}

/// A body `{}` that says when it is asked for, and comes when it is told to.
struct Later {
    asked: Option<tokio::sync::oneshot::Sender<()>>,
    comes: Option<tokio::sync::oneshot::Receiver<()>>,
}

impl http_body::Body for Later {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if let Some(asked) = self.asked.take() {
            let _ = asked.send(());
        }
        let Some(comes) = &mut self.comes else {
            return Poll::Ready(None);
        };
        std::task::ready!(Pin::new(comes).poll(cx)).unwrap();
        self.comes = None;
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"{}")))))
    }
}

/// Nobody checks a password for a client that is gone.
#[tokio::test]
async fn rule_23_a_stranger_who_goes_away_takes_the_request_back() {
    let begun = super::super::begun::Begun::default();
    let task = tokio::spawn(std::future::pending::<()>());
    let (tell, mut told) = tokio::sync::oneshot::channel();
    let abandoned = || tell.send(()).unwrap();
    drop(begun.clone().or_abort(task.abort_handle(), abandoned));
    assert!(task.await.unwrap_err().is_cancelled());
    assert!(!begun.begin(), "and nothing begins afterwards");
    assert_eq!(told.try_recv(), Ok(()));
}

#[tokio::test]
async fn rule_23_a_user_has_so_many_requests_until_their_answers_are_read() {
    let world = World::new().await;
    let (mallory, alice) = (somebody("mallory"), somebody("alice"));
    let ask = async |who: &Requester| world.api.answer(get("/v1/self"), who.clone(), None).await;
    let mut unread = Vec::new();
    for _ in 0..limits::API_PLACES_PER_USER {
        let response = ask(&mallory).await;
        assert_eq!(response.status(), 200);
        unread.push(response);
    }
    let refused = Answer::read(ask(&mallory).await).await;
    assert!(refused.headers.contains_key("retry-after"));
    refused.expect(429);
    assert_eq!(ask(&alice).await.status(), 200, "others have theirs");
    // A client that reads its answer, or goes away, has its place back.
    Answer::read(unread.pop().unwrap()).await.expect(200);
    drop(unread.pop());
    for _ in 0..2 {
        let response = ask(&mallory).await;
        assert_eq!(response.status(), 200);
        unread.push(response);
    }
    ask(&mallory).await;
}

#[tokio::test(start_paused = true)]
async fn rule_23_an_answer_that_nobody_reads_is_gone_when_its_time_is_over() {
    let world = World::new().await;
    let mallory = somebody("mallory");
    let ask = async || {
        world
            .api
            .answer(get("/v1/self"), mallory.clone(), None)
            .await
    };
    let mut unread = Vec::new();
    for _ in 0..limits::API_PLACES_PER_USER {
        unread.push(ask().await);
    }
    assert_eq!(ask().await.status(), 429);
    tokio::time::sleep(limits::API_ANSWER_TIME).await;
    // Nobody has asked for more of them, and they hold nothing any longer.
    let mut response = ask().await;
    for _ in 0..1000 {
        if response.status() == 200 {
            break;
        }
        tokio::task::yield_now().await;
        response = ask().await;
    }
    Answer::read(response).await.expect(200);
    let late = unread.pop().unwrap().into_body().collect().await;
    let said = late.unwrap_err().to_string();
    assert!(said.contains("was not read within 60 seconds"), "{said}");
}

#[tokio::test]
async fn rule_23_what_waits_to_be_sent_of_an_answer_is_little() {
    let world = World::new().await;
    let openapi = world
        .api
        .answer(get("/v1/openapi.json"), somebody("mallory"), None)
        .await;
    let mut body = openapi.into_body();
    let mut read = Vec::new();
    while let Some(frame) = body.frame().await {
        let piece = frame.unwrap().into_data().unwrap();
        assert!(piece.len() <= limits::API_ANSWER_PIECE);
        // There is no other one as long as this one is not sent.
        let mut cx = Context::from_waker(Waker::noop());
        assert!(http_body::Body::poll_frame(Pin::new(&mut body), &mut cx).is_pending());
        read.extend_from_slice(&piece);
    }
    assert!(read.len() > 2 * limits::API_ANSWER_PIECE);
    assert!(serde_json::from_slice::<Value>(&read).unwrap().is_object());
}

#[tokio::test(start_paused = true)]
async fn rule_23_an_answer_is_cut_off_in_the_middle_and_what_is_unsent_keeps_its_place() {
    let world = World::new().await;
    let mallory = somebody("mallory");
    let ask = async |path| world.api.answer(get(path), mallory.clone(), None).await;
    let mut bodies = Vec::new();
    let mut pieces = Vec::new();
    for _ in 0..limits::API_PLACES_PER_USER {
        let mut body = ask("/v1/openapi.json").await.into_body();
        pieces.push(body.frame().await.unwrap().unwrap());
        bodies.push(body);
    }
    tokio::time::sleep(2 * limits::API_ANSWER_TIME).await;
    for body in &mut bodies {
        assert!(body.frame().await.unwrap().is_err());
    }
    drop(bodies);
    assert_eq!(ask("/v1/self").await.status(), 429);
    drop(pieces);
    assert_eq!(ask("/v1/self").await.status(), 200);
}

/// hyper takes a short answer as a whole, and h2 keeps it for a client that does not read.
#[tokio::test]
async fn rule_23_an_answer_keeps_its_place_while_http_2_keeps_the_answer() {
    use hyper::service::service_fn;
    use hyper_util::rt::{TokioExecutor, TokioIo};

    let world = World::new().await;
    let mallory = somebody("mallory");
    let (client, server) = tokio::io::duplex(64 * 1024);
    let (api, who) = (world.api.clone(), mallory.clone());
    let answer = service_fn(move |request| {
        let (api, who) = (api.clone(), who.clone());
        async move { Ok::<_, Infallible>(api.answer(request, who, None).await) }
    });
    let serving = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(server), answer);
    let serving = tokio::spawn(serving);
    let (mut sender, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(16)
        .handshake(TokioIo::new(client))
        .await
        .unwrap();
    let connection = tokio::spawn(connection);
    let mut unread = Vec::new();
    for _ in 0..limits::API_PLACES_PER_USER {
        let mut response = sender.send_request(get("http://u/v1/self")).await.unwrap();
        assert_eq!(response.status(), 200);
        let first = response.body_mut().frame().await.unwrap().unwrap();
        assert!(first.into_data().unwrap().len() <= 16);
        unread.push(response);
    }
    let ask = async || {
        world
            .api
            .answer(get("/v1/self"), mallory.clone(), None)
            .await
    };
    assert_eq!(ask().await.status(), 429);
    // The client reads the rest of one.
    Answer::read(unread.pop().unwrap().map(underpass_core::boxed))
        .await
        .expect(200);
    assert_eq!(ask().await.status(), 200);
    // And it goes away.
    drop((sender, unread));
    connection.await.unwrap().unwrap();
    serving.await.unwrap().unwrap();
    let places = (0..limits::API_PLACES_PER_USER).map(|_| ask());
    let all = futures_util::future::join_all(places).await;
    assert!(all.iter().all(|answer| answer.status() == 200));
}

#[tokio::test]
async fn rule_23_a_page_ends_where_it_has_its_bytes() {
    let world = World::new().await;
    let members = 4000;
    let name = |number: usize| format!("{number:0>40}");
    let fill = |draft: &mut Draft| {
        let mut all = std::collections::BTreeSet::new();
        for number in 0..members {
            let user: underpass_directory::Name = name(number).parse().unwrap();
            let object = underpass_directory::User::new(draft.now());
            draft.put(user.as_str(), object, Expect::Absent)?;
            all.insert(user);
        }
        for number in 0..20 {
            let group = underpass_directory::Group {
                created: draft.now(),
                members: all.clone(),
                links: Default::default(),
            };
            draft.put(&format!("g{number:02}"), group, Expect::Absent)?;
        }
        Ok::<_, underpass_directory::ChangeError>(())
    };
    world.directory.change(fill).await.unwrap();
    let (mut groups, mut after) = (0, String::new());
    loop {
        let path = format!("/v1/groups?limit=1000{after}");
        let page = world
            .operate(Method::GET, &path, Value::Null)
            .await
            .expect(200);
        let length = page.to_string().len();
        assert!(
            length < limits::API_PAGE_BYTES + bounds::OBJECT_BYTES,
            "{length}"
        );
        groups += page["items"].as_array().unwrap().len();
        match page["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => break,
        }
    }
    assert_eq!(groups, 20, "and the next page has the rest");
}

#[tokio::test]
async fn rule_23_a_body_is_read_of_those_only_who_may_do_something_with_it() {
    let world = World::new().await;
    let nobody = world.user("nobody", json!({})).await;
    for (method, path, who, code) in [
        (Method::POST, "/v1/clusters", &nobody, 403),
        (Method::PUT, "/v1/clusters/a", &nobody, 403),
        (Method::PATCH, "/v1/clusters/a", &nobody, 403),
        (Method::POST, "/v1/users", &nobody, 403),
        (Method::PATCH, "/v1/users/a", &nobody, 403),
        (Method::PUT, "/v1/users/a/password", &nobody, 403),
        (Method::POST, "/v1/groups", &nobody, 403),
        (Method::POST, "/v1/bindings", &nobody, 403),
        (Method::PUT, "/v1/bindings/a", &nobody, 403),
        (Method::PATCH, "/v1/bindings/a", &nobody, 403),
        (Method::POST, "/v1/agents", &nobody, 403),
        (Method::POST, "/v1/access", &nobody, 403),
        (Method::POST, "/v1/tokens", &somebody("other"), 403),
        // A caller with the right gets as far as the body, which is empty.
        (Method::POST, "/v1/tokens", &nobody, 400),
        (Method::POST, "/v1/access", &Requester::Operator, 400),
    ] {
        let wanted = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let request = Request::builder()
            .method(&method)
            .uri(path)
            .header("content-type", "application/json")
            .header("if-match", "*")
            .body(Wanted(Arc::clone(&wanted)))
            .unwrap();
        let answer = world.api.answer(request, who.clone(), None).await;
        assert_eq!(answer.status(), code, "{method} {path}");
        let wanted = wanted.load(std::sync::atomic::Ordering::Acquire);
        assert_eq!(wanted, code == 400, "{method} {path}");
    }
}

#[tokio::test]
async fn rule_23_small_things_have_small_bodies() {
    let world = World::new().await;
    let alice = world.user("alice", json!({})).await;
    let long = "x".repeat(limits::API_ACCESS_BODY);
    for (path, body) in [
        ("/v1/tokens", json!({"description": long})),
        ("/v1/agents", json!({"cluster": long})),
        ("/v1/access", json!({"user": long})),
        ("/v1/users/alice/password", json!({"password": long})),
    ] {
        let method = match path.ends_with("password") {
            true => Method::PUT,
            false => Method::POST,
        };
        let answer = world.operate(method, path, body).await.expect(413);
        let said = answer["detail"].as_str().unwrap();
        assert!(said.contains("has at most"), "{said}");
    }
    let answer = world
        .ask(
            &alice,
            Method::POST,
            "/v1/tokens",
            &json!({"description": "x".repeat(limits::API_SMALL_BODY)}),
            &[],
        )
        .await;
    answer.expect(413);
    // And a problem quotes little of a long path.
    let path = format!("/v1/tokens/{}", "x".repeat(60_000));
    let answer = world
        .operate(Method::GET, &path, Value::Null)
        .await
        .expect(404);
    assert!(answer.to_string().len() < 3 * limits::PROBLEM_CHARS);
}

#[tokio::test]
async fn rule_23_a_body_has_so_many_values() {
    let world = World::new().await;
    world.user("root", json!({})).await;
    // A megabyte of text would be a hundred of values.
    let many = vec![json!([0]); limits::API_BODY_VALUES / 2 + 1];
    let bodies = [
        (Method::PATCH, "/v1/users/root", json!({"extra": many})),
        (
            Method::POST,
            "/v1/groups",
            json!({"name": "g", "spec": {"members": many}}),
        ),
    ];
    for (method, path, body) in bodies {
        let answer = world.operate(method, path, body).await.expect(413);
        let said = answer["detail"].as_str().unwrap();
        assert!(said.contains("at most 40000 values"), "{said}");
    }
}

#[tokio::test]
async fn rule_23_a_scope_names_few_clusters_that_there_are() {
    let world = World::new().await;
    let many = bounds::SCOPE_CLUSTERS + 1;
    let fill = |draft: &mut Draft| {
        for number in 0..many {
            let cluster = Cluster::new(draft.now());
            draft.put(&format!("c{number}"), cluster, Expect::Absent)?;
        }
        Ok::<_, underpass_directory::ChangeError>(())
    };
    world.directory.change(fill).await.unwrap();
    let names: Vec<_> = (0..many).map(|number| format!("c{number}")).collect();
    let root = world
        .user("root", json!({"allClusters": true, "role": "admin"}))
        .await;
    let scope =
        |clusters: &[String]| json!({"expiresInSeconds": 60, "scope": {"clusters": clusters}});
    let post = async |who: &Requester, clusters: &[String]| {
        world
            .ask(who, Method::POST, "/v1/tokens", &scope(clusters), &[])
            .await
    };
    let refused = post(&root, &names).await.expect(422);
    let said = refused["detail"].as_str().unwrap();
    assert!(said.contains("64 clusters at the most"), "{said}");
    post(&root, &names[1..]).await.expect(201);
    post(&root, &["invented".to_owned()]).await.expect(404);
    // A hidden cluster looks like a missing one.
    let viewer = world.user("viewer", json!({"clusters": ["c0"]})).await;
    post(&viewer, &names[..1]).await.expect(201);
    let said = async |name: &str| {
        let refused = post(&viewer, &[name.to_owned()]).await.expect(404);
        refused.to_string().replace(name, "NAME")
    };
    assert_eq!(said("c1").await, said("zz").await);
    let set = json!({"password": "correct horse battery"});
    world
        .operate(Method::PUT, "/v1/users/viewer/password", set)
        .await
        .expect(204);
    use base64::Engine as _;
    let basic = base64::engine::general_purpose::STANDARD.encode("viewer:correct horse battery");
    let login = async |clusters: Value| {
        let body = json!({"scope": {"clusters": clusters}});
        world.log_in(&format!("Basic {basic}"), body).await
    };
    login(json!(["c0"])).await.expect(201);
    login(json!(["c1"])).await.expect(404);
    login(json!(["zz"])).await.expect(404);
}

#[tokio::test]
async fn rule_23_who_changes_the_directory_all_the_time_has_to_wait() {
    let world = World::new().await;
    let (mallory, alice) = (
        world.user("mallory", json!({})).await,
        world.user("alice", json!({})).await,
    );
    let wanted = json!({"expiresInSeconds": 60, "scope": {"clusters": ["none"]}});
    let post = async |who: &Requester| {
        world
            .ask(who, Method::POST, "/v1/tokens", &wanted, &[])
            .await
    };
    // On a slow machine the limit fills again meanwhile.
    let mut refused = post(&mallory).await;
    for _ in 0..4 * limits::CHANGES_PER_USER {
        if refused.status != 429 {
            refused.expect(404);
            refused = post(&mallory).await;
        }
    }
    assert!(refused.headers.contains_key("retry-after"));
    refused.expect(429);
    post(&alice).await.expect(404);
}

thread_local! {
    /// The lines of this thread's log.
    static LINES: std::cell::RefCell<Vec<u8>> = const { std::cell::RefCell::new(Vec::new()) };
}

struct Lines;

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        LINES.with_borrow_mut(|lines| lines.extend_from_slice(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn rule_23_log_lines_about_the_api_are_short_whatever_is_asked_for() {
    // Of the whole process: tests in other threads come to the same lines of code first, and tracing remembers where a line
    // has no reader.
    let subscriber = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_writer(|| Lines)
        .finish();
    tracing::subscriber::set_global_default(subscriber).unwrap();
    let world = World::new().await;
    let long = "x".repeat(60_000);
    let path = format!("/v1/users/{long}");
    let claimed = format!("{}:wrong", "u".repeat(2000));
    use base64::Engine as _;
    let basic = base64::engine::general_purpose::STANDARD.encode(claimed);
    let of = async |what: &str, most: usize| {
        let said = String::from_utf8(LINES.take()).unwrap();
        let line = said
            .lines()
            .find(|line| line.contains("request to the API"));
        let line = line.unwrap_or_else(|| panic!("no line of {what}: {said}"));
        assert!(line.len() < most, "{what}: {}", line.len());
    };
    let request = Request::get(&path)
        .header("authorization", format!("Basic {basic}"))
        .header("user-agent", long)
        .body(())
        .unwrap();
    world
        .api
        .refuse(&request, &connection(), &Rejection::Unauthorized);
    of("a stranger", 4 * bounds::STRANGER_TEXT_CHARS + 256).await;
    let name = "n".repeat(bounds::NAME_BYTES);
    world
        .ask(&somebody(&name), Method::GET, &path, &Value::Null, &[])
        .await
        .expect(404);
    of("a user", 2 * bounds::AUDIT_TEXT_CHARS + 256).await;
}
