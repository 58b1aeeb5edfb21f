//! The mark of a directory: the installation that it belongs to, and the layout of its keys.

use serde::{Deserialize, Serialize};

use crate::config::EtcdConfig;
use crate::error::EtcdError;
use crate::keys::damaged;

/// How the keys are laid out. Another one is not read.
pub(crate) const THIS_FORMAT: u64 = 1;

const PRODUCT: &str = "underpass";

/// The value of the key `format`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Mark {
    product: String,
    format: u64,
    /// A random number that the first server has chosen.
    pub(crate) installation: String,
}

impl Mark {
    pub(crate) fn new(installation: String) -> Self {
        Self {
            product: PRODUCT.to_owned(),
            format: THIS_FORMAT,
            installation,
        }
    }

    pub(crate) fn write(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Reads the key's value. It has to be of this format, and of the installation that is expected.
    pub(crate) fn read(key: &[u8], value: &[u8], config: &EtcdConfig) -> Result<Self, EtcdError> {
        let prefix = || config.prefix.to_string();
        let Ok(mark) = serde_json::from_slice::<Self>(value) else {
            return Err(damaged(key));
        };
        if mark.product != PRODUCT {
            let key = String::from_utf8_lossy(key).into_owned();
            let prefix = prefix();
            return Err(EtcdError::NotOurs { prefix, key });
        }
        if mark.format != THIS_FORMAT {
            return Err(EtcdError::Format {
                prefix: prefix(),
                found: mark.format,
            });
        }
        match &config.installation {
            Some(expected) if *expected != mark.installation => {
                Err(EtcdError::AnotherInstallation {
                    prefix: prefix(),
                    found: mark.installation,
                    expected: expected.clone(),
                })
            }
            _ => Ok(mark),
        }
    }
}
