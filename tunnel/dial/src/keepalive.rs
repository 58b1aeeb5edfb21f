//! Connections whose peer has vanished.

use std::io;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

/// Silence on a connection before the system asks the peer's whether it is there: under common timeouts of NATs and firewalls.
const SILENCE: Duration = Duration::from_secs(30);

/// Time between two such questions.
const INTERVAL: Duration = Duration::from_secs(15);

/// Questions without an answer before the connection fails, which is [`KEEPALIVE_TIME`] after the last sign of life.
const QUESTIONS: u32 = 4;

/// How long after its peer's last sign of life a silent connection fails.
pub const KEEPALIVE_TIME: Duration = Duration::from_secs(90);

/// Lets the system find out that the peer of an idle connection has vanished: a laptop whose link is down, a machine without
/// power, a NAT that has forgotten. Without it nobody does, as long as there is nothing to send.
///
/// # Errors
/// Where the socket takes no options: it is no longer connected.
pub fn keep_alive(socket: &TcpStream) -> io::Result<()> {
    let keepalive = TcpKeepalive::new().with_time(SILENCE);
    // Elsewhere the system has one setting for all.
    #[cfg(not(any(target_os = "openbsd", target_os = "haiku")))]
    let keepalive = keepalive.with_interval(INTERVAL).with_retries(QUESTIONS);
    SockRef::from(socket).set_tcp_keepalive(&keepalive)
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_connection_of_ours_asks_for_its_peer() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let socket = crate::connect_to(address).await.unwrap();
        let socket = SockRef::from(&socket);
        assert!(socket.keepalive().unwrap());
        #[cfg(target_os = "linux")]
        {
            let time = socket.tcp_keepalive_time().unwrap();
            let interval = socket.tcp_keepalive_interval().unwrap();
            let questions = socket.tcp_keepalive_retries().unwrap();
            assert_eq!(time + interval * questions, KEEPALIVE_TIME);
        }
    }
}
