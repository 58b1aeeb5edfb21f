//! `/v1/sessions`: a user registers the key of a session (PROTOCOL.md, "User sessions").

use serde::{Deserialize, Serialize};

/// Where users register keys.
pub const SESSIONS: &str = "/v1/sessions";

/// The target of a user's streams: an HTTP/1.1 connection to the server, as over TLS.
pub const HTTP_TARGET: &str = "http";

/// A key to register. The caller's credential, the request's own, says whose it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct SessionRequest {
    /// The public key: `ed25519:` and 43 base64url characters.
    pub public_key: String,
}

/// A registered key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct SessionMade {
    /// The user whose sessions the key opens.
    pub user: String,
    /// Whether it was registered now; another credential has taken the place of the one before otherwise.
    pub is_new: bool,
    /// Seconds until the key is forgotten where no session uses it.
    pub unused_seconds: u64,
}
