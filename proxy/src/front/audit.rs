//! One line for each request that was decided on, when it ends (security rule 15): shells and port-forwards
//! like any other, with both identities, the duration and the bytes.

use std::{net::IpAddr, sync::Arc, time::Instant};

use aws_lc_rs::rand;
use http::{HeaderValue, Method, StatusCode};

use crate::{ClusterName, Identity, Refusal, pipe::Meter};

/// A target longer than this is cut in the log; kube-apiserver's own audit keeps all of it.
const TARGET_CHARS: usize = 2048;

/// A new `Audit-ID`: a random UUID (RFC 9562, section 5.4), as kube-apiserver makes them.
pub(crate) fn new_id() -> String {
    let mut bytes = [0u8; 16];
    // Without randomness the id is constant: it correlates log lines and guards nothing.
    let _ = rand::fill(&mut bytes);
    let value = u128::from_be_bytes(bytes);
    let value = value & !(0xf << 76) & !(0x3 << 62) | (0x4 << 76) | (0x2 << 62);
    let hex = format!("{value:032x}");
    let part = |from: usize, to: usize| hex.get(from..to).unwrap_or_default();
    [
        part(0, 8),
        part(8, 12),
        part(12, 16),
        part(16, 20),
        part(20, 32),
    ]
    .join("-")
}

/// A request from its arrival to its end. The line is written when it is dropped, however that happens.
#[derive(Debug)]
pub(crate) struct Record {
    id: String,
    client: IpAddr,
    method: Method,
    target: String,
    started: Instant,
    cluster: Option<ClusterName>,
    user: Option<String>,
    authenticated: Option<String>,
    acting_as: Option<String>,
    verb: String,
    code: Option<StatusCode>,
    outcome: &'static str,
    /// What an upgraded stream carries, or what the answer's body has carried.
    pipe: Option<Arc<Meter>>,
    body_bytes: u64,
}

impl Record {
    pub(crate) fn new(id: String, client: IpAddr, method: Method, target: &str) -> Self {
        Self {
            id,
            client,
            method,
            target: target.chars().take(TARGET_CHARS).collect(),
            started: Instant::now(),
            cluster: None,
            user: None,
            authenticated: None,
            acting_as: None,
            verb: String::new(),
            code: None,
            outcome: "client gone",
            pipe: None,
            body_bytes: 0,
        }
    }

    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    pub(crate) fn id_header(&self) -> Option<HeaderValue> {
        HeaderValue::from_str(&self.id).ok()
    }

    pub(crate) fn caller(&mut self, identity: &Identity, cluster: &ClusterName, verb: &str) {
        self.user = Some(identity.user().to_owned());
        self.authenticated = identity.provenance().map(ToString::to_string);
        self.cluster = Some(cluster.clone());
        self.verb = verb.to_owned();
    }

    pub(crate) fn acting_as(&mut self, target: &Identity) {
        self.acting_as = Some(target.user().to_owned());
    }

    pub(crate) fn refused(&mut self, refusal: &Refusal) {
        self.head(refusal.code());
        self.outcome = "refused";
    }

    pub(crate) fn head(&mut self, code: StatusCode) {
        self.code = Some(code);
        metrics::histogram!("underpass_proxy_response_head_seconds")
            .record(self.started.elapsed().as_secs_f64());
    }

    pub(crate) fn passed(&mut self, bytes: usize) {
        self.body_bytes = self.body_bytes.saturating_add(bytes as u64);
    }

    pub(crate) fn piped(&mut self, meter: Arc<Meter>) {
        self.pipe = Some(meter);
    }

    pub(crate) fn ended(&mut self, outcome: &'static str) {
        self.outcome = outcome;
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let code = self.code.map_or(0, |code| code.as_u16());
        metrics::counter!(
            "underpass_proxy_requests_total",
            "code" => code.to_string(), "outcome" => self.outcome
        )
        .increment(1);
        tracing::info!(
            target: "underpass::audit",
            audit_id = self.id,
            client = %self.client,
            method = %self.method,
            target = self.target,
            cluster = self.cluster.as_ref().map(ClusterName::as_str),
            user = self.user,
            authenticated = self.authenticated,
            acting_as = self.acting_as,
            verb = self.verb,
            code,
            outcome = self.outcome,
            bytes_up = self.pipe.as_ref().map(|pipe| pipe.up()),
            bytes_down = self.pipe.as_ref().map_or(self.body_bytes, |pipe| pipe.down()),
            milliseconds = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            "request ended"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_random_uuids() {
        let id = new_id();
        let bytes = id.as_bytes();
        assert_eq!(id.len(), 36);
        assert_eq!(bytes[14], b'4');
        assert!(b"89ab".contains(&bytes[19]));
        assert_ne!(id, new_id());
    }
}
