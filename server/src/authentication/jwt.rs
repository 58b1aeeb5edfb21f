//! `jwt`: the fields of kube-apiserver's `AuthenticationConfiguration`, with files in place of inline certificates,
//! and claims in place of CEL.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use underpass_authenticate::{
    Algorithm, Claims, ConfigError, Misconfigured, Oidc, OidcConfig, PrefixedClaim, RequiredClaim,
    Source,
};
use underpass_https::Proxy;

use super::entry::{Made, prefix, roots};
use super::file::{Contents, duration};
use super::prefixes::{Prefix, Prefixes};
use crate::limits;

/// Tokens of one OpenID Connect provider.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Jwt {
    issuer: Issuer,
    #[serde(default)]
    claim_mappings: Mappings,
    #[serde(default)]
    claim_validation_rules: Vec<Rule>,
    #[serde(default)]
    signing_algorithms: Option<Vec<String>>,
    #[serde(default, deserialize_with = "duration")]
    clock_skew: Option<Duration>,
    #[serde(default, deserialize_with = "duration")]
    login_lifetime: Option<Duration>,
}

#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Issuer {
    url: String,
    #[serde(default, rename = "discoveryURL")]
    discovery_url: Option<String>,
    audiences: Vec<String>,
    #[serde(default)]
    certificate_authority_file: Option<PathBuf>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Mappings {
    #[serde(default)]
    username: Option<Username>,
    #[serde(default)]
    groups: Option<Mapping>,
    #[serde(default)]
    uid: Option<Uid>,
    #[serde(default)]
    extra: Vec<Extra>,
}

#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Username {
    /// `sub` without.
    #[serde(default)]
    claim: Option<String>,
    #[serde(default)]
    prefix: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Mapping {
    claim: String,
    #[serde(default)]
    prefix: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Uid {
    claim: String,
}

#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Extra {
    key: String,
    claim: String,
}

#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Rule {
    claim: String,
    required_value: String,
}

/// How far clocks may differ, unless it is said.
const CLOCK_SKEW: Duration = Duration::from_secs(10);

impl Jwt {
    pub(super) fn issuer(&self) -> &str {
        &self.issuer.url
    }

    pub(super) fn prefixes(&self) -> Prefixes<'_> {
        let users = self.claim_mappings.username.as_ref();
        let users = users.and_then(|users| users.prefix.as_ref());
        let groups = self.claim_mappings.groups.as_ref();
        let groups = groups.and_then(|groups| groups.prefix.as_ref());
        Prefixes {
            users: Prefix::said("jwt.claimMappings.username.prefix", users),
            groups: Prefix::said("jwt.claimMappings.groups.prefix", groups),
        }
    }

    pub(super) fn files(&self) -> Vec<(String, &Path)> {
        let field = "jwt.issuer.certificateAuthorityFile".to_owned();
        let file = self.issuer.certificate_authority_file.as_deref();
        file.map(|path| (field, path)).into_iter().collect()
    }

    pub(super) fn build(
        &self,
        source: Source,
        contents: &Contents,
        proxy: Option<&Proxy>,
    ) -> Result<Made, ConfigError> {
        let issuer = &self.issuer;
        let file = issuer.certificate_authority_file.as_deref();
        let config = OidcConfig {
            issuer_url: issuer.url.clone(),
            discovery_url: issuer.discovery_url.clone(),
            audiences: issuer.audiences.clone(),
            roots: roots("issuer.certificateAuthorityFile", file, contents)?,
            proxy: proxy.cloned(),
            algorithms: self.algorithms()?,
            clock_skew: self.clock_skew.unwrap_or(CLOCK_SKEW),
            login_lifetime: self.login_lifetime()?,
            claims: self.claim_mappings.claims()?,
            required: self
                .claim_validation_rules
                .iter()
                .map(Rule::required)
                .collect(),
        };
        let oidc = Arc::new(Oidc::new(source, config)?);
        let warming = Arc::clone(&oidc);
        Ok(Made {
            authenticator: oidc,
            warming: Some(Box::pin(async move { warming.warm_up().await })),
        })
    }

    fn login_lifetime(&self) -> Result<Option<Duration>, ConfigError> {
        if self
            .login_lifetime
            .is_some_and(|lifetime| lifetime > limits::LOGIN_TOKEN)
        {
            return Err(ConfigError {
                field: "loginLifetime".to_owned(),
                why: Misconfigured::Range("at most 12h"),
            });
        }
        Ok(self.login_lifetime)
    }

    fn algorithms(&self) -> Result<Vec<Algorithm>, ConfigError> {
        let Some(names) = &self.signing_algorithms else {
            return Ok(vec![Algorithm::RS256]);
        };
        let named = names.iter().enumerate().map(|(position, name)| {
            name.parse().map_err(|_| ConfigError {
                field: format!("signingAlgorithms[{position}]"),
                why: Misconfigured::NoneOf {
                    value: name.clone(),
                    allowed: Algorithm::NAMES,
                },
            })
        });
        named.collect()
    }
}

impl Mappings {
    fn claims(&self) -> Result<Claims, ConfigError> {
        let username = self.username.as_ref();
        let before = username.and_then(|username| username.prefix.as_ref());
        let mut claims = Claims::subject(prefix("claimMappings.username.prefix", before)?);
        if let Some(claim) = username.and_then(|username| username.claim.clone()) {
            claims.username = claim;
        }
        if let Some(groups) = &self.groups {
            claims.groups = Some(PrefixedClaim {
                claim: groups.claim.clone(),
                prefix: prefix("claimMappings.groups.prefix", groups.prefix.as_ref())?,
            });
        }
        let extra = self.extra.iter();
        claims.extra = extra
            .map(|extra| (extra.key.clone(), extra.claim.clone()))
            .collect();
        claims.uid = self.uid.as_ref().map(|uid| uid.claim.clone());
        Ok(claims)
    }
}

impl Rule {
    fn required(&self) -> RequiredClaim {
        RequiredClaim {
            claim: self.claim.clone(),
            value: self.required_value.clone(),
        }
    }
}
