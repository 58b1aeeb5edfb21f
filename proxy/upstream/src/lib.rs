//! The agent's half: carries requests from tunnel streams to the API server, and impersonates the callers. The server has one
//! of its own for each cluster that it reaches itself.

mod check;
mod clock;
mod connection;
mod credential;
mod endpoint;
mod error;
mod exec;
mod generation;
mod get;
mod http1;
mod places;
mod pool;
mod proxy;
pub mod rbac;
mod reload;
mod replay;
mod serve;
#[cfg(test)]
mod testing;
mod tls;
mod token_file;
mod unauthorized;
mod watch;

use std::sync::Arc;

use underpass_core::{BoxError, Exec, ImpersonationPolicy};
pub use underpass_http::watch_end::Draining;
pub use underpass_http_proxy::{ProxyConfigError, ProxyError, ProxyUrlError};

use self::reload::{Reader, Reload};
pub use self::{
    check::CheckError,
    credential::CredentialError,
    endpoint::ConnectError,
    error::SendError,
    exec::{ExecConfigError, ExecError},
    get::GetError,
    places::Places,
    reload::ConfigSource,
    serve::ServeStreamError,
    tls::TlsError,
};

/// Settings of an agent's operator.
#[derive(Clone, Debug, Default)]
pub struct ApiServerOptions {
    /// Identities that may never be impersonated. The server cannot override this.
    pub policy: ImpersonationPolicy,
    /// Accepts an API server that is reached without TLS or whose certificate is not verified. For tests: the agent's
    /// credential goes to any server that answers (security rule 10).
    pub insecure: bool,
    /// The addresses at which the API server may be; any, without it.
    pub places: Option<Arc<dyn Places>>,
}

/// One cluster's API server, as its agent reaches it. Cheap to share; its connections live as long as it does.
#[derive(Debug)]
pub struct ApiServer {
    reload: Reload,
    policy: ImpersonationPolicy,
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ApiServerError {
    /// The URL is not `https://host[:port][/path]`.
    #[error(
        "the API server's URL {0:?} is not an https URL with a host: write https://HOST[:PORT]"
    )]
    Url(String),
    /// It asks not to verify the API server's certificate, or for no TLS at all.
    #[error("the configuration turns off TLS verification, which is refused")]
    Insecure,
    /// It asks to impersonate by itself, or has a name and password in its URL.
    #[error("the configuration has {0:?}, which is not supported")]
    Unsupported(&'static str),
    /// Its `proxy-url` is none.
    #[error("the configuration's proxy-url cannot be used")]
    ProxyUrl(#[source] ProxyUrlError),
    /// The CAs for the certificate of its proxy cannot be used.
    #[error("the proxy of the configuration cannot be used")]
    Proxy(#[source] ProxyConfigError),
    /// CA, client certificate or server name are unusable.
    #[error("the TLS configuration is not usable")]
    Tls(#[source] TlsError),
    /// The TLS server name is none.
    #[error("the TLS server name is not valid")]
    ServerName(#[source] rustls_pki_types::InvalidDnsNameError),
    /// Token, token file or plugin are unusable.
    #[error("the credential is not usable")]
    Credential(#[source] CredentialError),
    /// Its source gives none.
    #[error("the configuration cannot be loaded")]
    Source(#[source] BoxError),
    /// Reading the configuration panicked or was cancelled.
    #[error("the configuration could not be read")]
    Read(#[source] tokio::task::JoinError),
}

impl ApiServer {
    /// Prepares for the API server of `config` (from a kubeconfig, or [`kube::Config::incluster`]). Nothing is dialled, and no
    /// credential plugin is run: one that fails, or a token file that has no token yet, may have one later, and callers are told of it
    /// ([`try_credential`](Self::try_credential) tells at once).
    ///
    /// The credential stays fresh, as [`from_source`](Self::from_source) says.
    ///
    /// # Errors
    /// The fault of the configuration.
    pub async fn new(
        config: kube::Config,
        options: ApiServerOptions,
    ) -> Result<Self, ApiServerError> {
        Self::with_plugin(config, options, None).await
    }

    /// The same, with the token of a plugin in place of the configuration's.
    ///
    /// # Errors
    /// The fault of the configuration.
    pub async fn with_plugin(
        config: kube::Config,
        options: ApiServerOptions,
        plugin: Option<Exec>,
    ) -> Result<Self, ApiServerError> {
        Self::start(Reader {
            source: Arc::new(config),
            options,
            plugin,
        })
        .await
    }

    /// Prepares for the API server of a configuration that may change.
    ///
    /// Requests that begin later than [`limits::TOKEN_FILE_AGE`](underpass_core::limits::TOKEN_FILE_AGE) after a change of a file that
    /// the configuration comes from, or names, use it as it is then: kubeconfig, CAs, client certificate, token. After a
    /// 401, and where the API server's certificate is not trusted, files are looked at at once. A plugin of the configuration runs
    /// again after a 401 and before its token or certificate expires. A configuration that cannot be read, or whose plugin
    /// fails, is logged, and the last one stays in use.
    ///
    /// No error, and no log, repeats a credential or a text that a plugin has printed.
    ///
    /// # Errors
    /// The fault of the configuration as it is now.
    pub async fn from_source(
        source: Arc<dyn ConfigSource>,
        options: ApiServerOptions,
    ) -> Result<Self, ApiServerError> {
        Self::start(Reader {
            source,
            options,
            plugin: None,
        })
        .await
    }

    /// Sees whether there is a credential now: a plugin of the configuration is run, and has
    /// [`limits::EXEC_TIME`](underpass_core::limits::EXEC_TIME).
    ///
    /// # Errors
    /// There is none.
    ///
    /// # Cancel safety
    /// May be dropped. A plugin that runs goes on until this is dropped too.
    pub async fn try_credential(&self) -> Result<(), ApiServerError> {
        self.reload.current().try_credential().await
    }

    async fn start(reader: Reader) -> Result<Self, ApiServerError> {
        let policy = reader.options.policy.clone();
        let reload = Reload::start(reader).await?;
        Ok(Self { reload, policy })
    }
}

fn refuse_unsupported(
    config: &kube::Config,
    options: &ApiServerOptions,
) -> Result<(), ApiServerError> {
    // It would be in `Host`, and in logs.
    let authority = config.cluster_url.authority();
    if authority.is_some_and(|authority| authority.as_str().contains('@')) {
        return Err(ApiServerError::Unsupported(
            "a user's name or password in the URL",
        ));
    }
    // kubectl goes to a server without a scheme over http.
    if config.cluster_url.scheme().is_none() {
        return Err(ApiServerError::Url(config.cluster_url.to_string()));
    }
    let plain = config.cluster_url.scheme_str() != Some("https");
    if (plain || config.accept_invalid_certs) && !options.insecure {
        return Err(ApiServerError::Insecure);
    }
    let auth = &config.auth_info;
    // Only we write an identity, and it is the caller's. Empty values are as absent.
    let one = [&auth.impersonate, &auth.impersonate_uid];
    let acts = one
        .into_iter()
        .any(|value| tls::said(value.as_deref()).is_some())
        || auth
            .impersonate_groups
            .as_ref()
            .is_some_and(|groups| !groups.is_empty())
        || auth
            .impersonate_user_extra
            .as_ref()
            .is_some_and(|extra| !extra.is_empty());
    match acts {
        true => Err(ApiServerError::Unsupported("as")),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(server: &str, user: serde_json::Value) -> Result<(), ApiServerError> {
        let mut config = kube::Config::new(server.parse().unwrap());
        config.auth_info = serde_json::from_value(user).unwrap();
        refuse_unsupported(&config, &ApiServerOptions::default())
    }

    #[test]
    fn whoever_a_kubeconfig_acts_as_is_refused_and_nobody_is_not() {
        for user in [
            serde_json::json!({ "as": "root" }),
            serde_json::json!({ "as-uid": "0" }),
            serde_json::json!({ "as-groups": ["system:masters"] }),
            serde_json::json!({ "as-user-extra": { "a": ["b"] } }),
        ] {
            let error = refused("https://h", user).unwrap_err();
            assert!(matches!(error, ApiServerError::Unsupported("as")));
        }
        let empty =
            serde_json::json!({ "as": "", "as-uid": "", "as-groups": [], "as-user-extra": {} });
        refused("https://h", empty).unwrap();
    }

    #[test]
    fn rule_10_a_server_without_tls_is_refused() {
        let nobody = || serde_json::json!({});
        for server in ["h:6443", "10.0.0.1"] {
            let error = refused(server, nobody()).unwrap_err();
            assert!(error.to_string().contains("https://HOST"), "{error}");
        }
        for server in ["http://h", "HTTP://h"] {
            let error = refused(server, nobody()).unwrap_err();
            assert!(matches!(error, ApiServerError::Insecure));
        }
        let error = refused("u:hunter2@h", nobody()).unwrap_err();
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }
}
