//! ID tokens of OpenID Connect providers, with the meaning that kube-apiserver gives them
//! (`--oidc-…`, `AuthenticationConfiguration`).

mod claims;
mod config;
mod elsewhere;
mod keys;
mod path;
mod verify;

use std::sync::Arc;

use async_trait::async_trait;

pub use self::config::{
    Algorithm, Claims, OidcConfig, PrefixedClaim, RequiredClaim, UnknownAlgorithm,
};
use self::{claims::Meaning, keys::Issuer};
use super::{AuthenticateError, Authenticated, Authenticator, Caller, Source, config::ConfigError};

/// Accepts the tokens of one issuer.
///
/// A token is its own when its `iss` is the configured issuer, character by character. Its keys come from the
/// issuer's discovery document. Where the issuer cannot be reached, the keys that are known go on serving.
pub struct Oidc {
    source: Source,
    config: OidcConfig,
    meaning: Meaning,
    issuer: Arc<Issuer>,
}

impl Oidc {
    /// Checks the configuration. The issuer is asked when the first token comes, or by [`Oidc::warm_up`].
    ///
    /// # Errors
    /// The field that cannot be used.
    pub fn new(source: Source, config: OidcConfig) -> Result<Self, ConfigError> {
        let issuer = config.issuer()?;
        let meaning = Meaning::of(&config)?;
        Ok(Self {
            meaning,
            source,
            issuer: Arc::new(issuer),
            config,
        })
    }

    /// Fetches the issuer's keys now, so that a fault shows in the log before a user finds it.
    pub async fn warm_up(&self) {
        // It has said in the log how it went.
        let _ = self.issuer.refresh().await;
    }
}

impl std::fmt::Debug for Oidc {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Oidc")
            .field("source", &self.source)
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl Authenticator for Oidc {
    async fn authenticate(
        &self,
        caller: &Caller<'_>,
    ) -> Result<Option<Authenticated>, AuthenticateError> {
        let (Some(token), Some(peeked)) = (caller.bearer(), caller.jwt()) else {
            return Ok(None);
        };
        if peeked.issuer != self.config.issuer_url {
            return Ok(None);
        }
        let claims = verify::verify(token, &self.config, &self.issuer).await?;
        let assertion = claims::assertion(&claims, &self.meaning)?;
        Ok(Some(self.source.vouch(assertion)?))
    }
}
