//! A cluster's direct endpoint, whose credential goes in and never comes out.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize};
use time::OffsetDateTime;
use underpass_core::ClusterPolicy;
use zeroize::Zeroizing;

/// An API server that the server reaches itself.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(as = DirectSpec))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct DirectSpec {
    /// Its URL: `https://HOST[:PORT][/PATH]`.
    pub server: String,
    /// The CA of its certificate, as PEM. Without it, the system's CAs count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate_authority: Option<String>,
    /// The name in its certificate, where it is not the URL's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls_server_name: Option<String>,
    /// Users and groups that are never impersonated there.
    #[serde(default, skip_serializing_if = "ClusterPolicy::is_empty")]
    pub policy: ClusterPolicy,
    /// The credential for it. The API never shows it. Without it, the credential from before stays, if the server, CA and
    /// name are the same.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "quietly"
    )]
    #[cfg_attr(feature = "openapi", schema(write_only))]
    pub credential: Option<CredentialSpec>,
}

/// One of these.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(
    deny_unknown_fields,
    rename_all = "camelCase",
    rename_all_fields = "camelCase"
)]
pub enum CredentialSpec {
    /// A bearer token.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    Token(Secret),
    /// A client certificate, and its key, as PEM.
    ClientCertificate {
        /// The certificate, and those between it and its CA.
        certificate: String,
        /// Its private key.
        #[cfg_attr(feature = "openapi", schema(value_type = String))]
        key: Secret,
    },
    /// A program that prints an `ExecCredential`: one of those that the server was started with
    /// (`--allow-exec-plugin`).
    Exec {
        /// Its path.
        command: String,
        /// Its arguments.
        #[serde(default)]
        #[cfg_attr(feature = "openapi", schema(value_type = Vec<String>))]
        args: Vec<Secret>,
        /// Its environment, beside `PATH` and `HOME`.
        #[serde(default)]
        #[cfg_attr(feature = "openapi", schema(value_type = BTreeMap<String, String>))]
        env: BTreeMap<String, Secret>,
    },
}

/// A text that shows nothing of itself, and is cleared when it is no longer needed.
#[derive(Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(pub Zeroizing<String>);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

/// serde's errors quote what they do not understand, which may be a secret.
fn quietly<'de, D: Deserializer<'de>>(from: D) -> Result<Option<CredentialSpec>, D::Error> {
    let value = Option::<serde_json::Value>::deserialize(from)?;
    value
        .map(serde_json::from_value)
        .transpose()
        .map_err(|_| {
            D::Error::custom(
                "a credential is {\"token\": …}, {\"clientCertificate\": {\"certificate\": …, \"key\": …}} or \
                 {\"exec\": {\"command\": …, \"args\": […], \"env\": {…}}}",
            )
        })
}

/// The public part of a credential.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct CredentialStatus {
    /// `token`, `clientCertificate` or `exec`.
    pub kind: String,
    /// When a client certificate expires.
    #[serde(
        default,
        with = "time::serde::rfc3339::option",
        skip_serializing_if = "Option::is_none"
    )]
    pub expires: Option<OffsetDateTime>,
}

/// Whether a cluster's API server is there for us.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct Reachability {
    /// It answers, and accepts the credential.
    pub reachable: bool,
    /// Its version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}
