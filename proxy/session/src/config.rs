//! The settings of a session.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rand::Rng as _;
use underpass_https::{Credentials, Proxy, Roots, https_url};
use underpass_tunnel::{
    AgentKey, Connector, ConnectorConfig, ConnectorRole, ResumeWindow, Transports, Trust,
};

use super::error::ConnectError;
use super::register::Registrar;

/// The ceiling of the waits between two attempts to reach the server: somebody sits in front of it.
const BACKOFF: Duration = Duration::from_secs(5);

/// Where and as whom to have a session.
#[derive(Clone)]
pub struct SessionConfig {
    /// `https://HOST[:PORT]`.
    pub url: String,
    /// The CAs that the server's certificate may come from.
    pub roots: Roots,
    /// The user's credential. It is asked for each request, and for each registration of the session's key.
    pub credentials: Arc<dyn Credentials>,
    /// The proxy on the way out. The environment is not asked.
    pub proxy: Option<Proxy>,
    /// Which protocols to dial with.
    pub transports: Transports,
    /// How long streams wait for the next connection when the last is lost; the server's own limit may be shorter.
    pub resume_window: ResumeWindow,
    /// Name and version of the software, for the server's logs.
    pub software: String,
}

impl SessionConfig {
    /// The usual configuration, without a proxy.
    pub fn new(url: impl Into<String>, roots: Roots, credentials: Arc<dyn Credentials>) -> Self {
        Self {
            url: url.into(),
            roots,
            credentials,
            proxy: None,
            transports: Transports::Auto,
            // The server's bound is the one that counts.
            resume_window: ResumeWindow::of_peer(u32::MAX),
            software: concat!("underpass-session/", env!("CARGO_PKG_VERSION")).to_owned(),
        }
    }

    /// The dialler, and the registrar of its key.
    pub(super) fn parts(self) -> Result<(Connector, Registrar), ConnectError> {
        let wrong = || ConnectError::Url(self.url.clone());
        let url = https_url(&self.url).ok_or_else(wrong)?;
        let host = url.host().ok_or_else(wrong)?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let port = url.port_u16().unwrap_or(443);
        let mut seed = zeroize::Zeroizing::new([0; 32]);
        rand::rng().fill_bytes(seed.as_mut_slice());
        let key = AgentKey::from_seed(*seed).map_err(ConnectError::Key)?;
        let public_key = key.public_key();
        let anchors = Trust::Anchors(self.roots.store().roots.clone());
        let config = ConnectorConfig {
            role: ConnectorRole::User,
            transports: self.transports,
            proxy: self.proxy.clone(),
            backoff_max: BACKOFF,
            resume_window: self.resume_window,
            software: self.software,
            ..ConnectorConfig::new(host, port, anchors, key)
        };
        let connector = Connector::new(config)?;
        let registrar = Registrar::new(
            self.url,
            self.roots,
            self.proxy,
            self.credentials,
            public_key,
        );
        Ok((connector, registrar))
    }
}

impl fmt::Debug for SessionConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionConfig")
            .field("url", &self.url)
            .finish_non_exhaustive()
    }
}
