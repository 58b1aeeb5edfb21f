//! An open connection: its seat, its audit events, and its end with the server.

use std::{sync::Arc, time::Duration};

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use underpass_audit::{AuditLog, BackendConfig};
use underpass_gateway::BudgetConfig;

use super::{
    agent::Agent,
    client::{Http2, as_alice, head, http1, rest},
};
use crate::{
    audit::Taken,
    world::{World, code, soon, status, until},
};

#[tokio::test]
async fn rule_23_a_connection_has_a_streams_seat_until_it_ends() {
    let agent = Arc::<Agent>::default();
    let budgets = BudgetConfig::default().streams_per_user(2).unwrap();
    let world = World::bounded_over(Arc::clone(&agent) as _, AuditLog::default(), budgets).await;
    let connection = Http2::new(&world).await;
    let mut first = connection.connect(&world, "held:1").await;
    let second = http1(&world, "held:1").await;
    let answer = world.raw(&as_alice(&world, "held:1")).await;
    assert_eq!(code(&answer), 429, "{answer}");
    assert!(answer.contains("retry-after: "), "{answer}");
    assert_eq!(agent.opened().len(), 2);
    // Another user has room.
    let bob = format!(
        "Proxy-Authorization: Bearer {}\r\nUnderpass-Cluster: c\r\n",
        world.bob
    );
    let answer = world.raw(&head("forbidden:1", &bob)).await;
    assert_eq!(code(&answer), 403, "{answer}");
    let seats = || {
        world
            .budgets
            .occupancy()
            .iter()
            .map(|at| at.streams)
            .sum::<usize>()
    };
    assert_eq!(seats(), 2);
    drop(second);
    first.send.send_reset(h2::Reason::CANCEL);
    let ends = [agent.end(), agent.end()];
    drop(ends);
    until(|| seats() == 0).await;
    http1(&world, "held:1").await;
}

#[tokio::test]
async fn rule_15_a_connection_is_written_when_it_begins_and_with_its_bytes_when_it_ends() {
    let agent = Arc::<Agent>::default();
    let taken = Taken::new();
    let (audit, _) = taken.audit_log(BackendConfig::default());
    let world = World::bounded_over(Arc::clone(&agent) as _, audit, BudgetConfig::default()).await;
    let mut socket = http1(&world, "held:1").await;
    let mut end = agent.end();
    let begun = &taken.all(1).await[0];
    assert_eq!(begun["stage"], "ResponseStarted");
    socket.write_all(b"question").await.unwrap();
    socket.shutdown().await.unwrap();
    assert_eq!(end.rest().await, (b"question".to_vec(), true));
    end.write("an answer").await;
    end.finish();
    assert_eq!(rest(&mut socket).await, b"an answer");
    let ended = &taken.all(2).await[1];
    for event in [begun, ended] {
        assert_eq!(event["verb"], "connect");
        assert_eq!(event["requestURI"], "tcp:held:1");
        assert_eq!(event["user"]["username"], "alice");
        assert_eq!(event["responseStatus"]["code"], 200);
        assert_eq!(event["annotations"]["underpass.dev/cluster"], "c");
        assert_eq!(event["auditID"], begun["auditID"]);
    }
    let notes = &ended["annotations"];
    assert_eq!(ended["stage"], "ResponseComplete");
    assert_eq!(notes["underpass.dev/outcome"], "complete");
    assert_eq!(notes["underpass.dev/bytes-up"], "8");
    assert_eq!(notes["underpass.dev/bytes-down"], "9");
    assert!(notes["underpass.dev/milliseconds"].is_string());
    // A refusal is one event, with the agent's words.
    let answer = world.raw(&as_alice(&world, "forbidden:1")).await;
    let refused = &taken.all(3).await[2];
    assert_eq!(
        refused["responseStatus"]["message"],
        status(&answer)["message"]
    );
    assert_eq!(
        json!([refused["verb"], refused["responseStatus"]["code"]]),
        json!(["connect", 403])
    );
    let text = serde_json::to_string(&taken.all(3).await).unwrap();
    assert!(!text.contains(&world.alice), "{text}");
}

#[tokio::test]
async fn rule_15_a_connection_to_a_node_is_written_with_the_nodes_name() {
    let agent = Arc::<Agent>::default();
    let taken = Taken::new();
    let (audit, _) = taken.audit_log(BackendConfig::default());
    let world = World::bounded_over(Arc::clone(&agent) as _, audit, BudgetConfig::default()).await;
    // Each head is written anew: a random token may contain the name of a node.
    let naming = |node: &str| {
        let token = &world.alice;
        format!(
            "Proxy-Authorization: Bearer {token}\r\nUnderpass-Cluster: c\r\nUnderpass-Node: {node}\r\n"
        )
    };
    let answer = world.raw(&head("forbidden:1", &naming("n1"))).await;
    assert_eq!(code(&answer), 403, "{answer}");
    let answer = world.raw(&head("held:1", &naming("away"))).await;
    assert_eq!(code(&answer), 503, "{answer}");
    let events = taken.all(2).await;
    for (event, node) in events.iter().zip(["n1", "away"]) {
        assert_eq!(event["annotations"]["underpass.dev/cluster"], "c");
        assert_eq!(event["annotations"]["underpass.dev/node"], node);
        let message = event["responseStatus"]["message"].as_str().unwrap();
        assert!(message.contains(&format!("node \"{node}\"")), "{message}");
    }
    assert_eq!(agent.opened(), ["c/n1 tcp:forbidden:1 alice"]);
}

#[tokio::test]
async fn rule_12_revoking_ends_a_connection_over_http_1() {
    let agent = Arc::<Agent>::default();
    let taken = Taken::new();
    let (audit, _) = taken.audit_log(BackendConfig::default());
    let world = World::bounded_over(Arc::clone(&agent) as _, audit, BudgetConfig::default()).await;
    let mut socket = http1(&world, "held:1").await;
    let mut end = agent.end();
    world.revoke.cancel();
    assert_eq!(rest(&mut socket).await, b"");
    assert!(!end.rest().await.1, "a clean end for the target");
    let ended = &taken.all(2).await[1];
    assert_eq!(ended["annotations"]["underpass.dev/outcome"], "revoked");
}

#[tokio::test]
async fn rule_12_revoking_ends_a_connection_that_is_not_accepted_yet() {
    let agent = Arc::<Agent>::default();
    let world = World::over(Arc::clone(&agent) as _).await;
    let asking = as_alice(&world, "late:1");
    let asking = world.raw(&asking);
    let revoking = async {
        until(|| !agent.opened().is_empty()).await;
        world.revoke.cancel();
    };
    let (answer, ()) = tokio::join!(asking, revoking);
    assert_eq!(code(&answer), 403, "{answer}");
    assert!(world.budgets.occupancy().is_empty());
}

#[tokio::test]
async fn connections_outlast_a_drain_and_new_ones_are_not_taken() {
    let agent = Arc::<Agent>::default();
    let world = World::over(Arc::clone(&agent) as _).await;
    let mut socket = http1(&world, "held:1").await;
    let mut first = agent.end();
    let connection = Http2::new(&world).await;
    let mut stream = connection.connect(&world, "held:1").await;
    let mut second = agent.end();
    world.front.drain(Duration::from_secs(60));
    // A GOAWAY: the client opens no more streams here.
    soon(async {
        while connection.ask("echo:1", &[]).await.is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    for end in [&mut first, &mut second] {
        end.write("still").await;
    }
    let mut heard = [0; 5];
    soon(socket.read_exact(&mut heard)).await.unwrap();
    assert_eq!(&heard, b"still");
    stream.write("here");
    stream.finish();
    socket.write_all(b"here").await.unwrap();
    socket.shutdown().await.unwrap();
    for end in [&mut first, &mut second] {
        assert_eq!(end.rest().await, (b"here".to_vec(), true));
        end.finish();
    }
    assert_eq!(stream.rest().await, (b"still".to_vec(), Ok(())));
    assert_eq!(rest(&mut socket).await, b"");
    soon(connection.driver).await.unwrap().unwrap();
}
