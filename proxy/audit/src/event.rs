//! One event (`k8s.io/apiserver/pkg/apis/audit/v1`, `Event`).

use std::{collections::BTreeMap, net::IpAddr};

use bytes::Bytes;
use serde::Serialize;
use time::{OffsetDateTime, format_description::BorrowedFormatItem, macros::format_description};

use super::{
    Level,
    cut::{cut_json, json_len},
    log::Told,
};
use underpass_core::{Identity, Rejection, RequestInfo, limits};

/// Kubernetes' `MicroTime`.
const MICRO_TIME: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:6]Z");

/// When an event is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, serde::Deserialize)]
pub enum Stage {
    /// Never written here; policies may name it.
    RequestReceived,
    /// The head of a long answer has been sent: a watch, a log, a shell.
    ResponseStarted,
    /// Nothing more will be sent.
    ResponseComplete,
    /// Never written here; policies may name it.
    Panic,
}

/// A call at one stage.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Event<'a> {
    kind: &'static str,
    api_version: &'static str,
    /// How much of the call it shows.
    pub level: Level,
    /// The call's id, as the cluster's API server has it too.
    #[serde(rename = "auditID")]
    pub audit_id: &'a str,
    /// When in the call it is written.
    pub stage: Stage,
    /// As the cluster's API server gets it.
    #[serde(rename = "requestURI")]
    pub request_uri: &'a str,
    /// Kubernetes's.
    pub verb: &'a str,
    /// The authenticated user.
    pub user: User,
    /// The user that they acted as, where they did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub impersonated_user: Option<User>,
    #[serde(rename = "sourceIPs")]
    source_ips: [IpAddr; 1],
    /// As the client says.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub user_agent: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    object_ref: Option<ObjectReference<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_status: Option<ResponseStatus>,
    request_received_timestamp: String,
    stage_timestamp: String,
    /// Facts without a field in Kubernetes, under `underpass.dev/`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<&'a str, String>,
}

/// `authentication.k8s.io/v1`, `UserInfo`.
#[derive(Clone, Debug, Default, Serialize)]
pub struct User {
    #[serde(skip_serializing_if = "String::is_empty")]
    username: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    uid: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    groups: Vec<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    extra: BTreeMap<String, Vec<String>>,
}

impl User {
    /// A user with a name only.
    pub fn named(name: &str) -> Self {
        Self {
            username: name.to_owned(),
            ..Self::default()
        }
    }

    /// Makes it fit an event: it loses the end of long texts, and groups and facts from where they exceed `bytes` of JSON
    /// together. Says whether it lost any.
    fn shorten(&mut self, text_bytes: usize, bytes: usize) -> bool {
        let mut cut = shorten(&mut self.username, text_bytes);
        if let Some(uid) = &mut self.uid {
            cut |= shorten(uid, text_bytes);
        }
        let mut left = bytes;
        let mut fits = |text: &str| match left.checked_sub(json_len(text)) {
            Some(rest) => {
                left = rest;
                true
            }
            None => false,
        };
        let kept = self.groups.iter().take_while(|group| fits(group)).count();
        cut |= kept < self.groups.len();
        self.groups.truncate(kept);
        self.extra.retain(|key, values| {
            // The brackets of the list, and a colon.
            let mut keep = fits(key) && fits("");
            for value in values {
                keep = keep && fits(value);
            }
            cut |= !keep;
            keep
        });
        cut
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.username
    }

    /// The groups.
    pub fn groups(&self) -> &[String] {
        &self.groups
    }
}

impl From<&Identity> for User {
    fn from(identity: &Identity) -> Self {
        Self {
            username: identity.user().to_owned(),
            uid: identity.uid().map(str::to_owned),
            groups: identity.groups().to_vec(),
            extra: identity.extra().clone(),
        }
    }
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ObjectReference<'a> {
    resource: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    namespace: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    name: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    api_group: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    api_version: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    subresource: &'a str,
}

#[derive(Clone, Debug, Default, Serialize)]
struct ResponseStatus {
    metadata: BTreeMap<(), ()>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    code: u16,
}

impl<'a> Event<'a> {
    /// An event of a call that came from `source` at `received`, for now.
    pub fn new(
        level: Level,
        stage: Stage,
        audit_id: &'a str,
        source: IpAddr,
        received: OffsetDateTime,
    ) -> Self {
        Self {
            kind: "Event",
            api_version: "audit.k8s.io/v1",
            level,
            audit_id,
            stage,
            request_uri: "",
            verb: "",
            user: User::default(),
            impersonated_user: None,
            source_ips: [source],
            user_agent: "",
            object_ref: None,
            response_status: None,
            request_received_timestamp: micro_time(received),
            stage_timestamp: micro_time(OffsetDateTime::now_utc()),
            annotations: BTreeMap::new(),
        }
    }

    /// The object of the request.
    pub fn asks(&mut self, info: &'a RequestInfo) {
        self.verb = info.audit_verb();
        self.object_ref = (!info.resource().is_empty()).then(|| ObjectReference {
            resource: info.resource(),
            namespace: info.namespace(),
            name: info.name(),
            api_group: info.api_group(),
            api_version: info.api_version(),
            subresource: info.subresource(),
        });
    }

    /// The answer's status.
    pub fn answered(&mut self, code: u16) {
        self.response_status = Some(ResponseStatus {
            code,
            ..ResponseStatus::default()
        });
    }

    /// The answer was a `Status` of ours.
    pub fn refused(&mut self, rejection: &Rejection) {
        self.response_status = Some(ResponseStatus {
            metadata: BTreeMap::new(),
            status: Some("Failure"),
            message: Some(rejection.to_string()),
            reason: Some(rejection.reason()),
            code: rejection.code().as_u16(),
        });
    }

    /// Cuts all texts of a caller, or of an authenticator, so that the event has at most [`Told::event_bytes`].
    pub(super) fn shorten(&mut self, told: Told) {
        let text = told.text_chars();
        self.request_uri = cut_json(self.request_uri, text);
        self.user_agent = cut_json(self.user_agent, text);
        let name = told.name_chars();
        self.verb = cut_json(self.verb, limits::STRANGER_TEXT_CHARS);
        if let Some(object) = &mut self.object_ref {
            for field in [
                &mut object.resource,
                &mut object.namespace,
                &mut object.name,
                &mut object.api_group,
                &mut object.api_version,
                &mut object.subresource,
            ] {
                *field = cut_json(field, name);
            }
        }
        let users = [
            ("user", Some(&mut self.user)),
            ("impersonatedUser", self.impersonated_user.as_mut()),
        ];
        let mut cut = Vec::new();
        for (field, user) in users {
            if user.is_some_and(|user| user.shorten(name, told.user_bytes())) {
                cut.push(field);
            }
        }
        let message = self.response_status.as_mut();
        if let Some(message) = message.and_then(|status| status.message.as_mut()) {
            shorten(message, text);
        }
        for value in self.annotations.values_mut() {
            shorten(value, text);
        }
        if !cut.is_empty() {
            self.annotations.insert("underpass.dev/cut", cut.join(", "));
        }
    }

    /// The event as JSON, without a line's end.
    pub fn to_json(&self) -> Bytes {
        // Nothing in it can fail to be written.
        serde_json::to_vec(self).unwrap_or_default().into()
    }
}

/// Cuts a text, and says whether there was anything to cut.
fn shorten(text: &mut String, bytes: usize) -> bool {
    let kept = cut_json(text, bytes).len();
    let cut = kept < text.len();
    text.truncate(kept);
    cut
}

fn micro_time(time: OffsetDateTime) -> String {
    time.format(MICRO_TIME).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use http::Method;
    use serde_json::{Value, json};
    use time::macros::datetime;

    use super::*;

    #[test]
    fn an_event_is_written_as_kubernetes_writes_it() {
        let path = "/apis/apps/v1/namespaces/shop/deployments/web/scale";
        let info = RequestInfo::parse(&Method::GET, path, None, false);
        let mut event = Event::new(
            Level::Metadata,
            Stage::ResponseComplete,
            "0e7f",
            "192.0.2.7".parse().unwrap(),
            datetime!(2026-01-02 03:04:05.678901 UTC),
        );
        event.request_uri = path;
        event.asks(&info);
        event.answered(404);
        event
            .annotations
            .insert("underpass.dev/cluster", "c".into());
        let mut written: Value = serde_json::from_slice(&event.to_json()).unwrap();
        let stage_time = written["stageTimestamp"].take();
        assert_eq!(stage_time.as_str().unwrap().len(), 27);
        let wanted = json!({
            "kind": "Event", "apiVersion": "audit.k8s.io/v1", "level": "Metadata",
            "auditID": "0e7f", "stage": "ResponseComplete", "requestURI": path, "verb": "get",
            "user": {}, "sourceIPs": ["192.0.2.7"],
            "objectRef": {
                "resource": "deployments", "namespace": "shop", "name": "web",
                "apiGroup": "apps", "apiVersion": "v1", "subresource": "scale"
            },
            "responseStatus": {"metadata": {}, "code": 404},
            "requestReceivedTimestamp": "2026-01-02T03:04:05.678901Z",
            "stageTimestamp": null,
            "annotations": {"underpass.dev/cluster": "c"}
        });
        assert_eq!(written, wanted);
    }
}
