//! `/v1/users/{name}/password`

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// A new password.
#[derive(Deserialize, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct NewPassword {
    /// The new password: twelve characters at least.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub password: Zeroizing<String>,
    /// The current password. Users must send it to change their own; administrators leave it out for others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub current: Option<Zeroizing<String>>,
}
