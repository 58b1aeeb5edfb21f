//! Shells, and the words of their agents.

use std::sync::Arc;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use underpass_core::Identity;
use underpass_tunnel::{ResetCode, Session, Stream, StreamError};

use super::nodes::{audited, world};
use super::*;
use crate::audit::Kept;

pub(super) const ALL: &str = "/v1/clusters/prod/nodes/worker-1/shells";
pub(super) const ID: &str = "0123456789abcdef0123456789abcdef";

pub(super) fn shell(id: &str, more: Value) -> Value {
    let mut shell = json!({
        "id": id, "kind": "kubectl", "user": "alice", "created": "2026-01-01T00:00:00Z", "columns": 80, "rows": 24,
        "output": 0, "viewers": 0,
    });
    let more = more.as_object().cloned().unwrap_or_default();
    shell.as_object_mut().unwrap().extend(more);
    json!({ "shell": shell })
}

pub(super) fn refused(reason: &str) -> Value {
    json!({"refused": {"reason": reason, "detail": "no"}})
}

/// A question that an agent was asked.
pub(super) struct Asked {
    pub(super) target: String,
    pub(super) user: String,
    pub(super) question: Value,
    pub(super) stream: BufReader<Stream>,
}

impl Asked {
    pub(super) async fn of(agent: &Session) -> Self {
        let incoming = agent.accept().await.unwrap();
        let target = incoming.target().to_owned();
        let user = Identity::decode(incoming.header()).unwrap();
        let mut stream = BufReader::new(incoming.accept().await.unwrap());
        let mut question = String::new();
        stream.read_line(&mut question).await.unwrap();
        Self {
            target,
            user: user.user().to_owned(),
            question: serde_json::from_str(&question).unwrap(),
            stream,
        }
    }

    pub(super) async fn answer(&mut self, lines: &[Value]) {
        for line in lines {
            let line = format!("{line}\n");
            self.stream.write_all(line.as_bytes()).await.unwrap();
        }
        self.stream.flush().await.unwrap();
    }

    async fn end(mut self, lines: &[Value]) -> (String, Value) {
        self.answer(lines).await;
        self.stream.shutdown().await.unwrap();
        (self.target, self.question)
    }

    /// Why the server has ended the stream.
    pub(super) async fn given_up(&mut self) -> Option<ResetCode> {
        let mut rest = Vec::new();
        let error = self.stream.read_to_end(&mut rest).await.err()?;
        let error = error.into_inner()?.downcast::<StreamError>().ok()?;
        match *error {
            StreamError::Reset(code) => Some(code),
            _ => None,
        }
    }
}

pub(super) async fn answered(agent: &Session, lines: &[Value]) -> (String, Value) {
    Asked::of(agent).await.end(lines).await
}

pub(super) async fn alice(world: &World, role: &str) -> Requester {
    let rights = json!({"clusters": ["prod"], "role": role});
    world.user("alice", rights).await
}

#[tokio::test]
async fn rule_12_a_shell_ends_at_its_agent_with_the_permission() {
    let kept = Kept::default();
    let (world, agent) = audited(kept.audit_log()).await;
    let alice = alice(&world, "shell").await;
    let wanted = json!({"columns": 100, "rows": 30, "term": "vt100"});
    let opening = world.ask(&alice, Method::POST, ALL, &wanted, &[]);
    let opened = async {
        let mut asked = Asked::of(&agent).await;
        asked
            .answer(&[shell(ID, json!({"missing": ["cgroup"]}))])
            .await;
        asked
    };
    let (answer, mut asked) = tokio::join!(opening, opened);
    let view = answer.expect(201);
    assert_eq!((&view["id"], &view["viewers"]), (&json!(ID), &json!(0)));
    assert_eq!(
        (asked.target.as_str(), asked.user.as_str()),
        ("shell", "alice")
    );
    let opened = json!({"kind": "kubectl", "columns": 100, "rows": 30, "term": "vt100"});
    let question = json!({"open": {"shell": opened, "api": ["read", "write", "shell"]}});
    assert_eq!(asked.question, question);
    let begun = kept.about(&format!("shell/{ID}")).await;
    let told = &begun["annotations"];
    assert_eq!(told["underpass.dev/grant"], "kubectl, without cgroup");
    assert_eq!(told["underpass.dev/subject"], "node:prod/worker-1");
    let binding = "/v1/bindings/user-alice-shell";
    let removed = world.operate(Method::DELETE, binding, Value::Null).await;
    removed.expect(204);
    let given_up = tokio::time::timeout(Duration::from_secs(10), asked.given_up());
    assert_eq!(given_up.await.unwrap(), Some(ResetCode::Forbidden));
}

/// The agent was away for longer than its session lasts, and is back.
#[tokio::test]
async fn rule_12_a_shell_is_kept_again_once_its_agent_is_back() {
    let kept = Kept::default();
    let (world, agent) = audited(kept.audit_log()).await;
    let alice = alice(&world, "shell").await;
    let wanted = json!({});
    let opening = world.ask(&alice, Method::POST, ALL, &wanted, &[]);
    let opened = async {
        let mut asked = Asked::of(&agent).await;
        asked.answer(&[shell(ID, json!({}))]).await;
        asked
    };
    let (answer, asked) = tokio::join!(opening, opened);
    answer.expect(201);
    drop(asked);
    let again = tokio::time::timeout(Duration::from_secs(20), Asked::of(&agent));
    let mut again = again.await.expect("asked again");
    let keep = json!({"keep": {"id": ID, "api": ["read", "write", "shell"]}});
    assert_eq!(again.question, keep);
    assert_eq!(
        (again.target.as_str(), again.user.as_str()),
        ("shell", "alice")
    );
    // The permission is gone before the agent has answered.
    let binding = "/v1/bindings/user-alice-shell";
    let removed = world.operate(Method::DELETE, binding, Value::Null).await;
    removed.expect(204);
    again.answer(&[shell(ID, json!({}))]).await;
    let given_up = tokio::time::timeout(Duration::from_secs(10), again.given_up());
    assert_eq!(given_up.await.unwrap(), Some(ResetCode::Forbidden));
    let told = kept.with("underpass.dev/outcome").await;
    assert_eq!(told["annotations"]["underpass.dev/outcome"], "revoked");
}

#[tokio::test]
async fn a_shells_end_is_written_down_with_its_status() {
    let kept = Kept::default();
    let (world, agent) = audited(kept.audit_log()).await;
    let alice = alice(&world, "shell").await;
    let wanted = json!({});
    let opening = world.ask(&alice, Method::POST, ALL, &wanted, &[]);
    let end = json!({"exit": {"status": 3}, "cause": "its program ended", "byItself": true});
    let ended = shell(ID, json!({"end": end, "output": 42}));
    let lines = [shell(ID, json!({})), ended];
    let (answer, _) = tokio::join!(opening, answered(&agent, &lines));
    answer.expect(201);
    let told = kept.with("underpass.dev/outcome").await;
    let told = &told["annotations"];
    assert_eq!(told["underpass.dev/object"], format!("shell/{ID}"));
    assert_eq!(
        told["underpass.dev/outcome"],
        "its program ended, exit status 3"
    );
    assert_eq!(told["underpass.dev/bytes-down"], "42");
}

#[tokio::test]
async fn rule_8_each_kind_of_shell_needs_its_role() {
    let (world, agent) = world().await;
    for (role, kubectl, node) in [
        ("view", 403, 403),
        ("access", 403, 403),
        ("services", 403, 403),
        ("operations", 403, 403),
        ("shell", 201, 403),
        ("operate", 201, 403),
        ("admin", 201, 201),
    ] {
        let name = format!("u-{role}");
        let rights = json!({"clusters": ["prod"], "role": role});
        let user = world.user(&name, rights).await;
        for (kind, status) in [("kubectl", kubectl), ("node", node)] {
            let wanted = json!({"kind": kind});
            let asking = world.ask(&user, Method::POST, ALL, &wanted, &[]);
            let answering = async {
                if status == 201 {
                    answered(&agent, &[shell(ID, json!({"kind": kind}))]).await;
                }
            };
            let (answer, ()) = tokio::join!(asking, answering);
            answer.expect(status);
        }
    }
    let nobody = world.user("nobody", json!({})).await;
    for path in [ALL.to_owned(), format!("{ALL}/{ID}")] {
        let answer = world.ask(&nobody, Method::GET, &path, &Value::Null, &[]);
        answer.await.expect(403);
    }
}

/// kubectl in the shell asks the API server past this server.
#[tokio::test]
async fn rule_8_a_shells_kubectl_may_ask_for_what_its_users_roles_allow() {
    let (world, agent) = world().await;
    let may = |question: &Value| question["open"]["api"].clone();
    for (role, kind, api) in [
        ("shell", "kubectl", json!(["read", "write", "shell"])),
        (
            "operate",
            "kubectl",
            json!(["read", "write", "shell", "services", "node"]),
        ),
        // It has no kubectl of its user's.
        ("admin", "node", Value::Null),
    ] {
        let name = format!("u-{role}");
        let rights = json!({"clusters": ["prod"], "role": role});
        let user = world.user(&name, rights).await;
        let wanted = json!({"kind": kind});
        let asking = world.ask(&user, Method::POST, ALL, &wanted, &[]);
        let lines = [shell(ID, json!({"kind": kind}))];
        let (answer, (_, question)) = tokio::join!(asking, answered(&agent, &lines));
        answer.expect(201);
        assert_eq!(may(&question), api, "{role}");
    }
    // The operator is no user of the cluster.
    let asking = world.operate(Method::POST, ALL, json!({}));
    let lines = [shell(ID, json!({}))];
    let (answer, (_, question)) = tokio::join!(asking, answered(&agent, &lines));
    answer.expect(201);
    assert_eq!(may(&question), Value::Null);
}

#[tokio::test]
async fn rule_12_a_shell_ends_with_each_permission_that_its_kubectl_has() {
    let (world, agent) = world().await;
    let rights = |role| json!({"clusters": ["prod"], "role": role});
    world.user("alice", rights("services")).await;
    let alice = world.user("alice", rights("shell")).await;
    let wanted = json!({});
    let opening = world.ask(&alice, Method::POST, ALL, &wanted, &[]);
    let opened = async {
        let mut asked = Asked::of(&agent).await;
        asked.answer(&[shell(ID, json!({}))]).await;
        asked
    };
    let (answer, mut asked) = tokio::join!(opening, opened);
    answer.expect(201);
    let api = json!(["read", "write", "shell", "services"]);
    assert_eq!(asked.question["open"]["api"], api);
    let binding = "/v1/bindings/user-alice-services";
    let removed = world.operate(Method::DELETE, binding, Value::Null).await;
    removed.expect(204);
    let given_up = tokio::time::timeout(Duration::from_secs(10), asked.given_up());
    assert_eq!(given_up.await.unwrap(), Some(ResetCode::Forbidden));
}

#[tokio::test]
async fn rule_16_a_shell_is_opened_as_its_caller_and_as_nobody_else() {
    let (world, _agent) = world().await;
    let alice = alice(&world, "shell").await;
    let wanted = json!({});
    for name in [
        "impersonate-user",
        "impersonate-group",
        "impersonate-extra-a",
    ] {
        let headers = [(http::HeaderName::from_static(name), "bob")];
        let asking = world.ask(&alice, Method::POST, ALL, &wanted, &headers);
        asking.await.expect(422);
    }
}

#[tokio::test]
async fn rule_20_the_server_reads_an_agents_words_about_shells_strictly() {
    let (world, agent) = world().await;
    let alice = alice(&world, "shell").await;
    let path = format!("{ALL}/{ID}");
    for (line, status) in [
        (shell(ID, json!({})), 200),
        (shell(ID, json!({"kind": "node"})), 502),
        (json!({}), 502),
        (refused("not-found"), 404),
        (refused("forbidden"), 403),
        (refused("unprotected"), 403),
        (refused("too-many"), 409),
        (refused("unusable"), 502),
        (refused("stopping"), 503),
        (refused("of a newer version"), 502),
    ] {
        let lines = [line];
        let asking = world.ask(&alice, Method::GET, &path, &Value::Null, &[]);
        let (answer, (target, question)) = tokio::join!(asking, answered(&agent, &lines));
        answer.expect(status);
        assert_eq!(target, "shell");
        assert_eq!(question, json!({"read": {"id": ID}}));
    }
    let asking = world.ask(&alice, Method::GET, ALL, &Value::Null, &[]);
    let lines = [
        shell(ID, json!({"created": "2026-01-02T00:00:00Z"})),
        shell(
            &ID.replace('0', "1"),
            json!({"created": "2026-01-03T00:00:00Z"}),
        ),
        shell(ID, json!({})),
    ];
    let (answer, (_, question)) = tokio::join!(asking, answered(&agent, &lines));
    assert_eq!(question, json!({"list": {}}));
    let list = answer.expect(200);
    let created: Vec<_> = list["items"].as_array().unwrap().iter().collect();
    assert_eq!(created[0]["created"], "2026-01-03T00:00:00Z", "{list}");
    for bad in ["x", "0123456789ABCDEF0123456789abcdef", "..%2Fx"] {
        let path = format!("{ALL}/{bad}");
        let answer = world.ask(&alice, Method::GET, &path, &Value::Null, &[]);
        answer.await.expect(422);
    }
}

#[tokio::test]
async fn a_shell_is_ended_at_its_agent() {
    let (world, agent) = world().await;
    let alice = alice(&world, "shell").await;
    let path = format!("{ALL}/{ID}");
    let asking = world.ask(&alice, Method::DELETE, &path, &Value::Null, &[]);
    let agent = Arc::new(agent);
    let answering = async {
        answered(&agent, &[shell(ID, json!({}))]).await;
        answered(&agent, &[shell(ID, json!({}))]).await.1
    };
    let (answer, question) = tokio::join!(asking, answering);
    answer.expect(204);
    assert_eq!(question, json!({"end": {"id": ID}}));
}
