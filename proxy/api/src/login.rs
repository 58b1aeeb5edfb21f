//! `/v1/login`: a token for a credential.

use serde::{Deserialize, Serialize};
use underpass_core::Scope;

/// How people may log in here. Nothing of it is secret: they need to know it before they are anybody.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct LoginWays {
    /// With a code that they confirm in a browser.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<DeviceLoginWay>,
}

/// A provider of device logins (RFC 8628), whose token is then what one logs in with here: the login is between the
/// person's machine and the provider, so that nobody can be made to confirm somebody else's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(as = DeviceLogin))]
#[serde(rename_all = "camelCase")]
pub struct DeviceLoginWay {
    /// Where it is.
    pub url: String,
    /// The client id of the app there.
    pub client_id: String,
    /// The CA of its certificate, as PEM. Without it, the system's CAs count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_pem: Option<String>,
}

/// The token to make.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct LoginRequest {
    /// How long it counts: twelve hours at the most, and without saying.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_in_seconds: Option<u64>,
    /// The clusters and requests that it is for.
    #[serde(skip_serializing_if = "Scope::is_everything")]
    pub scope: Scope,
    /// A name for people.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub description: String,
}
