//! TLS with a service, at this server's end of the stream to it.
//!
//! A certificate is verified for `NAME.NAMESPACE.svc`, as kube-apiserver verifies those of webhooks and of aggregated API servers, by
//! CAs that the server was given for the very cluster. (kube-apiserver's own proxy to services verifies nothing.) Without any, `https`
//! services are refused: there is no skipping (security rule 10).

use std::{io, sync::Arc};

use async_trait::async_trait;
use rustls::{CertificateError, ClientConfig, pki_types::ServerName};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::way::ServiceWay;
use underpass_core::{BoxError, BoxedIo, ClusterName, Rejection, limits};
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

/// What is spoken above TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Above {
    Http1,
    Http2,
}

/// Makes TLS on a stream to a service. `upgrades`: HTTP/1.1 and nothing else is wanted above it.
pub(super) async fn connect(
    stream: BoxedIo,
    way: &ServiceWay,
    roots: &dyn ServiceRoots,
    upgrades: bool,
) -> Result<(TlsStream<BoxedIo>, Above), Rejection> {
    let refused = |reason: String| Rejection::ServiceTls {
        service: way.service.clone(),
        reason,
    };
    let config = config(way, roots, upgrades).await.map_err(refused)?;
    let name = way.service.name().unwrap_or_default().to_owned();
    let name = ServerName::try_from(name);
    let name = name.map_err(|_| refused("its name is too long for a certificate".to_owned()))?;
    let connecting = TlsConnector::from(Arc::new(config)).connect(name, stream);
    let connected = tokio::time::timeout(limits::SERVICE_TLS_TIMEOUT, connecting).await;
    let connected = connected.map_err(|_| Rejection::Timeout("TLS with the service"))?;
    let tls = connected.map_err(|error| {
        tracing::debug!(service = %way.service, %error, "no TLS with a service");
        refused(fault(&error, way))
    })?;
    let above = match tls.get_ref().1.alpn_protocol() {
        Some(HTTP_2) => Above::Http2,
        _ => Above::Http1,
    };
    Ok((tls, above))
}

async fn config(
    way: &ServiceWay,
    roots: &dyn ServiceRoots,
    upgrades: bool,
) -> Result<ClientConfig, String> {
    let cluster = &way.cluster;
    let found = roots.roots(cluster).await.map_err(|error| {
        tracing::warn!(%cluster, error = &*error as &dyn std::error::Error, "no CAs of services");
        format!("the CAs that this server has for services of cluster \"{cluster}\" cannot be read")
    })?;
    let roots = found.ok_or_else(|| {
        format!("this server has no CAs for services of cluster \"{cluster}\": its --service-ca-dir needs a file {cluster}.pem")
    })?;
    let mut config = roots.client().map_err(|error| error.to_string())?;
    config.alpn_protocols = match upgrades {
        true => vec![HTTP_1.to_vec()],
        false => vec![HTTP_2.to_vec(), HTTP_1.to_vec()],
    };
    Ok(config)
}

/// In words of ours: a peer's stay in the log (security rule 11).
fn fault(error: &io::Error, way: &ServiceWay) -> String {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    let Some(rustls::Error::InvalidCertificate(fault)) = inner else {
        return "the handshake failed; http is for services without TLS".to_owned();
    };
    match fault {
        // The latter: another CA of the same name.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => format!(
            "none of the CAs that this server has for services of cluster \"{}\" vouches for its certificate",
            way.cluster
        ),
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            let name = way.service.name().unwrap_or_default();
            format!("its certificate is not for {name}")
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "its certificate has expired".to_owned()
        }
        _ => "its certificate is not valid".to_owned(),
    }
}
