//! HTTP and SOCKS5 proxies on the way out: the proxy that the environment names ([`Proxy::from_env`]), the servers that need none
//! ([`NoProxy`]), and CONNECT (RFC 9110, section 9.3.6; RFC 1928) over a connection to the proxy ([`ProxyDialer`]).
//!
//! The agent's tunnel, the server's own questions over HTTPS and the command line go through the same code.

mod connect;
mod dial;
pub mod limits;
mod no_proxy;
mod proxy;
mod socks;
#[cfg(feature = "testing")]
pub mod testing;
mod url;

pub use self::{
    connect::ProxyError,
    dial::{Io, ProxyCaError, ProxyConfigError, ProxyDialer},
    no_proxy::NoProxy,
    proxy::{Proxy, ProxyEnvError},
    url::{ProxyUrl, ProxyUrlError},
};
