//! `/v1/tokens`: bearer tokens of users.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use underpass_core::{Name, Revision, Scope};
use zeroize::Zeroizing;

/// A token, without its secret.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(as = Token))]
#[serde(rename_all = "camelCase")]
pub struct TokenView {
    /// Its id: the beginning of its hash.
    pub id: String,
    /// Of its last change.
    #[cfg_attr(feature = "openapi", schema(value_type = u64))]
    pub revision: Revision,
    /// The user.
    pub user: String,
    /// The authenticator of the login that made the token; absent for users of the directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authenticated_by: Option<String>,
    /// When it was made.
    #[serde(with = "time::serde::rfc3339")]
    pub created: OffsetDateTime,
    /// The end of its life.
    #[serde(
        default,
        with = "time::serde::rfc3339::option",
        skip_serializing_if = "Option::is_none"
    )]
    pub expires: Option<OffsetDateTime>,
    /// The time until which a login renews it.
    #[serde(
        default,
        with = "time::serde::rfc3339::option",
        skip_serializing_if = "Option::is_none"
    )]
    pub renewable_until: Option<OffsetDateTime>,
    /// When it was last used, to some minutes.
    #[serde(
        default,
        with = "time::serde::rfc3339::option",
        skip_serializing_if = "Option::is_none"
    )]
    pub last_used: Option<OffsetDateTime>,
    /// The token that it was made with. Taking that one back ends this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// The clusters and requests that it is for.
    #[serde(default, skip_serializing_if = "Scope::is_everything")]
    pub scope: Scope,
    /// A name for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
}

/// A token to make.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct TokenRequest {
    /// The user; without it, the requester.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub user: Option<Name>,
    /// How long it counts: no longer than the credential that asks for it. Only administrators make tokens without an
    /// end, with a credential that has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_in_seconds: Option<u64>,
    /// Its scope, which is within that of the requester's own credential. It names 64 clusters at the most, which
    /// there are.
    #[serde(skip_serializing_if = "Scope::is_everything")]
    pub scope: Scope,
    /// A name for people.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub description: String,
}

/// A token that was just made.
#[derive(Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct TokenMade {
    /// The token itself, which is kept nowhere.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub token: Zeroizing<String>,
    /// The token without its secret, as the server keeps it.
    pub about: TokenView,
}
