//! The agent's half: carries requests from tunnel streams to the API server, and impersonates the callers. The server has one
//! of its own for each cluster that it reaches itself.

mod check;
mod connection;
mod credential;
mod endpoint;
mod error;
mod exec;
mod http1;
mod pool;
pub mod rbac;
mod replay;
mod serve;
mod unauthorized;

use std::sync::Arc;

use kube::client::ConfigExt;

use underpass_core::{Exec, ImpersonationPolicy};

pub use self::{
    check::CheckError, credential::CredentialError, endpoint::ConnectError, error::SendError,
    exec::ExecError, serve::ServeStreamError,
};
use self::{credential::Credential, endpoint::Endpoint, pool::Pool, unauthorized::Acceptance};

/// Settings of an agent's operator.
#[derive(Clone, Debug, Default)]
pub struct ApiServerOptions {
    /// Identities that may never be impersonated. The server cannot override this.
    pub policy: ImpersonationPolicy,
    /// Accepts an API server that is reached without TLS or whose certificate is not verified. For tests: the agent's
    /// credential goes to any server that answers (security rule 10).
    pub insecure: bool,
}

/// One cluster's API server, as its agent reaches it. Cheap to share; its connections live as long as it does.
#[derive(Debug)]
pub struct ApiServer {
    endpoint: Arc<Endpoint>,
    credential: Credential,
    policy: ImpersonationPolicy,
    pool: Pool,
    acceptance: Acceptance,
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ApiServerError {
    /// The URL is not `https://host[:port][/path]`.
    #[error("the API server's URL {0:?} is not an https URL with a host")]
    Url(String),
    /// It asks not to verify the API server's certificate, or for no TLS at all.
    #[error("the configuration turns off TLS verification, which is refused")]
    Insecure,
    /// It asks to impersonate by itself, or to go through a proxy.
    #[error("the configuration has {0:?}, which is not supported")]
    Unsupported(&'static str),
    /// CA, client certificate or server name are unusable.
    #[error("the TLS configuration is not usable")]
    Tls(#[source] Box<kube::Error>),
    /// The TLS server name is none.
    #[error("the TLS server name is not valid")]
    ServerName(#[source] rustls_pki_types::InvalidDnsNameError),
    /// Token, token file or plugin are unusable.
    #[error("the credential is not usable")]
    Credential(#[source] CredentialError),
    /// Reading the configuration panicked or was cancelled.
    #[error("the configuration could not be read")]
    Read(#[source] tokio::task::JoinError),
}

impl ApiServer {
    /// Prepares for the API server of `config` (from a kubeconfig, or [`kube::Config::incluster`]). Nothing is
    /// dialled; credential plugins run once.
    ///
    /// The credential stays fresh: a token file is read again when the last read is older than
    /// [`limits::TOKEN_FILE_AGE`](underpass_core::limits::TOKEN_FILE_AGE), a plugin runs again before its token expires, and in a cluster the
    /// CA file is read again every minute. Client certificates are read once.
    ///
    /// # Errors
    /// The fault of the configuration.
    pub async fn new(
        config: kube::Config,
        options: ApiServerOptions,
    ) -> Result<Self, ApiServerError> {
        Self::with_plugin(config, options, None).await
    }

    /// The same, with the token of a plugin in place of the configuration's. The plugin is run when it is needed.
    pub async fn with_plugin(
        config: kube::Config,
        options: ApiServerOptions,
        plugin: Option<Exec>,
    ) -> Result<Self, ApiServerError> {
        refuse_unsupported(&config, &options)?;
        // Plugins are run, and files read, by blocking calls.
        let reading = tokio::task::spawn_blocking(move || {
            install_crypto();
            let tls = config.rustls_client_config();
            let tls = tls.map_err(|error| ApiServerError::Tls(Box::new(error)))?;
            let endpoint = Endpoint::new(&config, tls)?;
            let credential = match plugin {
                Some(plugin) => Credential::exec(plugin),
                None => Credential::new(&config).map_err(ApiServerError::Credential)?,
            };
            Ok((endpoint, credential))
        });
        let (endpoint, credential) = reading.await.map_err(ApiServerError::Read)??;
        let endpoint = Arc::new(endpoint);
        let pool = Pool::new(Arc::clone(&endpoint));
        Ok(Self {
            endpoint,
            credential,
            policy: options.policy,
            pool,
            acceptance: Acceptance::default(),
        })
    }
}

fn refuse_unsupported(
    config: &kube::Config,
    options: &ApiServerOptions,
) -> Result<(), ApiServerError> {
    let plain = config.cluster_url.scheme_str() != Some("https");
    if (plain || config.accept_invalid_certs) && !options.insecure {
        return Err(ApiServerError::Insecure);
    }
    if config.proxy_url.is_some() {
        return Err(ApiServerError::Unsupported("proxy-url"));
    }
    let auth = &config.auth_info;
    // Only we write an identity, and it is the caller's.
    if auth.impersonate.is_some() || auth.impersonate_groups.is_some() {
        return Err(ApiServerError::Unsupported("as"));
    }
    Ok(())
}

/// kube builds its TLS configuration from the process's default provider.
fn install_crypto() {
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        // An error means that another thread was first.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    }
}
