//! A cluster's own certificate authority.

use std::net::{IpAddr, Ipv4Addr};

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SanType, SerialNumber, SigningKey,
    date_time_ymd,
};
use yasna::models::{ObjectIdentifier, UTCTime};
use yasna::{DERWriter, Tag};

/// The authority's common name, which is the whole of its subject.
const AUTHORITY_NAME: &str = "underpass-testenv";

const COMMON_NAME: &[u64] = &[2, 5, 4, 3];
const ORGANIZATION: &[u64] = &[2, 5, 4, 10];
const ECDSA_WITH_SHA256: &[u64] = &[1, 2, 840, 10045, 4, 3, 2];
const EXTENDED_KEY_USAGE: &[u64] = &[2, 5, 29, 37];
const CLIENT_AUTH: &[u64] = &[1, 3, 6, 1, 5, 5, 7, 3, 2];

/// A certificate and its key, both PEM.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

/// Signs every certificate of one cluster. Its key never leaves the process, except for the controller-manager's
/// signing of CertificateSigningRequests.
#[derive(Debug)]
pub(crate) struct Authority {
    certificate: Certificate,
    issuer: Issuer<'static, KeyPair>,
    key_pem: String,
}

impl Authority {
    pub(crate) fn generate() -> Result<Self, rcgen::Error> {
        let key = KeyPair::generate()?;
        let key_pem = key.serialize_pem();
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::CommonName, AUTHORITY_NAME);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::DigitalSignature,
        ];
        let certificate = params.self_signed(&key)?;
        Ok(Self {
            certificate,
            issuer: Issuer::new(params, key),
            key_pem,
        })
    }

    pub(crate) fn pem(&self) -> String {
        self.certificate.pem()
    }

    pub(crate) fn key_pem(&self) -> &str {
        &self.key_pem
    }

    /// A certificate for a server on loopback.
    pub(crate) fn server(&self, names: &[&str]) -> Result<Identity, rcgen::Error> {
        let key = KeyPair::generate()?;
        let mut params =
            CertificateParams::new(names.iter().map(ToString::to_string).collect::<Vec<_>>())?;
        params
            .subject_alt_names
            .push(SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST)));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(Identity {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        })
    }

    /// A certificate by which Kubernetes knows a user (common name) and their groups (organizations).
    ///
    /// It is encoded here because rcgen's names hold one organization at most.
    pub(crate) fn client(&self, user: &str, groups: &[&str]) -> Result<Identity, rcgen::Error> {
        let key = KeyPair::generate()?;
        let serial = SerialNumber::from(random_serial()?.to_vec());
        let tbs = yasna::construct_der(|w| to_be_signed(w, &serial, user, groups, &key));
        let signature = self.issuer.key().sign(&tbs)?;
        let der = yasna::construct_der(|w| {
            w.write_sequence(|w| {
                w.next().write_der(&tbs);
                signature_algorithm(w.next());
                w.next().write_bitvec_bytes(&signature, signature.len() * 8);
            });
        });
        Ok(Identity {
            certificate: pem("CERTIFICATE", &der),
            key: key.serialize_pem(),
        })
    }
}

/// The TBSCertificate of RFC 5280, section 4.1.
fn to_be_signed(
    writer: DERWriter<'_>,
    serial: &SerialNumber,
    user: &str,
    groups: &[&str],
    key: &KeyPair,
) {
    writer.write_sequence(|w| {
        w.next().write_tagged(Tag::context(0), |w| w.write_u8(2));
        w.next().write_bigint_bytes(serial.as_ref(), true);
        signature_algorithm(w.next());
        name(w.next(), AUTHORITY_NAME, &[]);
        w.next().write_sequence(|w| {
            for year in [2020, 2049] {
                w.next()
                    .write_utctime(&UTCTime::from_datetime(date_time_ymd(year, 1, 1)));
            }
        });
        name(w.next(), user, groups);
        w.next().write_der(&key.subject_public_key_info());
        w.next().write_tagged(Tag::context(3), |w| {
            w.write_sequence(|w| {
                w.next().write_sequence(|w| {
                    w.next()
                        .write_oid(&ObjectIdentifier::from_slice(EXTENDED_KEY_USAGE));
                    w.next().write_bytes(&yasna::construct_der(|w| {
                        w.write_sequence(|w| {
                            w.next()
                                .write_oid(&ObjectIdentifier::from_slice(CLIENT_AUTH));
                        });
                    }));
                });
            });
        });
    });
}

fn signature_algorithm(writer: DERWriter<'_>) {
    writer.write_sequence(|w| {
        w.next()
            .write_oid(&ObjectIdentifier::from_slice(ECDSA_WITH_SHA256));
    });
}

fn name(writer: DERWriter<'_>, common_name: &str, organizations: &[&str]) {
    writer.write_sequence(|w| {
        for organization in organizations {
            attribute(w.next(), ORGANIZATION, organization);
        }
        attribute(w.next(), COMMON_NAME, common_name);
    });
}

fn attribute(writer: DERWriter<'_>, oid: &[u64], value: &str) {
    writer.write_set(|w| {
        w.next().write_sequence(|w| {
            w.next().write_oid(&ObjectIdentifier::from_slice(oid));
            w.next().write_utf8_string(value);
        });
    });
}

/// 16 random bytes, the first of which keeps the number positive and of full length.
fn random_serial() -> Result<[u8; 16], rcgen::Error> {
    let mut serial = [0; 16];
    aws_lc_rs::rand::fill(&mut serial).map_err(|_| rcgen::Error::RingUnspecified)?;
    serial[0] = serial[0] & 0x3f | 0x40;
    Ok(serial)
}

fn pem(label: &str, der: &[u8]) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let mut pem = format!("-----BEGIN {label}-----\n");
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, tail) = rest.split_at(rest.len().min(64));
        pem.push_str(line);
        pem.push('\n');
        rest = tail;
    }
    pem.push_str(&format!("-----END {label}-----\n"));
    pem
}
