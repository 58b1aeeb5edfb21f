//! Options of a tunnel's TCP sockets.

use std::io;

use tokio::net::TcpStream;

/// Unsent bytes that a socket holds before it says that it is full.
///
/// Nothing overtakes bytes in a socket: a keystroke waits behind so many, beside
/// a bulk stream that always has more. Without the option that is the send buffer, some MiB. At
/// 1 Gbit/s it is half a millisecond's worth, time enough to hand over more.
#[cfg(any(target_os = "linux", target_os = "android"))]
const UNSENT: u32 = 64 * 1024;

/// Sets the options that a connection needs which carries many streams: no waiting for more
/// (`TCP_NODELAY`), since frames are gathered above; a small queue of unsent bytes
/// (`TCP_NOTSENT_LOWAT`), where the system has that; and [`keep_alive`](underpass_dial::keep_alive), for peers that have vanished.
///
/// # Errors
/// Where the socket takes no options: it is no longer connected.
pub fn tune(socket: &TcpStream) -> io::Result<()> {
    socket.set_nodelay(true)?;
    underpass_dial::keep_alive(socket)?;
    #[cfg(any(target_os = "linux", target_os = "android"))]
    socket2::SockRef::from(socket).set_tcp_notsent_lowat(UNSENT)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_connected_socket_takes_the_options() {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0))
            .await
            .unwrap();
        let socket = TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        tune(&socket).unwrap();
        assert!(socket.nodelay().unwrap());
        assert!(socket2::SockRef::from(&socket).keepalive().unwrap());
        #[cfg(target_os = "linux")]
        assert_eq!(
            socket2::SockRef::from(&socket).tcp_notsent_lowat().unwrap(),
            UNSENT
        );
    }
}
