//! A TCP relay that can be cut: it loses the bytes it holds then, in the middle of a frame.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::io::InspectReader;

/// Forwards TCP connections to a server on loopback.
pub(crate) struct Relay {
    pub(crate) port: u16,
    state: Arc<State>,
    _listening: JoinSet<()>,
}

#[derive(Default)]
struct State {
    connections: Mutex<JoinSet<()>>,
    server: AtomicU16,
    carried: AtomicU64,
}

impl Relay {
    pub(crate) async fn start(server: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(State::default());
        state.server.store(server, Ordering::Relaxed);
        let mut listening = JoinSet::new();
        listening.spawn(serve(listener, Arc::clone(&state)));
        Self {
            port,
            state,
            _listening: listening,
        }
    }

    /// Ends every connection, with resets.
    pub(crate) fn cut(&self) {
        self.state.connections.lock().unwrap().abort_all();
    }

    /// Connections that are made from now on go to another server.
    pub(crate) fn lead_to(&self, server: u16) {
        self.state.server.store(server, Ordering::Relaxed);
    }

    /// Bytes that were read, of both directions.
    pub(crate) fn carried(&self) -> u64 {
        self.state.carried.load(Ordering::Relaxed)
    }
}

async fn serve(listener: TcpListener, state: Arc<State>) {
    loop {
        let (client, _) = listener.accept().await.unwrap();
        let forward = forward(client, Arc::clone(&state));
        state.connections.lock().unwrap().spawn(forward);
    }
}

async fn forward(client: TcpStream, state: Arc<State>) {
    let server = state.server.load(Ordering::Relaxed);
    let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, server)).await else {
        return;
    };
    for side in [&client, &server] {
        side.set_nodelay(true).unwrap();
        socket2::SockRef::from(side)
            .set_linger(Some(std::time::Duration::ZERO))
            .unwrap();
    }
    let count = |bytes: &[u8]| {
        state
            .carried
            .fetch_add(bytes.len() as u64, Ordering::Relaxed);
    };
    let mut client = InspectReader::new(client, count);
    let mut server = InspectReader::new(server, count);
    let _ = copy_bidirectional(&mut client, &mut server).await;
}
