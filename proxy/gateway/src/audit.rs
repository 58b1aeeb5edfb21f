//! A request from its arrival to its end, for the audit log (security rule 15): shells and port-forwards like any
//! other, with both identities, the duration and the bytes.

use std::{net::IpAddr, sync::Arc, time::Instant};

use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use time::OffsetDateTime;

use super::route::Route;
use underpass_audit::{Call, Event, Kind, Stage, Told, Trail, User, cut};
use underpass_core::{ClusterName, Identity, Refusal, RequestInfo, limits};
use underpass_http::pipe::Meter;

/// One request. Its last event is written when it is dropped, however that happens.
#[derive(Debug)]
pub(crate) struct Record {
    trail: Trail,
    id: String,
    client: IpAddr,
    user_agent: String,
    method: Method,
    /// As the client asked for it; as the cluster gets it, once that is known.
    target: String,
    received: OffsetDateTime,
    started: Instant,
    cluster: Option<ClusterName>,
    user: Option<User>,
    authenticated: Option<String>,
    acting_as: Option<User>,
    info: Option<RequestInfo>,
    code: Option<StatusCode>,
    /// Why it was not forwarded, as the client reads it.
    refusal: Option<Refusal>,
    outcome: &'static str,
    /// What an upgraded stream carries, or what the answer's body has carried.
    pipe: Option<Arc<Meter>>,
    body_bytes: u64,
}

impl Record {
    pub(crate) fn new(
        trail: Trail,
        id: String,
        client: IpAddr,
        method: Method,
        target: &str,
        headers: &HeaderMap,
    ) -> Self {
        let agent = headers.get(header::USER_AGENT).map(HeaderValue::as_bytes);
        Self {
            trail,
            id,
            client,
            user_agent: kept(&String::from_utf8_lossy(agent.unwrap_or_default())),
            method,
            target: kept(target),
            received: OffsetDateTime::now_utc(),
            started: Instant::now(),
            cluster: None,
            user: None,
            authenticated: None,
            acting_as: None,
            info: None,
            code: None,
            refusal: None,
            outcome: "client gone",
            pipe: None,
            body_bytes: 0,
        }
    }

    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    pub(crate) fn client(&self) -> IpAddr {
        self.client
    }

    pub(crate) fn id_header(&self) -> Option<HeaderValue> {
        HeaderValue::from_str(&self.id).ok()
    }

    pub(crate) fn caller(&mut self, identity: &Identity, route: &Route) {
        self.user = Some(identity.into());
        self.authenticated = identity.provenance().map(ToString::to_string);
        self.cluster = Some(route.cluster.clone());
        self.target = kept(route.path.as_str());
    }

    /// What is decided about and forwarded; without, the path was refused for having more than one meaning.
    pub(crate) fn asks(&mut self, info: &RequestInfo) {
        self.info = Some(info.clone());
    }

    pub(crate) fn acting_as(&mut self, target: &Identity) {
        self.acting_as = Some(target.into());
    }

    pub(crate) fn refused(&mut self, refusal: &Refusal) {
        self.code = Some(refusal.code());
        self.refusal = Some(refusal.clone());
        self.outcome = "refused";
        self.note_head();
    }

    pub(crate) fn head(&mut self, code: StatusCode) {
        self.code = Some(code);
        self.note_head();
        let long = self.info.as_ref().is_some_and(RequestInfo::is_long_running);
        if long && let Some(told) = self.tell() {
            self.write(told, Stage::ResponseStarted);
        }
    }

    fn note_head(&self) {
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

    fn milliseconds(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn bytes_down(&self) -> u64 {
        self.pipe
            .as_ref()
            .map_or(self.body_bytes, |pipe| pipe.down())
    }

    fn tell(&self) -> Option<Told> {
        self.trail.tell(match (&self.user, &self.refusal) {
            (None, _) => Kind::Stranger(self.client),
            (Some(user), Some(refusal)) if never_began(refusal.code()) => Kind::Refused(user),
            (Some(_), _) => Kind::Done,
        })
    }

    fn write(&self, told: Told, stage: Stage) {
        let nobody = User::default();
        let user = self.user.as_ref().unwrap_or(&nobody);
        let call = Call {
            user,
            cluster: self.cluster.as_ref(),
            info: self.info.as_ref(),
            path: self.target.split('?').next().unwrap_or_default(),
        };
        let short = |text| cut(text, told.text_chars());
        self.trail.write(told, stage, call, |level| {
            let mut event = Event::new(level, stage, &self.id, self.client, self.received);
            event.request_uri = short(&self.target);
            event.user_agent = short(&self.user_agent);
            event.user = user.clone();
            event.impersonated_user.clone_from(&self.acting_as);
            match &self.info {
                Some(info) => event.asks(info),
                None => event.verb = self.method.as_str(),
            }
            match (&self.refusal, self.code) {
                (Some(refusal), _) => event.refused(refusal),
                (None, Some(code)) => event.answered(code.as_u16()),
                (None, None) => {}
            }
            let mut annotate = |key, value: String| event.annotations.insert(key, value);
            if let Some(cluster) = &self.cluster {
                annotate("underpass.dev/cluster", cluster.to_string());
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
        tracing::info!(
            target: "underpass::audit",
            audit_id = self.id,
            client = %self.client,
            method = %self.method,
            target = cut(&self.target, told.text_chars()),
            cluster = self.cluster.as_ref().map(ClusterName::as_str),
            user = self.user.as_ref().map(User::name),
            authenticated = self.authenticated,
            acting_as = self.acting_as.as_ref().map(User::name),
            verb = self.info.as_ref().map(RequestInfo::verb),
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
