//! A relay for UDP and TCP on one port that falls silent as networks do: nobody is told.

use std::collections::{HashMap, HashSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Notify;
use tokio::task::JoinSet;

/// Forwards both protocols to a server on loopback.
pub(crate) struct SilentRelay {
    pub(crate) port: u16,
    state: Arc<State>,
    _tasks: JoinSet<()>,
}

#[derive(Default)]
struct State {
    /// Datagrams are dropped. Shared with the flows, which this owns.
    udp_dropped: Arc<AtomicBool>,
    flows: Mutex<HashMap<SocketAddr, Flow>>,
    /// Clients whose datagrams go nowhere any more.
    lost: Mutex<HashSet<SocketAddr>>,
    /// TCP connections that exist carry nothing any more; later ones do.
    tcp_generation: AtomicUsize,
    /// TCP connections that were made.
    tcp_connections: AtomicUsize,
    silenced: Notify,
}

/// One client's way through: its socket towards the server.
struct Flow {
    back: Arc<UdpSocket>,
    _task: JoinSet<()>,
}

impl SilentRelay {
    pub(crate) async fn start(server: u16) -> Self {
        let (tcp, udp) = bind().await;
        let port = tcp.local_addr().unwrap().port();
        let state = Arc::new(State::default());
        let mut tasks = JoinSet::new();
        tasks.spawn(forward_udp(Arc::new(udp), server, Arc::clone(&state)));
        tasks.spawn(accept_tcp(tcp, server, Arc::clone(&state)));
        Self {
            port,
            state,
            _tasks: tasks,
        }
    }

    /// Whether datagrams are dropped from now on.
    pub(crate) fn drop_udp(&self, drop: bool) {
        self.state.udp_dropped.store(drop, Ordering::Relaxed);
    }

    /// As a NAT that was restarted: the server's packets are dropped until the client has sent something, and the
    /// server sees another address then.
    pub(crate) fn forget_udp_flows(&self) {
        self.state.flows.lock().unwrap().clear();
    }

    /// As a firewall that has lost its state, and lets later flows pass: those that exist carry nothing any more, in either direction.
    pub(crate) fn lose_udp_flows(&self) {
        let flows = std::mem::take(&mut *self.state.flows.lock().unwrap());
        self.state.lost.lock().unwrap().extend(flows.into_keys());
    }

    /// As a firewall that has lost its state: TCP connections carry nothing any more, and are not ended.
    pub(crate) fn silence_tcp(&self) {
        self.state.tcp_generation.fetch_add(1, Ordering::Relaxed);
        self.state.silenced.notify_waiters();
    }

    /// TCP connections that were made until now.
    pub(crate) fn tcp_connections(&self) -> usize {
        self.state.tcp_connections.load(Ordering::Relaxed)
    }
}

async fn bind() -> (TcpListener, UdpSocket) {
    loop {
        let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        // The port may be another process's for UDP.
        if let Ok(udp) = UdpSocket::bind(tcp.local_addr().unwrap()).await {
            return (tcp, udp);
        }
    }
}

async fn forward_udp(front: Arc<UdpSocket>, server: u16, state: Arc<State>) {
    let mut packet = vec![0; 65536];
    loop {
        let (len, client) = front.recv_from(&mut packet).await.unwrap();
        if state.udp_dropped.load(Ordering::Relaxed) || state.lost.lock().unwrap().contains(&client)
        {
            continue;
        }
        let known = state
            .flows
            .lock()
            .unwrap()
            .get(&client)
            .map(|flow| Arc::clone(&flow.back));
        let back = match known {
            Some(back) => back,
            None => begin_flow(&front, client, server, &state).await,
        };
        let _ = back.send(&packet[..len]).await;
    }
}

async fn begin_flow(
    front: &Arc<UdpSocket>,
    client: SocketAddr,
    server: u16,
    state: &Arc<State>,
) -> Arc<UdpSocket> {
    let back = Arc::new(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap());
    back.connect((Ipv4Addr::LOCALHOST, server)).await.unwrap();
    let mut task = JoinSet::new();
    let (front, from) = (Arc::clone(front), Arc::clone(&back));
    let dropped = Arc::clone(&state.udp_dropped);
    task.spawn(async move {
        let mut packet = vec![0; 65536];
        loop {
            if let Ok(len) = from.recv(&mut packet).await
                && !dropped.load(Ordering::Relaxed)
            {
                let _ = front.send_to(&packet[..len], client).await;
            }
        }
    });
    let flow = Flow {
        back: Arc::clone(&back),
        _task: task,
    };
    state.flows.lock().unwrap().insert(client, flow);
    back
}

async fn accept_tcp(listener: TcpListener, server: u16, state: Arc<State>) {
    let mut connections = JoinSet::new();
    loop {
        let (client, _) = listener.accept().await.unwrap();
        state.tcp_connections.fetch_add(1, Ordering::Relaxed);
        let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, server)).await else {
            continue;
        };
        let generation = state.tcp_generation.load(Ordering::Relaxed);
        for (from, to) in split(client, server) {
            connections.spawn(forward_tcp(from, to, generation, Arc::clone(&state)));
        }
    }
}

type Half = (
    tokio::net::tcp::OwnedReadHalf,
    tokio::net::tcp::OwnedWriteHalf,
);

fn split(client: TcpStream, server: TcpStream) -> [Half; 2] {
    for side in [&client, &server] {
        side.set_nodelay(true).unwrap();
    }
    let (client_read, client_write) = client.into_split();
    let (server_read, server_write) = server.into_split();
    [(client_read, server_write), (server_read, client_write)]
}

async fn forward_tcp(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    generation: usize,
    state: Arc<State>,
) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let read = tokio::select! {
            read = from.read(&mut buffer) => read,
            () = silenced(&state, generation) => {
                // The sockets stay open, and nobody reads them.
                return std::future::pending().await;
            }
        };
        match read {
            Ok(len) if len > 0 => {
                if to.write_all(&buffer[..len]).await.is_err() {
                    return;
                }
            }
            _ => {
                let _ = to.shutdown().await;
                return;
            }
        }
    }
}

async fn silenced(state: &State, generation: usize) {
    loop {
        let notified = state.silenced.notified();
        if state.tcp_generation.load(Ordering::Relaxed) != generation {
            return;
        }
        notified.await;
    }
}
