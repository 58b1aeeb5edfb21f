//! The agent goes away, and comes back.

use std::fs;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use underpass_testenv::testing::{Wire, within};
use underpass_testenv::{CLUSTER_NAME, Transport};

use crate::deployment::{Deployment, token_of};
use crate::flight::InFlight;
use crate::over_both_transports;
use crate::raw::{self, Answer};

over_both_transports!(
    sigterm_ends_what_is_in_flight_and_the_next_call_is_a_503,
    sigkill_ends_what_is_in_flight_and_the_next_call_is_a_503,
    kubectl_waits_for_an_agent_that_comes_back,
    of_two_agents_one_that_is_killed_costs_no_read,
);

/// Less than the three seconds that an agent's answer is waited for: nothing was.
const AT_ONCE: Duration = Duration::from_secs(2);

/// How soon calls work again after an agent's start: two seconds are promised, and a fraction of one is usual; this
/// allows for a machine that is busy with the other tests.
const BACK: Duration = Duration::from_secs(10);

async fn version(deployment: &Deployment) -> Answer {
    let token = token_of(deployment.admin_kubeconfig());
    let path = format!("/k8s/clusters/{CLUSTER_NAME}/version");
    raw::get(deployment, &path, Some(&token)).await
}

/// It said that it goes.
const GONE: &str = "cluster \"edge\" has no agent connected";

/// Nobody knows whether it comes back.
const AWAY: &str =
    "the agent of cluster \"edge\" does not answer at the moment: its connection may be lost";

#[track_caller]
fn assert_no_agent_at_once(answer: &Answer, why: &str) {
    answer.assert_status(503, "ServiceUnavailable");
    assert_eq!(answer.headers["retry-after"], "1");
    assert_eq!(answer.message(), why);
    assert!(answer.took < AT_ONCE, "{answer:?}");
}

/// Calls work again.
async fn assert_comes_back(deployment: &Deployment) {
    deployment.spawn_agent(deployment.transport).unwrap();
    within(BACK, "calls work again", async || {
        let answer = version(deployment).await;
        if answer.code == 200 {
            Ok(())
        } else {
            Err(answer)
        }
    })
    .await;
}

async fn sigterm_ends_what_is_in_flight_and_the_next_call_is_a_503(transport: Transport) {
    let deployment = Deployment::start(transport).await;
    let client = deployment.admin(Wire::WebSocket);
    let logs = InFlight::logs(&client, "agent-term").await;
    let watch = InFlight::watch(&client).await;
    deployment.blocking(|u| u.stop_agent().unwrap()).await;
    assert_no_agent_at_once(&version(&deployment).await, GONE);
    logs.ended().await.assert_error();
    // As at the server's own drain: informers go on from a clean end.
    let watch = watch.ended().await;
    assert!(watch.status.success() && !watch.has_status(), "{watch:?}");
    assert_comes_back(&deployment).await;
}

async fn sigkill_ends_what_is_in_flight_and_the_next_call_is_a_503(transport: Transport) {
    let deployment = Deployment::start(transport).await;
    let client = deployment.admin(Wire::WebSocket);
    let logs = InFlight::logs(&client, "agent-kill").await;
    let shell = InFlight::shell(&client, "agent-kill-shell").await;
    let watch = InFlight::watch(&client).await;
    deployment.blocking(|u| u.kill_agent().unwrap()).await;
    // UDP tells nobody that the other side is gone: over QUIC the first call finds out, by waiting for an answer.
    let first = version(&deployment).await;
    first.assert_status(503, "ServiceUnavailable");
    assert_no_agent_at_once(&version(&deployment).await, AWAY);
    assert_comes_back(&deployment).await;
    logs.ended().await.assert_error();
    shell.ended().await.assert_error();
    // The last event is a Status.
    let watch = watch.ended().await;
    assert!(watch.has_status(), "{watch:?}");
}

/// Half of the calls are at the one that is killed, or come to it before its silence is noticed.
async fn of_two_agents_one_that_is_killed_costs_no_read(transport: Transport) {
    let deployment = Deployment::start(transport).await;
    let log = deployment
        .spawn_another_agent("second", transport, &[])
        .unwrap();
    within(BACK, "the second agent connects", async || {
        let said = fs::read_to_string(&log).unwrap();
        said.contains(" connected ").then_some(()).ok_or(said)
    })
    .await;
    let (killed, answered) = (AtomicBool::new(false), AtomicUsize::new(0));
    let calls = || async {
        loop {
            let last = killed.load(Ordering::Relaxed);
            let answer = version(&deployment).await;
            assert_eq!(answer.code, 200, "{answer:?}");
            answered.fetch_add(1, Ordering::Relaxed);
            if last {
                return;
            }
        }
    };
    let kill = async {
        within(BACK, "both agents serve", async || {
            let count = answered.load(Ordering::Relaxed);
            (count >= 100).then_some(()).ok_or(count)
        })
        .await;
        deployment
            .blocking(|u| u.kill_another_agent("second").unwrap())
            .await;
        killed.store(true, Ordering::Relaxed);
    };
    let calls = join_all((0..8).map(|_| calls()));
    tokio::join!(calls, kill);
}

/// It retries on the 503's Retry-After: its user notices nothing but the wait.
async fn kubectl_waits_for_an_agent_that_comes_back(transport: Transport) {
    let deployment = Deployment::start(transport).await;
    deployment.blocking(|u| u.stop_agent().unwrap()).await;
    let client = deployment.admin(Wire::WebSocket);
    let (said, ()) = tokio::join!(client.run(&["get", "--raw", "/version"]), async {
        // kubectl has been told to try again.
        within(Duration::from_secs(10), "a refused call", async || {
            let log = deployment.server_log().unwrap();
            if log.contains("code=503") {
                Ok(())
            } else {
                Err("none")
            }
        })
        .await;
        deployment.spawn_agent(transport).unwrap();
    });
    assert!(said.contains("gitVersion"), "{said}");
}
