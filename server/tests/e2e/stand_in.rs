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
use crate::metrics::values;
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
            // Both are on this machine.
            ("--node-name", name),
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

    /// Asserts that one series of a metric has the labels, and this value; or that there is none.
    #[track_caller]
    fn metric(&self, name: &str, labels: &[&str], value: Option<f64>) {
        let metrics = self.deployment.metrics().unwrap();
        let expected = Vec::from_iter(value);
        assert_eq!(values(&metrics, name, labels), expected, "{metrics}");
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
    for (role, agents) in [("cluster", 1.0), ("node", 2.0)] {
        let labels = [
            &format!("cluster=\"{CLUSTER_NAME}\""),
            &format!("role=\"{role}\""),
        ];
        let labels = labels.map(String::as_str);
        site.metric("underpass_agents_connected", &labels, Some(agents));
        site.metric("underpass_cluster_sessions", &labels, Some(agents));
    }
    let labels = ["method=\"join token\"", "role=\"node\"", "outcome=\"new\""];
    site.metric("underpass_joins_total", &labels, Some(2.0));
    // Neither of them while the cluster's agent is there.
    assert_eq!(site.role_behind(&site.get_is(200).await).await, "cluster");
    site.stop_agent().await;
    // The server's side does not allow it.
    site.get_is(503).await;
    assert_eq!(site.served_by(), "-");
    eventually("the cluster's agent is not counted", async || {
        let metrics = site.deployment.metrics().unwrap();
        let left = values(
            &metrics,
            "underpass_agents_connected",
            &["role=\"cluster\""],
        );
        if left.is_empty() { Ok(()) } else { Err(left) }
    })
    .await;
    site.metric("underpass_stand_in_misses_total", &[], None);
    site.allow("allow");
    assert_eq!(site.role_behind(&site.get_is(200).await).await, "node");
    assert_eq!(site.served_by(), "node");
    // Neither agent is the other: with the one alone whose policy does not say so there is none.
    site.metric("underpass_stand_in_streams_total", &[], Some(1.0));
    site.deployment.stop_another_agent(NODE).unwrap();
    site.get_is(503).await;
    assert_eq!(site.served_by(), "-");
    site.metric("underpass_stand_in_misses_total", &[], Some(1.0));
    site.start_agent().await;
    assert_eq!(site.role_behind(&site.get_is(200).await).await, "cluster");
    assert_eq!(site.served_by(), "cluster");
}

/// A call that is over.
struct Call {
    began: Instant,
    ended: Instant,
    answer: Answer,
}

/// One call each 20 ms.
async fn load(site: &Site, until: impl Future<Output = ()>) -> Vec<Call> {
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
            let began = Instant::now();
            let answer = raw::get(&underpass, &path, Some(&token)).await;
            let ended = Instant::now();
            Call {
                began,
                ended,
                answer,
            }
        });
    }
    let calls = calls.join_all().await;
    assert_eq!(calls.len(), begun);
    calls
}

fn id(answer: &Answer) -> &str {
    answer.headers["audit-id"].to_str().unwrap()
}

/// The roles behind these calls, which have all been answered, by id.
async fn roles(site: &Site, calls: &[&Call]) -> HashMap<String, String> {
    let ids: HashSet<_> = calls.iter().map(|call| id(&call.answer)).collect();
    eventually("each call is in the audit log", async || {
        let is_one = |event: &Value| event["auditID"].as_str().is_some_and(|id| ids.contains(id));
        let role = |event: &Value| {
            let agent = event["annotations"]["underpass.dev/agent"].as_str()?;
            let role = agent.split('/').next()?.to_owned();
            Some((event["auditID"].as_str()?.to_owned(), role))
        };
        let events = ours(&site.deployment, is_one);
        let roles: HashMap<_, _> = events.iter().filter_map(role).collect();
        let missing = ids.len() - roles.len();
        if missing == 0 {
            Ok(roles)
        } else {
            Err(missing)
        }
    })
    .await
}

async fn calls_go_on_through_a_node_while_the_clusters_agent_is_away(transport: Transport) {
    let site = Site::new(transport).await;
    site.start(NODE, Some("apiServer: true")).await;
    site.allow("allow");
    let (mut killed, mut known, mut returns, mut back) = (None, None, None, None);
    let calls = load(&site, async {
        let second = Duration::from_secs(1);
        tokio::time::sleep(second).await;
        killed = Some(Instant::now());
        site.deployment.blocking(|u| u.kill_agent().unwrap()).await;
        known = Some(Instant::now());
        // Long enough for a call that is not answered, and some that are.
        tokio::time::sleep(UNANSWERED + second).await;
        returns = Some(Instant::now());
        site.start_agent().await;
        back = Some(Instant::now());
        tokio::time::sleep(second).await;
    })
    .await;
    let (killed, known) = (killed.unwrap(), known.unwrap());
    let (returns, back) = (returns.unwrap(), back.unwrap());
    // A TCP connection says at once that its other end is gone; UDP is silent, and the first call that waits for its answer finds out.
    let found_out = match transport {
        Transport::WebSocket => known,
        _ => known + UNANSWERED,
    };
    // Calls that were, or went, to the agent while it was dead and the server did not know.
    let is_in_flight = |call: &Call| call.ended >= killed && call.began < found_out;
    let (failed, answered): (Vec<_>, Vec<_>) =
        calls.iter().partition(|call| call.answer.code != 200);
    for Call { began, answer, .. } in &failed {
        let after = began.saturating_duration_since(killed);
        assert!(matches!(answer.code, 502..=504), "{after:?}: {answer:?}");
    }
    let others = failed.iter().filter(|call| !is_in_flight(call)).count();
    let in_flight = calls.iter().filter(|call| is_in_flight(call)).count();
    assert_eq!(
        others,
        0,
        "{} failed, {in_flight} were in flight",
        failed.len()
    );
    // Before, all went through the cluster's agent; then through the node; and once the former was back, through it again.
    let roles = roles(&site, &answered).await;
    let all_through = |role: &str, within: &dyn Fn(&Call) -> bool, at_least: usize| {
        let calls: Vec<_> = calls.iter().filter(|call| within(call)).collect();
        let elsewhere: Vec<_> = calls
            .iter()
            .filter(|call| {
                roles
                    .get(id(&call.answer))
                    .is_none_or(|found| found != role)
            })
            .collect();
        let first = elsewhere.first().map(|call| &call.answer);
        assert!(
            first.is_none(),
            "{} of {}: {first:?}",
            elsewhere.len(),
            calls.len()
        );
        assert!(calls.len() >= at_least, "{} calls, {role}", calls.len());
    };
    all_through("cluster", &|call| call.ended < killed, 25);
    all_through(
        "node",
        &|call| call.began > found_out && call.ended < returns,
        10,
    );
    all_through("cluster", &|call| call.began > back, 25);
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
