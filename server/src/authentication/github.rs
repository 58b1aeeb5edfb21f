//! `github`

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use underpass_authenticate::{
    Authenticator, ConfigError, GitHubAudience, GitHubConfig, Misconfigured, Source,
};
use underpass_https::{DeviceConfigError, DeviceLogin, Proxy};
use zeroize::Zeroizing;

use super::entry::{prefix, roots};
use super::file::{Contents, duration};
use super::prefixes::{Prefix, Prefixes};
use super::token_review::remote;
use underpass_api::DeviceLoginWay;

/// Tokens of GitHub, or of a GitHub Enterprise Server.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct GitHub {
    #[serde(default = "public", rename = "apiURL")]
    api_url: String,
    #[serde(default)]
    certificate_authority_file: Option<PathBuf>,
    organizations: Vec<String>,
    #[serde(default)]
    username_prefix: Option<String>,
    #[serde(default)]
    groups_prefix: Option<String>,
    /// The one app whose tokens count.
    #[serde(default)]
    app: Option<App>,
    /// Personal tokens, and those of every app that a member has authorized, count as well.
    #[serde(default)]
    accept_tokens_of_any_app: bool,
    #[serde(default, deserialize_with = "duration")]
    cache: Option<Duration>,
    /// Lets people log in with a code (RFC 8628), by an app of theirs.
    #[serde(default)]
    device_login: Option<Device>,
}

/// An OAuth or GitHub App, which GitHub tells whether a token is one of its own.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct App {
    #[serde(rename = "clientID")]
    client_id: String,
    client_secret_file: PathBuf,
}

/// The app that people's device logins are of. Its secret is not needed.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Device {
    #[serde(rename = "clientID")]
    client_id: String,
    #[serde(default = "site")]
    url: String,
}

fn site() -> String {
    "https://github.com".to_owned()
}

fn public() -> String {
    "https://api.github.com".to_owned()
}

impl GitHub {
    pub(super) fn prefixes(&self) -> Prefixes<'_> {
        let (users, groups) = (self.username_prefix.as_ref(), self.groups_prefix.as_ref());
        Prefixes {
            users: Prefix::said("github.usernamePrefix", users),
            groups: Prefix::said("github.groupsPrefix", groups),
        }
    }

    pub(super) fn files(&self) -> Vec<(String, &Path)> {
        let authority = self.certificate_authority_file.as_deref();
        let authority = authority.map(|path| ("github.certificateAuthorityFile".to_owned(), path));
        let secret = self.app.as_ref().map(|app| {
            let field = "github.app.clientSecretFile".to_owned();
            (field, app.client_secret_file.as_path())
        });
        authority.into_iter().chain(secret).collect()
    }

    /// The parameters of a login with a code.
    pub(super) fn device_login(&self, contents: &Contents) -> Option<DeviceLoginWay> {
        let device = self.device_login.as_ref()?;
        let file = self.certificate_authority_file.as_deref();
        Some(DeviceLoginWay {
            url: device.url.clone(),
            client_id: device.client_id.clone(),
            ca_pem: file.map(|path| String::from_utf8_lossy(contents.of(path)).into_owned()),
        })
    }

    pub(super) fn build(
        &self,
        source: Source,
        limit: Option<Duration>,
        contents: &Contents,
        proxy: Option<&Proxy>,
    ) -> Result<Arc<dyn Authenticator>, ConfigError> {
        let file = self.certificate_authority_file.as_deref();
        let config = GitHubConfig {
            api_url: self.api_url.clone(),
            roots: roots("certificateAuthorityFile", file, contents)?,
            proxy: proxy.cloned(),
            organizations: self.organizations.clone(),
            username_prefix: prefix("usernamePrefix", self.username_prefix.as_ref())?,
            groups_prefix: prefix("groupsPrefix", self.groups_prefix.as_ref())?,
            audience: self.audience(contents)?,
            remote: remote(self.cache, limit),
        };
        if let Some(device) = &self.device_login {
            // Here as there: a mistake is to be found before somebody logs in.
            DeviceLogin::new(&device.url, &config.roots, proxy, device.client_id.clone())
                .map_err(unusable)?;
        }
        if let (Some(device), Some(app)) = (&self.device_login, &self.app)
            && device.client_id != app.client_id
        {
            let why = "must be app.clientID: tokens of another app do not count here";
            return Err(invalid("deviceLogin.clientID", why));
        }
        let built = underpass_authenticate::GitHub::new(source, config)?;
        Ok(Arc::new(built))
    }

    /// The app whose tokens count. Without an answer, any app that a member has once tried could log in as them.
    fn audience(&self, contents: &Contents) -> Result<GitHubAudience, ConfigError> {
        match (&self.app, self.accept_tokens_of_any_app) {
            (Some(app), false) => {
                let secret = contents.of(&app.client_secret_file);
                let secret = Zeroizing::new(String::from_utf8_lossy(secret).into_owned());
                Ok(GitHubAudience::App {
                    client_id: app.client_id.clone(),
                    // Editors end a file with a line feed.
                    client_secret: Zeroizing::new(secret.trim_end_matches(['\r', '\n']).to_owned()),
                })
            }
            (None, true) => Ok(GitHubAudience::AnyApp),
            (Some(_), true) => Err(invalid(
                "acceptTokensOfAnyApp",
                "must be left out beside app: either the tokens of one app count, or those of all",
            )),
            (None, false) => Err(invalid(
                "app",
                "must be said: {clientID: …, clientSecretFile: …} of the OAuth or GitHub App whose tokens count, since a \
                 GitHub token does not say for whom it was made; or acceptTokensOfAnyApp: true, where every app that a \
                 member has authorized may be that member here",
            )),
        }
    }
}

fn unusable(error: DeviceConfigError) -> ConfigError {
    let (field, why) = match error {
        DeviceConfigError::ClientId => ("clientID", Misconfigured::Empty),
        DeviceConfigError::Url => ("url", Misconfigured::Url("https")),
        error => ("url", Misconfigured::Unusable(Box::new(error))),
    };
    ConfigError {
        field: field.to_owned(),
        why,
    }
}

fn invalid(field: &str, why: &'static str) -> ConfigError {
    ConfigError {
        field: field.to_owned(),
        why: Misconfigured::Invalid(why),
    }
}
