//! The server goes away, and comes back.

use std::time::Duration;

use underpass_testenv::Transport;
use underpass_testenv::testing::{Client, Reading, Wire, eventually, spawn, within};

use crate::deployment::Deployment;
use crate::flight::InFlight;
use crate::over_both_transports;

over_both_transports!(
    sigterm_lets_a_running_exec_finish,
    sigterm_ends_logs_with_an_error_and_watches_cleanly,
    sigkill_ends_what_is_in_flight_with_an_error,
);

/// How soon calls work again after a server's start: an idle agent over QUIC that nobody has told finds out by its next
/// PING, after ten seconds of silence; any other one at once.
const BACK: Duration = Duration::from_secs(15);

async fn assert_comes_back(deployment: &Deployment, client: &Client<'_>) {
    deployment.blocking(|u| u.restart_server().unwrap()).await;
    within(BACK, "calls work again", async || {
        let answer = client
            .output(&["get", "--raw", "/version", "--request-timeout=1s"])
            .await;
        if answer.status.success() {
            Ok(())
        } else {
            Err(answer)
        }
    })
    .await;
}

async fn sigterm_lets_a_running_exec_finish(transport: Transport) {
    let deployment = Deployment::start(transport).await;
    let client = deployment.admin(Wire::WebSocket);
    let pod = client.target("drained").await;
    let script = "echo begun; until [ -e go ]; do sleep 0.05; done; echo done; exit 3";
    let mut exec = spawn(&mut client.exec(&pod, &[], &["sh", "-c", script]));
    let mut stdout = Reading::new(exec.stdout.take().unwrap());
    stdout.until("begun\n").await;
    let stop = deployment.blocking(|u| u.stop_server().unwrap());
    let finish = async {
        eventually("the server drains", async || {
            let log = deployment.server_log().unwrap();
            if log.contains("stopping") {
                Ok(())
            } else {
                Err(log)
            }
        })
        .await;
        // Straight to the API server: the way through the tunnel is closed for new calls.
        let direct = Client::direct(client.cluster(), Wire::WebSocket);
        let tell = &mut direct.exec(&pod, &[], &["touch", "go"]);
        assert!(spawn(tell).wait().await.unwrap().success());
        stdout.until("done\n").await;
        assert_eq!(exec.wait().await.unwrap().code(), Some(3));
    };
    tokio::join!(stop, finish);
    let log = deployment.server_log().unwrap();
    assert!(log.contains("stopped") && !log.contains("cut off"), "{log}");
    assert_comes_back(&deployment, &client).await;
}

async fn sigterm_ends_logs_with_an_error_and_watches_cleanly(transport: Transport) {
    let deployment = Deployment::start(transport).await;
    let client = deployment.admin(Wire::WebSocket);
    let logs = InFlight::logs(&client, "server-term").await;
    let watch = InFlight::watch(&client).await;
    deployment.blocking(|u| u.stop_server().unwrap()).await;
    let logs = logs.ended().await;
    logs.assert_error();
    // It says who has ended it.
    assert!(
        logs.stderr
            .contains("server sent GOAWAY and closed the connection"),
        "{logs:?}"
    );
    // Informers go on from a clean end; an error would make every one of them list everything again.
    let watch = watch.ended().await;
    assert!(watch.status.success(), "{watch:?}");
    assert_comes_back(&deployment, &client).await;
}

async fn sigkill_ends_what_is_in_flight_with_an_error(transport: Transport) {
    let deployment = Deployment::start(transport).await;
    let client = deployment.admin(Wire::WebSocket);
    let logs = InFlight::logs(&client, "server-kill").await;
    deployment.blocking(|u| u.kill_server().unwrap()).await;
    logs.ended().await.assert_error();
    assert_comes_back(&deployment, &client).await;
}
