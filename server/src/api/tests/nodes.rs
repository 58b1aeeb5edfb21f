//! Nodes, and the answers of their agents.

use std::sync::Arc;

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use underpass_core::{AgentRole, Identity};
use underpass_directory::{Agent, Expect};
use underpass_tunnel::transport::memory;
use underpass_tunnel::{
    Acceptor, AcceptorConfig, AgentKey, Connector, ConnectorConfig, ResetCode, Session,
};

use super::*;
use crate::tunnel::Keys;

const NODE: &str = "/v1/clusters/prod/nodes/worker-1/operations";

/// The session of an agent on a node, at the server.
struct OneNode(Session);

impl Connected for OneNode {
    fn serving(&self, _: &ClusterName) -> usize {
        0
    }

    fn by_key(&self) -> HashMap<String, usize> {
        HashMap::new()
    }

    fn of_nodes(&self) -> Vec<Session> {
        vec![self.0.clone()]
    }
}

/// An API with an agent on the node `worker-1` of `prod`, and the agent's end of the session.
async fn world() -> (World, Session) {
    let store = Arc::new(MemoryStore::default());
    let directory = Directory::open(store.clone()).await.unwrap();
    let key = AgentKey::from_seed([1; 32]).unwrap();
    let public = key.public_key().to_string();
    let put = |draft: &mut Draft| {
        let cluster = underpass_directory::Cluster {
            created: draft.now(),
            labels: Default::default(),
            direct: None,
        };
        draft.put("prod", cluster, Expect::Absent)?;
        let prod = ClusterName::new("prod").unwrap();
        let mut agent = Agent::new(draft.now(), prod, public.clone());
        agent.role = AgentRole::Node;
        agent.node = Some("worker-1".parse().unwrap());
        draft.put("node", agent, Expect::Absent)
    };
    directory.change(put).await.unwrap();
    let acceptor = Acceptor::new(AcceptorConfig::default(), Arc::new(Keys(directory)));
    let ca = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let config = ConnectorConfig::new("localhost", 1, ca.cert.pem().into_bytes(), key);
    let connector = Connector::new(config).unwrap();
    let (here, there) = memory::pair();
    let (agent, accepted) = tokio::join!(
        connector.establish(Arc::new(here)),
        acceptor.accept(Arc::new(there))
    );
    let session = accepted.unwrap().into_session().unwrap();
    let sessions: Sessions = Arc::new(OneNode(session));
    let world = World::with(store, AuditLog::default(), sessions).await;
    (world, agent.unwrap())
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
    let output = |offset: u64, data: &str| {
        format!(
            "{}\n",
            json!({"output": {"stream": "stdout", "offset": offset, "data": data}})
        )
    };
    let path = format!("{NODE}/1/output?from=4&wait=9");
    let begun = record("1", "running") + &output(4, "aGk=");
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
