//! The credential for a cluster's API server: as it is stored, and while it is used.

use std::fmt;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer, X509Certificate};
use zeroize::Zeroizing;

use super::endpoint::Endpoint;
use crate::seal::{Keyring, SealContext, SealError, Sealed};
use underpass_core::{ClusterName, Exec, limits};
use underpass_pem::PemError;

/// A credential as it is kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(
    deny_unknown_fields,
    rename_all = "camelCase",
    rename_all_fields = "camelCase"
)]
pub enum SealedCredential {
    /// A bearer token.
    Token {
        /// The token.
        token: Sealed,
    },
    /// A client certificate.
    ClientCertificate {
        /// The chain, as PEM.
        certificate: String,
        /// Its key.
        key: Sealed,
    },
    /// A program that prints one.
    Exec {
        /// Which.
        command: String,
        /// Its arguments and environment: either may hold secrets.
        input: Sealed,
    },
}

impl SealedCredential {
    /// The kind of credential.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Token { .. } => "token",
            Self::ClientCertificate { .. } => "clientCertificate",
            Self::Exec { .. } => "exec",
        }
    }

    /// When a client certificate expires.
    pub fn expires(&self) -> Option<OffsetDateTime> {
        match self {
            Self::ClientCertificate { certificate, .. } => expiry(certificate),
            Self::Token { .. } | Self::Exec { .. } => None,
        }
    }

    /// Its encrypted part.
    pub fn sealed(&self) -> &Sealed {
        match self {
            Self::Token { token } => token,
            Self::ClientCertificate { key, .. } => key,
            Self::Exec { input, .. } => input,
        }
    }

    pub(super) fn place(&self, cluster: &ClusterName, endpoint: &Endpoint) -> SealContext {
        match self {
            Self::Token { .. } => endpoint.place(cluster, "token"),
            Self::ClientCertificate { certificate, .. } => {
                endpoint.place(cluster, "key").and(certificate)
            }
            Self::Exec { command, .. } => endpoint.place(cluster, "exec").and(command),
        }
    }
}

/// A credential while it is used. It shows nothing of itself.
#[derive(Clone, PartialEq)]
pub enum Credential {
    /// A bearer token.
    Token(Zeroizing<String>),
    /// A client certificate.
    ClientCertificate {
        /// The chain, as PEM.
        certificate: String,
        /// Its key, as PEM.
        key: Zeroizing<String>,
    },
    /// A program that prints one.
    Exec(Exec),
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Token(_) => "Token",
            Self::ClientCertificate { .. } => "ClientCertificate",
            Self::Exec(_) => "Exec",
        })
    }
}

/// How the store has a plugin's input, before it is sealed.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Input<A, E> {
    pub(super) args: A,
    pub(super) env: E,
}

/// Why a credential is none. Nothing of it is repeated.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CredentialError {
    /// Empty, too long, or with characters that no header can hold.
    #[error("the token is empty, too long, or holds characters that no token has")]
    Token,
    /// No certificate.
    #[error("the client certificate is no certificate of X.509")]
    Certificate,
    /// The text holds no certificate that can be read.
    #[error("the client certificate cannot be read")]
    CertificatePem(#[source] PemError),
    /// No key.
    #[error("the client key is of a kind that cannot be used")]
    Key,
    /// The text holds no key that can be read.
    #[error("the client key cannot be read")]
    KeyPem(#[source] PemError),
    /// They do not belong together.
    #[error("the client key is not the certificate's")]
    Mismatch,
    /// Not the path of a program.
    #[error("the exec plugin's command is not an absolute path without \"..\"")]
    Command,
    /// No name of a variable.
    #[error("the exec plugin's environment has {0:?}, which is no name of a variable")]
    Variable(String),
    /// A zero byte, or more than any plugin takes.
    #[error("the exec plugin's arguments and environment are too large, or hold a zero byte")]
    Input,
}

impl Credential {
    /// Can it be one?
    ///
    /// # Errors
    /// The fault of it.
    pub fn check(&self) -> Result<(), CredentialError> {
        match self {
            Self::Token(token) => {
                let legal = |byte: u8| byte.is_ascii_graphic();
                let sized = (1..=limits::BEARER_BYTES).contains(&token.len());
                if !sized || !token.bytes().all(legal) {
                    return Err(CredentialError::Token);
                }
                Ok(())
            }
            Self::ClientCertificate { certificate, key } => check_pair(certificate, key),
            Self::Exec(exec) => check_exec(exec),
        }
    }

    /// Encrypts it for a cluster and an endpoint.
    ///
    /// # Errors
    /// It cannot be encrypted.
    pub fn seal(
        &self,
        cluster: &ClusterName,
        endpoint: &Endpoint,
        keys: &Keyring,
    ) -> Result<SealedCredential, SealError> {
        match self {
            Self::Token(token) => {
                let place = endpoint.place(cluster, "token");
                let token = keys.seal(token.as_bytes(), &place)?;
                Ok(SealedCredential::Token { token })
            }
            Self::ClientCertificate { certificate, key } => {
                let place = endpoint.place(cluster, "key").and(certificate);
                Ok(SealedCredential::ClientCertificate {
                    key: keys.seal(key.as_bytes(), &place)?,
                    certificate: certificate.clone(),
                })
            }
            Self::Exec(exec) => {
                let place = endpoint.place(cluster, "exec").and(&exec.command);
                let (args, env) = (&exec.args, &exec.env);
                let input = serde_json::to_vec(&Input { args, env });
                let input = Zeroizing::new(input.map_err(|_| SealError)?);
                Ok(SealedCredential::Exec {
                    input: keys.seal(&input, &place)?,
                    command: exec.command.clone(),
                })
            }
        }
    }
}

fn check_exec(exec: &Exec) -> Result<(), CredentialError> {
    let path = std::path::Path::new(&exec.command);
    let up = path
        .components()
        .any(|part| part == std::path::Component::ParentDir);
    if !path.is_absolute() || up || exec.command.contains('\0') {
        return Err(CredentialError::Command);
    }
    for name in exec.env.keys() {
        if name.is_empty() || name.contains(['=', '\0']) {
            return Err(CredentialError::Variable(name.clone()));
        }
    }
    let values = exec.args.iter().chain(exec.env.values());
    let bytes: usize = values.clone().map(|value| value.len() + 1).sum();
    let names: usize = exec.env.keys().map(|name| name.len() + 1).sum();
    let large = bytes.saturating_add(names) > limits::EXEC_INPUT_BYTES;
    if large || values.clone().any(|value| value.contains('\0')) {
        return Err(CredentialError::Input);
    }
    Ok(())
}

fn check_pair(certificate: &str, key: &str) -> Result<(), CredentialError> {
    let chain = underpass_pem::certificates(certificate.as_bytes());
    let chain = chain.map_err(CredentialError::CertificatePem)?;
    if expiry(certificate).is_none() {
        return Err(CredentialError::Certificate);
    }
    let key = underpass_pem::private_key(key.as_bytes()).map_err(CredentialError::KeyPem)?;
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    match rustls::sign::CertifiedKey::from_der(chain, key, &provider) {
        Ok(_) => Ok(()),
        Err(rustls::Error::InconsistentKeys(_)) => Err(CredentialError::Mismatch),
        Err(rustls::Error::InvalidCertificate(_)) => Err(CredentialError::Certificate),
        Err(_) => Err(CredentialError::Key),
    }
}

/// When the first certificate ends.
fn expiry(pem: &str) -> Option<OffsetDateTime> {
    let chain = underpass_pem::certificates(pem.as_bytes()).ok()?;
    let (_, certificate) = X509Certificate::from_der(chain.first()?).ok()?;
    let seconds = certificate.validity().not_after.timestamp();
    OffsetDateTime::from_unix_timestamp(seconds).ok()
}

#[cfg(test)]
mod tests {
    use super::{
        super::tests::{every_kind, exec, pair, secret},
        *,
    };

    #[test]
    fn credentials_are_checked() {
        for credential in every_kind() {
            credential.check().unwrap();
        }
        for token in ["", "a b", "a\nb", "ü"] {
            let bad = Credential::Token(secret(token));
            assert!(matches!(bad.check(), Err(CredentialError::Token)));
        }
        let ((certificate, key), (_, other)) = (pair(), pair());
        let check = |certificate: &str, key: &str| {
            let key = secret(key);
            let certificate = certificate.to_owned();
            Credential::ClientCertificate { certificate, key }.check()
        };
        assert!(matches!(
            check("", &key),
            Err(CredentialError::CertificatePem(_))
        ));
        assert!(matches!(
            check(&certificate, "hunter2"),
            Err(CredentialError::KeyPem(_))
        ));
        check(&format!("\u{feff}{certificate}"), &format!("\u{feff}{key}")).unwrap();
        assert!(matches!(
            check(&certificate, &other),
            Err(CredentialError::Mismatch)
        ));
        for command in ["plugin", "./plugin", "/opt/../bin/sh", "/a\0b"] {
            let bad = exec(command, &[], &[]);
            assert!(matches!(bad.check(), Err(CredentialError::Command)));
        }
        for variable in ["", "A=B", "A\0"] {
            let bad = exec("/p", &[], &[(variable, "x")]);
            assert!(matches!(bad.check(), Err(CredentialError::Variable(_))));
        }
        assert!(exec("/p", &["a\0"], &[]).check().is_err());
        let long = "x".repeat(limits::EXEC_INPUT_BYTES);
        assert!(exec("/p", &[&long], &[]).check().is_err());
    }
}
