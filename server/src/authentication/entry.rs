//! One authenticator of the file.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use underpass_authenticate::{Authenticator, ConfigError, Misconfigured, Reserved, Roots, Source};
use underpass_core::AuthenticationMethod;

use super::Surroundings;
use super::certificates::Certificates;
use super::file::{Contents, duration};
use super::github::GitHub;
use super::jwt::Jwt;
use super::ldap::Ldap;
use super::prefixes::{self, Prefixes};
use super::token_review::Review;
use underpass_api::DeviceLoginWay;

/// A name, and exactly one kind of authenticator.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Entry {
    pub(super) name: String,
    /// The most time that it may take.
    #[serde(default, deserialize_with = "duration")]
    pub(super) timeout: Option<Duration>,
    #[serde(default)]
    reserved_names: Names,
    tokens: Option<Tokens>,
    jwt: Option<Jwt>,
    client_certificates: Option<Certificates>,
    token_review: Option<Review>,
    ldap: Option<Ldap>,
    github: Option<GitHub>,
}

/// Names that begin with `system:` and the like, which it may give nevertheless.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Names {
    #[serde(default)]
    users: BTreeSet<String>,
    #[serde(default)]
    groups: BTreeSet<String>,
}

/// Underpass's own tokens.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Tokens {}

const EARLIER: &str = "is never asked: an earlier directory has no realm, and takes every name";

/// The kind of an entry.
pub(super) enum EntryKind<'a> {
    Tokens,
    Jwt(&'a Jwt),
    Certificates(&'a Certificates),
    Review(&'a Review),
    Ldap(&'a Ldap),
    GitHub(&'a GitHub),
}

/// An authenticator, and its first questions to its provider, which are its caller's to ask.
pub(super) struct Made {
    pub(super) authenticator: Arc<dyn Authenticator>,
    pub(super) warming: Option<BoxFuture<'static, ()>>,
}

impl From<Arc<dyn Authenticator>> for Made {
    fn from(authenticator: Arc<dyn Authenticator>) -> Self {
        Self {
            authenticator,
            warming: None,
        }
    }
}

impl Entry {
    /// The one entry without a file.
    pub(super) fn tokens() -> Self {
        Self {
            name: "tokens".to_owned(),
            tokens: Some(Tokens {}),
            ..Self::default()
        }
    }

    pub(super) fn kind(&self) -> Result<EntryKind<'_>, Misconfigured> {
        let kinds = [
            self.tokens.as_ref().map(|_| EntryKind::Tokens),
            self.jwt.as_ref().map(EntryKind::Jwt),
            self.client_certificates
                .as_ref()
                .map(EntryKind::Certificates),
            self.token_review.as_ref().map(EntryKind::Review),
            self.ldap.as_ref().map(EntryKind::Ldap),
            self.github.as_ref().map(EntryKind::GitHub),
        ];
        let mut kinds = kinds.into_iter().flatten();
        match (kinds.next(), kinds.next()) {
            (Some(kind), None) => Ok(kind),
            _ => Err(Misconfigured::Invalid(
                "needs exactly one of tokens, jwt, clientCertificates, tokenReview, ldap and github",
            )),
        }
    }

    /// The files that it names, and where.
    pub(super) fn files(&self) -> Vec<(String, &Path)> {
        match self.kind() {
            Ok(EntryKind::Jwt(jwt)) => jwt.files(),
            Ok(EntryKind::Certificates(certificates)) => certificates.files(),
            Ok(EntryKind::Ldap(ldap)) => ldap.files(),
            Ok(EntryKind::GitHub(github)) => github.files(),
            Ok(EntryKind::Tokens | EntryKind::Review(_)) | Err(_) => Vec::new(),
        }
    }

    /// The parameters of a login with a code, where it offers that.
    pub(super) fn device_login(&self, contents: &Contents) -> Option<DeviceLoginWay> {
        match self.kind() {
            Ok(EntryKind::GitHub(github)) => github.device_login(contents),
            _ => None,
        }
    }

    /// The prefixes of its names. Underpass's own tokens give the directory's names, which others give by a link only.
    pub(super) fn prefixes(&self) -> Prefixes<'_> {
        match self.kind() {
            Ok(EntryKind::Jwt(jwt)) => jwt.prefixes(),
            Ok(EntryKind::Certificates(certificates)) => certificates.prefixes(),
            Ok(EntryKind::Review(review)) => review.prefixes(),
            Ok(EntryKind::Ldap(ldap)) => ldap.prefixes(),
            Ok(EntryKind::GitHub(github)) => github.prefixes(),
            Ok(EntryKind::Tokens) | Err(_) => Prefixes::default(),
        }
    }

    /// Would it and an earlier one both answer for the same credential?
    pub(super) fn clash(&self, earlier: &Self) -> Option<(&'static str, Misconfigured)> {
        match (self.kind().ok()?, earlier.kind().ok()?) {
            (EntryKind::Tokens, EntryKind::Tokens) => Some(("tokens", twice("tokens"))),
            // Nothing in a token says which GitHub it is of.
            (EntryKind::GitHub(_), EntryKind::GitHub(_)) => Some(("github", twice("github"))),
            (EntryKind::Jwt(ours), EntryKind::Jwt(theirs)) => {
                let same = ours.issuer() == theirs.issuer();
                same.then(|| ("jwt.issuer.url", twice(ours.issuer())))
            }
            (EntryKind::Review(ours), EntryKind::Review(theirs)) => {
                let same = ours.clashes(theirs);
                same.then(|| ("tokenReview.audiences", twice(ours.issuer())))
            }
            (EntryKind::Review(ours), EntryKind::Jwt(theirs)) => {
                let same = ours.issuer() == theirs.issuer();
                same.then(|| ("tokenReview.issuer", twice(ours.issuer())))
            }
            (EntryKind::Jwt(ours), EntryKind::Review(theirs)) => {
                let same = ours.issuer() == theirs.issuer();
                same.then(|| ("jwt.issuer.url", twice(ours.issuer())))
            }
            // Without a realm the earlier one takes every name.
            (EntryKind::Ldap(ours), EntryKind::Ldap(theirs)) => {
                match (ours.realm(), theirs.realm()) {
                    (_, None) => Some(("ldap.realm", Misconfigured::Invalid(EARLIER))),
                    (Some(ours), Some(theirs)) if ours.eq_ignore_ascii_case(theirs) => {
                        Some(("ldap.realm", twice(ours)))
                    }
                    _ => None,
                }
            }
            _ => None,
        }
    }

    /// Could it and an earlier one give the same name to two people? Two reviews of one cluster's tokens mean the same
    /// ServiceAccounts.
    pub(super) fn shares_names(&self, earlier: &Self) -> Option<(&'static str, Misconfigured)> {
        match (self.kind().ok()?, earlier.kind().ok()?) {
            (EntryKind::Review(_), EntryKind::Review(_)) => None,
            _ => prefixes::clash(self, earlier),
        }
    }

    pub(super) fn build(
        &self,
        contents: &Contents,
        surroundings: &Surroundings,
        retired: &CancellationToken,
    ) -> Result<Made, ConfigError> {
        let source = |method| {
            let stated = Reserved {
                users: self.reserved_names.users.clone(),
                groups: self.reserved_names.groups.clone(),
            };
            Source::new(self.name.as_str(), method, stated, retired.clone())
        };
        let kind = self.kind().map_err(|why| ConfigError {
            field: String::new(),
            why,
        })?;
        match kind {
            EntryKind::Tokens => Ok(surroundings.token_authenticator(&self.name).into()),
            EntryKind::Jwt(jwt) => within(
                "jwt",
                jwt.build(
                    source(AuthenticationMethod::Jwt),
                    contents,
                    surroundings.proxy.as_ref(),
                ),
            ),
            EntryKind::Certificates(certificates) => {
                let built = certificates.build(source(AuthenticationMethod::Certificate), contents);
                within("clientCertificates", built)
            }
            EntryKind::Review(review) => {
                let built = review.build(
                    source(AuthenticationMethod::TokenReview),
                    self.timeout,
                    &surroundings.clusters,
                );
                within("tokenReview", built)
            }
            EntryKind::Ldap(ldap) => within(
                "ldap",
                ldap.build(source(AuthenticationMethod::Ldap), self.timeout, contents),
            ),
            EntryKind::GitHub(github) => within(
                "github",
                github.build(
                    source(AuthenticationMethod::GitHub),
                    self.timeout,
                    contents,
                    surroundings.proxy.as_ref(),
                ),
            ),
        }
    }
}

fn within<T: Into<Made>>(
    section: &str,
    built: Result<T, ConfigError>,
) -> Result<Made, ConfigError> {
    built
        .map(Into::into)
        .map_err(|ConfigError { field, why }| ConfigError {
            field: format!("{section}.{field}"),
            why,
        })
}

fn twice(name: &str) -> Misconfigured {
    Misconfigured::Twice(name.to_owned())
}

/// The prefix of names. The file must say it: where two authorities could give one name, its holder at one
/// would have the rights of its holder at the other (security rule 22).
pub(super) fn prefix(field: &str, said: Option<&String>) -> Result<String, ConfigError> {
    said.cloned().ok_or_else(|| ConfigError {
        field: field.to_owned(),
        why: Misconfigured::Invalid(
            "must be said: a text to stand before each name, such as \"corp:\", so that no other authenticator gives the \
             same names; \"\" for none",
        ),
    })
}

/// The CAs of a file, or the system's without one.
pub(super) fn roots(
    field: &str,
    file: Option<&Path>,
    contents: &Contents,
) -> Result<Roots, ConfigError> {
    let roots = match file {
        Some(path) => Roots::from_pem(contents.of(path)),
        None => Roots::system(),
    };
    roots.map_err(|error| ConfigError {
        field: field.to_owned(),
        why: Misconfigured::Unusable(Box::new(error)),
    })
}
