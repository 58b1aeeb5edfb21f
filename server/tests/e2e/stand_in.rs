//! Agents on nodes that serve the API server while the cluster's agent is away.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::task::JoinSet;
use underpass_testenv::testing::{Wire, eventually};
use underpass_testenv::{CLUSTER_NAME, Transport};

use crate::audit::{one_of_ours, ours};
use crate::deployment::{Deployment, token_of};
use crate::flight::{InFlight, assert_end_soon};
use crate::over_both_transports;
use crate::raw::{self, Answer};

over_both_transports!(
    rule_17_a_node_stands_in_where_both_sides_say_so,
    calls_go_on_through_a_node_while_the_clusters_agent_is_away,
    rule_12_streams_through_a_node_end_when_it_may_not_stand_in,
);

/// Agents on nodes: by its policy, one stands in.
const NODE: &str = "node";
const OTHER: &str = "other";

/// How long a call waits for the answer of an agent that is gone without a word.
const UNANSWERED: Duration = Duration::from_secs(3);

struct Site {
    deployment: Deployment,
}

impl Site {
    async fn new(transport: Transport) -> Self {
        let deployment = Deployment::start(transport).await;
        Self { deployment }
    }

    /// Starts an agent of the role node. Waits until it is connected.
    async fn start(&self, name: &'static str, policy: Option<&str>) {
        let dir = self.deployment.dir();
        let path = |suffix: &str| dir.join(format!("{name}.{suffix}"));
        let (key, token, rules) = (path("key"), path("token"), path("policy.yaml"));
        let create = [
            "cluster",
            "join-token",
            "create",
            CLUSTER_NAME,
            "--role",
            "node",
            "--output",
            token.to_str().unwrap(),
        ];
        self.deployment.administer(&create).unwrap();
        let mut flags = vec![
            ("--key-file", key.to_str().unwrap()),
            ("--join-token-file", token.to_str().unwrap()),
            ("--role", "node"),
        ];
        if let Some(policy) = policy {
            fs::write(&rules, policy).unwrap();
            flags.push(("--policy", rules.to_str().unwrap()));
        }
        let transport = self.deployment.transport;
        let before = self.connected_nodes();
        self.deployment
            .spawn_another_agent(name, transport, &flags)
            .unwrap();
        eventually("the node's agent is connected", async || {
            let connected = self.connected_nodes();
            (connected > before).then_some(()).ok_or(connected)
        })
        .await;
    }

    fn connected_nodes(&self) -> usize {
        let list = ["agent", "list", "--cluster", CLUSTER_NAME];
        let list = self.deployment.administer(&list).unwrap();
        let cells = list
            .lines()
            .map(|row| row.split_whitespace().collect::<Vec<_>>());
        let connected = cells.filter(|cells| cells[2] == "node" && cells[4] == "1");
        connected.count()
    }

    fn allow(&self, may: &str) {
        let stand_in = ["cluster", "stand-in", CLUSTER_NAME, may];
        self.deployment.administer(&stand_in).unwrap();
    }

    async fn stop_agent(&self) {
        self.deployment.blocking(|u| u.stop_agent().unwrap()).await;
    }

    async fn start_agent(&self) {
        let transport = self.deployment.transport;
        self.deployment.spawn_agent(transport).unwrap();
        eventually("the cluster's agent serves again", async || {
            let serving = self.served_by();
            (serving == "cluster").then_some(()).ok_or(serving)
        })
        .await;
    }

    async fn get(&self) -> Answer {
        let token = token_of(self.deployment.admin_kubeconfig());
        let path = format!("/k8s/clusters/{CLUSTER_NAME}/api/v1/namespaces/default");
        raw::get(&self.deployment, &path, Some(&token)).await
    }

    async fn get_is(&self, code: u16) -> Answer {
        let answer = self.get().await;
        assert_eq!(answer.code, code, "{answer:?}");
        answer
    }

    /// The role of the agent that the call has gone through, by the audit log.
    async fn role_behind(&self, answer: &Answer) -> String {
        let id = id(answer);
        let event = one_of_ours(&self.deployment, |event| event["auditID"] == id).await;
        let agent = event["annotations"]["underpass.dev/agent"].as_str();
        agent.unwrap_or("-").split('/').next().unwrap().to_owned()
    }

    /// The roles of the agents that serve, by `cluster list`.
    fn served_by(&self) -> String {
        let list = self.deployment.administer(&["cluster", "list"]).unwrap();
        let row = list.lines().find(|row| row.starts_with(CLUSTER_NAME));
        let cell = row.unwrap().split_whitespace().nth(4).unwrap();
        cell.split('/').next().unwrap().to_owned()
    }
}

async fn rule_17_a_node_stands_in_where_both_sides_say_so(transport: Transport) {
    let site = Site::new(transport).await;
    assert_eq!(site.role_behind(&site.get_is(200).await).await, "cluster");
    site.start(OTHER, None).await;
    site.start(NODE, Some("apiServer: true")).await;
    // Neither of them while the cluster's agent is there.
    assert_eq!(site.role_behind(&site.get_is(200).await).await, "cluster");
    site.stop_agent().await;
    // The server's side does not allow it.
    site.get_is(503).await;
    assert_eq!(site.served_by(), "-");
    site.allow("allow");
    assert_eq!(site.role_behind(&site.get_is(200).await).await, "node");
    assert_eq!(site.served_by(), "node");
    // Neither agent is the other: with the one alone whose policy does not say so there is none.
    site.deployment.stop_another_agent(NODE).unwrap();
    site.get_is(503).await;
    assert_eq!(site.served_by(), "-");
    site.start_agent().await;
    assert_eq!(site.role_behind(&site.get_is(200).await).await, "cluster");
    assert_eq!(site.served_by(), "cluster");
}

/// One call each 20 ms, and the answers with the time at which each began.
async fn load(site: &Site, until: impl Future<Output = ()>) -> Vec<(Instant, Answer)> {
    let token = token_of(site.deployment.admin_kubeconfig());
    let path = format!("/k8s/clusters/{CLUSTER_NAME}/api/v1/namespaces/default");
    let mut until = std::pin::pin!(until);
    let mut ticks = tokio::time::interval(Duration::from_millis(20));
    let (mut calls, mut begun) = (JoinSet::new(), 0);
    loop {
        tokio::select! {
            () = &mut until => break,
            _ = ticks.tick() => {}
        }
        begun += 1;
        let (path, token) = (path.clone(), token.clone());
        let underpass = site.deployment.shared_handle();
        calls.spawn(async move {
            let at = Instant::now();
            (at, raw::get(&underpass, &path, Some(&token)).await)
        });
    }
    let answers = calls.join_all().await;
    assert_eq!(answers.len(), begun);
    answers
}

fn id(answer: &Answer) -> &str {
    answer.headers["audit-id"].to_str().unwrap()
}

/// The roles behind these calls, by id. The last ones may not be written yet.
fn roles(site: &Site, answers: &[(Instant, Answer)]) -> HashMap<String, String> {
    let ids: HashSet<_> = answers.iter().map(|(_, answer)| id(answer)).collect();
    let of_a_call = |event: &Value| event["auditID"].as_str().is_some_and(|id| ids.contains(id));
    let events = ours(&site.deployment, of_a_call);
    let role = |event: &Value| {
        let agent = event["annotations"]["underpass.dev/agent"].as_str()?;
        let role = agent.split('/').next()?.to_owned();
        Some((event["auditID"].as_str()?.to_owned(), role))
    };
    events.iter().filter_map(role).collect()
}

async fn calls_go_on_through_a_node_while_the_clusters_agent_is_away(transport: Transport) {
    let site = Site::new(transport).await;
    site.start(NODE, Some("apiServer: true")).await;
    site.allow("allow");
    let (mut killed, mut known) = (None, None);
    let answers = load(&site, async {
        let second = Duration::from_secs(1);
        tokio::time::sleep(second).await;
        killed = Some(Instant::now());
        site.deployment.blocking(|u| u.kill_agent().unwrap()).await;
        known = Some(Instant::now());
        // Long enough for a call that is not answered, and some that are.
        tokio::time::sleep(UNANSWERED + second).await;
        site.start_agent().await;
        tokio::time::sleep(second).await;
    })
    .await;
    let (killed, known) = (killed.unwrap(), known.unwrap());
    // A TCP connection says at once that its other end is gone; UDP is silent, and the first call that waits for its answer finds out.
    let in_flight = match transport {
        Transport::WebSocket => known,
        _ => known + UNANSWERED,
    };
    let failed: Vec<_> = answers
        .iter()
        .filter(|(_, answer)| answer.code != 200)
        .collect();
    for (began, answer) in &failed {
        assert!(*began < in_flight, "{:?}: {answer:?}", *began - killed);
        assert!(matches!(answer.code, 502..=504), "{answer:?}");
    }
    // Through the node, and through the cluster's agent once that was back.
    let roles = roles(&site, &answers);
    let late: Vec<_> = answers
        .iter()
        .filter(|(began, _)| *began > in_flight)
        .collect();
    let through = |role: &str| {
        let ids = late.iter().map(|(_, answer)| id(answer));
        ids.filter(|id| roles.get(*id).is_some_and(|found| found == role))
            .count()
    };
    assert!(through("node") > 10, "{roles:?}");
    assert_eq!(site.role_behind(&site.get_is(200).await).await, "cluster");
    assert_eq!(site.served_by(), "cluster");
}

async fn rule_12_streams_through_a_node_end_when_it_may_not_stand_in(transport: Transport) {
    let site = Site::new(transport).await;
    site.start(NODE, Some("apiServer: true")).await;
    site.allow("allow");
    site.stop_agent().await;
    let client = site.deployment.admin(Wire::WebSocket);
    let watch = InFlight::watch(&client).await;
    let other = InFlight::watch(&client).await;
    // Streams stay where they are when the cluster's agent is back.
    site.start_agent().await;
    assert_eq!(site.role_behind(&site.get_is(200).await).await, "cluster");
    assert!(other.goes_on());
    let through_agent = InFlight::watch(&client).await;
    site.allow("deny");
    assert_end_soon([watch]).await;
    assert!(through_agent.goes_on());
    // The node's own policy ends them as well.
    site.allow("allow");
    site.stop_agent().await;
    let watch = InFlight::watch(&client).await;
    let rules = site.deployment.dir().join("node.policy.yaml");
    fs::write(rules, "apiServer: false").unwrap();
    assert_end_soon([watch]).await;
    site.get_is(503).await;
}
