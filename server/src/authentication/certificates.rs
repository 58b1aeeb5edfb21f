//! `clientCertificates`

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use underpass_authenticate::{
    Authenticator, CertificatePrefixes, ClientCertificates, ConfigError, Misconfigured,
    RevocationLists, Roots, Source,
};
use underpass_core::BoxError;

use super::entry::prefix;
use super::file::Contents;
use super::prefixes::{Prefix, Prefixes};

/// Client certificates of certain CAs.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Certificates {
    certificate_authority_files: Vec<PathBuf>,
    #[serde(default)]
    revocation_list_files: Vec<PathBuf>,
    #[serde(default)]
    username_prefix: Option<String>,
    #[serde(default)]
    groups_prefix: Option<String>,
}

impl Certificates {
    pub(super) fn prefixes(&self) -> Prefixes<'_> {
        let (users, groups) = (self.username_prefix.as_ref(), self.groups_prefix.as_ref());
        Prefixes {
            users: Prefix::said("clientCertificates.usernamePrefix", users),
            groups: Prefix::said("clientCertificates.groupsPrefix", groups),
        }
    }

    pub(super) fn files(&self) -> Vec<(String, &Path)> {
        let named = |field: &'static str, paths: &'_ [PathBuf]| {
            let name = move |position| format!("clientCertificates.{field}[{position}]");
            (0..paths.len()).map(name).collect::<Vec<_>>()
        };
        let authorities = &self.certificate_authority_files;
        let lists = &self.revocation_list_files;
        let names = named("certificateAuthorityFiles", authorities)
            .into_iter()
            .chain(named("revocationListFiles", lists));
        names
            .zip(authorities.iter().chain(lists).map(PathBuf::as_path))
            .collect()
    }

    pub(super) fn build(
        &self,
        source: Source,
        contents: &Contents,
    ) -> Result<Arc<dyn Authenticator>, ConfigError> {
        // Each by itself: a file without a CA, or without a list, is half written or another one.
        for (position, path) in self.certificate_authority_files.iter().enumerate() {
            let read = Roots::from_pem(contents.of(path));
            read.map_err(|error| unusable("certificateAuthorityFiles", position, error))?;
        }
        let authorities = contents.of_all(&self.certificate_authority_files);
        let roots = Roots::from_pem(&authorities).map_err(|error| ConfigError {
            field: "certificateAuthorityFiles".to_owned(),
            why: Misconfigured::Unusable(Box::new(error)),
        })?;
        let mut revoked = RevocationLists::default();
        for (position, path) in self.revocation_list_files.iter().enumerate() {
            let read = revoked.add(contents.of(path));
            read.map_err(|error| unusable("revocationListFiles", position, error))?;
        }
        let prefixes = CertificatePrefixes {
            username: prefix("usernamePrefix", self.username_prefix.as_ref())?,
            groups: prefix("groupsPrefix", self.groups_prefix.as_ref())?,
        };
        let built = ClientCertificates::new(source, &roots, revoked, prefixes)?;
        Ok(Arc::new(built))
    }
}

fn unusable(field: &str, position: usize, error: impl Into<BoxError>) -> ConfigError {
    ConfigError {
        field: format!("{field}[{position}]"),
        why: Misconfigured::Unusable(error.into()),
    }
}
