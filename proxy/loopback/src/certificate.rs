//! A certificate for one run.

use std::net::IpAddr;
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rustls::ServerConfig;
use rustls::pki_types::PrivatePkcs8KeyDer;
use time::{Duration, OffsetDateTime};

use super::BindError;

/// A clock that is put back meanwhile.
const SKEW: Duration = Duration::days(1);

/// No run lasts longer. Clients that trust it hold the token of the same run.
const LIFE: Duration = Duration::days(365);

pub(crate) struct Made {
    pub(crate) tls: ServerConfig,
    pub(crate) ca_pem: String,
}

/// Makes a CA, a certificate for this address and this name by it, and forgets the CA's key.
pub(crate) fn make(address: IpAddr, name: Option<&str>) -> Result<Made, BindError> {
    let (certificate, key, ca_pem) = issue(address, name).map_err(BindError::Certificate)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(BindError::Tls)?
        .with_no_client_auth();
    let key = PrivatePkcs8KeyDer::from(key.serialize_der());
    let mut tls = tls
        .with_single_cert(vec![certificate.der().clone()], key.into())
        .map_err(BindError::Tls)?;
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Made { tls, ca_pem })
}

fn issue(
    address: IpAddr,
    name: Option<&str>,
) -> Result<(rcgen::Certificate, KeyPair, String), rcgen::Error> {
    let ca_key = KeyPair::generate()?;
    let mut ca = params("Underpass loopback CA");
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let ca_pem = ca.self_signed(&ca_key)?.pem();
    let issuer = Issuer::new(ca, ca_key);
    let key = KeyPair::generate()?;
    let mut leaf = params("Underpass loopback");
    leaf.use_authority_key_identifier_extension = true;
    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    leaf.subject_alt_names = vec![
        SanType::IpAddress(address),
        SanType::DnsName("localhost".try_into()?),
    ];
    if let Some(name) = name {
        let name = SanType::DnsName(name.try_into()?);
        leaf.subject_alt_names.push(name);
    }
    let certificate = leaf.signed_by(&key, &issuer)?;
    Ok((certificate, key, ca_pem))
}

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    let now = OffsetDateTime::now_utc();
    (params.not_before, params.not_after) = (now - SKEW, now + LIFE);
    params
}
