//! Every scenario, directly against the API server, and over both of the protocols in which kubectl streams. This is
//! what proves the kubelet stand-in: a scenario that passes here and fails through the tunnel has found something in
//! the tunnel.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests state expectations as tests do; the lints know only functions marked as tests"
)]

mod common;

use common::{CLUSTER, admin};
use underpass_testenv::testing::{Client, Wire, run, text};
use underpass_testenv::{Cluster, ClusterOptions, request_tests, streaming_tests};

mod websocket {
    use super::*;
    streaming_tests!(Client::direct(&CLUSTER, Wire::WebSocket));
}

mod spdy {
    use super::*;
    streaming_tests!(Client::direct(&CLUSTER, Wire::Spdy));
}

mod requests {
    use super::*;
    request_tests!(admin());
}

#[tokio::test]
async fn a_node_without_websockets_streams_too() {
    let options = ClusterOptions::default().with_node_websockets(false);
    let cluster = Cluster::start(options).await.unwrap();
    for wire in [Wire::WebSocket, Wire::Spdy] {
        let client = Client::direct(&cluster, wire);
        let pod = client.target("older").await;
        let mut exec = client.exec(&pod, &["-i"], &["sh", "-c", "cat; exit 3"]);
        let output = run(&mut exec, b"through").await;
        assert_eq!(text(&output.stdout), "through");
        assert_eq!(output.status.code(), Some(3));
    }
}
