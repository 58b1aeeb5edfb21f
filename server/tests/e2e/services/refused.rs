//! Connections that the server or the agent refuses.

use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use underpass_testenv::testing::DEADLINE;
use underpass_testenv::{CLUSTER_NAME, Transport};

use super::forward::Forward;
use super::site::token_of_role;
use crate::deployment::Deployment;
use crate::over_both_transports;

over_both_transports!(an_agents_refusal_reaches_whoever_forwards);

async fn an_agents_refusal_reaches_whoever_forwards(transport: Transport) {
    let deployment = Deployment::start(transport).await;
    let may = token_of_role(&deployment, "svc", "services");
    let may_not = token_of_role(&deployment, "reader", "access");
    // Nothing in the agent's policy allows it.
    for (token, words) in [
        (may, "declined the connection"),
        (
            may_not,
            "the role here is access, which does not include a connection to a workload",
        ),
    ] {
        let mut forward = Forward::start(&deployment, &token, &["-v", "0:web.shop:80"]);
        let (address, rest) = forward.port().await;
        assert_eq!(
            rest,
            format!("leads to web.shop:80 in cluster {CLUSTER_NAME}")
        );
        let mut socket = TcpStream::connect(address).await.unwrap();
        let mut heard = Vec::new();
        let ended = socket.read_to_end(&mut heard);
        let _ = tokio::time::timeout(DEADLINE, ended).await.unwrap();
        assert_eq!(heard, b"");
        let told = forward.line().await;
        assert!(told.contains("to web.shop:80: "), "{told}");
        assert!(told.contains(words), "{told}");
        forward.interrupt().await;
    }
}
