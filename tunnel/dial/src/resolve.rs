//! From names to addresses.

use std::fmt;
use std::io;
use std::net::SocketAddr;

use futures_util::future::BoxFuture;

/// Finds the addresses of a name. The default, [`SystemResolver`], is right nearly always; another
/// one is for programs that know better where their servers are.
pub trait Resolve: fmt::Debug + Send + Sync + 'static {
    /// The addresses of `host`, a DNS name or an IP address, best first.
    ///
    /// # Errors
    /// Where they cannot be found out. No address at all is an empty list.
    ///
    /// # Cancel safety
    /// The future is dropped where it takes too long.
    fn resolve<'a>(
        &'a self,
        host: &'a str,
        port: u16,
    ) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>>;
}

/// The operating system's resolver (`getaddrinfo`), which knows of its hosts file and DNS, and orders
/// addresses by RFC 6724.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemResolver;

impl Resolve for SystemResolver {
    fn resolve<'a>(
        &'a self,
        host: &'a str,
        port: u16,
    ) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>> {
        Box::pin(async move { Ok(tokio::net::lookup_host((host, port)).await?.collect()) })
    }
}
