//! The metrics of server and agent.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use underpass_testenv::Transport;
use underpass_testenv::testing::{Wire, eventually, spawn};

use crate::deployment::Deployment;

/// The values of a metric whose line contains each of `labels`.
pub(crate) fn values(metrics: &str, name: &str, labels: &[&str]) -> Vec<f64> {
    metrics
        .lines()
        .filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            let rest = series.strip_prefix(name)?;
            let wanted = rest.is_empty() || rest.starts_with('{');
            let has_all = labels.iter().all(|label| rest.contains(label));
            (wanted && has_all).then(|| value.parse().unwrap())
        })
        .collect()
}

#[tokio::test]
async fn of_sessions_and_streams_are_shown_and_go_with_the_agent() {
    for (transport, kind) in [
        (Transport::Quic, "transport=\"quic\""),
        (Transport::WebSocket, "transport=\"websocket\""),
    ] {
        let deployment = Deployment::start(transport).await;
        let client = deployment.admin(Wire::WebSocket);
        client.run(&["get", "--raw", "/version"]).await;
        let metrics = deployment.metrics().unwrap();
        for (name, labels) in [
            ("underpass_tunnel_transports_total", [kind, "why=\"new\""]),
            (
                "underpass_tunnel_handshake_seconds_count",
                [kind, "outcome=\"new\""],
            ),
        ] {
            assert_eq!(values(&metrics, name, &labels), [1.0], "{name}: {metrics}");
        }
        let round_trip = values(
            &metrics,
            "underpass_tunnel_round_trip_seconds",
            &["agent=\"edge\""],
        );
        assert!(
            matches!(round_trip[..], [seconds] if seconds > 0.0 && seconds < 10.0),
            "{metrics}"
        );
        for class in ["interactive", "default", "bulk"] {
            let label = format!("class=\"{class}\"");
            let streams = values(
                &metrics,
                "underpass_tunnel_streams",
                &["agent=\"edge\"", &label],
            );
            assert_eq!(streams.len(), 1, "{class}: {metrics}");
        }
        assert_eq!(
            values(&metrics, "underpass_tunnel_unacked_bytes", &[]).len(),
            1
        );

        deployment.blocking(|u| u.stop_agent().unwrap()).await;
        eventually("the agent's figures go with it", async || {
            let metrics = deployment.metrics().unwrap();
            let ended = values(
                &metrics,
                "underpass_tunnel_sessions_ended_total",
                &["shutdown"],
            );
            let left = values(&metrics, "underpass_tunnel_round_trip_seconds", &[]);
            let streams = values(&metrics, "underpass_tunnel_streams_ended_total", &["end="]);
            if ended == [1.0] && left.is_empty() && streams.iter().sum::<f64>() > 0.0 {
                Ok(())
            } else {
                Err(metrics)
            }
        })
        .await;
    }
}

/// Over WebSocket a copy that lasts gets a connection of its own, and nothing else does.
#[tokio::test]
async fn a_copy_that_lasts_has_a_lane_until_it_ends() {
    let deployment = Deployment::start(Transport::WebSocket).await;
    let client = deployment.admin(Wire::WebSocket);
    let pod = client.target("lane").await;
    let lanes = || {
        let metrics = deployment.metrics().unwrap();
        let joined = "underpass_tunnel_transports_total";
        let left = "underpass_tunnel_transports_lost_total";
        [
            values(&metrics, joined, &["why=\"lane\""]),
            values(&metrics, left, &["reason=\"left\""]),
        ]
    };
    let mut typing = spawn(&mut client.exec(&pod, &["-i"], &["cat"]));
    // kubectl cp runs this in the pod; its input is the archive.
    let mut copying = spawn(&mut client.exec(&pod, &["-i"], &["tar", "xf", "-"]));
    eventually("there is a lane", async || match lanes() {
        [joined, left] if joined == [1.0] && left.is_empty() => Ok(()),
        other => Err(other),
    })
    .await;
    copying.kill().await.unwrap();
    eventually("the lane is left", async || match lanes() {
        [joined, left] if joined == [1.0] && left == [1.0] => Ok(()),
        other => Err(other),
    })
    .await;
    assert!(typing.try_wait().unwrap().is_none(), "it noticed nothing");
    typing.kill().await.unwrap();
}

#[tokio::test]
async fn what_is_in_flight_is_shown_by_cluster_while_it_is() {
    let deployment = Deployment::start(Transport::WebSocket).await;
    let client = deployment.admin(Wire::WebSocket);
    let in_flight = |kind: &str| {
        let metrics = deployment.metrics().unwrap();
        let labels = ["cluster=\"edge\"", &format!("kind=\"{kind}\"")];
        values(&metrics, "underpass_proxy_in_flight", &labels)
    };
    let mut watching = spawn(client.kubectl().args(["get", "namespaces", "--watch"]));
    eventually(
        "the watch is counted, and its list is not any more",
        async || match [in_flight("stream"), in_flight("request")] {
            [streams, requests] if streams == [1.0] && requests == [0.0] => Ok(()),
            other => Err(other),
        },
    )
    .await;
    watching.kill().await.unwrap();
    eventually("nothing is left of the cluster", async || {
        let metrics = deployment.metrics().unwrap();
        let names = ["underpass_proxy_in_flight", "underpass_proxy_queued"];
        let left = names.map(|name| values(&metrics, name, &[]).len());
        if left == [0, 0] { Ok(()) } else { Err(metrics) }
    })
    .await;
}

#[tokio::test]
async fn rule_23_strangers_learn_no_clusters_names_from_the_public_port() {
    let deployment = Deployment::start(Transport::WebSocket).await;
    let names = format!("agent=\"{}\"", underpass_testenv::CLUSTER_NAME);
    assert!(deployment.metrics().unwrap().contains(&names));
    assert!(deployment.get("/metrics").is_err());
    for path in ["/healthz", "/readyz"] {
        assert_eq!(deployment.get(path).unwrap(), "ok\n");
    }
}

#[tokio::test]
async fn rule_23_metrics_have_a_listener_of_their_own_that_serves_nothing_else() {
    let flags = ["--metrics", "127.0.0.1:0"];
    let start = move || Deployment::start_blocking_with(Transport::WebSocket, &flags);
    let deployment = tokio::task::spawn_blocking(start).await.unwrap();
    let log = deployment.server_log().unwrap();
    let line = log.lines().find(|line| line.contains("metrics address="));
    let (_, address) = line
        .expect("its address in the log")
        .split_once("address=")
        .unwrap();
    let get = async |path: &str| {
        let mut stream = TcpStream::connect(address.trim()).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    };
    let metrics = get("/metrics").await;
    assert!(metrics.starts_with("HTTP/1.1 200"), "{metrics}");
    assert!(metrics.contains("underpass_agent_sessions"), "{metrics}");
    for path in ["/v1/users", "/k8s/clusters/edge/version", "/"] {
        let answer = get(path).await;
        assert!(answer.starts_with("HTTP/1.1 404"), "{path}: {answer}");
    }
}
