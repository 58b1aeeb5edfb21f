//! A log that cannot be written, and one that nobody reads.

use rustix::process::Signal;

use crate::harness::Agent;
use crate::server::{Server, refused, within};

/// Streams that are opened: at the level `trace`, each fills some KiB of a log. A pipe has 64 KiB.
const STREAMS: usize = 200;

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_whose_log_fails_goes_on() {
    for stderr in ["2>/dev/full", "2<>pipe"] {
        let server = Server::start();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("ca.pem"), &server.ca_pem).unwrap();
        let connect = ["--server", &server.url, "--ca-file", "ca.pem"];
        let flags = [&connect[..], &["--transport", "quic", "--log", "trace"]].concat();
        let shell = format!("mkfifo pipe && exec {stderr}");
        let mut agent = Agent::spawn(folder, &shell, &["--token-file", "token"], &flags);
        let session = server.session().await;
        for _ in 0..STREAMS {
            refused(&session, "tcp:nowhere.example:1").await;
        }
        assert_eq!(agent.log(), "", "it goes elsewhere");
        agent.signal(Signal::TERM);
        within(session.closed()).await;
        assert!(agent.ended().success(), "{stderr}");
    }
}
