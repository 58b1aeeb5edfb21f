//! The proxy on the way out, which the environment names.

use anyhow::Result;
use underpass_api::client::{Credential, Server};
use underpass_https::{Proxy, Roots};

/// The server at `url`, through the proxy of `HTTPS_PROXY` where `NO_PROXY` does not except it.
pub(crate) fn server(url: &str, roots: &Roots, credential: &Credential) -> Result<Server> {
    Ok(Server::new(
        url,
        roots,
        Proxy::from_env().as_ref(),
        credential,
    )?)
}
