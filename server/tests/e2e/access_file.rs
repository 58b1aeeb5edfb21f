//! The access file, changed by hand while the server runs.

use underpass_testenv::Transport;
use underpass_testenv::testing::{Wire, eventually};

use crate::deployment::Deployment;

#[tokio::test]
async fn a_broken_file_changes_nothing_and_is_named_in_the_log() {
    let deployment = Deployment::start(Transport::Quic).await;
    let client = deployment.admin(Wire::WebSocket);
    let path = deployment.data_dir().join("access.yaml");
    let good = std::fs::read_to_string(&path).unwrap();
    // The server has taken the file as it is now.
    client.run(&["get", "--raw", "/version"]).await;

    std::fs::write(&path, format!("{good}\nclutsers: []\n")).unwrap();
    eventually("the log says so", async || {
        let log = deployment.server_log().unwrap();
        let told = log.contains("keeping the last good one") && log.contains("clutsers");
        if told { Ok(()) } else { Err(log) }
    })
    .await;
    client.run(&["get", "--raw", "/version"]).await;

    // The subcommands do not write over what they cannot read.
    let error = deployment.administer(&["user", "add", "bob"]).unwrap_err();
    let said = underpass_testenv::testing::chain(&error);
    assert!(
        said.contains("access.yaml") && said.contains("clutsers"),
        "{said}"
    );
    assert!(std::fs::read_to_string(&path).unwrap().contains("clutsers"));

    let without = good.replace("name: e2e-admin", "name: renamed");
    std::fs::write(&path, without).unwrap();
    eventually("the mended file is in force", async || {
        let answer = client.output(&[
            "auth",
            "whoami",
            "-o",
            "jsonpath={.status.userInfo.username}",
        ]);
        match String::from_utf8(answer.await.stdout).unwrap() {
            name if name == "renamed" => Ok(()),
            other => Err(other),
        }
    })
    .await;
}

#[tokio::test]
async fn a_removed_file_lets_nobody_in_and_the_server_goes_on() {
    let deployment = Deployment::start(Transport::WebSocket).await;
    let client = deployment.admin(Wire::WebSocket);
    let path = deployment.data_dir().join("access.yaml");
    let good = std::fs::read_to_string(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    let get = ["get", "--raw", "/version", "--request-timeout=5s"];
    eventually("nobody is let in", async || {
        let answer = client.output(&get).await;
        if answer.status.success() {
            Err(answer)
        } else {
            Ok(())
        }
    })
    .await;
    std::fs::write(&path, good).unwrap();
    // The agent was cut off as well, and comes back by itself.
    eventually("everybody is back", async || {
        let answer = client.output(&get).await;
        if answer.status.success() {
            Ok(())
        } else {
            Err(answer)
        }
    })
    .await;
}
