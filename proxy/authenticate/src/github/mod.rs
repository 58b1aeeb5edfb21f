//! GitHub's tokens: a person's, or one that a device login gave them.
//!
//! The token is sent to the configured API only. Its owner's login is the user; `ORGANIZATION` and `ORGANIZATION:TEAM` are
//! groups. GitHub's logins may be renamed and taken by others, so that the account's number is the uid.

mod api;
mod audience;

use std::{fmt, net::IpAddr};

use async_trait::async_trait;

use self::api::Api;
pub use self::audience::GitHubAudience;
use super::{
    AuthenticateError, Authenticated, Authenticator, Caller, ConfigError, CredentialError,
    Misconfigured, Proxy, RemoteOptions, Roots, Source,
    config::{https_url, not_empty},
    remote::{Credential, Lookup, Remote},
    source::Assertion,
};
use underpass_core::Identity;
use underpass_https::Https;

/// The prefixes of GitHub's tokens: personal ones (classic and fine-grained), and those of OAuth and GitHub Apps for a user.
/// Those of installations (`ghs_`) and refresh tokens (`ghr_`) belong to no user.
const PREFIXES: [&str; 4] = ["ghp_", "github_pat_", "gho_", "ghu_"];

/// GitHub, or a GitHub Enterprise Server.
#[derive(Clone, Debug)]
pub struct GitHubConfig {
    /// Its REST API: `https://api.github.com`, `https://HOST/api/v3`.
    pub api_url: String,
    /// The roots of its certificate.
    pub roots: Roots,
    /// The proxy that it is asked through, where the proxy does not except it.
    pub proxy: Option<Proxy>,
    /// Members of these organizations may come in; only they are groups. At least one: GitHub accounts are open to all.
    pub organizations: Vec<String>,
    /// The prefix of logins.
    pub username_prefix: String,
    /// The prefix of organizations and teams.
    pub groups_prefix: String,
    /// The apps whose tokens count.
    pub audience: GitHubAudience,
    /// How it asks.
    pub remote: RemoteOptions,
}

/// Accepts GitHub's tokens.
pub struct GitHub(Remote<Account>);

impl GitHub {
    /// Checks the configuration.
    ///
    /// # Errors
    /// The field that cannot be used.
    pub fn new(source: Source, config: GitHubConfig) -> Result<Self, ConfigError> {
        https_url("apiURL", &config.api_url)?;
        if config.organizations.is_empty() {
            return Err(ConfigError::new("organizations", Misconfigured::Empty));
        }
        for (position, organization) in config.organizations.iter().enumerate() {
            not_empty(&format!("organizations[{position}]"), organization)?;
        }
        config.audience.check()?;
        let https = Https::new(&config.roots, config.proxy.as_ref())
            .map_err(|e| ConfigError::unusable("apiURL", e))?;
        let options = config.remote;
        let account = Account {
            source: source.clone(),
            api: Api::new(https, &config.api_url),
            config,
        };
        let remote = Remote::new(account, source, options);
        Ok(Self(
            remote.map_err(|e| ConfigError::unusable("apiURL", e))?,
        ))
    }
}

impl fmt::Debug for GitHub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GitHub").finish_non_exhaustive()
    }
}

#[async_trait]
impl Authenticator for GitHub {
    async fn authenticate(
        &self,
        caller: &Caller<'_>,
    ) -> Result<Option<Authenticated>, AuthenticateError> {
        self.0.authenticate(caller).await
    }
}

struct Account {
    source: Source,
    api: Api,
    config: GitHubConfig,
}

#[async_trait]
impl Lookup for Account {
    fn claim(&self, caller: &Caller<'_>) -> Result<Option<Credential>, CredentialError> {
        let Some(token) = caller.bearer() else {
            return Ok(None);
        };
        if !PREFIXES.iter().any(|prefix| token.starts_with(prefix)) {
            return Ok(None);
        }
        let legal = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
        if token.len() > 255 || !token.bytes().all(legal) {
            return Err(CredentialError::Malformed);
        }
        Ok(Some(Credential::bearer(token)))
    }

    async fn look_up(
        &self,
        credential: &Credential,
        _: IpAddr,
    ) -> Result<Identity, AuthenticateError> {
        let Credential::Bearer(token) = credential else {
            return Err(CredentialError::Malformed.into());
        };
        // First: a token that was made for another app gets no further.
        self.config.audience.includes(token, &self.api).await?;
        let user = self.api.user(token).await?;
        let organizations = self.api.organizations(token).await?;
        let allowed = |name: &str| {
            let mut allowed = self.config.organizations.iter();
            allowed.any(|allowed| allowed.eq_ignore_ascii_case(name))
        };
        let prefix = &self.config.groups_prefix;
        let member = organizations
            .iter()
            .filter(|organization| allowed(&organization.login));
        let mut groups: Vec<_> = member.map(|o| format!("{prefix}{}", o.login)).collect();
        if groups.is_empty() {
            return Err(CredentialError::NotAllowed.into());
        }
        for team in self.api.teams(token).await? {
            if allowed(&team.organization.login) {
                groups.push(format!("{prefix}{}:{}", team.organization.login, team.slug));
            }
        }
        Ok(self.source.identity(Assertion {
            user: format!("{}{}", self.config.username_prefix, user.login),
            uid: Some(user.id.to_string()),
            groups,
            ..Assertion::default()
        })?)
    }
}
