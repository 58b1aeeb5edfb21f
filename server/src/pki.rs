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

/// How often the clock is held against the served certificate: a clock may be set, and a sleep does not follow it.
const RENEWAL_CHECK: Duration = Duration::from_secs(60);

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
        let mut params = params("Underpass CA", CA_LIFE, OffsetDateTime::now_utc());
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let pem = params.self_signed(&key)?.pem();
        // The key first: a certificate alone would look like a CA whose key was lost.
        data.write(CA_KEY, &key.serialize_pem())?;
        if let Err(error) = data.write(CA_CERTIFICATE, &pem) {
            // It has signed nothing. Left there, it would look like a CA whose certificate was lost.
            data.remove(CA_KEY)?;
            return Err(error.into());
        }
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

    fn issue(&self, names: &[String], now: OffsetDateTime) -> Result<CertifiedKey> {
        let key = KeyPair::generate()?;
        let mut params = params("Underpass server", CERTIFICATE_LIFE, now);
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

/// Whether a certificate that was made at `issued` is not to be served any more: in its second half, and where the clock was ahead
/// when it was made.
fn is_due(issued: OffsetDateTime, now: OffsetDateTime) -> bool {
    now < issued - CLOCK_SKEW || now >= issued + CERTIFICATE_LIFE / 2
}

fn params(common_name: &str, life: Span, now: OffsetDateTime) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, common_name);
    params.not_before = now - CLOCK_SKEW;
    params.not_after = now + life;
    params.use_authority_key_identifier_extension = true;
    params
}

/// The certificate that TLS and QUIC serve: one of ours, made anew at half of its life, or the operator's.
#[derive(Debug)]
pub(crate) struct ServerCertificate {
    served: ArcSwap<CertifiedKey>,
    /// When it was made, where it is ours.
    issued: Option<OffsetDateTime>,
    asked: Notify,
}

impl ServerCertificate {
    /// A certificate for `names`: DNS names and IP addresses.
    pub(crate) fn new(ca: &Ca, names: &[String]) -> Result<Arc<Self>> {
        let now = OffsetDateTime::now_utc();
        let certificate = ca
            .issue(names, now)
            .context("cannot make the server's certificate")?;
        Ok(Self::made(Arc::new(certificate), Some(now)))
    }

    /// One that comes from somewhere else.
    pub(crate) fn of(served: Arc<CertifiedKey>) -> Arc<Self> {
        Self::made(served, None)
    }

    fn made(served: Arc<CertifiedKey>, issued: Option<OffsetDateTime>) -> Arc<Self> {
        Arc::new(Self {
            served: ArcSwap::new(served),
            issued,
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
        self.renew_by(ca, names, OffsetDateTime::now_utc).await;
    }

    async fn renew_by(
        self: Arc<Self>,
        ca: Ca,
        names: Vec<String>,
        clock: impl Fn() -> OffsetDateTime,
    ) {
        let mut issued = self.issued;
        loop {
            tokio::time::sleep(RENEWAL_CHECK).await;
            let now = clock();
            if issued.is_some_and(|issued| !is_due(issued, now)) {
                continue;
            }
            match ca.issue(&names, now) {
                Ok(certificate) => {
                    self.serve(Arc::new(certificate));
                    issued = Some(now);
                }
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
    use std::sync::Mutex;

    use tokio_util::task::AbortOnDropHandle;
    use x509_parser::certificate::X509Certificate;
    use x509_parser::prelude::FromDer as _;
    use x509_parser::time::ASN1Time;

    use super::*;

    /// The next start makes a CA, and asks for no backup.
    #[test]
    fn half_a_ca_is_none() {
        let parent = tempfile::tempdir().unwrap();
        let data = DataDir::open(&parent.path().join("data")).unwrap();
        // No file takes the place of a folder.
        let certificate = data.path(CA_CERTIFICATE);
        std::fs::create_dir_all(certificate.join("full")).unwrap();
        Ca::create(&data).err().unwrap();
        assert_eq!(data.read(CA_KEY).unwrap(), None);
        std::fs::remove_dir_all(certificate).unwrap();
        Ca::load_or_create(&data).unwrap();
    }

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
        let served = ca
            .issue(&["localhost".to_owned()], OffsetDateTime::now_utc())
            .unwrap()
            .cert;
        let [leaf, last] = &served[..] else {
            panic!("{} certificates", served.len());
        };
        let pin = Ca::pin(&data).unwrap();
        assert_eq!(CaPin::of(last).unwrap(), pin);
        assert_ne!(CaPin::of(leaf).unwrap(), pin);
    }

    /// A laptop that wakes up, a virtual machine that goes on, a clock that is set.
    #[tokio::test(start_paused = true)]
    async fn a_certificate_is_valid_by_the_clock_wherever_that_goes() {
        let dir = tempfile::tempdir().unwrap();
        let ca = Ca::load_or_create(&DataDir::open(dir.path()).unwrap()).unwrap();
        let names = vec!["localhost".to_owned()];
        let served = ServerCertificate::new(&ca, &names).unwrap();
        let start = served.issued.unwrap();
        let ahead = Arc::new(Mutex::new(Span::ZERO));
        let clock = Arc::clone(&ahead);
        let clock = move || start + *clock.lock().unwrap();
        let renewing = Arc::clone(&served).renew_by(ca, names, clock);
        let _renewing = AbortOnDropHandle::new(tokio::spawn(renewing));
        let mut last = served.leaf();
        for (at, renewed) in [
            (Span::days(14), false),
            (Span::days(15), true),
            (Span::days(29), false),
            (Span::days(400), true),
            // It was wrong, and is set right.
            (Span::minutes(1), true),
            (Span::minutes(-58), false),
            (Span::days(-1), true),
        ] {
            *ahead.lock().unwrap() = at;
            tokio::time::sleep(2 * RENEWAL_CHECK).await;
            let leaf = served.leaf();
            assert_eq!(leaf != last, renewed, "{at}");
            let (_, read) = X509Certificate::from_der(&leaf).unwrap();
            let now = ASN1Time::from_timestamp((start + at).unix_timestamp()).unwrap();
            assert!(read.validity().is_valid_at(now), "{at}");
            last = leaf.clone();
        }
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
