//! `github`

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use underpass_proxy::authenticate::{
    Authenticator, ConfigError, DeviceLogin, GitHubConfig, Source,
};

use super::entry::roots;
use super::file::{Contents, duration};
use super::token_review::remote;
use crate::api::DeviceLoginWay;

/// Tokens of GitHub, or of a GitHub Enterprise Server.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct GitHub {
    #[serde(default = "public", rename = "apiURL")]
    api_url: String,
    #[serde(default)]
    certificate_authority_file: Option<PathBuf>,
    organizations: Vec<String>,
    #[serde(default)]
    username_prefix: String,
    #[serde(default)]
    groups_prefix: String,
    #[serde(default, deserialize_with = "duration")]
    cache: Option<Duration>,
    /// Lets people log in with a code (RFC 8628), by an app of theirs.
    #[serde(default)]
    device_login: Option<Device>,
}

/// The app that people's device logins are of. Its secret is not needed.
#[derive(Debug, Clone, PartialEq, Deserialize)]
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
    pub(super) fn files(&self) -> Vec<(String, &Path)> {
        let field = "github.certificateAuthorityFile".to_owned();
        let file = self.certificate_authority_file.as_deref();
        file.map(|path| (field, path)).into_iter().collect()
    }

    /// What somebody needs to log in with a code.
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
        contents: &Contents,
    ) -> Result<Arc<dyn Authenticator>, ConfigError> {
        let file = self.certificate_authority_file.as_deref();
        let config = GitHubConfig {
            api_url: self.api_url.clone(),
            roots: roots("certificateAuthorityFile", file, contents)?,
            organizations: self.organizations.clone(),
            username_prefix: self.username_prefix.clone(),
            groups_prefix: self.groups_prefix.clone(),
            remote: remote(self.cache),
        };
        if let Some(device) = &self.device_login {
            // Here as there: a mistake is to be found before somebody logs in.
            DeviceLogin::new(&device.url, &config.roots, device.client_id.clone())?;
        }
        let built = underpass_proxy::authenticate::GitHub::new(source, config)?;
        Ok(Arc::new(built))
    }
}
