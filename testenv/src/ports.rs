//! Free ports.

use std::io;
use std::net::{Ipv4Addr, TcpListener};

/// Chooses `N` free loopback ports. They are held together until all are chosen, so that they differ; between then and
/// their use another process may take one, which shows as a server that cannot listen.
pub(crate) fn free<const N: usize>() -> io::Result<[u16; N]> {
    let mut held = Vec::with_capacity(N);
    let mut ports = [0; N];
    for port in &mut ports {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        *port = listener.local_addr()?.port();
        held.push(listener);
    }
    Ok(ports)
}
