//! A generation of the configuration for the API server: address, TLS, credential and connections of one reading.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use http::HeaderValue;

use super::{
    ApiServerError, ApiServerOptions,
    credential::{Credential, CredentialError},
    endpoint::Endpoint,
    pool::Pool,
    refuse_unsupported, tls,
    unauthorized::Acceptance,
};
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
}

/// The files that `config` names and that a reading depends on. A token file is looked at for itself.
pub(super) fn files_of(config: &kube::Config) -> Vec<PathBuf> {
    let auth = &config.auth_info;
    let certificate = [&auth.client_certificate, &auth.client_key];
    let certificate = certificate.into_iter().flatten();
    let certificate = certificate.filter(|path| !path.is_empty());
    let certificate = certificate.map(PathBuf::from);
    certificate.chain(config.root_cert_file.clone()).collect()
}

impl Generation {
    /// Reads what `config` names. Blocks: files are read. A plugin that the `last` generation has as well goes on, with its token.
    pub(super) fn new(
        config: &kube::Config,
        options: &ApiServerOptions,
        plugin: Option<&Exec>,
        last: Option<&Self>,
    ) -> Result<Self, ApiServerError> {
        refuse_unsupported(config, options)?;
        let auth = &config.auth_info;
        let trusting = tls::trusting(config).map_err(ApiServerError::Tls)?;
        let certificate = tls::certificate(auth).map_err(ApiServerError::Tls)?;
        let tls = match certificate {
            Some(certificate) => tls::showing(&trusting, certificate),
            None => trusting,
        };
        let endpoint = Arc::new(Endpoint::new(config, tls, options.places.as_ref())?);
        let last = last.map(|last| &last.credential);
        let credential = match plugin {
            Some(plugin) => Credential::exec(plugin.clone(), config),
            None => Credential::new(auth, last).map_err(ApiServerError::Credential)?,
        };
        Ok(Self {
            pool: Pool::new(Arc::clone(&endpoint)),
            endpoint,
            credential,
            acceptance: Acceptance::default(),
            refused: AtomicBool::new(false),
        })
    }

    /// Sees whether there is a credential: a plugin of the operator's is run.
    pub(super) async fn try_credential(&self) -> Result<(), ApiServerError> {
        if self.credential.is_to_be_tried() {
            let header = self.header().await;
            header.map_err(ApiServerError::Credential)?;
        }
        Ok(())
    }

    /// The header to send now; `None` where a client certificate says it all. A plugin's client certificate is shown by
    /// connections from now on.
    ///
    /// # Cancel safety
    /// May be dropped.
    pub(super) async fn header(&self) -> Result<Option<HeaderValue>, CredentialError> {
        let proof = self.credential.proof().await?;
        if self.endpoint.show(proof.certificate) {
            self.pool.renew();
            self.acceptance.forget().await;
        }
        Ok(proof.header)
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
}
