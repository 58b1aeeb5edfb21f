//! Relays between an agent and its server, which cut their connections.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

const ANY: (Ipv4Addr, u16) = (Ipv4Addr::LOCALHOST, 0);

/// A path for TCP to a server on this machine.
pub(crate) struct Cutter {
    pub(crate) port: u16,
    /// New connections are cut at once.
    down: Arc<AtomicBool>,
    connections: Arc<Mutex<JoinSet<()>>>,
    _listening: JoinSet<()>,
}

impl Cutter {
    pub(crate) async fn start(server: u16) -> Self {
        Self::start_on(TcpListener::bind(ANY).await.unwrap(), server)
    }

    fn start_on(listener: TcpListener, server: u16) -> Self {
        let port = listener.local_addr().unwrap().port();
        let (connections, down) = (Arc::default(), Arc::default());
        let mut listening = JoinSet::new();
        let relaying = relay(
            listener,
            server,
            Arc::clone(&connections),
            Arc::clone(&down),
        );
        listening.spawn(relaying);
        Self {
            port,
            down,
            connections,
            _listening: listening,
        }
    }

    /// Cuts every connection, and gives their number.
    pub(crate) fn cut(&self) -> usize {
        let mut connections = self.connections.lock().unwrap();
        // Those that have ended by themselves are no cuts.
        while connections.try_join_next().is_some() {}
        let cut = connections.len();
        connections.abort_all();
        cut
    }
}

async fn relay(
    listener: TcpListener,
    server: u16,
    connections: Arc<Mutex<JoinSet<()>>>,
    down: Arc<AtomicBool>,
) {
    loop {
        let (mut agent, _) = listener.accept().await.unwrap();
        if down.load(Ordering::SeqCst) {
            continue;
        }
        connections.lock().unwrap().spawn(async move {
            if let Ok(mut server) = TcpStream::connect((Ipv4Addr::LOCALHOST, server)).await {
                let _ = copy_bidirectional(&mut agent, &mut server).await;
            }
        });
    }
}

/// A path for UDP to a server on this machine.
pub(crate) struct Swallower {
    pub(crate) port: u16,
    /// Every datagram is swallowed.
    down: Arc<AtomicBool>,
    flows: Flows,
    _relaying: JoinSet<()>,
}

/// By the agent's address.
type Flows = Arc<Mutex<HashMap<SocketAddr, Flow>>>;

/// Datagrams between one socket of the agent's and one that the server sees.
enum Flow {
    Live {
        upstream: Arc<UdpSocket>,
        /// Bytes that the agent has sent.
        sent: usize,
        back: AbortHandle,
    },
    Swallowed,
}

impl Swallower {
    pub(crate) async fn start(server: u16) -> Self {
        Self::start_on(UdpSocket::bind(ANY).await.unwrap(), server)
    }

    fn start_on(socket: UdpSocket, server: u16) -> Self {
        let socket = Arc::new(socket);
        let port = socket.local_addr().unwrap().port();
        let (flows, down) = (Flows::default(), Arc::<AtomicBool>::default());
        let mut relaying = JoinSet::new();
        let relay = relay_udp(socket, server, Arc::clone(&flows), Arc::clone(&down));
        relaying.spawn(relay);
        Self {
            port,
            down,
            flows,
            _relaying: relaying,
        }
    }

    /// Swallows the datagrams of connections on which the agent has sent so many bytes. Neither side is
    /// told. Gives the number of these connections.
    pub(crate) fn swallow(&self, above: usize) -> usize {
        let mut flows = self.flows.lock().unwrap();
        let mut swallowed = 0;
        for flow in flows.values_mut() {
            if let Flow::Live { sent, back, .. } = flow
                && *sent >= above
            {
                back.abort();
                *flow = Flow::Swallowed;
                swallowed += 1;
            }
        }
        swallowed
    }
}

/// A path for both, which forgets what it carries as a NAT does that is restarted.
pub(crate) struct Forgetful {
    pub(crate) port: u16,
    tcp: Cutter,
    udp: Swallower,
}

impl Forgetful {
    pub(crate) async fn start(server: u16) -> Self {
        loop {
            let listener = TcpListener::bind(ANY).await.unwrap();
            let address = listener.local_addr().unwrap();
            // The port may be another process's for UDP.
            if let Ok(socket) = UdpSocket::bind(address).await {
                return Self {
                    port: address.port(),
                    tcp: Cutter::start_on(listener, server),
                    udp: Swallower::start_on(socket, server),
                };
            }
        }
    }

    /// TCP connections are cut. UDP flows are forgotten: the server's packets go nowhere until the agent has sent
    /// something, and the server sees another address then. Gives the number of both.
    pub(crate) fn forget(&self) -> usize {
        let mut forgotten = self.tcp.cut();
        for (_, flow) in self.udp.flows.lock().unwrap().drain() {
            if let Flow::Live { back, .. } = flow {
                back.abort();
                forgotten += 1;
            }
        }
        forgotten
    }

    /// Nothing passes from here on, or everything again. Open connections are cut, and UDP is not told.
    pub(crate) fn set_down(&self, down: bool) {
        self.tcp.down.store(down, Ordering::SeqCst);
        self.udp.down.store(down, Ordering::SeqCst);
        if down {
            self.forget();
        }
    }

    /// Nothing passes for so long.
    pub(crate) async fn fail_for(&self, time: Duration) {
        self.set_down(true);
        tokio::time::sleep(time).await;
        self.set_down(false);
    }

    /// Forgets again and again, and counts how often there was something.
    pub(crate) async fn forget_each(&self, period: Duration, cuts: &Cuts) -> Infallible {
        loop {
            tokio::time::sleep(period).await;
            if self.forget() > 0 {
                cuts.0.send_modify(|cuts| *cuts += 1);
            }
        }
    }
}

/// How often a path has forgotten something.
#[derive(Clone, Default)]
pub(crate) struct Cuts(watch::Sender<usize>);

impl Cuts {
    pub(crate) fn count(&self) -> usize {
        *self.0.borrow()
    }

    /// Waits until so many more have been.
    pub(crate) async fn wait_for(&self, more: usize) {
        let wanted = self.count() + more;
        let mut cuts = self.0.subscribe();
        let reached = cuts.wait_for(|cuts| *cuts >= wanted).await;
        reached.unwrap();
    }
}

async fn relay_udp(socket: Arc<UdpSocket>, server: u16, flows: Flows, down: Arc<AtomicBool>) {
    let mut tasks = JoinSet::new();
    let mut datagram = vec![0; 65_535];
    loop {
        let (len, agent) = socket.recv_from(&mut datagram).await.unwrap();
        if down.load(Ordering::SeqCst) {
            continue;
        }
        if !flows.lock().unwrap().contains_key(&agent) {
            let upstream = Arc::new(UdpSocket::bind(ANY).await.unwrap());
            let server = (Ipv4Addr::LOCALHOST, server);
            upstream.connect(server).await.unwrap();
            // Else it takes no datagram yet, and a flow that lives for a second would lose its first, and its only one.
            upstream.writable().await.unwrap();
            let back = send_back(Arc::clone(&upstream), Arc::clone(&socket), agent);
            let flow = Flow::Live {
                upstream,
                sent: 0,
                back: tasks.spawn(back),
            };
            flows.lock().unwrap().insert(agent, flow);
        }
        if let Some(Flow::Live { upstream, sent, .. }) = flows.lock().unwrap().get_mut(&agent) {
            *sent += len;
            // A full buffer loses it, as a network would.
            let _ = upstream.try_send(&datagram[..len]);
        }
    }
}

async fn send_back(upstream: Arc<UdpSocket>, socket: Arc<UdpSocket>, agent: SocketAddr) {
    let mut datagram = vec![0; 65_535];
    // An error says that the server has closed its socket.
    while let Ok(len) = upstream.recv(&mut datagram).await {
        let _ = socket.try_send_to(&datagram[..len], agent);
    }
}
