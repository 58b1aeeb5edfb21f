//! TLS with a service, at this server's end of the stream to it.
//!
//! A certificate is verified for `NAME.NAMESPACE.svc`, as kube-apiserver verifies those of webhooks and of aggregated API servers, by
//! CAs that the server was given for the very cluster. (kube-apiserver's own proxy to services verifies nothing.) Without any, `https`
//! services are refused: there is no skipping (security rule 10).

use std::{io, sync::Arc};

use async_trait::async_trait;
use rustls::{CertificateError, ClientConfig, pki_types::ServerName};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{NoAnswer, call::ServiceCall};
use underpass_core::{
    BoxError, BoxedIo, ClusterLogShare, ClusterName, Rejection, TcpTarget, limits,
};
use underpass_http::exchange;
use underpass_https::Roots;

const HTTP_2: &[u8] = b"h2";
const HTTP_1: &[u8] = b"http/1.1";

/// The CAs that vouch for the services of clusters.
#[async_trait]
pub trait ServiceRoots: Send + Sync {
    /// Those of this cluster; `None` where there are none.
    ///
    /// # Errors
    /// They cannot be read. The cause goes to the log.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    async fn roots(&self, cluster: &ClusterName) -> Result<Option<Roots>, BoxError>;
}

/// No cluster has any.
#[derive(Clone, Copy, Debug)]
pub struct NoServiceRoots;

#[async_trait]
impl ServiceRoots for NoServiceRoots {
    async fn roots(&self, _: &ClusterName) -> Result<Option<Roots>, BoxError> {
        Ok(None)
    }
}

/// The version of HTTP above TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Above {
    Http1,
    Http2,
}

/// TLS with a service, whose CAs are known.
pub(super) struct Tls {
    service: TcpTarget,
    cluster: ClusterName,
    name: ServerName<'static>,
    config: Arc<ClientConfig>,
}

impl Tls {
    /// For a request: above TLS for an upgrade, HTTP/1.1 and nothing else is wanted.
    pub(super) async fn of(
        call: &ServiceCall,
        roots: &dyn ServiceRoots,
        lines: &ClusterLogShare,
    ) -> Result<Self, Rejection> {
        let (service, cluster) = (&call.way().service, &call.way().cluster);
        let refused = |reason: String| Rejection::ServiceTls {
            service: service.clone(),
            reason,
        };
        let name = service.name().unwrap_or_default().to_owned();
        let name = ServerName::try_from(name);
        let name = name.map_err(|_| refused("no certificate can have its name".to_owned()))?;
        let found = roots.roots(cluster).await.map_err(|error| {
            if let Some(suppressed) = lines.take(cluster.as_str()) {
                let error = &*error as &dyn std::error::Error;
                tracing::warn!(suppressed, %cluster, error, "the CAs of a cluster's services cannot be used");
            }
            refused(format!(
                "the CAs that this server has for services of cluster \"{cluster}\" cannot be read"
            ))
        })?;
        let roots = found.ok_or_else(|| {
            refused(format!(
                "this server has no CAs for services of cluster \"{cluster}\": its --service-ca-dir needs a file {cluster}.pem"
            ))
        })?;
        let config = roots.client().map_err(|error| refused(error.to_string()));
        let mut config = config?;
        config.alpn_protocols = match call.upgrade() {
            Some(_) => vec![HTTP_1.to_vec()],
            None => vec![HTTP_2.to_vec(), HTTP_1.to_vec()],
        };
        Ok(Self {
            service: service.clone(),
            cluster: cluster.clone(),
            name,
            config: Arc::new(config),
        })
    }

    /// Makes it on a stream.
    pub(super) async fn connect(
        &self,
        stream: BoxedIo,
    ) -> Result<(TlsStream<BoxedIo>, Above), NoAnswer> {
        let (name, config) = (self.name.clone(), Arc::clone(&self.config));
        let connecting = TlsConnector::from(config).connect(name, stream);
        let connected = tokio::time::timeout(limits::SERVICE_TLS_TIMEOUT, connecting).await;
        let connected = connected.map_err(|_| Rejection::Timeout("TLS with the service"))?;
        let tls = connected.map_err(|error| {
            tracing::debug!(service = %self.service, %error, "no TLS with a service");
            if exchange::is_of_the_way(error.kind()) {
                return NoAnswer::AgentGone(self.service.clone());
            }
            NoAnswer::Other(Rejection::ServiceTls {
                reason: self.fault(&error),
                service: self.service.clone(),
            })
        })?;
        let above = match tls.get_ref().1.alpn_protocol() {
            Some(HTTP_2) => Above::Http2,
            _ => Above::Http1,
        };
        Ok((tls, above))
    }

    /// In words of ours: a peer's stay in the log (security rule 11).
    fn fault(&self, error: &io::Error) -> String {
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
        let Some(rustls::Error::InvalidCertificate(fault)) = inner else {
            return "the handshake failed; http is for services without TLS".to_owned();
        };
        match fault {
            // The latter: another CA of the same name.
            CertificateError::UnknownIssuer | CertificateError::BadSignature => format!(
                "none of the CAs that this server has for services of cluster \"{}\" vouches for its certificate",
                self.cluster
            ),
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                let name = self.service.name().unwrap_or_default();
                format!("its certificate is not for {name}")
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                "its certificate has expired".to_owned()
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                "its certificate is not valid yet".to_owned()
            }
            CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
                "its certificate is not for servers".to_owned()
            }
            // webpki's word for a CA's certificate that a server shows.
            CertificateError::Other(_) => format!(
                "its certificate is a CA's, and not one of those that this server has for services of cluster \"{}\"",
                self.cluster
            ),
            _ => "its certificate is not valid".to_owned(),
        }
    }
}
