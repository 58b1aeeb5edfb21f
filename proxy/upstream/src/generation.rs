//! A generation of the configuration for the API server: address, TLS, credential and connections of one reading.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use kube::client::ConfigExt;

use super::{
    ApiServerError, credential::Credential, endpoint::Endpoint, pool::Pool, refuse_unsupported,
    unauthorized::Acceptance,
};
use crate::ApiServerOptions;
use underpass_core::Exec;

/// Address, TLS and credential, and the connections that were made with them. A later reading replaces all of it; requests
/// under way end on the one that they began with.
#[derive(Debug)]
pub(super) struct Generation {
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) credential: Credential,
    pub(super) pool: Pool,
    pub(super) acceptance: Acceptance,
    /// The API server has refused the credential.
    refused: AtomicBool,
    /// The configuration names a plugin that kube runs while it reads.
    runs_plugin: bool,
    /// The files below the configuration that this reading depends on.
    files: Vec<PathBuf>,
}

impl Generation {
    /// Reads what `config` names. Blocks: files are read and plugins run.
    pub(super) fn new(
        config: &kube::Config,
        options: &ApiServerOptions,
        plugin: Option<&Exec>,
    ) -> Result<Self, ApiServerError> {
        refuse_unsupported(config, options)?;
        super::install_crypto();
        let tls = config.rustls_client_config();
        let tls = tls.map_err(|error| ApiServerError::Tls(Box::new(error)))?;
        let endpoint = Arc::new(Endpoint::new(config, tls)?);
        let credential = match plugin {
            Some(plugin) => Credential::exec(plugin.clone()),
            None => Credential::new(config).map_err(ApiServerError::Credential)?,
        };
        let auth = &config.auth_info;
        let certificate = [&auth.client_certificate, &auth.client_key];
        let certificate = certificate.into_iter().flatten().map(PathBuf::from);
        Ok(Self {
            pool: Pool::new(Arc::clone(&endpoint)),
            endpoint,
            credential,
            acceptance: Acceptance::default(),
            refused: AtomicBool::new(false),
            runs_plugin: auth.exec.is_some() || auth.auth_provider.is_some(),
            files: certificate.chain(config.root_cert_file.clone()).collect(),
        })
    }

    /// The API server does not accept the credential.
    pub(super) async fn refused(&self) {
        self.refused.store(true, Ordering::Relaxed);
        self.credential.refused().await;
    }

    /// Another reading may be better than this one: the API server has refused it, or is not trusted.
    pub(super) fn is_suspect(&self) -> bool {
        self.refused.load(Ordering::Relaxed) || self.endpoint.is_distrusted()
    }

    /// Another reading may be better though no file has changed.
    pub(super) fn is_of_a_refused_plugin(&self) -> bool {
        self.runs_plugin && self.is_suspect()
    }

    pub(super) fn files(&self) -> &[PathBuf] {
        &self.files
    }
}
