//! Nodes, and the answers of their agents.

use std::sync::Arc;

use bytes::Bytes;
use http_body::Frame;
use http_body_util::StreamBody;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use underpass_core::{AgentRole, Identity};
use underpass_directory::{Agent, Expect};
use underpass_tunnel::transport::memory;
use underpass_tunnel::{
    Acceptor, AcceptorConfig, AgentKey, Connector, ConnectorConfig, ResetCode, Session,
};

use super::*;
use crate::audit::Kept;
use crate::recordings::Recordings;
use crate::shells::Keepers;
use crate::tunnel::Keys;

const NODE: &str = "/v1/clusters/prod/nodes/worker-1/operations";

/// Sessions of agents on nodes, at the server.
struct Nodes(Vec<Session>, Arc<Keepers>);

impl Connected for Nodes {
    fn serving(&self, _: &ClusterName) -> usize {
        0
    }

    fn served_by(&self, _: &ClusterName) -> BTreeSet<Through> {
        BTreeSet::new()
    }

    fn by_agent(&self) -> HashMap<String, usize> {
        HashMap::new()
    }

    fn of_agent(&self, _: &str) -> Vec<Session> {
        self.0.clone()
    }

    fn keepers(&self) -> Arc<Keepers> {
        Arc::clone(&self.1)
    }

    fn in_role(&self, _: AgentRole) -> Vec<Session> {
        self.0.clone()
    }
}

/// An API with an agent on the node `worker-1` of `prod`, and the agent's end of the session.
pub(super) async fn world() -> (World, Session) {
    audited(AuditLog::default()).await
}

pub(super) async fn audited(audit_log: AuditLog) -> (World, Session) {
    recorded(audit_log, Recordings::default()).await
}

/// The same with shells that are recorded.
pub(super) async fn recorded(audit_log: AuditLog, recordings: Recordings) -> (World, Session) {
    let agents = [("node", "worker-1")];
    let (world, mut agents) = world_with(audit_log, &agents, recordings).await;
    (world, agents.remove(0))
}

/// The same with these agents, by their ids and their nodes' names.
async fn world_of(audit_log: AuditLog, agents: &[(&str, &str)]) -> (World, Vec<Session>) {
    world_with(audit_log, agents, Recordings::default()).await
}

async fn world_with(
    audit_log: AuditLog,
    agents: &[(&str, &str)],
    recordings: Recordings,
) -> (World, Vec<Session>) {
    let store = Arc::new(MemoryStore::default());
    let directory = Directory::open(store.clone()).await.unwrap();
    let keys = (1..).map(|seed| AgentKey::from_seed([seed; 32]).unwrap());
    let agents: Vec<_> = agents.iter().zip(keys).collect();
    let put = |draft: &mut Draft| {
        let cluster = underpass_directory::Cluster::new(draft.now());
        draft.put("prod", cluster, Expect::Absent)?;
        for ((id, node), key) in &agents {
            let prod = ClusterName::new("prod").unwrap();
            let mut agent = Agent::new(draft.now(), prod, key.public_key().to_string());
            agent.role = AgentRole::Node;
            agent.node = Some(node.parse().unwrap());
            draft.put(id, agent, Expect::Absent)?;
        }
        Ok::<_, underpass_directory::ChangeError>(())
    };
    directory.change(put).await.unwrap();
    let acceptor = Acceptor::new(AcceptorConfig::default(), Arc::new(Keys(directory)));
    let ca = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (mut at_server, mut at_agents) = (Vec::new(), Vec::new());
    for (_, key) in agents {
        let config = ConnectorConfig::new("localhost", 1, ca.cert.pem().into_bytes(), key);
        let connector = Connector::new(config).unwrap();
        let (here, there) = memory::pair();
        let (agent, accepted) = tokio::join!(
            connector.establish(Arc::new(here)),
            acceptor.accept(Arc::new(there))
        );
        at_server.push(accepted.unwrap().into_session().unwrap());
        at_agents.push(agent.unwrap());
    }
    let sessions: Sessions = Arc::new(Nodes(at_server, Arc::new(Keepers::with(recordings))));
    let world = World::with(store, audit_log, sessions).await;
    (world, at_agents)
}

/// The agent takes one question, answers it with this text, and ends the stream or not. Gives the question, and who asked.
async fn answer(agent: &Session, text: &str, ends: bool) -> (String, String) {
    let incoming = agent.accept().await.unwrap();
    assert_eq!(incoming.target(), "operation");
    let user = Identity::decode(incoming.header()).unwrap();
    let mut stream = BufReader::new(incoming.accept().await.unwrap());
    let mut question = String::new();
    stream.read_line(&mut question).await.unwrap();
    stream.write_all(text.as_bytes()).await.unwrap();
    stream.flush().await.unwrap();
    if ends {
        stream.shutdown().await.unwrap();
    }
    // Until the server has read what it wants.
    let mut rest = String::new();
    let _ = stream.read_line(&mut rest).await;
    (question, user.user().to_owned())
}

/// The agent takes one question, and answers it with this text and then, as long as anybody reads, with that one over and over.
async fn flood(agent: &Session, text: &str, over_and_over: &str) {
    let incoming = agent.accept().await.unwrap();
    let mut stream = incoming.accept().await.unwrap();
    let piece = over_and_over.repeat(1 + 16 * 1024 / over_and_over.len().max(1));
    let mut written = stream.write_all(text.as_bytes()).await;
    while written.is_ok() && !over_and_over.is_empty() {
        written = stream.write_all(piece.as_bytes()).await;
    }
}

fn output(stream: &str, offset: u64, data: &str) -> String {
    let piece = json!({"output": {"stream": stream, "offset": offset, "data": data}});
    format!("{piece}\n")
}

fn record(id: &str, state: &str) -> String {
    let created = "2026-01-01T00:00:00Z";
    let record = json!({"record": {"id": id, "operation": "a", "user": "u", "created": created, "state": state}});
    format!("{record}\n")
}

#[tokio::test]
async fn rule_8_an_operation_needs_its_role() {
    let (world, agent) = world().await;
    let run = json!({"id": "1", "operation": "a", "arguments": {"x": "y"}});
    for role in ["view", "access", "shell", "services", "operate"] {
        let user = json!({"clusters": ["prod"], "role": role});
        let user = world.user(&format!("u-{role}"), user).await;
        for (method, path, body) in [
            (Method::GET, "/v1/clusters/prod/nodes", Value::Null),
            (Method::GET, NODE, Value::Null),
            (Method::POST, NODE, run.clone()),
            (Method::DELETE, &format!("{NODE}/1"), Value::Null),
            // The same whether there is such a cluster or not.
            (Method::GET, "/v1/clusters/none/nodes", Value::Null),
        ] {
            world.ask(&user, method, path, &body, &[]).await.expect(403);
        }
    }
    let alice = json!({"clusters": ["prod"], "role": "operations"});
    let alice = world.user("alice", alice).await;
    let nodes = world.ask(
        &alice,
        Method::GET,
        "/v1/clusters/prod/nodes",
        &Value::Null,
        &[],
    );
    let nodes = nodes.await.expect(200);
    assert_eq!(nodes["items"][0]["name"], "worker-1");
    let running = record("1", "running");
    let (ran, (question, user)) = tokio::join!(
        world.ask(&alice, Method::POST, NODE, &run, &[]),
        answer(&agent, &running, true)
    );
    assert_eq!(ran.expect(200)["state"], "running");
    let question: Value = serde_json::from_str(&question).unwrap();
    let expected =
        json!({"run": {"id": "1", "operation": "a", "arguments": {"x": "y"}, "detach": true}});
    assert_eq!((question, user.as_str()), (expected, "alice"));
}

#[tokio::test]
async fn rule_22_an_id_stands_for_an_agent_where_no_node_has_that_name() {
    // An agent whose id is another one's name: it is before that one in the list.
    let agents = [("node", "worker-1"), ("worker-1", "a")];
    let (world, agents) = world_of(AuditLog::default(), &agents).await;
    for (name, agent) in [("worker-1", 0), ("a", 1), ("node", 0)] {
        let path = format!("/v1/clusters/prod/nodes/{name}/operations/1");
        let succeeded = record("1", "succeeded");
        let both = async {
            tokio::join!(
                world.operate(Method::GET, &path, Value::Null),
                answer(&agents[agent], &succeeded, true)
            )
        };
        let (read, _) = tokio::time::timeout(Duration::from_secs(10), both)
            .await
            .unwrap_or_else(|_| panic!("another agent is asked for {name}"));
        read.expect(200);
    }
}

#[tokio::test]
async fn rule_20_the_server_reads_a_nodes_answer_strictly() {
    let (world, agent) = world().await;
    let endless = "x".repeat(limits::NODE_LINE * 2);
    let refused = |reason: &str| {
        format!(
            "{}\n",
            json!({"refused": {"reason": reason, "detail": "no", "parameter": "p"}})
        )
    };
    for (text, status) in [
        (record("2", "running"), 502),
        ("{}\n".to_owned(), 502),
        ("\n".to_owned(), 502),
        (record("1", "running").trim().to_owned(), 502),
        (String::new(), 502),
        (endless, 502),
        (refused("unknown-operation"), 404),
        (refused("wrong-arguments"), 422),
        (refused("busy"), 409),
        (refused("storage"), 507),
        (refused("of a newer version"), 502),
        (record("1", "succeeded"), 200),
    ] {
        let path = format!("{NODE}/1");
        let (read, _) = tokio::join!(
            world.operate(Method::GET, &path, Value::Null),
            answer(&agent, &text, true)
        );
        let body = read.expect(status);
        if text == refused("wrong-arguments") {
            assert_eq!(
                (&body["operation"], &body["about"]),
                (
                    &json!("wrong-arguments"),
                    &json!({"kind": "parameter", "name": "p"})
                )
            );
        }
    }
    for (code, status) in [
        (ResetCode::Forbidden, 403),
        (ResetCode::UnknownTarget, 501),
        (ResetCode::Overloaded, 503),
    ] {
        let refusing = async { agent.accept().await.unwrap().refuse(code, "no") };
        let (read, ()) = tokio::join!(world.operate(Method::GET, NODE, Value::Null), refusing);
        read.expect(status);
    }
    let missing = "/v1/clusters/prod/nodes/worker-2/operations";
    let missing = world
        .operate(Method::GET, missing, Value::Null)
        .await
        .expect(404);
    assert_eq!(
        missing["about"],
        json!({"kind": "node", "name": "worker-2"})
    );
    world
        .operate(Method::GET, &format!("{NODE}/..%2Fx"), Value::Null)
        .await
        .expect(422);
}

#[tokio::test]
async fn a_page_has_the_output_that_there_is_and_where_to_go_on() {
    let (world, agent) = world().await;
    let path = format!("{NODE}/1/output?from=4&wait=9");
    let begun = record("1", "running") + &output("stdout", 4, "aGk=");
    let (page, (question, _)) = tokio::join!(
        world.operate(Method::GET, &path, Value::Null),
        answer(&agent, &begun, false)
    );
    let page = page.expect(200);
    assert_eq!((&page["next"], &page["isLast"]), (&json!(6), &json!(false)));
    assert_eq!(page["pieces"][0]["data"], "aGk=");
    let question: Value = serde_json::from_str(&question).unwrap();
    assert_eq!(
        question,
        json!({"output": {"id": "1", "from": 4, "follow": true}})
    );
    let whole = begun + &record("1", "failed");
    let (page, _) = tokio::join!(
        world.operate(Method::GET, &path, Value::Null),
        answer(&agent, &whole, true)
    );
    let page = page.expect(200);
    assert_eq!(
        (&page["isLast"], &page["record"]["state"]),
        (&json!(true), &json!("failed"))
    );
}

#[tokio::test]
async fn rule_19_a_page_of_output_costs_what_its_bytes_cost() {
    let (world, agent) = world().await;
    let path = format!("{NODE}/1/output?wait=15");
    let running = record("1", "running");
    for (text, over_and_over) in [
        (running.clone(), output("stdout", 0, "")),
        (running.clone(), output("stdout", 1, "AA==")),
        (
            running.clone() + &output("stdout", 0, "AA=="),
            output("stdout", 0, "AA=="),
        ),
        (
            running.clone() + &output("stdout", 0, &"AAAA".repeat(6 * 1024)),
            running.clone(),
        ),
    ] {
        let asking = world.operate(Method::GET, &path, Value::Null);
        let both = async { tokio::join!(asking, flood(&agent, &text, &over_and_over)) };
        let (page, ()) = tokio::time::timeout(Duration::from_secs(10), both)
            .await
            .expect("an answer, whatever the agent does");
        page.expect(502);
    }
    for (streams, most) in [
        (["stdout", "stdout"], 1),
        (["stdout", "stderr"], limits::OUTPUT_PIECES),
    ] {
        let bytes = (0..100_000).zip(streams.iter().cycle());
        let bytes = bytes.map(|(offset, stream)| output(stream, offset, "YQ=="));
        let text = running.clone() + &bytes.collect::<String>();
        let asking = world.operate(Method::GET, &path, Value::Null);
        let (page, ()) = tokio::join!(asking, flood(&agent, &text, ""));
        let page = page.expect(200);
        assert_eq!(page["pieces"].as_array().unwrap().len(), most);
        assert!(page.to_string().len() < limits::API_PAGE_BYTES);
        let next = page["next"].as_u64().unwrap();
        assert!(next >= most as u64, "{next}");
    }
}

#[tokio::test]
async fn rule_19_a_list_of_runs_ends_at_so_many_records_or_bytes() {
    let (world, agent) = world().await;
    let list = || world.operate(Method::GET, NODE, Value::Null);
    let (all, _) = tokio::join!(list(), answer(&agent, "", true));
    assert_eq!(all.expect(200), json!({"items": []}));
    let failed = record("1", "failed");
    let (all, ()) = tokio::join!(list(), flood(&agent, "", &failed));
    let all: underpass_api::OperationList = serde_json::from_value(all.expect(200)).unwrap();
    assert_eq!(all.items.len(), limits::OPERATION_LIST);
    let large = json!({"record": {"id": "1", "operation": "a", "user": "u".repeat(limits::NODE_LINE - 1000),
        "created": "2026-01-01T00:00:00Z", "state": "failed"}});
    let large = format!("{large}\n");
    let (all, ()) = tokio::join!(list(), flood(&agent, "", &large));
    let bytes = all.expect(200).to_string().len();
    let most = limits::API_PAGE_BYTES + limits::NODE_LINE;
    assert!((limits::API_PAGE_BYTES..most).contains(&bytes), "{bytes}");
}

#[tokio::test]
async fn rule_12_a_page_that_waits_ends_with_its_permission() {
    let (world, agent) = world().await;
    let alice = json!({"clusters": ["prod"], "role": "operations"});
    let alice = world.user("alice", alice).await;
    let path = format!("{NODE}/1/output?wait=15");
    let waiting = world.ask(&alice, Method::GET, &path, &Value::Null, &[]);
    let begun = record("1", "running");
    let revoking = async {
        let incoming = agent.accept().await.unwrap();
        let mut stream = incoming.accept().await.unwrap();
        stream.write_all(begun.as_bytes()).await.unwrap();
        stream.flush().await.unwrap();
        let binding = "/v1/bindings/user-alice-operations";
        world
            .operate(Method::DELETE, binding, Value::Null)
            .await
            .expect(204);
        stream
    };
    let both = async { tokio::join!(waiting, revoking) };
    let (page, _stream) = tokio::time::timeout(Duration::from_secs(10), both)
        .await
        .unwrap();
    page.expect(403);
}

impl World {
    /// Asks for a run whose body comes after `wait` has ended.
    async fn run_late(
        &self,
        who: &Requester,
        run: &Value,
        wait: impl Future<Output = ()> + Send + 'static,
    ) -> Answer {
        let body = Bytes::from(run.to_string());
        let late = async move {
            wait.await;
            Ok::<_, std::convert::Infallible>(Frame::data(body))
        };
        let late = StreamBody::new(Box::pin(futures_util::stream::once(late)));
        let request = Request::post(NODE)
            .header("content-type", "application/json")
            .body(late)
            .unwrap();
        Answer::read(self.api.answer(request, who.clone(), None).await).await
    }
}

/// The time of a request may end while the node begins the run.
#[tokio::test(start_paused = true)]
async fn rule_15_a_run_that_begins_when_the_time_is_over_is_written_down() {
    let known = Kept::default();
    let (world, agent) = audited(known.audit_log()).await;
    let run = json!({"id": "1", "operation": "backup", "arguments": {"file": "a"}});
    let nearly = tokio::time::sleep(limits::API_TIME - Duration::from_millis(100));
    let asking = world.run_late(&Requester::Operator, &run, nearly);
    let begun = record("1", "running");
    let beginning = async {
        let incoming = agent.accept().await.unwrap();
        let mut stream = BufReader::new(incoming.accept().await.unwrap());
        stream.read_line(&mut String::new()).await.unwrap();
        tokio::time::sleep(limits::NODE_TIME / 2).await;
        stream.write_all(begun.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
    };
    let (ran, ()) = tokio::join!(asking, beginning);
    ran.expect(200);
    let event = known.about("operation/1").await;
    assert_eq!(event["responseStatus"]["code"], 200);
    let said = &event["annotations"];
    assert_eq!(said["underpass.dev/subject"], "node:prod/worker-1");
    assert_eq!(said["underpass.dev/grant"], "backup");
    assert_eq!(said["underpass.dev/argument.file"], "a");
    // One whose time is over before it begins does not begin.
    let never = tokio::time::sleep(limits::API_TIME + Duration::from_secs(1));
    let late = world.run_late(&Requester::Operator, &run, never).await;
    late.expect(408);
    assert!(futures_util::poll!(std::pin::pin!(agent.accept())).is_pending());
}

#[tokio::test]
async fn rule_15_no_argument_hides_another_one() {
    let known = Kept::default();
    let (world, agent) = audited(known.audit_log()).await;
    let long = "\"".repeat(1000);
    let arguments = json!({"a": long, "b": long, "path": "/etc"});
    let run = json!({"id": "1", "operation": "restore", "arguments": arguments});
    let running = record("1", "running");
    let (ran, _) = tokio::join!(
        world.operate(Method::POST, NODE, run),
        answer(&agent, &running, true)
    );
    ran.expect(200);
    let event = known.about("operation/1").await;
    for (name, value) in arguments.as_object().unwrap() {
        let said = &event["annotations"][format!("underpass.dev/argument.{name}")];
        assert_eq!(said, value, "{event}");
    }
    // The log has room for those that pass, and the node is not asked for others.
    let many: serde_json::Map<_, _> = (0..=limits::OPERATION_ARGUMENTS)
        .map(|number| (number.to_string(), json!("")))
        .collect();
    for arguments in [
        Value::Object(many),
        json!({"a": "x".repeat(limits::OPERATION_ARGUMENT_BYTES)}),
        json!({"a": "\u{1}"}),
        json!({"a\n": ""}),
    ] {
        let run = json!({"id": "2", "operation": "restore", "arguments": arguments});
        let refused = world.operate(Method::POST, NODE, run).await.expect(422);
        assert_eq!(refused["operation"], "wrong-arguments");
    }
    assert!(futures_util::poll!(std::pin::pin!(agent.accept())).is_pending());
}

/// The node may have begun it.
#[tokio::test]
async fn rule_15_a_run_whose_answer_is_lost_is_written_down_whatever_else_was_refused() {
    let known = Kept::default();
    let (world, agent) = audited(known.audit_log()).await;
    let alice = json!({"clusters": ["prod"], "role": "operations"});
    let alice = world.user("alice", alice).await;
    for _ in 0..=underpass_core::limits::REFUSED_EVENTS {
        let missing = world.ask(&alice, Method::GET, "/v1/none", &Value::Null, &[]);
        missing.await.expect(404);
    }
    let run = json!({"id": "1", "operation": "a", "arguments": {"b": "c"}});
    let losing = async {
        let incoming = agent.accept().await.unwrap();
        let mut stream = BufReader::new(incoming.accept().await.unwrap());
        stream.read_line(&mut String::new()).await.unwrap();
        stream.into_inner().reset(ResetCode::SessionEnded);
    };
    let (lost, ()) = tokio::join!(world.ask(&alice, Method::POST, NODE, &run, &[]), losing);
    lost.expect(504);
    let event = known.about("operation/1").await;
    assert_eq!(event["annotations"]["underpass.dev/argument.b"], "c");
}

#[tokio::test]
async fn rule_25_a_role_that_is_taken_away_while_a_run_is_asked_for_counts_no_more() {
    let (world, agent) = world().await;
    let alice = json!({"clusters": ["prod"], "role": "operations"});
    let alice = world.user("alice", alice).await;
    let run = json!({"id": "1", "operation": "a"});
    let (send, sent) = tokio::sync::oneshot::channel::<()>();
    let (begin, begun) = tokio::sync::oneshot::channel::<()>();
    let taking = async {
        // The body is read once the role has let alice in.
        begun.await.unwrap();
        let binding = "/v1/bindings/user-alice-operations";
        let taken = world.operate(Method::DELETE, binding, Value::Null).await;
        taken.expect(204);
        send.send(()).unwrap();
    };
    let body = async {
        begin.send(()).unwrap();
        sent.await.unwrap();
    };
    let (refused, ()) = tokio::join!(world.run_late(&alice, &run, body), taking);
    refused.expect(403);
    assert!(futures_util::poll!(std::pin::pin!(agent.accept())).is_pending());
}
