//! The agent's own key in a Secret of its cluster: for a pod that has no volume to keep it on.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use kube::client::AuthError;
use kube::{Api, Config};
use serde_json::json;
use thiserror::Error;
use time::OffsetDateTime;
use underpass_core::service_account::{is_label, is_subdomain};
use underpass_tunnel::KeyError;
use zeroize::Zeroizing;

use super::Origin;
use super::record::{KeyRecord, OwnKey, RecordError};
use crate::{cluster, limits};

/// The entry of the Secret that holds the key.
const ENTRY: &str = "agent.key";

/// The entry that holds the next one.
const NEXT_ENTRY: &str = "agent.key.next";

/// The entry with facts about them.
const FACTS_ENTRY: &str = "agent.key.facts";

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
    NoKey(SecretName, #[source] RecordError),
    #[error("the Secret {0} has no entry {ENTRY} any more: join again")]
    Gone(SecretName),
    #[error("no key can be made")]
    Generate(#[source] KeyError),
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
            // A plugin that gave no token.
            Self::Client(_, error) => {
                matches!(**error, kube::Error::Auth(AuthError::AuthExec(_)))
            }
            Self::Busy(_) => true,
            _ => false,
        }
    }
}

/// The Secret's keys. A key is made and kept there where there is none: of several agents that start together, all have the
/// key of the one that was first.
///
/// # Cancel safety
/// A key may have been kept. The next call finds it.
pub(super) async fn prepare(
    config: Config,
    name: &SecretName,
) -> Result<(KeyRecord, Origin), KeySecretError> {
    let secrets = secrets(config, name).await?;
    for _ in 0..limits::KEY_SECRET_ATTEMPTS {
        let found = get(&secrets, name).await?;
        if let Some(record) = found
            .as_ref()
            .map(|found| record_of(found, name))
            .transpose()?
            && let Some(record) = record
        {
            return Ok((record, Origin::Found));
        }
        let key = OwnKey::generate().map_err(KeySecretError::Generate)?;
        let record = KeyRecord::new(key);
        if keep(&secrets, name, found, &record).await? {
            return Ok((record, Origin::Made));
        }
    }
    Err(KeySecretError::Busy(name.clone()))
}

/// The Secret's keys.
pub(super) async fn read(config: Config, name: &SecretName) -> Result<KeyRecord, KeySecretError> {
    let found = get(&secrets(config, name).await?, name).await?;
    let record = found.map(|found| record_of(&found, name)).transpose()?;
    let record = record.flatten();
    record.ok_or_else(|| KeySecretError::Gone(name.clone()))
}

/// Changes the Secret's keys, unless `change` says that there is nothing to change, and gives them. It is called again where another agent
/// was faster.
///
/// # Cancel safety
/// The change may have been made.
pub(super) async fn change(
    config: Config,
    name: &SecretName,
    change: impl Fn(&mut KeyRecord) -> Result<bool, KeyError>,
) -> Result<KeyRecord, KeySecretError> {
    let secrets = secrets(config, name).await?;
    for _ in 0..limits::KEY_SECRET_ATTEMPTS {
        let found = get(&secrets, name).await?;
        let gone = || KeySecretError::Gone(name.clone());
        let found = found.ok_or_else(gone)?;
        let mut record = record_of(&found, name)?.ok_or_else(gone)?;
        let changes = change(&mut record).map_err(KeySecretError::Generate)?;
        if !changes || keep(&secrets, name, Some(found), &record).await? {
            return Ok(record);
        }
    }
    Err(KeySecretError::Busy(name.clone()))
}

async fn secrets(config: Config, name: &SecretName) -> Result<Api<Secret>, KeySecretError> {
    let client = cluster::client(config).await;
    let client = client.map_err(|error| KeySecretError::Client(name.clone(), Box::new(error)))?;
    Ok(Api::namespaced(client, &name.namespace))
}

async fn get(secrets: &Api<Secret>, name: &SecretName) -> Result<Option<Secret>, KeySecretError> {
    let found = secrets.get_opt(&name.name).await;
    found.map_err(|error| failed(name, error))
}

/// The keys in a Secret; `None` where it has none. Without facts, as an older agent leaves them, the key is as old as the Secret.
fn record_of(secret: &Secret, name: &SecretName) -> Result<Option<KeyRecord>, KeySecretError> {
    let no_key = |error| KeySecretError::NoKey(name.clone(), error);
    let text = |entry: &str| {
        let entries = secret.data.as_ref()?;
        let bytes = Zeroizing::new(entries.get(entry)?.0.clone());
        Some(Zeroizing::new(String::from_utf8_lossy(&bytes).into_owned()))
    };
    let own = |text: &str| OwnKey::read(text).map_err(|error| no_key(RecordError::Key(error)));
    let Some(key) = text(ENTRY) else {
        return Ok(None);
    };
    let mut record = KeyRecord::bare(own(&key)?);
    let facts = text(FACTS_ENTRY).unwrap_or_default();
    record.read_facts(&facts, 1).map_err(no_key)?;
    record.next = text(NEXT_ENTRY).map(|next| own(&next)).transpose()?;
    let made = secret.metadata.creation_timestamp.as_ref();
    let made = made.and_then(|made| OffsetDateTime::from_unix_timestamp(made.0.as_second()).ok());
    record.since = record.since.or(made);
    Ok(Some(record))
}

/// Puts the keys into the Secret as it was found, or into a new one. False: another agent was faster.
async fn keep(
    secrets: &Api<Secret>,
    name: &SecretName,
    found: Option<Secret>,
    record: &KeyRecord,
) -> Result<bool, KeySecretError> {
    let bytes = |text: &str| ByteString(text.as_bytes().to_vec());
    let (key, facts) = (bytes(record.key.text()), bytes(&record.facts()));
    let next = record.next.as_ref().map(|next| bytes(next.text()));
    let kept = match found {
        None => {
            let entries = [
                (ENTRY, Some(key)),
                (FACTS_ENTRY, Some(facts)),
                (NEXT_ENTRY, next),
            ];
            let entries = entries.into_iter();
            let entries = entries.filter_map(|(name, value)| Some((name.to_owned(), value?)));
            let secret = Secret {
                metadata: ObjectMeta {
                    name: Some(name.name.clone()),
                    ..ObjectMeta::default()
                },
                data: Some(entries.collect::<BTreeMap<_, _>>()),
                ..Secret::default()
            };
            let created = secrets.create(&PostParams::default(), &secret).await;
            created.map(drop)
        }
        Some(found) => {
            // With the version that was read, a change since then is a conflict. A null removes an entry.
            let change = json!({
                "metadata": { "resourceVersion": found.metadata.resource_version },
                "data": { ENTRY: key, FACTS_ENTRY: facts, NEXT_ENTRY: next },
            });
            let (params, patch) = (PatchParams::default(), Patch::Merge(change));
            secrets.patch(&name.name, &params, &patch).await.map(drop)
        }
    };
    match kept {
        Ok(()) => Ok(true),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
        Err(error) => Err(failed(name, error)),
    }
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
