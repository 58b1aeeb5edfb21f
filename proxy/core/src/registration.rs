//! Credentials of clusters that agents register: the administrator's rules for one cluster.

use serde::{Deserialize, Serialize};

use crate::Network;

/// Lets the agents of a cluster register a credential for its API server, with which the server reaches it itself while none of
/// them is connected.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct RegistrationRules {
    /// The networks in which the API server's addresses have to be: there, and nowhere else, the server connects. Without one, anywhere
    /// but at this machine, at link-local addresses and at the addresses of metadata services of clouds.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<String>))]
    pub addresses: Vec<Network>,
}
