//! Our own credential: the one that may impersonate.
//!
//! kube is not asked for it: its plugins have no bounds, and its errors quote secrets.

use std::{io, path::PathBuf, sync::Arc};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use http::HeaderValue;
use kube::config::{AuthInfo, AuthProviderConfig};
use rustls::sign::CertifiedKey;
use secrecy::ExposeSecret;
use zeroize::Zeroizing;

use super::{
    exec::{self, ChosenBy, ExecConfigError, ExecError, Program},
    tls::{self, said},
    token_file::TokenFile,
};
use underpass_core::{Exec, Rejection};

/// Why there is no credential to send. Nothing of a credential is repeated.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CredentialError {
    /// A token file cannot be read.
    #[error("cannot read the token file {path:?}")]
    File {
        /// Which.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// A token file is empty, too large, or holds no token.
    #[error("the token file {0:?} holds no token")]
    NoToken(PathBuf),
    /// A token file has not had a token so far.
    #[error("there is no token yet")]
    NoTokenYet(#[source] Arc<CredentialError>),
    /// Two that exclude each other.
    #[error("the configuration has {0} and {1}, of which only one can be used: remove the other")]
    Several(&'static str, &'static str),
    /// The configuration's own token or password.
    #[error("the configuration's {0} is empty, or holds characters that no header can hold")]
    Characters(&'static str),
    /// An `auth-provider` that is none any more.
    #[error(
        "the configuration has the auth-provider {0:?}, which Kubernetes removed in 1.26: use an exec plugin \
         (gke-gcloud-auth-plugin, kubelogin)"
    )]
    Provider(String),
    /// The `auth-provider` oidc without a token.
    #[error("the configuration's auth-provider oidc has no id-token")]
    NoIdToken,
    /// A plugin cannot be run as it is configured.
    #[error("the credential plugin cannot be used")]
    ExecConfig(#[source] ExecConfigError),
    /// A plugin failed, or its answer was unusable.
    #[error("the credential plugin failed")]
    Exec(#[source] Arc<ExecError>),
}

impl CredentialError {
    /// The reason for the caller.
    pub(super) fn rejection(&self) -> Rejection {
        match self {
            Self::Exec(error) if matches!(**error, ExecError::TooSlow) => {
                Rejection::Timeout("the credential plugin for the API server")
            }
            _ => Rejection::ApiServerUnreachable("there is no credential for it"),
        }
    }
}

/// The source of the `Authorization` header, and of a client certificate that does not come from a file.
pub(super) enum Credential {
    /// None is sent: a client certificate says it all.
    None,
    /// A token, or a name and a password.
    Fixed(HeaderValue),
    /// A file, read again and again.
    File(TokenFile),
    /// A program.
    Exec(Arc<exec::Plugin>),
}

/// A credential, as it is to be sent now.
#[derive(Default)]
pub(super) struct Proof {
    pub(super) header: Option<HeaderValue>,
    pub(super) certificate: Option<Arc<CertifiedKey>>,
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::None => "Credential::None",
            Self::Fixed(_) => "Credential::Fixed",
            Self::File(_) => "Credential::File",
            Self::Exec(_) => "Credential::Exec",
        })
    }
}

impl Credential {
    /// Reads the configuration. It counts as it does for client-go: a token file before a token, which stands in where the file cannot
    /// be read; either of them, or a name with a password, before a provider or a plugin; and no plugin beside a client
    /// certificate (k/k#99603). Blocks: a file is read. A plugin is not run.
    ///
    /// A plugin that is the last one's as well goes on, with its token.
    pub(super) fn new(auth: &AuthInfo, last: Option<&Self>) -> Result<Self, CredentialError> {
        let token = auth.token.as_ref().map(|token| token.expose_secret());
        let token = said(token);
        let file = said(auth.token_file.as_deref());
        let name = said(auth.username.as_deref());
        if name.is_some() && (token.is_some() || file.is_some()) {
            return Err(CredentialError::Several("a token", "a username"));
        }
        if auth.exec.is_some() && auth.auth_provider.is_some() {
            return Err(CredentialError::Several(
                "an exec plugin",
                "an auth-provider",
            ));
        }
        let header = token.map(|token| bearer(token).ok_or(CredentialError::Characters("token")));
        let header = header.transpose()?;
        match (file, header) {
            (Some(path), header) => return Ok(Self::File(TokenFile::open(path.into(), header))),
            (None, Some(header)) => return Ok(Self::Fixed(header)),
            (None, None) => {}
        }
        if let Some(name) = name {
            let password = auth.password.as_ref();
            let password = password.map_or("", |password| password.expose_secret());
            return basic(name, password).map(Self::Fixed);
        }
        if let Some(provider) = &auth.auth_provider {
            return of_provider(provider).map(Self::Fixed);
        }
        let Some(exec) = auth.exec.as_ref().filter(|_| !tls::has_certificate(auth)) else {
            return Ok(Self::None);
        };
        let program = Program::of_kubeconfig(exec).map_err(CredentialError::ExecConfig)?;
        Ok(Self::Exec(match last {
            Some(Self::Exec(plugin)) if *plugin.program() == program => Arc::clone(plugin),
            _ => Arc::new(exec::Plugin::new(program)),
        }))
    }

    /// A plugin's, which the directory names, and not this machine's operator.
    pub(super) fn exec(exec: Exec, config: &kube::Config) -> Self {
        let program = Program::of_directory(exec, config);
        Self::Exec(Arc::new(exec::Plugin::new(program)))
    }

    /// It is the operator's plugin, or a file, so that its first credential tells whether the configuration can be used.
    pub(super) fn is_to_be_tried(&self) -> bool {
        match self {
            Self::Exec(plugin) => plugin.program().chosen_by() == ChosenBy::Operator,
            Self::File(_) => true,
            Self::None | Self::Fixed(_) => false,
        }
    }

    /// The API server does not accept the credential.
    pub(super) async fn refused(&self) {
        match self {
            Self::Exec(plugin) => plugin.refused().await,
            Self::File(file) => file.refused().await,
            Self::Fixed(_) | Self::None => {}
        }
    }

    /// The credential to send now.
    ///
    /// # Cancel safety
    /// May be dropped.
    pub(super) async fn proof(&self) -> Result<Proof, CredentialError> {
        let header = match self {
            Self::None => None,
            Self::Fixed(header) => Some(header.clone()),
            Self::File(file) => Some(file.header().await.map_err(CredentialError::NoTokenYet)?),
            Self::Exec(plugin) => {
                let issued = plugin.issued().await.map_err(CredentialError::Exec)?;
                return Ok(Proof {
                    header: issued.header,
                    certificate: issued.certificate,
                });
            }
        };
        Ok(Proof {
            header,
            certificate: None,
        })
    }
}

/// `None` where no header can hold it.
pub(super) fn bearer(token: &str) -> Option<HeaderValue> {
    match token {
        "" => None,
        token => secret(&Zeroizing::new(["Bearer ", token].concat())),
    }
}

fn basic(name: &str, password: &str) -> Result<HeaderValue, CredentialError> {
    let both = Zeroizing::new([name, ":", password].concat());
    let encoded = Zeroizing::new(BASE64.encode(both.as_bytes()));
    let line = Zeroizing::new(["Basic ", &encoded].concat());
    secret(&line).ok_or(CredentialError::Characters("password"))
}

fn secret(line: &str) -> Option<HeaderValue> {
    let mut header = HeaderValue::from_str(line).ok()?;
    header.set_sensitive(true);
    Some(header)
}

/// The token of `oidc`, which is not renewed here. The others ran a program of their own, or asked a cloud.
fn of_provider(provider: &AuthProviderConfig) -> Result<HeaderValue, CredentialError> {
    if provider.name != "oidc" {
        return Err(CredentialError::Provider(provider.name.clone()));
    }
    let token = provider.config.get("id-token");
    let token = token.ok_or(CredentialError::NoIdToken)?;
    bearer(token).ok_or(CredentialError::Characters("id-token"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::told;

    fn credential(user: serde_json::Value) -> Result<Credential, CredentialError> {
        Credential::new(&serde_json::from_value(user).unwrap(), None)
    }

    async fn header(user: serde_json::Value) -> HeaderValue {
        let proof = credential(user).unwrap().proof().await.unwrap();
        let header = proof.header.unwrap();
        assert!(header.is_sensitive());
        header
    }

    #[tokio::test]
    async fn what_a_kubeconfig_says_is_sent() {
        let token = serde_json::json!({ "token": "t" });
        assert_eq!(header(token).await, "Bearer t");
        let basic = serde_json::json!({ "username": "u", "password": "p" });
        assert_eq!(header(basic).await, "Basic dTpw");
        let nameless = serde_json::json!({ "username": "u" });
        assert_eq!(header(nameless).await, "Basic dTo=");
        let oidc = serde_json::json!({ "name": "oidc", "config": { "id-token": "i" } });
        let oidc = serde_json::json!({ "auth-provider": oidc });
        assert_eq!(header(oidc).await, "Bearer i");
        for none in [
            serde_json::json!({}),
            serde_json::json!({ "token": "", "tokenFile": "", "username": "", "password": "p" }),
        ] {
            let none = credential(none).unwrap();
            assert!(none.proof().await.unwrap().header.is_none());
        }
    }

    /// client-go: `NewBearerAuthWithRefreshRoundTripper`, and `UpdateTransportConfig` of exec plugins.
    #[tokio::test]
    async fn what_counts_beside_another_is_client_gos_choice() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        std::fs::write(&path, "file\n").unwrap();
        let exec = serde_json::json!({ "apiVersion": "client.authentication.k8s.io/v1", "command": "none" });
        let oidc = serde_json::json!({ "name": "oidc", "config": { "id-token": "i" } });
        let both = serde_json::json!({ "token": "t", "tokenFile": path, "exec": exec });
        assert_eq!(header(both.clone()).await, "Bearer file");
        std::fs::remove_file(&path).unwrap();
        assert_eq!(header(both).await, "Bearer t", "where the file is away");
        let beside_provider = serde_json::json!({ "token": "t", "auth-provider": oidc });
        assert_eq!(header(beside_provider).await, "Bearer t");
        let beside_certificate =
            serde_json::json!({ "client-certificate-data": "YQ==", "exec": exec });
        assert!(matches!(
            credential(beside_certificate),
            Ok(Credential::None)
        ));
        let beside_empty = serde_json::json!({ "client-certificate-data": "", "exec": exec });
        assert!(matches!(credential(beside_empty), Ok(Credential::Exec(_))));
    }

    #[test]
    fn what_excludes_each_other_is_refused() {
        let oidc = serde_json::json!({ "name": "oidc", "config": { "id-token": "i" } });
        for user in [
            serde_json::json!({ "token": "t", "username": "u" }),
            serde_json::json!({ "tokenFile": "t", "username": "u", "password": "p" }),
            serde_json::json!({ "exec": { "command": "c" }, "auth-provider": oidc }),
        ] {
            assert!(matches!(
                credential(user),
                Err(CredentialError::Several(..))
            ));
        }
    }

    #[test]
    fn rule_11_an_error_of_a_credential_does_not_repeat_it() {
        for user in [
            serde_json::json!({ "token": "hunter2\n" }),
            serde_json::json!({ "auth-provider": { "name": "gcp", "config": { "access-token": "hunter2", "expiry": "hunter2" } } }),
            serde_json::json!({ "auth-provider": { "name": "azure", "config": { "access-token": "hunter2" } } }),
            serde_json::json!({ "auth-provider": { "name": "oidc", "config": { "refresh-token": "hunter2" } } }),
            serde_json::json!({ "auth-provider": { "name": "oidc", "config": { "id-token": "hunter2\n" } } }),
            serde_json::json!({ "exec": { "command": "p", "args": ["hunter2"], "env": [{ "name": "A", "value": "hunter2" }] } }),
        ] {
            let error = credential(user).unwrap_err();
            let told = told(&error);
            assert!(!told.contains("hunter2"), "{told}");
        }
    }
}
