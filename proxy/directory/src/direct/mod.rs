//! Clusters whose API server this server reaches itself, with their credentials.
//!
//! A credential's secret is [`Sealed`](crate::seal::Sealed) for the cluster, for the endpoint and for the credential's public
//! part: an attacker who can write the store but has no key cannot have it sent elsewhere, nor run another plugin with it.

mod credential;
mod endpoint;
mod registered_token;
mod registration;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use self::credential::Input;
#[cfg(test)]
pub(crate) use self::registered_token::testing;
pub use self::{
    credential::{Credential, CredentialError, SealedCredential},
    endpoint::{Endpoint, EndpointError},
    registered_token::{RegisteredToken, RegisteredTokenError},
    registration::{Registrant, Registration},
};
use crate::seal::{Keyring, SealError, UnsealError};
use underpass_core::{ClusterName, ClusterPolicy, Exec};

/// An API server that the server reaches itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Direct {
    /// Where it is.
    pub endpoint: Endpoint,
    /// Our credential for it.
    pub credential: SealedCredential,
    /// Additions to the impersonation policy, as an agent's operator makes them.
    #[serde(default, skip_serializing_if = "ClusterPolicy::is_empty")]
    pub policy: ClusterPolicy,
}

/// Why a credential cannot be used now.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenCredentialError {
    /// It does not open.
    #[error("the cluster's credential cannot be decrypted")]
    Unseal(#[source] UnsealError),
    /// It cannot be encrypted again.
    #[error(transparent)]
    Seal(SealError),
    /// The decrypted secret has the wrong form.
    #[error("the cluster's credential cannot be read")]
    Malformed,
}

impl Direct {
    /// The same, with the credential encrypted by the key that encrypts now; `None` where it is already.
    ///
    /// # Errors
    /// It does not open here.
    pub fn renewed(
        &self,
        cluster: &ClusterName,
        keys: &Keyring,
    ) -> Result<Option<Self>, OpenCredentialError> {
        if keys.is_current(self.credential.sealed()) {
            return Ok(None);
        }
        let credential = self.open(cluster, keys)?;
        let credential = credential.seal(cluster, &self.endpoint, keys);
        Ok(Some(Self {
            credential: credential.map_err(OpenCredentialError::Seal)?,
            ..self.clone()
        }))
    }

    /// Decrypts the credential.
    ///
    /// # Errors
    /// It does not open here.
    pub fn open(
        &self,
        cluster: &ClusterName,
        keys: &Keyring,
    ) -> Result<Credential, OpenCredentialError> {
        let place = self.credential.place(cluster, &self.endpoint);
        let opened = keys.open(self.credential.sealed(), &place);
        let opened = opened.map_err(OpenCredentialError::Unseal)?;
        let text = || match std::str::from_utf8(&opened) {
            Ok(text) => Ok(Zeroizing::new(text.to_owned())),
            Err(_) => Err(OpenCredentialError::Malformed),
        };
        match &self.credential {
            SealedCredential::Token { .. } => Ok(Credential::Token(text()?)),
            SealedCredential::ClientCertificate { certificate, .. } => {
                Ok(Credential::ClientCertificate {
                    certificate: certificate.clone(),
                    key: text()?,
                })
            }
            SealedCredential::Exec { command, .. } => {
                // The error would quote the text.
                let Input { args, env } =
                    serde_json::from_slice(&opened).map_err(|_| OpenCredentialError::Malformed)?;
                Ok(Credential::Exec(Exec {
                    command: command.clone(),
                    args,
                    env,
                }))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seal::SealingKey;

    pub(super) const URL: &str = "https://10.0.0.1:6443";

    fn ring() -> Keyring {
        let text = SealingKey::generate().unwrap();
        Keyring::new(SealingKey::from_text(&text).unwrap(), vec![])
    }

    fn cluster(name: &str) -> ClusterName {
        ClusterName::new(name).unwrap()
    }

    pub(super) fn secret(text: &str) -> Zeroizing<String> {
        Zeroizing::new(text.to_owned())
    }

    pub(super) fn pair() -> (String, String) {
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = rcgen::CertificateParams::default()
            .self_signed(&key)
            .unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    pub(super) fn exec(command: &str, args: &[&str], env: &[(&str, &str)]) -> Credential {
        Credential::Exec(Exec {
            command: command.to_owned(),
            args: args.iter().map(|&arg| secret(arg)).collect(),
            env: env
                .iter()
                .map(|&(name, value)| (name.to_owned(), secret(value)))
                .collect(),
        })
    }

    pub(super) fn every_kind() -> [Credential; 3] {
        let (certificate, key) = pair();
        [
            Credential::Token(secret("hunter2")),
            Credential::ClientCertificate {
                certificate,
                key: Zeroizing::new(key),
            },
            exec("/usr/bin/plugin", &["hunter2"], &[("SECRET", "hunter2")]),
        ]
    }

    #[test]
    fn rule_9_a_credential_is_for_its_cluster_and_its_endpoint() {
        let ring = ring();
        let endpoint = |url: &str| Endpoint::new(url.to_owned(), None, None).unwrap();
        for credential in every_kind() {
            let sealed = credential
                .seal(&cluster("a"), &endpoint(URL), &ring)
                .unwrap();
            let direct = Direct {
                endpoint: endpoint(URL),
                credential: sealed.clone(),
                policy: ClusterPolicy::default(),
            };
            assert_eq!(direct.open(&cluster("a"), &ring).unwrap(), credential);
            let elsewhere = Direct {
                endpoint: endpoint("https://attacker.example"),
                credential: sealed,
                policy: ClusterPolicy::default(),
            };
            for (direct, name) in [(&elsewhere, "a"), (&direct, "b")] {
                let opened = direct.open(&cluster(name), &ring);
                let error = opened.unwrap_err();
                assert!(matches!(
                    error,
                    OpenCredentialError::Unseal(UnsealError::Misplaced)
                ));
            }
        }
    }

    #[test]
    fn rule_9_the_public_part_belongs_to_the_secret() {
        let ring = ring();
        let endpoint = Endpoint::new(URL.to_owned(), None, None).unwrap();
        for credential in every_kind() {
            let mut sealed = credential.seal(&cluster("a"), &endpoint, &ring).unwrap();
            match &mut sealed {
                SealedCredential::Token { .. } => continue,
                SealedCredential::ClientCertificate { certificate, .. } => *certificate = pair().0,
                SealedCredential::Exec { command, .. } => *command = "/bin/sh".to_owned(),
            }
            let direct = Direct {
                endpoint: endpoint.clone(),
                credential: sealed,
                policy: ClusterPolicy::default(),
            };
            direct.open(&cluster("a"), &ring).unwrap_err();
        }
    }

    #[test]
    fn rule_9_nothing_shows_a_secret() {
        let ring = ring();
        let endpoint = Endpoint::new(URL.to_owned(), None, None).unwrap();
        for credential in every_kind() {
            let sealed = credential.seal(&cluster("a"), &endpoint, &ring).unwrap();
            let direct = Direct {
                endpoint: endpoint.clone(),
                credential: sealed,
                policy: ClusterPolicy::default(),
            };
            let json = serde_json::to_string(&direct).unwrap();
            assert_eq!(serde_json::from_str::<Direct>(&json).unwrap(), direct);
            for shown in [json, format!("{direct:?}"), format!("{credential:?}")] {
                assert!(!shown.contains("hunter2"), "{shown}");
                assert!(!shown.contains("PRIVATE"), "{shown}");
            }
        }
    }
}
