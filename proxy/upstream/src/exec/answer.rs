//! The answer of a credential plugin.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use http::HeaderValue;
use rustls::sign::CertifiedKey;
use serde::Deserialize;
use time::OffsetDateTime;
use zeroize::Zeroizing;

use super::ExecError;
use crate::{
    clock::{self, Moment},
    credential::bearer,
    tls,
};
use underpass_core::limits;

/// The forms that there have been. An error repeats no other text of a plugin's.
const KNOWN: [&str; 3] = [
    "client.authentication.k8s.io/v1",
    "client.authentication.k8s.io/v1beta1",
    "client.authentication.k8s.io/v1alpha1",
];

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ExecCredential {
    api_version: String,
    kind: String,
    status: Option<Status>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    token: Option<Zeroizing<String>>,
    client_certificate_data: Option<String>,
    client_key_data: Option<Zeroizing<String>>,
    #[serde(default, with = "time::serde::rfc3339::option")]
    expiration_timestamp: Option<OffsetDateTime>,
}

/// The result of a run.
#[derive(Clone)]
pub(crate) struct Issued {
    pub(crate) header: Option<HeaderValue>,
    pub(crate) certificate: Option<Arc<CertifiedKey>>,
    pub(super) at: Moment,
    pub(super) life: Option<Life>,
}

/// The life of a credential that expires.
#[derive(Clone, Copy)]
pub(super) struct Life {
    /// From when on another is to be had.
    pub(super) renew: Moment,
    pub(super) end: Moment,
}

impl std::fmt::Debug for Issued {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Issued").finish_non_exhaustive()
    }
}

/// Reads an answer in one of these forms. It is JSON, or YAML, as client-go has it, and may begin with a byte order mark: client-go's
/// reader of YAML passes over one.
pub(super) fn understand(
    printed: &[u8],
    forms: &'static [&'static str],
) -> Result<Issued, ExecError> {
    // The parser's errors quote the text.
    let answer: ExecCredential =
        serde_saphyr::from_slice(printed).map_err(|_| ExecError::Malformed)?;
    let given = KNOWN.into_iter().find(|known| *known == answer.api_version);
    let given = given.filter(|_| answer.kind == "ExecCredential");
    let given = given.ok_or(ExecError::Malformed)?;
    if !forms.contains(&given) {
        let asked = forms.join(" or ");
        return Err(ExecError::Version { asked, given });
    }
    let status = answer.status.ok_or(ExecError::Nothing)?;
    let token = status.token.filter(|token| !token.is_empty());
    let header = token.map(|token| bearer(&token).ok_or(ExecError::Nothing));
    let header = header.transpose()?;
    let certificate = status.client_certificate_data;
    let certificate = certificate.filter(|pem| !pem.is_empty());
    let key = status.client_key_data.filter(|pem| !pem.is_empty());
    let certificate = match (certificate, key) {
        (Some(certificate), Some(key)) => {
            let pair = tls::pair(certificate.as_bytes(), key.as_bytes());
            Some(pair.map_err(ExecError::Certificate)?)
        }
        (None, None) => None,
        _ => return Err(ExecError::Nothing),
    };
    if header.is_none() && certificate.is_none() {
        return Err(ExecError::Nothing);
    }
    let at = Moment::now();
    let life = match status.expiration_timestamp {
        None => None,
        Some(end) => {
            let left = SystemTime::from(end).duration_since(clock::wall());
            life(at, left.map_err(|_| ExecError::Expired)?)
        }
    };
    Ok(Issued {
        header,
        certificate,
        at,
        life,
    })
}

/// `None` is for ever: that is later than any clock can say.
fn life(at: Moment, left: Duration) -> Option<Life> {
    Some(Life {
        renew: at.checked_add(renew_after(left))?,
        end: at.checked_add(left)?,
    })
}

pub(super) fn renew_after(left: Duration) -> Duration {
    left.saturating_sub(limits::EXEC_EARLY.min(left / 4))
}
