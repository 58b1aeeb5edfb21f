//! kubectl through a tunnel whose every connection is cut, again and again: it notices nothing.

use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use underpass_testenv::Transport;
use underpass_testenv::scenarios::{attach, cp, exec, logs, objects, port_forward};
use underpass_testenv::testing::{Client, Wire, eventually};

use crate::deployment::{CLUSTER, Deployment};

/// How long a connection lives: some get as far as their first streams, some do not.
const LIFE: Duration = Duration::from_millis(300);

/// Stands between agent and server.
struct Cutter {
    port: u16,
    connections: Arc<Mutex<JoinSet<()>>>,
    _listening: JoinSet<()>,
}

impl Cutter {
    async fn start(server: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let connections = Arc::new(Mutex::new(JoinSet::new()));
        let mut listening = JoinSet::new();
        listening.spawn(relay(listener, server, Arc::clone(&connections)));
        Self {
            port,
            connections,
            _listening: listening,
        }
    }

    /// Cuts whatever there is, and gives how many connections that were.
    fn cut(&self) -> usize {
        let mut connections = self.connections.lock().unwrap();
        // Those that have ended by themselves are no cuts.
        while connections.try_join_next().is_some() {}
        let cut = connections.len();
        connections.abort_all();
        cut
    }
}

async fn relay(listener: TcpListener, server: u16, connections: Arc<Mutex<JoinSet<()>>>) {
    loop {
        let (mut agent, _) = listener.accept().await.unwrap();
        connections.lock().unwrap().spawn(async move {
            if let Ok(mut server) = TcpStream::connect((Ipv4Addr::LOCALHOST, server)).await {
                let _ = copy_bidirectional(&mut agent, &mut server).await;
            }
        });
    }
}

/// A server, and an agent whose every connection to it can be cut.
struct Fragile {
    deployment: Deployment,
    cutter: Cutter,
}

impl Fragile {
    async fn start() -> Self {
        let deployment = Deployment::start(Transport::WebSocket).await;
        deployment.blocking(|u| u.stop_agent().unwrap()).await;
        let port = deployment.url().rsplit(':').next().unwrap();
        let cutter = Cutter::start(port.parse().unwrap()).await;
        let through = format!("https://localhost:{}", cutter.port);
        deployment
            .blocking(move |u| {
                let flags = [("--server", through.as_str())];
                u.spawn_another_agent("cut", Transport::WebSocket, &flags)
            })
            .await
            .unwrap();
        let fragile = Self { deployment, cutter };
        let client = fragile.client();
        eventually("the agent serves", async || {
            let said = client.output(&["get", "--raw", "/version"]).await;
            if said.status.success() {
                Ok(())
            } else {
                Err(said)
            }
        })
        .await;
        fragile
    }

    fn client(&self) -> Client<'_> {
        // The same scenarios run beside these, on the shared deployments, in the same cluster.
        let kubeconfig = self.deployment.admin_kubeconfig();
        Client::new(&CLUSTER, kubeconfig, "cut", Wire::WebSocket)
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
                fragile.cut_during(usize::MAX, $scenario(&fragile.client())).await;
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
    let client = fragile.client();
    let file = cp::LargeFile::prepare(&client).await;
    fragile.cut_during(CUTS_OF_A_COPY, file.copy_there()).await;
    fragile.cut_during(CUTS_OF_A_COPY, file.copy_back()).await;
}
