//! A TCP relay that can be cut: whatever it holds at that moment is lost, in the middle of a frame.

use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// Forwards TCP connections to a server on loopback.
pub(crate) struct Relay {
    pub(crate) port: u16,
    connections: Arc<Mutex<JoinSet<()>>>,
    _listening: JoinSet<()>,
}

impl Relay {
    pub(crate) async fn start(server: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let connections = Arc::new(Mutex::new(JoinSet::new()));
        let mut listening = JoinSet::new();
        listening.spawn(serve(listener, server, Arc::clone(&connections)));
        Self {
            port,
            connections,
            _listening: listening,
        }
    }

    /// Ends every connection, with resets.
    pub(crate) fn cut(&self) {
        self.connections.lock().unwrap().abort_all();
    }
}

async fn serve(listener: TcpListener, server: u16, connections: Arc<Mutex<JoinSet<()>>>) {
    loop {
        let (mut client, _) = listener.accept().await.unwrap();
        connections.lock().unwrap().spawn(async move {
            let Ok(mut server) = TcpStream::connect((Ipv4Addr::LOCALHOST, server)).await else {
                return;
            };
            for side in [&client, &server] {
                side.set_nodelay(true).unwrap();
                socket2::SockRef::from(side)
                    .set_linger(Some(std::time::Duration::ZERO))
                    .unwrap();
            }
            let _ = copy_bidirectional(&mut client, &mut server).await;
        });
    }
}
