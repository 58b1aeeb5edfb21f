//! Calls of the server's own API, written like those of clusters.

use std::net::{IpAddr, Ipv4Addr};

use http::Method;
use time::OffsetDateTime;

use super::{Call, Event, Kind, Stage, Trail, User};
use crate::{Identity, RequestInfo};

/// One call of the server's own API, when it has been answered. Its objects are of the API group `underpass.dev`, so that
/// policies can tell them from a cluster's.
#[derive(Clone, Debug)]
pub struct OwnCall<'a> {
    /// Who asked, where it is known; without, whoever owns the server's files.
    pub identity: Option<&'a Identity>,
    /// What they are called where there is no identity: what a login claims, or the operator.
    pub name: &'a str,
    /// From where; `None` is from this machine.
    pub client: Option<IpAddr>,
    /// How they asked.
    pub method: &'a Method,
    /// The path, which begins with `/v1/`.
    pub path: &'a str,
    /// What they say they are.
    pub user_agent: &'a str,
    /// When.
    pub received: OffsetDateTime,
    /// What was answered.
    pub code: u16,
}

impl OwnCall<'_> {
    /// Whoever it is, by name.
    pub fn user(&self) -> &str {
        self.identity.map_or(self.name, Identity::user)
    }
}

impl Trail {
    /// Writes it down, if the policy says so and its caller's share allows it; then the log should have a line of it, too.
    pub fn own_call(&self, call: &OwnCall<'_>) -> bool {
        let user = call
            .identity
            .map_or_else(|| User::named(call.name), User::from);
        // As Kubernetes would have it, for verb, resource and name.
        let path = format!("/apis/underpass.dev{}", call.path);
        let info = RequestInfo::parse(call.method, &path, None, false);
        let id = crate::front::new_audit_id();
        let about = Call {
            user: &user,
            cluster: None,
            info: Some(&info),
            path: call.path,
        };
        let client = call.client.unwrap_or(Ipv4Addr::LOCALHOST.into());
        let kind = match (call.identity, call.client) {
            (None, Some(client)) => Kind::Stranger(client),
            (Some(_), _) if (400..500).contains(&call.code) => Kind::Refused(&user),
            _ => Kind::Done,
        };
        let Some(told) = self.tell(kind) else {
            return false;
        };
        let cut = |text| crate::front::cut(text, told.text_chars());
        let (path, agent) = (cut(call.path), cut(call.user_agent));
        self.write(told, Stage::ResponseComplete, about, |level| {
            let mut event = Event::new(level, Stage::ResponseComplete, &id, client, call.received);
            event.request_uri = path;
            event.user_agent = agent;
            event.user = user.cut(told.text_chars());
            event.asks(&info);
            event.answered(call.code);
            let by = call.identity.and_then(Identity::provenance);
            if let Some(by) = by {
                let key = "underpass.dev/authenticated-by";
                event.annotations.insert(key, by.to_string());
            }
            event
        });
        true
    }
}
