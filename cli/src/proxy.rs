//! The proxy on the way out, which the environment names.

use anyhow::{Context, Result};
use underpass_api::client::{Credential, Server};
use underpass_https::{Proxy, Roots};

/// The proxy of `HTTPS_PROXY`, with the exceptions of `NO_PROXY`.
pub(crate) fn proxy() -> Result<Option<Proxy>> {
    Proxy::from_env().context("name a proxy that can be used, or unset the variable")
}

/// The server at `url`, through the proxy where there is one.
pub(crate) fn server(url: &str, roots: &Roots, credential: &Credential) -> Result<Server> {
    Ok(Server::new(url, roots, proxy()?.as_ref(), credential)?)
}
