//! The directory's settings of an API server, as a kube configuration.

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};

use super::UnusableError;
use underpass_directory::{Credential, Endpoint};

pub(super) fn of(
    endpoint: &Endpoint,
    credential: &Credential,
) -> Result<kube::Config, UnusableError> {
    let url = endpoint.server().parse();
    let mut config = kube::Config::new(url.map_err(|_| UnusableError::Endpoint)?);
    // A proxy of the environment is the way elsewhere.
    config.proxy_url = None;
    config.tls_server_name = endpoint.tls_server_name().map(str::to_owned);
    if let Some(pem) = endpoint.certificate_authority() {
        let certificates = underpass_pem::certificates(pem.as_bytes());
        let certificates = certificates.map_err(|_| UnusableError::Endpoint)?;
        config.root_cert = Some(certificates.iter().map(|one| one.to_vec()).collect());
    }
    let auth = &mut config.auth_info;
    match credential {
        Credential::Token(token) => auth.token = Some(token.as_str().to_owned().into()),
        Credential::ClientCertificate { certificate, key } => {
            auth.client_certificate_data = Some(BASE64.encode(certificate));
            auth.client_key_data = Some(BASE64.encode(key.as_bytes()).into());
        }
        Credential::Exec(_) => {}
    }
    Ok(config)
}
