//! A TCP relay between agent and server, whose connections can be cut.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use anyhow::Result;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// Passes bytes on until it is dropped.
#[derive(Debug)]
pub(super) struct Relay {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    _accepting: JoinSet<()>,
}

#[derive(Debug, Default)]
struct State {
    connections: JoinSet<()>,
    /// When the first connection since the last cut came.
    dialled: Option<Instant>,
}

impl Relay {
    /// One that leads to `server`.
    ///
    /// # Errors
    /// Where no port is free.
    pub(super) async fn start(server: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let state = Arc::<Mutex<State>>::default();
        let mut accepting = JoinSet::new();
        let accepted = Arc::clone(&state);
        accepting.spawn(async move {
            while let Ok((agent, _)) = listener.accept().await {
                let mut state = accepted.lock().unwrap_or_else(PoisonError::into_inner);
                state.dialled.get_or_insert_with(Instant::now);
                state
                    .connections
                    .spawn(async move { pass(agent, server).await.unwrap_or_default() });
            }
        });
        Ok(Self {
            address,
            state,
            _accepting: accepting,
        })
    }

    /// Where agents connect.
    pub(super) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends all connections there are; new ones are taken. Both ends hear of it, as where a middlebox
    /// resets them.
    pub(super) fn cut(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.dialled = None;
        state.connections.abort_all();
    }

    /// When the first connection since the last cut came.
    pub(super) fn dialled(&self) -> Option<Instant> {
        self.state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .dialled
    }
}

async fn pass(mut agent: TcpStream, server: SocketAddr) -> Result<()> {
    let mut server = TcpStream::connect(server).await?;
    agent.set_nodelay(true)?;
    server.set_nodelay(true)?;
    copy_bidirectional(&mut agent, &mut server).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    async fn within<T>(future: impl Future<Output = T>) -> T {
        let limit = Duration::from_secs(20);
        tokio::time::timeout(limit, future).await.expect("in time")
    }

    #[tokio::test]
    async fn a_cut_ends_what_there_is_and_nothing_else() {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let relay = Relay::start(server.local_addr().unwrap()).await.unwrap();
        for _ in 0..2 {
            let mut agent = TcpStream::connect(relay.address()).await.unwrap();
            let (mut there, _) = within(server.accept()).await.unwrap();
            agent.write_all(b"x").await.unwrap();
            assert_eq!(within(there.read_u8()).await.unwrap(), b'x');
            assert!(relay.dialled().is_some());
            relay.cut();
            assert!(relay.dialled().is_none());
            for mut end in [agent, there] {
                let read = within(end.read(&mut [0])).await;
                assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
            }
        }
    }
}
