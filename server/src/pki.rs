//! The server's own CA, and the certificate that it serves.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use arc_swap::ArcSwap;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ClientHello, NoClientAuth, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use time::{Duration as Span, OffsetDateTime};
use tokio::sync::Notify;

use underpass_tunnel::transport::quic::ResetKey;
use underpass_tunnel::{CaPin, tls};

use crate::authentication::Fingerprints;
use crate::data_dir::DataDir;

const CA_CERTIFICATE: &str = "ca.pem";
const CA_KEY: &str = "ca.key";

/// Agents and kubeconfigs pin the CA: replacing it means visiting them all.
const CA_LIFE: Span = Span::days(365 * 10);

/// The server makes itself a new certificate long before the old one ends, so short costs nothing.
const CERTIFICATE_LIFE: Span = Span::days(30);

/// Clocks differ: a certificate is valid from a little before it was made.
const CLOCK_SKEW: Span = Span::hours(1);

/// How often the served certificate is made anew.
const RENEWAL: Duration = Duration::from_secs(24 * 60 * 60);

/// The CA that agents and kubeconfigs pin.
pub(crate) struct Ca {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
}

impl Ca {
    /// The data directory's CA, made there at the first start.
    pub(crate) fn load_or_create(data: &DataDir) -> Result<Self> {
        let _lock = data.lock()?;
        match (data.read(CA_CERTIFICATE)?, data.read(CA_KEY)?) {
            (Some(pem), Some(key)) => Self::load(&pem, &key),
            (None, None) => Self::create(data),
            _ => anyhow::bail!(
                "{} and {} belong together, and one of them is missing: restore it from a backup",
                data.path(CA_CERTIFICATE).display(),
                data.path(CA_KEY).display(),
            ),
        }
        .context("cannot use the server's CA")
    }

    fn load(pem: &str, key: &str) -> Result<Self> {
        let key = KeyPair::from_pem(key)?;
        let issuer = Issuer::from_ca_cert_pem(pem, key)?;
        let certificate = first_certificate(pem)?;
        Ok(Self {
            issuer,
            certificate,
        })
    }

    fn create(data: &DataDir) -> Result<Self> {
        let key = KeyPair::generate()?;
        let mut params = params("Underpass CA", CA_LIFE)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let pem = params.self_signed(&key)?.pem();
        // The key first: a certificate alone would look like a CA whose key was lost.
        data.write(CA_KEY, &key.serialize_pem())?;
        data.write(CA_CERTIFICATE, &pem)?;
        tracing::info!(path = %data.path(CA_CERTIFICATE).display(), "made a new CA");
        Self::load(&pem, &key.serialize_pem())
    }

    /// The CA's certificate of a data directory that a server has used, as PEM.
    pub(crate) fn certificate(data: &DataDir) -> Result<String> {
        data.read(CA_CERTIFICATE)?.with_context(|| {
            format!(
                "{} does not exist: start `underpass-server serve` once, or name its --data-dir",
                data.path(CA_CERTIFICATE).display()
            )
        })
    }

    /// A pin, by which agents may know the CA instead of by its certificate.
    pub(crate) fn pin(data: &DataDir) -> Result<CaPin> {
        let pem = Self::certificate(data)?;
        first_certificate(&pem)
            .and_then(|certificate| Ok(CaPin::of(&certificate)?))
            .with_context(|| format!("cannot use {}", data.path(CA_CERTIFICATE).display()))
    }

    /// The key of QUIC's stateless resets: as lasting and as secret as the CA's own.
    pub(crate) fn reset_key(&self) -> ResetKey {
        ResetKey::derive(&self.issuer.key().serialize_der())
    }

    /// The secret of what this server says about its authenticators to its next run.
    pub(crate) fn fingerprints(&self, data: &DataDir) -> Fingerprints {
        Fingerprints::new(data.clone(), &self.issuer.key().serialize_der())
    }

    fn issue(&self, names: &[String]) -> Result<CertifiedKey> {
        let key = KeyPair::generate()?;
        let mut params = params("Underpass server", CERTIFICATE_LIFE)?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        for name in names {
            params.subject_alt_names.push(match name.parse::<IpAddr>() {
                Ok(address) => SanType::IpAddress(address),
                Err(_) => SanType::DnsName(name.as_str().try_into()?),
            });
        }
        let certificate = params.signed_by(&key, &self.issuer)?;
        let key = PrivateKeyDer::try_from(key.serialize_der()).map_err(anyhow::Error::msg)?;
        let key = aws_lc_rs::sign::any_supported_type(&key)?;
        // Agents that know no more of the CA than its pin look for it there.
        let chain = vec![certificate.der().clone(), self.certificate.clone()];
        Ok(CertifiedKey::new(chain, key))
    }
}

/// The CA's certificate: the first one of its file.
fn first_certificate(pem: &str) -> Result<CertificateDer<'static>> {
    let certificates = tls::certificates(pem.as_bytes())?;
    certificates.into_iter().next().context("no certificate")
}

fn params(common_name: &str, life: Span) -> Result<CertificateParams> {
    let now = OffsetDateTime::now_utc();
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, common_name);
    params.not_before = now - CLOCK_SKEW;
    params.not_after = now + life;
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

/// The certificate that TLS and QUIC serve: one of ours, made anew every day, or the operator's.
#[derive(Debug)]
pub(crate) struct ServerCertificate {
    served: ArcSwap<CertifiedKey>,
    asked: Notify,
}

impl ServerCertificate {
    /// A certificate for `names`: DNS names and IP addresses.
    pub(crate) fn new(ca: &Ca, names: &[String]) -> Result<Arc<Self>> {
        let certificate = ca
            .issue(names)
            .context("cannot make the server's certificate")?;
        Ok(Self::of(Arc::new(certificate)))
    }

    /// One that comes from somewhere else.
    pub(crate) fn of(served: Arc<CertifiedKey>) -> Arc<Self> {
        Arc::new(Self {
            served: ArcSwap::new(served),
            asked: Notify::new(),
        })
    }

    /// Serves another one from the next handshake on.
    pub(crate) fn serve(&self, served: Arc<CertifiedKey>) {
        self.served.store(served);
    }

    /// The certificate itself, without its chain.
    #[cfg(test)]
    pub(crate) fn leaf(&self) -> CertificateDer<'static> {
        self.served.load().cert[0].clone()
    }

    /// Asks for a look at where it comes from.
    pub(crate) fn look_again(&self) {
        self.asked.notify_one();
    }

    /// Waits until somebody asks for it.
    pub(crate) async fn asked(&self) {
        self.asked.notified().await;
    }

    /// Renews the certificate for as long as the server runs.
    pub(crate) async fn renew(self: Arc<Self>, ca: Ca, names: Vec<String>) {
        loop {
            tokio::time::sleep(RENEWAL).await;
            match ca.issue(&names) {
                Ok(certificate) => self.serve(Arc::new(certificate)),
                Err(error) => tracing::error!("cannot renew the certificate: {error:#}"),
            }
        }
    }

    /// The TLS configuration that serves it, and asks clients for nothing.
    pub(crate) fn tls(self: &Arc<Self>) -> Result<rustls::ServerConfig> {
        self.tls_asking(Arc::new(NoClientAuth))
    }

    /// The TLS configuration that serves it, and asks clients for what `verifier` wants.
    pub(crate) fn tls_asking(
        self: &Arc<Self>,
        verifier: Arc<dyn ClientCertVerifier>,
    ) -> Result<rustls::ServerConfig> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let resolver: Arc<dyn ResolvesServerCert> = Arc::<Self>::clone(self);
        Ok(rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(resolver))
    }
}

impl ResolvesServerCert for ServerCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.served.load_full())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ca_is_made_once_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(dir.path()).unwrap();
        assert!(Ca::certificate(&data).is_err());
        Ca::load_or_create(&data).unwrap();
        let first = Ca::certificate(&data).unwrap();
        let second = Ca::load_or_create(&data).unwrap();
        assert_eq!(Ca::certificate(&data).unwrap(), first);
        let names = [
            "localhost".to_owned(),
            "::1".to_owned(),
            "127.0.0.1".to_owned(),
        ];
        let certificate = ServerCertificate::new(&second, &names).unwrap();
        certificate.tls().unwrap();
    }

    #[test]
    fn the_ca_that_is_pinned_is_served_with_the_certificate() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(dir.path()).unwrap();
        assert!(Ca::pin(&data).is_err(), "there is none yet");
        let ca = Ca::load_or_create(&data).unwrap();
        let served = ca.issue(&["localhost".to_owned()]).unwrap().cert;
        let [leaf, last] = &served[..] else {
            panic!("{} certificates", served.len());
        };
        let pin = Ca::pin(&data).unwrap();
        assert_eq!(CaPin::of(last).unwrap(), pin);
        assert_ne!(CaPin::of(leaf).unwrap(), pin);
    }

    #[test]
    fn half_a_ca_is_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(dir.path()).unwrap();
        Ca::load_or_create(&data).unwrap();
        std::fs::remove_file(data.path(CA_KEY)).unwrap();
        let error = Ca::load_or_create(&data).err().unwrap();
        assert!(
            format!("{error:#}").contains("restore it from a backup"),
            "{error:#}"
        );
    }

    #[test]
    fn a_bad_name_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(dir.path()).unwrap();
        let ca = Ca::load_or_create(&data).unwrap();
        assert!(ServerCertificate::new(&ca, &["ö".to_owned()]).is_err());
    }
}
