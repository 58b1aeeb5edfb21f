//! `github`

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use underpass_proxy::authenticate::{Authenticator, ConfigError, GitHubConfig, Source};

use super::entry::roots;
use super::file::{Contents, duration};
use super::token_review::remote;

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
        let built = underpass_proxy::authenticate::GitHub::new(source, config)?;
        Ok(Arc::new(built))
    }
}
