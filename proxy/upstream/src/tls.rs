//! TLS towards the API server: the CAs, and our client certificate.
//!
//! kube knows how to use the system's trust, and no more is asked of it: it runs a plugin to find a client certificate, and its
//! errors quote the line of a file that is wrong, which may be a key whose line breaks were lost.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use kube::{client::ConfigExt, config::AuthInfo};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls_pki_types::CertificateDer;
use secrecy::ExposeSecret;
use zeroize::Zeroizing;

use underpass_core::{files, limits};
use underpass_pem::PemError;
use underpass_trust::Verifier;

/// Why TLS towards the API server cannot be set up. Nothing that a file holds is repeated.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A file that the configuration names.
    #[error("cannot read {path:?}")]
    File {
        /// Which.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// A file that is no certificate and no key.
    #[error("{0:?} is larger than any certificate or key")]
    TooLarge(PathBuf),
    /// Data of the configuration itself.
    #[error("the configuration's {0} is not base64")]
    Base64(&'static str),
    /// There is a client certificate alone.
    #[error("the configuration has a client certificate, but no key for it")]
    NoKeyFor,
    /// The text holds none that can be read.
    #[error("the {0} cannot be read")]
    Pem(&'static str, #[source] PemError),
    /// Every certificate is one that no client can trust.
    #[error("no certificate of the trusted CAs can be used")]
    NoAuthority,
    /// Of another form, or of two different pairs.
    #[error("the client certificate and its key cannot be used")]
    Pair(#[source] rustls::Error),
    /// The CA, or the system's trust.
    #[error("the certificates of the trusted CAs cannot be used")]
    Authorities,
}

/// Trusts what `config` says, and shows no certificate. Blocks: files are read.
pub(super) fn trusting(config: &kube::Config) -> Result<rustls::ClientConfig, TlsError> {
    install_crypto();
    let mut trust = kube::Config::new(config.cluster_url.clone());
    trust.accept_invalid_certs = config.accept_invalid_certs;
    // kube would read this file again by itself, in the midst of a handshake. Here a file that has changed is a new generation.
    trust.root_cert = match &config.root_cert_file {
        Some(path) => Some(authorities(&read(path)?)?),
        None => config.root_cert.clone(),
    };
    if let Some(all) = &mut trust.root_cert {
        // As client-go does: one that cannot be read hides no other.
        all.retain(|der| is_authority(der));
        if all.is_empty() {
            return Err(TlsError::NoAuthority);
        }
    }
    let tls = trust.rustls_client_config();
    let mut tls = tls.map_err(|_| TlsError::Authorities)?;
    if let (Some(all), false) = (&trust.root_cert, trust.accept_invalid_certs) {
        let provider = Arc::clone(tls.crypto_provider());
        let trusted: Arc<[_]> = all.iter().cloned().map(CertificateDer::from).collect();
        let mut roots = rustls::RootCertStore::empty();
        roots.add_parsable_certificates(trusted.iter().cloned());
        let verifier = Verifier::new(Arc::new(roots), trusted, provider);
        let verifier = verifier.map_err(|_| TlsError::Authorities)?;
        tls.dangerous().set_certificate_verifier(Arc::new(verifier));
    }
    Ok(tls)
}

fn is_authority(der: &[u8]) -> bool {
    let added = rustls::RootCertStore::empty().add(CertificateDer::from(der));
    if let Err(error) = &added {
        tracing::warn!(%error, "a certificate among those of the trusted CAs cannot be used");
    }
    added.is_ok()
}

fn authorities(pem: &[u8]) -> Result<Vec<Vec<u8>>, TlsError> {
    let all = underpass_pem::certificates_among(pem);
    let all = all.map_err(|error| TlsError::Pem("CA", error))?;
    Ok(all.iter().map(|one| one.to_vec()).collect())
}

/// Does the configuration name a client certificate? Empty values are as absent.
pub(super) fn has_certificate(auth: &AuthInfo) -> bool {
    let fields = [&auth.client_certificate_data, &auth.client_certificate];
    fields
        .into_iter()
        .any(|field| said(field.as_deref()).is_some())
}

/// A certificate in PEM.
pub(super) fn pem(der: &[u8]) -> String {
    let data = BASE64.encode(der);
    format!("-----BEGIN CERTIFICATE-----\n{data}\n-----END CERTIFICATE-----\n")
}

/// The client certificate of a configuration, and its key. As for client-go, a key without a certificate means nothing. Blocks:
/// files are read.
pub(super) fn certificate(auth: &AuthInfo) -> Result<Option<Arc<CertifiedKey>>, TlsError> {
    let certificate = load(
        "client-certificate-data",
        auth.client_certificate_data.as_deref(),
        auth.client_certificate.as_deref(),
    )?;
    let Some(certificate) = certificate else {
        return Ok(None);
    };
    let key = auth.client_key_data.as_ref();
    let key = load(
        "client-key-data",
        key.map(|key| key.expose_secret()),
        auth.client_key.as_deref(),
    )?;
    let key = key.ok_or(TlsError::NoKeyFor)?;
    pair(&certificate, &key).map(Some)
}

/// A client certificate and its key, in PEM.
pub(super) fn pair(certificate: &[u8], key: &[u8]) -> Result<Arc<CertifiedKey>, TlsError> {
    let chain = underpass_pem::certificates_among(certificate);
    let chain = chain.map_err(|error| TlsError::Pem("client certificate", error))?;
    let key = underpass_pem::private_key(key);
    let key = key.map_err(|error| TlsError::Pem("client key", error))?;
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let key = provider.key_provider.load_private_key(key);
    let pair = CertifiedKey::new(chain, key.map_err(TlsError::Pair)?);
    match pair.keys_match() {
        Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => {}
        // rustls reads no certificate of version 1, which kube-apiserver takes (MicroK8s makes them) and which is only sent from
        // here. The key is known to be in it.
        Err(rustls::Error::InvalidCertificate(_)) if holds_key(&pair) => {}
        Err(error) => return Err(TlsError::Pair(error)),
    }
    Ok(Arc::new(pair))
}

/// The certificate has the public half of the key, byte for byte.
fn holds_key(pair: &CertifiedKey) -> bool {
    let (Ok(certificate), Some(key)) = (pair.end_entity_cert(), pair.key.public_key()) else {
        return false;
    };
    !key.is_empty() && certificate.windows(key.len()).any(|part| part == &key[..])
}

/// client-go takes an empty value for one that is not there.
pub(super) fn said(value: Option<&str>) -> Option<&str> {
    value.filter(|value| !value.is_empty())
}

/// The same trust, with a client certificate. A session with another certificate is not resumed: its tickets stand for that one.
pub(super) fn showing(
    trusting: &rustls::ClientConfig,
    certificate: Arc<CertifiedKey>,
) -> rustls::ClientConfig {
    let mut config = trusting.clone();
    config.client_auth_cert_resolver = Arc::new(SingleCertAndKey::from(certificate));
    config.resumption = rustls::client::Resumption::default();
    config
}

/// Data, or else a file.
fn load(
    field: &'static str,
    data: Option<&str>,
    path: Option<&str>,
) -> Result<Option<Zeroizing<Vec<u8>>>, TlsError> {
    let Some(data) = said(data) else {
        return said(path).map(|path| read(Path::new(path))).transpose();
    };
    // Go's decoder passes over line breaks.
    let mut data = Zeroizing::new(data.to_owned());
    data.retain(|character| !character.is_ascii_whitespace());
    let pem = BASE64.decode(data.as_bytes());
    let pem = pem.map_err(|_| TlsError::Base64(field))?;
    Ok(Some(Zeroizing::new(pem)))
}

fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, TlsError> {
    let path = || path.to_owned();
    let read = files::read(&path(), limits::PEM_FILE_BYTES);
    read.map_err(|source| match source.kind() {
        io::ErrorKind::FileTooLarge => TlsError::TooLarge(path()),
        _ => TlsError::File {
            path: path(),
            source,
        },
    })
}

/// kube builds its TLS configuration from the process's default provider.
pub(super) fn install_crypto() {
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        // An error means that another thread was first.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{make, told, version_1};

    #[test]
    fn rule_11_an_error_about_a_key_does_not_repeat_it() {
        let made = make();
        let (certificate, key) = (made.certificate.pem(), made.key.serialize_pem());
        let secret = key.lines().nth(1).unwrap();
        pair(certificate.as_bytes(), key.as_bytes()).unwrap();
        // Line breaks that were lost, the begin, the end, and somebody else's.
        for key in [
            key.replace('\n', ""),
            key.replacen("-----BEGIN", "BEGIN", 1),
            key.replacen("-----END", "END", 1),
            key.replacen(secret, &format!("{secret}!"), 1),
            make().key.serialize_pem(),
            secret.to_owned(),
        ] {
            let error = pair(certificate.as_bytes(), key.as_bytes()).unwrap_err();
            let told = told(&error);
            let bytes = format!("{:?}", &secret.as_bytes()[..8]);
            for leak in [&secret[..8], bytes.trim_matches(['[', ']'])] {
                assert!(!told.contains(leak), "{told}");
            }
        }
    }

    #[test]
    fn a_configuration_names_data_before_files() {
        let made = make();
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| Some(dir.path().join(name).to_str().unwrap().to_owned());
        std::fs::write(dir.path().join("key"), made.key.serialize_pem()).unwrap();
        let mut auth = AuthInfo {
            client_certificate: path("absent"),
            client_certificate_data: Some(BASE64.encode(made.certificate.pem())),
            client_key: path("key"),
            ..AuthInfo::default()
        };
        let found = certificate(&auth).unwrap().unwrap();
        assert_eq!(found.cert, [made.certificate.der().clone()]);
        auth.client_key = None;
        assert!(matches!(certificate(&auth), Err(TlsError::NoKeyFor)));
        auth.client_certificate_data = None;
        auth.client_key = path("key");
        assert!(matches!(certificate(&auth), Err(TlsError::File { .. })));
        auth.client_certificate = path("key");
        auth.client_key_data = Some("hunter2!".to_owned().into());
        let error = certificate(&auth).unwrap_err();
        assert!(matches!(error, TlsError::Base64("client-key-data")));
        assert!(!told(&error).contains("hunter2"));
    }

    /// YAML's block scalars have line breaks, and `|` has one at its end.
    #[test]
    fn data_may_have_line_breaks_and_empty_values_are_absent() {
        let made = make();
        let wrapped = |pem: String| {
            let data = BASE64.encode(pem);
            let (begin, end) = data.split_at(64);
            format!("{begin}\r\n{end}\n")
        };
        let mut auth = AuthInfo {
            client_certificate: Some(String::new()),
            client_certificate_data: Some(wrapped(made.certificate.pem())),
            client_key_data: Some(wrapped(made.key.serialize_pem()).into()),
            ..AuthInfo::default()
        };
        let found = certificate(&auth).unwrap().unwrap();
        assert_eq!(found.cert, [made.certificate.der().clone()]);
        // A key alone is none of client-go's concern.
        auth.client_certificate_data = Some(String::new());
        assert!(certificate(&auth).unwrap().is_none());
    }

    /// The kubelet's and kubeadm's kubeconfigs name one file for both; `openssl ecparam -genkey` begins with the curve.
    #[test]
    fn certificate_and_key_may_be_in_one_file_with_others() {
        let made = make();
        let parameters =
            "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n";
        let file = format!(
            "Subject: a comment\n{parameters}{}{}",
            made.key.serialize_pem(),
            made.certificate.pem()
        );
        let file = file.replace('\n', "\r\n");
        let found = pair(file.as_bytes(), file.as_bytes()).unwrap();
        assert_eq!(found.cert, [made.certificate.der().clone()]);
    }

    /// As `openssl x509 -req` makes them without extensions, and MicroK8s for its users.
    #[test]
    fn a_client_certificate_of_version_1_is_shown_with_its_own_key_only() {
        let (certificate, key) = version_1();
        let found = pair(certificate.as_bytes(), key.as_bytes()).unwrap();
        assert!(found.keys_match().is_err(), "rustls does not read it");
        let other = make().key.serialize_pem();
        let error = pair(certificate.as_bytes(), other.as_bytes()).unwrap_err();
        assert!(matches!(error, TlsError::Pair(_)), "{error:?}");
    }

    #[test]
    fn one_ca_that_cannot_be_read_hides_no_other() {
        let mut config = kube::Config::new("https://h".parse().unwrap());
        let good = make().certificate.der().to_vec();
        config.root_cert = Some(vec![b"odd".to_vec(), good]);
        trusting(&config).unwrap();
        config.root_cert = Some(vec![b"odd".to_vec()]);
        let error = trusting(&config).unwrap_err();
        assert!(matches!(error, TlsError::NoAuthority));
    }

    #[test]
    fn a_ca_file_without_a_certificate_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let mut config = kube::Config::new("https://h".parse().unwrap());
        config.root_cert_file = Some(dir.path().join("ca"));
        assert!(matches!(trusting(&config), Err(TlsError::File { .. })));
        let key = make().key.serialize_pem();
        for text in [
            "",
            "-----BEGIN CERTIFICATE-----\n",
            &key,
            &key.replace('\n', ""),
        ] {
            std::fs::write(dir.path().join("ca"), text).unwrap();
            let error = trusting(&config).unwrap_err();
            assert!(matches!(error, TlsError::Pem("CA", _)), "{text}");
        }
        // A byte order mark would hide the first one.
        let good = make().certificate.pem();
        for text in [good.clone(), format!("\u{feff}{good}")] {
            std::fs::write(dir.path().join("ca"), text).unwrap();
            trusting(&config).unwrap();
        }
    }
}
