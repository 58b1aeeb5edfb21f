//! kubectl through a tunnel whose every connection is cut, again and again: it notices nothing.

use std::time::Duration;

use underpass_testenv::Transport;
use underpass_testenv::scenarios::{attach, cp, exec, logs, objects, port_forward};
use underpass_testenv::testing::{Client, Wire, eventually};

use crate::cutter::{Cutter, Swallower};
use crate::deployment::{CLUSTER, Deployment};

/// How long a connection lives: some get as far as their first streams, some do not.
const LIFE: Duration = Duration::from_millis(300);

/// A server whose agent reaches it by another port.
pub(crate) struct Detour {
    deployment: Deployment,
    /// In names of objects: the same scenarios run beside these, in the same cluster.
    way: &'static str,
}

impl Detour {
    pub(crate) async fn new(transport: Transport, way: &'static str) -> Self {
        let deployment = Deployment::start(transport).await;
        deployment.blocking(|u| u.stop_agent().unwrap()).await;
        Self { deployment, way }
    }

    pub(crate) fn server(&self) -> u16 {
        let port = self.deployment.url().rsplit(':').next().unwrap();
        port.parse().unwrap()
    }

    pub(crate) fn client(&self) -> Client<'_> {
        let kubeconfig = self.deployment.admin_kubeconfig();
        Client::new(&CLUSTER, kubeconfig, self.way, Wire::WebSocket)
    }

    pub(crate) async fn start_agent(&self, port: u16) {
        let transport = self.deployment.transport;
        let through = format!("https://localhost:{port}");
        self.deployment
            .blocking(move |u| {
                let flags = [("--server", through.as_str())];
                u.spawn_another_agent("cut", transport, &flags)
            })
            .await
            .unwrap();
        let client = self.client();
        eventually("the agent serves", async || {
            let said = client.output(&["get", "--raw", "/version"]).await;
            if said.status.success() {
                Ok(())
            } else {
                Err(said)
            }
        })
        .await;
    }
}

/// Over WebSocket.
struct Fragile {
    detour: Detour,
    cutter: Cutter,
}

impl Fragile {
    async fn start() -> Self {
        let detour = Detour::new(Transport::WebSocket, "cut").await;
        let cutter = Cutter::start(detour.server()).await;
        detour.start_agent(cutter.port).await;
        Self { detour, cutter }
    }

    /// Runs a scenario while every connection of the agent is cut; leaves those alone that come after
    /// the last of `cuts`.
    async fn cut_during(&self, cuts: usize, scenario: impl Future<Output = ()>) {
        let mut cut = 0;
        let cutting = async {
            while cut < cuts {
                tokio::time::sleep(LIFE).await;
                cut += self.cutter.cut();
            }
            std::future::pending().await
        };
        tokio::select! {
            () = scenario => {}
            () = cutting => {}
        }
        assert!(cut > 0, "nothing was cut");
    }
}

macro_rules! through_cuts {
    ($($test:ident: $scenario:path),* $(,)?) => {
        $(
            #[tokio::test]
            async fn $test() {
                let fragile = Fragile::start().await;
                let client = fragile.detour.client();
                fragile.cut_during(usize::MAX, $scenario(&client)).await;
            }
        )*
    };
}

through_cuts! {
    a_shell_on_a_terminal: exec::on_a_terminal,
    bytes_both_ways_through_exec: exec::carries_8_mib_both_ways,
    an_attached_terminal: attach::to_a_terminal,
    logs_line_by_line: logs::are_followed_line_by_line,
    a_watch: objects::a_watch_shows_events_as_they_happen,
    a_port_forward: port_forward::twenty_requests,
}

/// Cuts in each half of the copy. Not to its end: kubelet and API server close behind the last byte that they
/// have written, and kubectl's next ping, one in 5 s, then resets the connection and takes with it what
/// its reader was too slow to take.
const CUTS_OF_A_COPY: usize = 8;

#[tokio::test]
async fn a_copy_of_64_mib_both_ways() {
    let fragile = Fragile::start().await;
    let client = fragile.detour.client();
    let file = cp::LargeFile::prepare(&client).await;
    fragile.cut_during(CUTS_OF_A_COPY, file.copy_there()).await;
    fragile.cut_during(CUTS_OF_A_COPY, file.copy_back()).await;
}

/// Over QUIC nobody is told of a cut: it is found out after some seconds (PROTOCOL.md, "Keepalive"), in which
/// a new call would be answered with 503.
#[tokio::test]
async fn a_copy_of_64_mib_out_of_a_pod_when_quic_is_swallowed() {
    const PART: usize = 8 << 20;
    let detour = Detour::new(Transport::Quic, "swallowed").await;
    let swallower = Swallower::start(detour.server()).await;
    detour.start_agent(swallower.port).await;
    let client = detour.client();
    let file = cp::LargeFile::prepare(&client).await;
    file.copy_there().await;
    // The agent has sent less than a part before.
    let swallowing = async {
        eventually("a part has been copied", async || {
            match swallower.swallow(PART) {
                0 => Err("not yet"),
                swallowed => Ok(swallowed),
            }
        })
        .await
    };
    let ((), swallowed) = tokio::join!(file.copy_back(), swallowing);
    assert_eq!(swallowed, 1);
}
