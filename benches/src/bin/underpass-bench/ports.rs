//! Ports for programs that cannot choose theirs.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::ops::Range;
use std::sync::atomic::{AtomicU16, Ordering};

use anyhow::{Result, bail};

/// Below the ports that the kernel gives to connections, which could take one before its program does;
/// and konnectivity refuses those.
const RANGE: Range<u16> = 20_000..32_000;

static NEXT: AtomicU16 = AtomicU16::new(0);

/// An address on loopback whose port is free for TCP and UDP now. It is not given out again soon.
///
/// # Errors
/// Where none is.
pub(crate) fn free() -> Result<SocketAddr> {
    // Two benchmarks at once shall not try the same ones.
    let length = RANGE.end - RANGE.start;
    let start = u16::try_from(std::process::id() * 37 % u32::from(length))?;
    for _ in 0..length {
        let step = NEXT.fetch_add(1, Ordering::Relaxed) % length;
        let offset = (u32::from(start) + u32::from(step)) % u32::from(length);
        let port = RANGE.start + u16::try_from(offset)?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        if TcpListener::bind(address).is_ok() && UdpSocket::bind(address).is_ok() {
            return Ok(address);
        }
    }
    bail!("none of the ports {RANGE:?} is free")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn none_is_given_twice() {
        let (first, second) = (free().unwrap(), free().unwrap());
        assert_ne!(first, second);
        assert!(RANGE.contains(&first.port()));
    }
}
