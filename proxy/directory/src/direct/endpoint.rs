//! Where an API server is.

use http::Uri;
use rustls_pki_types::ServerName;
use serde::{Deserialize, Serialize};

use crate::{object::ObjectKind, seal::SealContext};
use underpass_authenticate::{Roots, RootsError};
use underpass_core::ClusterName;

/// An API server's address, and the CA and name of its certificate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "RawEndpoint", into = "RawEndpoint")]
pub struct Endpoint(RawEndpoint);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct RawEndpoint {
    server: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    certificate_authority: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tls_server_name: Option<String>,
}

/// Why an endpoint is none. The URL is not repeated: it may contain a password.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EndpointError {
    /// Without TLS any host on the way could read the credential.
    #[error("the API server's URL is http; it has to be https")]
    Plain,
    /// Not a URL of an API server.
    #[error("the API server's URL is not https://HOST[:PORT][/PATH]")]
    Url,
    /// The CA is unusable.
    #[error("the certificate authority cannot be used")]
    Authority(#[source] RootsError),
    /// The name that the certificate is to have is none.
    #[error("the TLS server name is neither a DNS name nor an IP address")]
    ServerName,
}

impl Endpoint {
    /// `https://HOST[:PORT][/PATH]`; the CA as PEM, otherwise the system's; the certificate's name, where it is not the URL's.
    ///
    /// # Errors
    /// The fault of the endpoint.
    pub fn new(
        server: String,
        certificate_authority: Option<String>,
        tls_server_name: Option<String>,
    ) -> Result<Self, EndpointError> {
        let uri: Uri = server.parse().map_err(|_| EndpointError::Url)?;
        let authority = uri.authority().ok_or(EndpointError::Url)?;
        let odd = uri.query().is_some() || authority.as_str().contains('@');
        match uri.scheme_str() {
            Some("https") if !odd && !authority.host().is_empty() => {}
            Some("http") => return Err(EndpointError::Plain),
            _ => return Err(EndpointError::Url),
        }
        if let Some(pem) = &certificate_authority {
            Roots::from_pem(pem.as_bytes()).map_err(EndpointError::Authority)?;
        }
        if let Some(name) = &tls_server_name {
            ServerName::try_from(name.as_str()).map_err(|_| EndpointError::ServerName)?;
        }
        Ok(Self(RawEndpoint {
            server,
            certificate_authority,
            tls_server_name,
        }))
    }

    /// The URL.
    pub fn server(&self) -> &str {
        &self.0.server
    }

    /// The CA, as PEM.
    pub fn certificate_authority(&self) -> Option<&str> {
        self.0.certificate_authority.as_deref()
    }

    /// The name in its certificate.
    pub fn tls_server_name(&self) -> Option<&str> {
        self.0.tls_server_name.as_deref()
    }

    /// A field of the credential for this endpoint.
    pub(super) fn place(&self, cluster: &ClusterName, field: &str) -> SealContext {
        SealContext::new(ObjectKind::Cluster.as_str(), cluster.as_str(), field)
            .and(self.server())
            .and(self.certificate_authority().unwrap_or_default())
            .and(self.tls_server_name().unwrap_or_default())
    }
}

impl TryFrom<RawEndpoint> for Endpoint {
    type Error = EndpointError;

    fn try_from(raw: RawEndpoint) -> Result<Self, EndpointError> {
        Self::new(raw.server, raw.certificate_authority, raw.tls_server_name)
    }
}

impl From<Endpoint> for RawEndpoint {
    fn from(endpoint: Endpoint) -> Self {
        endpoint.0
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::tests::{URL, pair},
        *,
    };

    #[test]
    fn endpoints_are_https_and_nothing_else() {
        for good in [
            URL,
            "https://h",
            "https://h/k8s/clusters/a",
            "https://[::1]:6443/",
        ] {
            Endpoint::new(good.to_owned(), None, None).unwrap();
        }
        for bad in [
            "",
            "h:6443",
            "/x",
            "http://h",
            "ftp://h",
            "https://u:hunter2@h",
            "https://h/?token=hunter2",
        ] {
            let error = Endpoint::new(bad.to_owned(), None, None).unwrap_err();
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
        let bad_ca = Endpoint::new(URL.to_owned(), Some("x".to_owned()), None);
        assert!(matches!(bad_ca, Err(EndpointError::Authority(_))));
        let bad_name = Endpoint::new(URL.to_owned(), None, Some("a b".to_owned()));
        assert!(matches!(bad_name, Err(EndpointError::ServerName)));
        let (ca, _) = pair();
        Endpoint::new(URL.to_owned(), Some(ca), Some("kubernetes".to_owned())).unwrap();
    }
}
