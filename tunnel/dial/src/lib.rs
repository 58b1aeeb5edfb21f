//! Connections by name. A name may have several addresses, and one that leads nowhere must not cost its timeout: the
//! addresses are tried beside each other, each a moment after the one before it (RFC 8305, Happy Eyeballs).
//!
//! [`connect`] gives a TCP connection. [`addresses`] and [`staggered()`] are its parts, for callers whose attempts are more than
//! TCP's handshake.

mod address;
mod keepalive;
mod order;
mod resolve;
mod staggered;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod used_up;

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpStream;

pub use crate::address::ServerAddress;
pub use crate::keepalive::{KEEPALIVE_TIME, keep_alive};
pub use crate::order::interleaved;
pub use crate::resolve::{Resolve, SystemResolver};
pub use crate::staggered::staggered;
pub use crate::used_up::UsedUp;

/// Addresses of one name that are tried: a name that has hundreds would keep an attempt, and the sockets
/// that it tries side by side, going for minutes.
pub const ADDRESSES: usize = 16;

/// How long an address has for itself before the next one is tried beside it: the Connection Attempt
/// Delay that RFC 8305, section 5, recommends.
pub const ADDRESS_DELAY: Duration = Duration::from_millis(250);

/// The addresses of `host`, a DNS name or an IP address (of IPv6 with or without brackets), in the order in which to try
/// them; at least one.
///
/// # Errors
/// The resolver's, or [`io::ErrorKind::NotFound`] where the name has no address.
///
/// # Cancel safety
/// May be dropped.
pub async fn addresses(
    resolver: &dyn Resolve,
    host: &str,
    port: u16,
) -> io::Result<Vec<SocketAddr>> {
    let plain = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    let found = resolver.resolve(plain.unwrap_or(host), port).await?;
    let found = interleaved(found);
    if found.is_empty() {
        let kind = io::ErrorKind::NotFound;
        return Err(io::Error::new(kind, "the name has no address"));
    }
    Ok(found)
}

/// A TCP connection to the first address of `host` that answers, without Nagle's delay, and with [`keep_alive`]. The caller sets the deadline.
///
/// # Errors
/// Those of [`addresses`], or that of the address that failed first.
///
/// # Cancel safety
/// Dropping the future ends all attempts.
pub async fn connect(resolver: &dyn Resolve, host: &str, port: u16) -> io::Result<TcpStream> {
    let found = addresses(resolver, host, port).await?;
    let attempts = found.into_iter().map(connect_to);
    staggered(attempts, ADDRESS_DELAY).await.map_err(first)
}

/// A TCP connection to this address, without Nagle's delay (requests are small and answers awaited), and with [`keep_alive`].
///
/// # Errors
/// The system's.
///
/// # Cancel safety
/// Dropping the future ends the attempt.
pub async fn connect_to(address: SocketAddr) -> io::Result<TcpStream> {
    let tcp = TcpStream::connect(address).await?;
    tcp.set_nodelay(true)?;
    keep_alive(&tcp)?;
    Ok(tcp)
}

fn first(errors: Vec<io::Error>) -> io::Error {
    let first = errors.into_iter().next();
    first.unwrap_or_else(|| io::ErrorKind::NotFound.into())
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::testing::{Addresses, SilentAddress};
    use super::*;

    #[tokio::test]
    async fn an_address_that_is_silent_does_not_hide_the_next() {
        let silent = SilentAddress::new().await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let answers = listener.local_addr().unwrap();
        let names = Addresses(vec![silent.address(), answers]);
        let connected = connect(&names, "name", 1);
        // A silent address takes two minutes to fail.
        let connected = tokio::time::timeout(Duration::from_secs(20), connected).await;
        let connected = connected.expect("the second address answers").unwrap();
        assert_eq!(connected.peer_addr().unwrap(), answers);
        assert!(connected.nodelay().unwrap());
    }

    #[tokio::test]
    async fn a_name_without_an_address_says_so() {
        let error = connect(&Addresses(vec![]), "name", 1).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }

    #[tokio::test]
    async fn brackets_of_an_ipv6_address_are_left_out() {
        for host in ["::1", "[::1]"] {
            let found = addresses(&SystemResolver, host, 5).await.unwrap();
            assert_eq!(found, ["[::1]:5".parse().unwrap()]);
        }
    }
}
