//! TLS towards the API server: the CAs, and our client certificate.
//!
//! kube knows how to use the system's trust, and no more is asked of it: it runs a plugin to find a client certificate, and its
//! errors quote the line of a file that is wrong, which may be a key whose line breaks were lost.

use std::{
    io::{self, Read},
    path::{Path, PathBuf},
    sync::Arc,
};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use kube::{client::ConfigExt, config::AuthInfo};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use secrecy::ExposeSecret;
use zeroize::Zeroizing;

use underpass_core::limits;

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
    /// One without the other.
    #[error("the configuration has a {has}, but no {lacks}")]
    Half {
        /// The one that is there.
        has: &'static str,
        /// The one that is not.
        lacks: &'static str,
    },
    /// There is none in it.
    #[error("there is no usable certificate in PEM where the {0} should be")]
    NoCertificate(&'static str),
    /// There is none in it.
    #[error("there is no usable private key in PEM where the client key should be")]
    NoKey,
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
    if trust.root_cert.as_ref().is_some_and(Vec::is_empty) {
        return Err(TlsError::NoCertificate("CA"));
    }
    let tls = trust.rustls_client_config();
    tls.map_err(|_| TlsError::Authorities)
}

fn authorities(pem: &[u8]) -> Result<Vec<Vec<u8>>, TlsError> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let all = all.map_err(|_| TlsError::NoCertificate("CA"))?;
    Ok(all.iter().map(|one| one.to_vec()).collect())
}

/// The client certificate of a configuration, and its key. Blocks: files are read.
pub(super) fn certificate(auth: &AuthInfo) -> Result<Option<Arc<CertifiedKey>>, TlsError> {
    let certificate = load(
        "client-certificate-data",
        auth.client_certificate_data.as_deref(),
        auth.client_certificate.as_deref(),
    )?;
    let key = auth.client_key_data.as_ref();
    let key = load(
        "client-key-data",
        key.map(|key| key.expose_secret()),
        auth.client_key.as_deref(),
    )?;
    let (has, lacks) = ("client certificate", "key for it");
    match (certificate, key) {
        (None, None) => Ok(None),
        (Some(certificate), Some(key)) => pair(&certificate, &key).map(Some),
        (Some(_), None) => Err(TlsError::Half { has, lacks }),
        (None, Some(_)) => Err(TlsError::Half {
            has: "client key",
            lacks: "certificate for it",
        }),
    }
}

/// A client certificate and its key, in PEM.
pub(super) fn pair(certificate: &[u8], key: &[u8]) -> Result<Arc<CertifiedKey>, TlsError> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(certificate).collect();
    let chain = chain.map_err(|_| TlsError::NoCertificate("client certificate"))?;
    if chain.is_empty() {
        return Err(TlsError::NoCertificate("client certificate"));
    }
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| TlsError::NoKey)?;
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let pair = CertifiedKey::from_der(chain, key, &provider).map_err(TlsError::Pair)?;
    Ok(Arc::new(pair))
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
    if let Some(data) = data {
        let pem = BASE64.decode(data.trim());
        let pem = pem.map_err(|_| TlsError::Base64(field))?;
        return Ok(Some(Zeroizing::new(pem)));
    }
    path.map(|path| read(Path::new(path))).transpose()
}

fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, TlsError> {
    let mut pem = Zeroizing::new(Vec::new());
    let read = std::fs::File::open(path)
        .and_then(|file| file.take(limits::PEM_FILE_BYTES + 1).read_to_end(&mut pem));
    read.map_err(|source| TlsError::File {
        path: path.to_owned(),
        source,
    })?;
    if pem.len() as u64 > limits::PEM_FILE_BYTES {
        return Err(TlsError::TooLarge(path.to_owned()));
    }
    Ok(pem)
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
    use crate::testing::{make, told};

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
        assert!(matches!(certificate(&auth), Err(TlsError::Half { .. })));
        auth.client_certificate_data = None;
        auth.client_key = path("key");
        assert!(matches!(certificate(&auth), Err(TlsError::File { .. })));
        auth.client_key_data = Some("hunter2!".to_owned().into());
        auth.client_certificate = None;
        let error = certificate(&auth).unwrap_err();
        assert!(matches!(error, TlsError::Base64("client-key-data")));
        assert!(!told(&error).contains("hunter2"));
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
            assert!(matches!(error, TlsError::NoCertificate("CA")), "{text}");
        }
        std::fs::write(dir.path().join("ca"), make().certificate.pem()).unwrap();
        trusting(&config).unwrap();
    }
}
