//! A request from its arrival to its end, for the audit log (security rule 15): shells and port-forwards like any
//! other, with both identities, the duration and the bytes.

use std::{net::IpAddr, sync::Arc, time::Instant};

use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use time::OffsetDateTime;

use super::{route::Route, targets::Location};
use underpass_audit::{AuditLog, Call, Event, EventKind, Stage, Told, User, cut};
use underpass_core::{
    ClusterName, Identity, NodeName, Provenance, Rejection, RequestInfo, Target, Via, limits,
};
use underpass_http::pipe::Meter;

/// The verb of a connection to a target, as in [`Access::verb`](underpass_core::Access::verb).
const CONNECT: &str = "connect";

/// The outcome of a request that nothing else has ended.
const CLIENT_GONE: &str = "client gone";

/// One request. Its last event is written when it is dropped, however that happens.
#[derive(Debug)]
pub(crate) struct Record {
    audit_log: AuditLog,
    id: String,
    client: IpAddr,
    user_agent: String,
    method: Method,
    /// As the client asked for it, with the prefix also where the cluster has a name; as the cluster gets it, once the caller is known.
    target: String,
    received: OffsetDateTime,
    started: Instant,
    cluster: Option<ClusterName>,
    node: Option<NodeName>,
    via: Via,
    user: Option<User>,
    authenticated: Option<String>,
    /// Vouches for the user's name.
    authority: Option<String>,
    impersonation: Option<User>,
    info: Option<RequestInfo>,
    asks_service: bool,
    code: Option<StatusCode>,
    /// Why it was not forwarded, as the client reads it.
    rejection: Option<Rejection>,
    /// It has waited for room in the audit log, and may begin.
    admitted: bool,
    outcome: &'static str,
    /// The bytes that an upgraded stream carries, or an exchange with a service; or those that the answer's body has carried.
    pipe: Option<Arc<Meter>>,
    body_bytes: u64,
}

impl Record {
    pub(crate) fn new(
        audit_log: AuditLog,
        id: String,
        client: IpAddr,
        method: Method,
        target: &str,
        headers: &HeaderMap,
    ) -> Self {
        let agent = headers.get(header::USER_AGENT).map(HeaderValue::as_bytes);
        Self {
            audit_log,
            id,
            client,
            user_agent: kept(&String::from_utf8_lossy(agent.unwrap_or_default())),
            method,
            target: kept(target),
            received: OffsetDateTime::now_utc(),
            started: Instant::now(),
            cluster: None,
            node: None,
            via: Via::default(),
            user: None,
            authenticated: None,
            authority: None,
            impersonation: None,
            info: None,
            asks_service: false,
            code: None,
            rejection: None,
            admitted: false,
            outcome: CLIENT_GONE,
            pipe: None,
            body_bytes: 0,
        }
    }

    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// Where the agent is left that the request goes through.
    pub(crate) fn via(&self) -> Via {
        self.via.clone()
    }

    pub(crate) fn client(&self) -> IpAddr {
        self.client
    }

    pub(crate) fn id_header(&self) -> Option<HeaderValue> {
        HeaderValue::from_str(&self.id).ok()
    }

    /// The caller, as soon as they are known: refusals of theirs are not a stranger's.
    pub(crate) fn known(&mut self, identity: &Identity) {
        self.user = Some(identity.into());
        let provenance = identity.provenance();
        self.authenticated = provenance.map(ToString::to_string);
        let authority = provenance.map(Provenance::authority);
        self.authority = authority.map(ToString::to_string);
    }

    /// A request to the API server.
    pub(crate) fn asks_api(&mut self, route: &Route) {
        self.cluster = Some(route.cluster.clone());
        self.target = kept(route.path.as_str());
    }

    /// A connection to a target.
    pub(crate) fn connects(&mut self, location: Location<'_>, target: &Target) {
        self.cluster = Some(location.cluster.clone());
        self.node = location.node.cloned();
        self.target = target.to_string();
    }

    /// A request to a service, which is written as the client asked for it. A path that names no service may name a cluster.
    pub(crate) fn asks_service(&mut self, cluster: Option<&ClusterName>) {
        self.cluster = cluster.cloned();
        self.asks_service = true;
    }

    fn is_connect(&self) -> bool {
        self.method == Method::CONNECT
    }

    /// A stream to a target beside the API server.
    fn is_connection(&self) -> bool {
        self.is_connect() || self.asks_service
    }

    /// Kubernetes' verb, where it is known.
    fn verb(&self) -> Option<&str> {
        match self.is_connection() {
            true => Some(CONNECT),
            false => self.info.as_ref().map(RequestInfo::verb),
        }
    }

    /// The request that is decided about and forwarded. Without it, the path was refused: it has more than one meaning.
    pub(crate) fn asks(&mut self, info: &RequestInfo) {
        self.info = Some(info.clone());
    }

    pub(crate) fn impersonation(&mut self, target: &Identity) {
        self.impersonation = Some(target.into());
    }

    /// Everything is decided, and there is room for its events.
    pub(crate) fn admitted(&mut self) {
        self.admitted = true;
    }

    pub(crate) fn refused(&mut self, rejection: &Rejection) {
        self.code = Some(rejection.code());
        self.rejection = Some(rejection.clone());
        self.outcome = "refused";
        self.note_head();
    }

    pub(crate) fn head(&mut self, code: StatusCode) {
        self.code = Some(code);
        self.note_head();
        let long = self.info.as_ref().is_some_and(RequestInfo::is_long_running);
        let long = long || self.is_connection();
        if long && let Some(told) = self.tell() {
            self.write(told, Stage::ResponseStarted);
        }
    }

    fn note_head(&self) {
        metrics::histogram!("underpass_proxy_response_head_seconds")
            .record(self.started.elapsed().as_secs_f64());
    }

    pub(crate) fn passed(&mut self, bytes: usize) {
        match &self.pipe {
            Some(meter) => meter.went_down(bytes),
            None => self.body_bytes = self.body_bytes.saturating_add(bytes as u64),
        }
    }

    pub(crate) fn piped(&mut self, meter: Arc<Meter>) {
        self.pipe = Some(meter);
    }

    pub(crate) fn ended(&mut self, outcome: &'static str) {
        self.outcome = outcome;
    }

    /// The same where nothing else has ended it.
    pub(crate) fn unless_ended(&mut self, outcome: &'static str) {
        if self.outcome == CLIENT_GONE {
            self.outcome = outcome;
        }
    }

    fn milliseconds(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn bytes_down(&self) -> u64 {
        self.pipe
            .as_ref()
            .map_or(self.body_bytes, |pipe| pipe.down())
    }

    fn tell(&self) -> Option<Told> {
        let Some(user) = &self.user else {
            return self.audit_log.tell(EventKind::Stranger(self.client));
        };
        let rejection = self.rejection.as_ref();
        let refused = rejection.is_some_and(|rejection| never_began(rejection.code()));
        // A client that went away, or a cluster that hung, before there was room.
        self.audit_log.tell(if refused || !self.admitted {
            EventKind::Refused {
                name: user.name(),
                authority: self.authority.as_deref().unwrap_or_default(),
            }
        } else {
            EventKind::Done
        })
    }

    fn write(&self, told: Told, stage: Stage) {
        let nobody = User::default();
        let user = self.user.as_ref().unwrap_or(&nobody);
        let call = Call {
            user,
            cluster: self.cluster.as_ref(),
            info: self.info.as_ref(),
            verb: self.verb().unwrap_or_default(),
            path: match self.is_connect() {
                true => &self.target,
                false => self.target.split('?').next().unwrap_or_default(),
            },
        };
        self.audit_log.write(told, stage, call, |level| {
            let mut event = Event::new(level, stage, &self.id, self.client, self.received);
            event.request_uri = &self.target;
            event.user_agent = &self.user_agent;
            event.user = user.clone();
            event.impersonated_user.clone_from(&self.impersonation);
            match &self.info {
                Some(info) => event.asks(info),
                None => event.verb = self.verb().unwrap_or(self.method.as_str()),
            }
            match (&self.rejection, self.code) {
                (Some(rejection), _) => event.refused(rejection),
                (None, Some(code)) => event.answered(code.as_u16()),
                (None, None) => {}
            }
            let mut annotate = |key, value: String| event.annotations.insert(key, value);
            if let Some(cluster) = &self.cluster {
                annotate("underpass.dev/cluster", cluster.to_string());
            }
            if let Some(node) = &self.node {
                annotate("underpass.dev/node", node.to_string());
            }
            if self.asks_service {
                annotate("underpass.dev/method", self.method.to_string());
            }
            if let Some(through) = self.via.through() {
                annotate("underpass.dev/agent", through.to_string());
            }
            if let Some(by) = &self.authenticated {
                annotate("underpass.dev/authenticated-by", by.clone());
            }
            if stage == Stage::ResponseComplete {
                annotate("underpass.dev/outcome", self.outcome.to_owned());
                annotate(
                    "underpass.dev/milliseconds",
                    self.milliseconds().to_string(),
                );
                annotate("underpass.dev/bytes-down", self.bytes_down().to_string());
                if let Some(pipe) = &self.pipe {
                    annotate("underpass.dev/bytes-up", pipe.up().to_string());
                }
            }
            event
        });
    }
}

/// Answers of ours to calls that reached no cluster. Those behind a 502 or 504 may have done something there.
fn never_began(code: StatusCode) -> bool {
    code.is_client_error() || code == StatusCode::SERVICE_UNAVAILABLE
}

fn kept(text: &str) -> String {
    cut(text, limits::AUDIT_TEXT_CHARS).to_owned()
}

impl Drop for Record {
    fn drop(&mut self) {
        let code = self.code.map_or(0, |code| code.as_u16());
        metrics::counter!(
            "underpass_proxy_requests_total",
            "code" => code.to_string(), "outcome" => self.outcome
        )
        .increment(1);
        let Some(told) = self.tell() else {
            return;
        };
        self.write(told, Stage::ResponseComplete);
        let suppressed = told.suppressed();
        let short = |text| cut(text, told.text_chars());
        let name = |user: &User| cut(user.name(), told.name_chars()).to_owned();
        tracing::info!(
            target: "underpass::audit",
            audit_id = self.id,
            client = %self.client,
            method = cut(self.method.as_str(), limits::STRANGER_TEXT_CHARS),
            target = short(&self.target),
            cluster = self.cluster.as_ref().map(ClusterName::as_str),
            node = self.node.as_ref().map(NodeName::as_str),
            agent = self.via.through().map(tracing::field::display),
            user = self.user.as_ref().map(name),
            authenticated = self.authenticated,
            impersonation = self.impersonation.as_ref().map(name),
            verb = self.verb(),
            code,
            outcome = self.outcome,
            bytes_up = self.pipe.as_ref().map(|pipe| pipe.up()),
            bytes_down = self.bytes_down(),
            milliseconds = self.milliseconds(),
            suppressed = (suppressed > 0).then_some(suppressed),
            "request ended"
        );
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, net::Ipv4Addr};

    use async_trait::async_trait;
    use bytes::Bytes;
    use http::Request;
    use underpass_audit::{Backend, BackendConfig, Policy, Sink};
    use underpass_core::{BoxError, ClusterDomains};

    use super::*;
    use crate::route::Destination;

    /// A disk that is stuck.
    struct Stuck;

    #[async_trait]
    impl Sink for Stuck {
        async fn write(&mut self, _: &[Bytes]) -> Result<(), BoxError> {
            std::future::pending().await
        }
    }

    fn record(audit_log: &AuditLog) -> Record {
        let client = Ipv4Addr::LOCALHOST.into();
        let headers = HeaderMap::new();
        let target = "/k8s/clusters/c/api/v1/pods";
        let mut record = Record::new(
            audit_log.clone(),
            "id".to_owned(),
            client,
            Method::GET,
            target,
            &headers,
        );
        let alice = Identity::new("alice".into(), None, Vec::new(), BTreeMap::new()).unwrap();
        let request = Request::get(target).body(()).unwrap();
        let Destination::Cluster(Some(route)) =
            Destination::of(&request, None, &ClusterDomains::default())
        else {
            panic!("{target} is a cluster's");
        };
        record.known(&alice);
        record.asks_api(&route);
        record
    }

    #[tokio::test]
    async fn rule_23_who_goes_away_while_the_audit_log_is_stuck_leaves_nothing_in_its_queue() {
        let config = BackendConfig {
            capacity: 2,
            ..BackendConfig::default()
        };
        let backend = Backend::start("stuck", Box::new(Stuck), config);
        let audit_log = AuditLog::new(Policy::everything(), vec![backend.clone()]);
        for _ in 0..10 {
            // The client resets its stream while the call waits for room.
            drop(record(&audit_log));
            // A cluster that was asked whom they may act as has not answered.
            record(&audit_log).refused(&Rejection::Timeout("c"));
        }
        assert_eq!(backend.waiting(), 2);
        // A call that had begun is always written.
        record(&audit_log).admitted();
        assert_eq!(backend.waiting(), 3);
    }
}
