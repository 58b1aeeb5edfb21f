//! Recordings, and the agents whose shells are recorded.

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _};
use underpass_api::CastHeader;
use underpass_directory::{Cluster, Expect, User};
use underpass_tunnel::{ResetCode, Session};

use super::nodes::recorded;
use super::shells::{ALL, Asked, ID, alice, answered, refused, shell};
use super::*;
use crate::audit::Kept;
use crate::recordings::{Record, Recordings, RecordingsConfig};

const RECORDINGS: &str = "/v1/clusters/prod/recordings";

fn recordings(folder: &tempfile::TempDir, record: Record, audit: &AuditLog) -> Recordings {
    let config = RecordingsConfig {
        record,
        ..RecordingsConfig::default()
    };
    let path = |name: &str| folder.path().join(name);
    Recordings::open(config, path, audit.clone()).unwrap()
}

async fn raw(world: &World, who: &Requester, path: &str) -> (StatusCode, HeaderMap, Vec<u8>) {
    let request = Request::get(path).body(Full::from(Vec::new())).unwrap();
    let answer = world.api.answer(request, who.clone(), None).await;
    let (head, mut body) = answer.into_parts();
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        // The next piece comes when this one is gone.
        bytes.extend_from_slice(&frame.unwrap().into_data().unwrap());
    }
    (head.status, head.headers, bytes)
}

async fn line(asked: &mut Asked) -> Value {
    let mut line = String::new();
    asked.stream.read_line(&mut line).await.unwrap();
    serde_json::from_str(&line).unwrap_or(Value::Null)
}

/// Answers as an agent that knows of no recordings.
async fn of_old(agent: &Session) -> Value {
    let (_, question) = answered(agent, &[refused("malformed")]).await;
    question
}

#[tokio::test]
async fn rule_15_an_agent_that_cannot_record_opens_no_shell_that_has_to_be_recorded() {
    let folder = tempfile::tempdir().unwrap();
    let audit = AuditLog::default();
    let required = recordings(&folder, Record::Required, &audit);
    let (world, agent) = recorded(audit, required).await;
    let alice = alice(&world, "shell").await;
    let wanted = json!({});
    let opening = world.ask(&alice, Method::POST, ALL, &wanted, &[]);
    let asked = async { [of_old(&agent).await, of_old(&agent).await] };
    let (answer, [open, probe]) = tokio::join!(opening, asked);
    let problem = answer.expect(501);
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.contains("too old"), "{detail}");
    assert_eq!(open["open"]["recording"]["required"], true);
    assert_eq!(open["open"]["recording"]["waitSeconds"], 60);
    assert!(!probe["record"]["id"].is_null(), "{probe}");
    // A fault of the request itself is told as it is.
    let opening = world.ask(&alice, Method::POST, ALL, &wanted, &[]);
    let asked = async {
        of_old(&agent).await;
        answered(&agent, &[refused("not-found")]).await
    };
    let (answer, _) = tokio::join!(opening, asked);
    answer.expect(422);
}

#[tokio::test]
async fn rule_15_a_shell_that_is_not_recorded_is_named_in_the_audit_log() {
    let (folder, kept) = (tempfile::tempdir().unwrap(), Kept::default());
    let audit = kept.audit_log();
    let on = recordings(&folder, Record::On, &audit);
    let (world, agent) = recorded(audit, on).await;
    let alice = alice(&world, "shell").await;
    let wanted = json!({});
    let opening = world.ask(&alice, Method::POST, ALL, &wanted, &[]);
    let asked = async {
        of_old(&agent).await;
        of_old(&agent).await;
        let mut asked = Asked::of(&agent).await;
        asked.answer(&[shell(ID, json!({}))]).await;
        asked
    };
    let (answer, asked) = tokio::join!(opening, asked);
    answer.expect(201);
    assert!(!asked.question["open"].is_null(), "{}", asked.question);
    let begun = kept.about(&format!("shell/{ID}")).await;
    let grant = &begun["annotations"]["underpass.dev/grant"];
    assert_eq!(grant, "kubectl, not recorded: its agent is too old");
}

#[tokio::test]
async fn rule_15_nothing_is_opened_whose_recording_cannot_begin() {
    let folder = tempfile::tempdir().unwrap();
    let audit = AuditLog::default();
    let required = recordings(&folder, Record::Required, &audit);
    let path = folder.path().join("recordings");
    let (world, agent) = recorded(audit, required).await;
    let alice = alice(&world, "shell").await;
    // The agent is not even asked.
    std::fs::remove_dir_all(&path).unwrap();
    std::fs::write(&path, "").unwrap();
    let wanted = json!({});
    let opening = world.ask(&alice, Method::POST, ALL, &wanted, &[]);
    opening.await.expect(500);
    std::fs::remove_file(&path).unwrap();
    // It has opened one, and the file is another shell's.
    let cast = path.join("prod").join(format!("{ID}.cast"));
    std::fs::create_dir_all(cast.parent().unwrap()).unwrap();
    std::fs::write(&cast, "another").unwrap();
    let opening = world.ask(&alice, Method::POST, ALL, &wanted, &[]);
    let asked = async {
        let mut asked = Asked::of(&agent).await;
        asked.answer(&[shell(ID, json!({}))]).await;
        asked.given_up().await
    };
    let (answer, given_up) = tokio::join!(opening, asked);
    answer.expect(500);
    assert_eq!(given_up, Some(ResetCode::Forbidden));
    assert_eq!(std::fs::read_to_string(&cast).unwrap(), "another");
}

/// Opens a shell that prints `hi` and ends, with its recording. Gives the target, the user and the question of the recorder.
async fn record(world: &World, agent: &Session, who: &Requester) -> (String, String, Value) {
    let wanted = json!({});
    let opening = world.ask(who, Method::POST, ALL, &wanted, &[]);
    let end = json!({"exit": {"status": 3}, "cause": "its program ended", "byItself": true});
    let asked = async {
        let mut keeper = Asked::of(agent).await;
        keeper.answer(&[shell(ID, json!({}))]).await;
        let mut recorder = Asked::of(agent).await;
        let begun = json!({"begun": {"at": {"output": 0, "input": 0}, "ms": 0}});
        let output = json!({"output": {"ms": 7, "data": "aGk="}});
        recorder.answer(&[begun, output]).await;
        assert_eq!(line(&mut recorder).await, json!({"output": 0, "input": 0}));
        assert_eq!(line(&mut recorder).await, json!({"output": 2, "input": 0}));
        let ended = json!({"ended": {"ms": 9, "end": end}});
        recorder.answer(&[ended]).await;
        keeper
            .answer(&[shell(ID, json!({"end": end, "output": 2}))])
            .await;
        // Until the server has read it: a stream that is dropped loses what was not read.
        let mut rest = Vec::new();
        let _ = recorder.stream.read_to_end(&mut rest).await;
        let _ = keeper.stream.read_to_end(&mut rest).await;
        (recorder.target, recorder.user, recorder.question)
    };
    let (answer, asked) = tokio::join!(opening, asked);
    answer.expect(201);
    asked
}

/// The recordings that someone sees, and the status of reading the one of the shell [`ID`].
async fn seen(world: &World, who: &Requester) -> (Vec<Value>, StatusCode) {
    let answer = world.ask(who, Method::GET, RECORDINGS, &Value::Null, &[]);
    let list = answer.await.expect(200);
    let items = list["items"].as_array().unwrap().clone();
    let read = raw(world, who, &format!("{RECORDINGS}/{ID}")).await;
    (items, read.0)
}

#[tokio::test]
async fn rule_8_a_recording_is_its_users_and_the_administrators() {
    let (folder, kept) = (tempfile::tempdir().unwrap(), Kept::default());
    let audit = kept.audit_log();
    let required = recordings(&folder, Record::Required, &audit);
    let (world, agent) = recorded(audit, required).await;
    let alice = alice(&world, "shell").await;
    let (target, user, question) = record(&world, &agent, &alice).await;
    assert_eq!((target.as_str(), user.as_str()), ("shell", "alice"));
    let expected = json!({"record": {"id": ID, "had": {"output": 0, "input": 0}}});
    assert_eq!(question, expected);
    let told = kept.with("underpass.dev/recording-sha256").await;
    let told = &told["annotations"];
    assert_eq!(told["underpass.dev/object"], format!("shell/{ID}"));

    let path = format!("{RECORDINGS}/{ID}");
    let (status, headers, body) = raw(&world, &alice, &path).await;
    assert_eq!(status, 200);
    let sha256 = &told["underpass.dev/recording-sha256"];
    assert_eq!(
        headers["underpass-recording-sha256"],
        sha256.as_str().unwrap()
    );
    let text = String::from_utf8(body).unwrap();
    let (header, events) = text.split_once('\n').unwrap();
    header.parse::<CastHeader>().unwrap();
    assert_eq!(events, "[0.007, \"o\", \"hi\"]\n");
    assert_eq!(
        told["underpass.dev/recording-bytes"],
        text.len().to_string()
    );

    let list = |who: Requester| {
        let world = &world;
        async move {
            let answer = world.ask(&who, Method::GET, RECORDINGS, &Value::Null, &[]);
            let list = answer.await.expect(200);
            list["items"].as_array().unwrap().clone()
        }
    };
    let own = list(alice.clone()).await;
    assert_eq!((own.len(), &own[0]["state"]), (1, &json!("intact")));
    assert_eq!(own[0]["sha256"], *sha256);
    let rights = |role: &str| json!({"clusters": ["prod"], "role": role});
    let bob = world.user("bob", rights("operate")).await;
    assert_eq!(list(bob.clone()).await.len(), 0);
    assert_eq!(raw(&world, &bob, &path).await.0, 404);
    for role in ["view", "access", "services", "operations"] {
        let user = world.user(&format!("u-{role}"), rights(role)).await;
        assert_eq!(raw(&world, &user, &path).await.0, 403, "{role}");
        assert_eq!(raw(&world, &user, RECORDINGS).await.0, 403, "{role}");
    }
    let carol = world.user("carol", rights("admin")).await;
    assert_eq!(list(carol.clone()).await.len(), 1);
    assert_eq!(raw(&world, &carol, &path).await.0, 200);
    let read = kept.with("underpass.dev/recorded-user").await;
    assert_eq!(read["annotations"]["underpass.dev/recorded-user"], "alice");
    assert_eq!(read["user"]["username"], "carol");
    for (who, status) in [(&alice, 403), (&bob, 403), (&carol, 204), (&carol, 404)] {
        let removing = world.ask(who, Method::DELETE, &path, &Value::Null, &[]);
        removing.await.expect(status);
    }
    for bad in ["x", "..%2F..%2Fca.key", "0123456789ABCDEF0123456789abcdef"] {
        let path = format!("{RECORDINGS}/{bad}");
        assert_eq!(raw(&world, &carol, &path).await.0, 422, "{bad}");
    }
}

#[tokio::test]
async fn rule_8_a_recording_is_not_of_another_user_or_cluster_of_the_same_name() {
    let (folder, kept) = (tempfile::tempdir().unwrap(), Kept::default());
    let audit = kept.audit_log();
    let required = recordings(&folder, Record::Required, &audit);
    let (world, agent) = recorded(audit, required).await;
    let first = alice(&world, "shell").await;
    record(&world, &agent, &first).await;
    kept.with("underpass.dev/recording-sha256").await;
    let (items, read) = seen(&world, &first).await;
    assert_eq!((items.len(), read.as_u16()), (1, 200));

    let remove = |draft: &mut Draft| draft.remove::<User>("alice", Expect::Present);
    world.directory.change(remove).await.unwrap();
    let second = alice(&world, "shell").await;
    let (items, read) = seen(&world, &second).await;
    assert_eq!((items.len(), read.as_u16()), (0, 404));
    let rights = json!({"clusters": ["prod"], "role": "admin"});
    let bob = world.user("bob", rights.clone()).await;
    let (items, read) = seen(&world, &bob).await;
    assert_eq!((items.len(), read.as_u16()), (1, 200));

    let anew = |draft: &mut Draft| {
        draft.remove::<Cluster>("prod", Expect::Present)?;
        let cluster = Cluster::new(draft.now());
        draft.put("prod", cluster, Expect::Absent)
    };
    world.directory.change(anew).await.unwrap();
    let carol = world.user("carol", rights).await;
    let (items, read) = seen(&world, &carol).await;
    assert_eq!((items.len(), read.as_u16()), (0, 404));
    let path = format!("{RECORDINGS}/{ID}");
    let removing = world.ask(&carol, Method::DELETE, &path, &Value::Null, &[]);
    removing.await.expect(404);
    let everything = json!({"allClusters": true, "role": "admin"});
    let dora = world.user("dora", everything).await;
    let (items, read) = seen(&world, &dora).await;
    assert_eq!((items.len(), read.as_u16()), (1, 200));
}

/// Puts the facts of recordings into a folder, of which each began a second before the next by the server's clock, and after it by the
/// agent's.
fn put_facts(folder: &tempfile::TempDir, ids: &[String]) {
    let path = folder.path().join("recordings/prod");
    std::fs::create_dir_all(&path).unwrap();
    for (at, id) in ids.iter().enumerate() {
        let facts = json!({
            "cluster": "prod", "id": id, "kind": "kubectl", "user": "alice", "place": "cluster:prod", "agent": "node",
            "created": format!("2026-01-01T00:00:{:02}Z", 59 - at), "begun": format!("2026-01-01T00:00:{at:02}Z"),
            "recording": {"required": true},
            "finished": {"at": "2026-01-01T00:01:00Z", "bytes": 0, "milliseconds": 0, "sha256": "", "missing": 0},
        });
        std::fs::write(path.join(format!("{id}.json")), facts.to_string()).unwrap();
    }
}

#[tokio::test]
async fn recordings_are_listed_in_pages_by_the_servers_clock() {
    let folder = tempfile::tempdir().unwrap();
    let ids: Vec<_> = (0..7).map(|at| format!("{:032x}", at * 7 % 11)).collect();
    put_facts(&folder, &ids);
    let audit = AuditLog::default();
    let on = recordings(&folder, Record::On, &audit);
    let (world, _agent) = recorded(audit, on).await;
    let root = Requester::Operator;
    let (mut listed, mut token) = (Vec::new(), String::new());
    loop {
        let path = format!("{RECORDINGS}?limit=2&after={token}");
        let asking = world.ask(&root, Method::GET, &path, &Value::Null, &[]);
        let page = asking.await.expect(200);
        let items = page["items"].as_array().unwrap();
        assert!((1..=2).contains(&items.len()), "{page}");
        let of_page = items.iter().map(|item| item["id"].as_str().unwrap());
        listed.extend(of_page.map(str::to_owned));
        let Some(next) = page["next"].as_str() else {
            break;
        };
        token = next.to_owned();
        // The place in the list is there without its entry.
        let last = format!("{RECORDINGS}/{}", listed.last().unwrap());
        let removing = world.ask(&root, Method::DELETE, &last, &Value::Null, &[]);
        removing.await.expect(204);
    }
    let newest_first: Vec<_> = ids.iter().rev().cloned().collect();
    assert_eq!(listed, newest_first);
    for broken in ["x", "e30", "%00", &token[1..]] {
        let path = format!("{RECORDINGS}?after={broken}");
        let asking = world.ask(&root, Method::GET, &path, &Value::Null, &[]);
        let problem = asking.await.expect(400);
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains("after"), "{detail}");
    }
}
