//! The agent's own key in a Secret of its cluster: for a pod that has no volume to keep it on.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Api, Client, Config};
use serde_json::json;
use thiserror::Error;
use underpass_core::service_account::{is_label, is_subdomain};
use underpass_tunnel::{AgentKey, KeyError};
use zeroize::Zeroizing;

use super::Origin;
use crate::limits;

/// The entry of the Secret that holds the key.
const ENTRY: &str = "agent.key";

/// The Secret of the key, by namespace and name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SecretName {
    namespace: String,
    name: String,
}

/// The text names no Secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("a Secret is named as NAMESPACE/NAME")]
pub(super) struct NoSecretName;

impl FromStr for SecretName {
    type Err = NoSecretName;

    fn from_str(text: &str) -> Result<Self, NoSecretName> {
        let (namespace, name) = text.split_once('/').ok_or(NoSecretName)?;
        if !is_label(namespace) || !is_subdomain(name) {
            return Err(NoSecretName);
        }
        Ok(Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        })
    }
}

impl fmt::Display for SecretName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Why there is no key to use.
#[derive(Debug, Error)]
pub(super) enum KeySecretError {
    #[error("the API server cannot be asked for the Secret {0}")]
    Client(SecretName, #[source] Box<kube::Error>),
    #[error(
        "the agent may not read or write its key in the Secret {0}: apply what `underpass-agent rbac --key-secret {name}` \
         prints", name = .0.name
    )]
    Forbidden(SecretName, #[source] Box<kube::Error>),
    #[error("the Secret {0} cannot be read or written")]
    Api(SecretName, #[source] Box<kube::Error>),
    #[error(
        "the Secret {0} holds no key in its entry {ENTRY}: remove that entry and join again, or name another Secret"
    )]
    NoKey(SecretName, #[source] KeyError),
    #[error("other agents change the Secret {0} all the time")]
    Busy(SecretName),
}

impl KeySecretError {
    /// May another attempt have another end without anybody's doing?
    pub(super) fn is_transient(&self) -> bool {
        match self {
            Self::Api(_, error) => match &**error {
                kube::Error::Api(status) => status.code == 429 || status.code >= 500,
                _ => true,
            },
            Self::Busy(_) => true,
            _ => false,
        }
    }
}

/// The key's text, which is made and kept in the Secret where there is none. Of several agents that start together, all have the
/// key of the one that was first.
///
/// # Cancel safety
/// A key may have been kept. The next call finds it.
pub(super) async fn prepare(
    config: Config,
    name: &SecretName,
) -> Result<(Zeroizing<String>, Origin), KeySecretError> {
    let client = Client::try_from(config);
    let client = client.map_err(|error| KeySecretError::Client(name.clone(), Box::new(error)))?;
    let secrets = Api::<Secret>::namespaced(client, &name.namespace);
    for _ in 0..limits::KEY_SECRET_ATTEMPTS {
        let found = secrets.get_opt(&name.name).await;
        let found = found.map_err(|error| failed(name, error))?;
        if let Some(text) = found.as_ref().and_then(key_of) {
            let text = Zeroizing::new(String::from_utf8_lossy(&text).trim().to_owned());
            let key: Result<AgentKey, _> = text.parse();
            key.map_err(|error| KeySecretError::NoKey(name.clone(), error))?;
            return Ok((text, Origin::Found));
        }
        let key = AgentKey::from_seed(rand::random());
        let key = key.map_err(|error| KeySecretError::NoKey(name.clone(), error))?;
        let text = key.to_secret_text();
        match keep(&secrets, name, found, &text).await {
            Ok(()) => return Ok((text, Origin::Made)),
            // Another agent was faster.
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(error) => return Err(failed(name, error)),
        }
    }
    Err(KeySecretError::Busy(name.clone()))
}

fn key_of(secret: &Secret) -> Option<Zeroizing<Vec<u8>>> {
    let entries = secret.data.as_ref()?;
    entries.get(ENTRY).map(|key| Zeroizing::new(key.0.clone()))
}

/// Puts the key into the Secret as it was found, or into a new one.
async fn keep(
    secrets: &Api<Secret>,
    name: &SecretName,
    found: Option<Secret>,
    text: &str,
) -> Result<(), kube::Error> {
    let key = ByteString(text.as_bytes().to_vec());
    let Some(found) = found else {
        let secret = Secret {
            metadata: ObjectMeta {
                name: Some(name.name.clone()),
                ..ObjectMeta::default()
            },
            data: Some(BTreeMap::from([(ENTRY.to_owned(), key)])),
            ..Secret::default()
        };
        let created = secrets.create(&PostParams::default(), &secret).await;
        return created.map(drop);
    };
    // With the version that was read, a change since then is a conflict.
    let change = json!({
        "metadata": { "resourceVersion": found.metadata.resource_version },
        "data": { ENTRY: key },
    });
    let (params, patch) = (PatchParams::default(), Patch::Merge(change));
    let patched = secrets.patch(&name.name, &params, &patch).await;
    patched.map(drop)
}

fn failed(name: &SecretName, error: kube::Error) -> KeySecretError {
    let is_forbidden =
        matches!(&error, kube::Error::Api(status) if status.code == 403 || status.code == 401);
    match is_forbidden {
        true => KeySecretError::Forbidden(name.clone(), Box::new(error)),
        false => KeySecretError::Api(name.clone(), Box::new(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_named_by_namespace_and_name() {
        let name: SecretName = "underpass-system/agent.key-1".parse().unwrap();
        assert_eq!(name.to_string(), "underpass-system/agent.key-1");
        for bad in ["", "name", "a/", "/b", "a/b/c", "A/b", "a/..", "a b/c"] {
            assert_eq!(bad.parse::<SecretName>(), Err(NoSecretName), "{bad}");
        }
    }
}
