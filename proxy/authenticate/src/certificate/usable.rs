//! Which certificates the signature of a handshake can be verified with.

use rustls::server::ParsedCertificate;
use rustls_pki_types::CertificateDer;
use x509_parser::{
    certificate::X509Certificate,
    der_parser::asn1_rs::oid,
    prelude::FromDer,
    public_key::PublicKey,
    x509::{SubjectPublicKeyInfo, X509Version},
};

use underpass_core::{UnusableCertificate, limits};

/// Bits of an RSA key that the cryptographic library takes.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

/// Why nothing can be verified with the first certificate of a chain.
///
/// It depends on the chain and on nothing else: a session that is resumed has its chain from the one before, without a signature.
pub(super) fn unusable(
    certificate: &CertificateDer<'_>,
    intermediates: usize,
) -> Option<UnusableCertificate> {
    let Ok((_, read)) = X509Certificate::from_der(certificate) else {
        return Some(UnusableCertificate::Unreadable);
    };
    if read.version() != X509Version::V3 {
        return Some(UnusableCertificate::Version);
    }
    if ParsedCertificate::try_from(certificate).is_err() {
        return Some(match has_unknown_critical_extension(&read) {
            true => UnusableCertificate::Extension,
            false => UnusableCertificate::Unreadable,
        });
    }
    if !has_usable_key(read.public_key()) {
        return Some(UnusableCertificate::Key);
    }
    let too_many = intermediates > limits::CLIENT_INTERMEDIATES;
    too_many.then_some(UnusableCertificate::TooManyIntermediates)
}

/// RFC 5280, section 4.2: such a certificate has to be refused. The others are those that webpki reads.
pub(super) fn has_unknown_critical_extension(certificate: &X509Certificate<'_>) -> bool {
    let known = [
        oid!(2.5.29.15),
        oid!(2.5.29.17),
        oid!(2.5.29.19),
        oid!(2.5.29.30),
        oid!(2.5.29.31),
        oid!(2.5.29.37),
    ];
    let mut extensions = certificate.extensions().iter();
    extensions.any(|extension| extension.critical && !known.contains(&extension.oid))
}

fn has_usable_key(key: &SubjectPublicKeyInfo<'_>) -> bool {
    if key.algorithm.algorithm == oid!(1.3.101.112) {
        return true;
    }
    match key.parsed() {
        Ok(PublicKey::RSA(rsa)) => RSA_BITS.contains(&rsa.key_size()),
        Ok(PublicKey::EC(point)) => {
            let curve = key.algorithm.parameters.as_ref();
            let curve = curve.and_then(|curve| curve.as_oid().ok());
            let known = [
                oid!(1.2.840.10045.3.1.7),
                oid!(1.3.132.0.34),
                oid!(1.3.132.0.35),
            ];
            curve.is_some_and(|curve| known.contains(&curve)) && point.data().first() == Some(&4)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, CustomExtension, KeyPair};

    use super::*;

    /// The elements of a DER value's content, each whole.
    fn elements(mut content: &[u8]) -> Vec<&[u8]> {
        let mut all = Vec::new();
        while !content.is_empty() {
            let (element, rest) = content.split_at(header(content) + length(content));
            all.push(element);
            content = rest;
        }
        all
    }

    fn header(element: &[u8]) -> usize {
        match element[1] {
            0..0x80 => 2,
            long => 2 + usize::from(long & 0x7f),
        }
    }

    fn length(element: &[u8]) -> usize {
        match element[1] {
            short @ 0..0x80 => usize::from(short),
            _ => element[2..header(element)]
                .iter()
                .fold(0, |length, byte| length << 8 | usize::from(*byte)),
        }
    }

    fn content(element: &[u8]) -> &[u8] {
        &element[header(element)..]
    }

    fn value(tag: u8, content: &[u8]) -> Vec<u8> {
        let [high, low] = u16::try_from(content.len()).unwrap().to_be_bytes();
        let length = match (high, low) {
            (0, 0..0x80) => vec![low],
            (0, _) => vec![0x81, low],
            _ => vec![0x82, high, low],
        };
        [&[tag], &length[..], content].concat()
    }

    /// A certificate whose signed part has these elements. The test does not look at its signature, which is wrong.
    fn with(change: impl FnOnce(&mut Vec<Vec<u8>>)) -> CertificateDer<'static> {
        let params = CertificateParams::new(vec!["x".to_owned()]).unwrap();
        let made = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let parts = elements(content(made.der()));
        let signed = elements(content(parts[0]));
        let mut signed: Vec<_> = signed.into_iter().map(<[u8]>::to_vec).collect();
        change(&mut signed);
        let signed = value(0x30, &signed.concat());
        value(0x30, &[&signed[..], parts[1], parts[2]].concat()).into()
    }

    fn rsa(bits: usize) -> Vec<u8> {
        let modulus = value(2, &[&[0][..], &vec![0xc5; bits / 8]].concat());
        let numbers = value(0x30, &[&modulus[..], &[2, 3, 1, 0, 1]].concat());
        let algorithm = [
            0x30, 13, 6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 13, 1, 1, 1, 5, 0,
        ];
        let bits = value(3, &[&[0][..], &numbers].concat());
        value(0x30, &[&algorithm[..], &bits].concat())
    }

    #[test]
    fn a_critical_extension_that_is_not_known_is_named() {
        let made = |critical: bool| {
            let mut params = CertificateParams::new(vec!["x".to_owned()]).unwrap();
            let mut unknown = CustomExtension::from_oid_content(&[1, 2, 3, 4], vec![5, 0]);
            unknown.set_criticality(critical);
            params.custom_extensions.push(unknown);
            let made = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
            made.der().clone()
        };
        assert_eq!(unusable(&made(false), 0), None);
        let refused = unusable(&made(true), 0);
        assert_eq!(refused, Some(UnusableCertificate::Extension));
    }

    #[test]
    fn a_certificate_without_a_use_is_told_from_others() {
        assert_eq!(unusable(&with(|_| {}), limits::CLIENT_INTERMEDIATES), None);
        let too_many = unusable(&with(|_| {}), limits::CLIENT_INTERMEDIATES + 1);
        assert_eq!(too_many, Some(UnusableCertificate::TooManyIntermediates));
        // Version and extensions are the first and the last element.
        let first = with(|signed| {
            signed.pop();
            signed.remove(0);
        });
        assert_eq!(unusable(&first, 0), Some(UnusableCertificate::Version));
        for (bits, expected) in [
            (1024, Some(UnusableCertificate::Key)),
            (2048, None),
            (16384, Some(UnusableCertificate::Key)),
        ] {
            let certificate = with(|signed| signed[6] = rsa(bits));
            assert_eq!(unusable(&certificate, 0), expected, "{bits}");
        }
        for garbage in [&b""[..], b"garbage", &[0x30, 0x82, 0xff, 0xff]] {
            let certificate = CertificateDer::from(garbage.to_vec());
            assert_eq!(
                unusable(&certificate, 0),
                Some(UnusableCertificate::Unreadable)
            );
        }
    }

    /// A parser that recurses for each of them would overflow the stack of the test's thread.
    #[test]
    fn rule_23_elements_in_each_other_in_a_certificate_overflow_no_stack() {
        let depth = 12_000_u16;
        let nested: Vec<u8> = (0..depth)
            .rev()
            .flat_map(|inner| {
                let [high, low] = (4 * inner).to_be_bytes();
                [0x30, 0x82, high, low]
            })
            .collect();
        let fields = 8;
        for field in 0..fields {
            let certificate = with(|signed| {
                assert_eq!(signed.len(), fields);
                signed[field] = nested.clone();
            });
            let found = unusable(&certificate, 0);
            // The names of the issuer and of the subject are read once an authority has vouched for them.
            assert!(found.is_some() || matches!(field, 3 | 5), "{field}");
        }
        // Key usage, alternative names, constraints, distribution points, policies, an authority's key, and one that is unknown.
        for extension in [15, 17, 30, 31, 32, 35, 99] {
            let certificate = with(|signed| {
                let oid = value(6, &[0x55, 0x1d, extension]);
                let content = [&oid[..], &value(4, &nested)].concat();
                let extensions = value(0x30, &value(0x30, &content));
                *signed.last_mut().unwrap() = value(0xa3, &extensions);
            });
            // Some are read when a chain is verified, and an unknown one is not.
            let found = unusable(&certificate, 0);
            let unreadable = Some(UnusableCertificate::Unreadable);
            assert!(found.is_none() || found == unreadable, "{extension}");
        }
    }
}
