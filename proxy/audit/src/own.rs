//! Calls of the server's own API, written like those of clusters.

use std::net::{IpAddr, Ipv4Addr};

use http::Method;
use time::OffsetDateTime;

use super::{Call, Event, Kind, Stage, Trail, User};
use underpass_core::{Identity, RequestInfo};

/// One call of the server's own API, when it has been answered. Its objects are of the API group `underpass.dev`, so that
/// policies can tell them from a cluster's.
#[derive(Clone, Debug)]
pub struct OwnCall<'a> {
    /// Who asked.
    pub caller: OwnCaller<'a>,
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
    /// What came of it, by annotation: the object, the subject, what was granted. Never a secret.
    pub details: &'a [(&'static str, String)],
}

/// Who makes an [`OwnCall`].
#[derive(Clone, Copy, Debug)]
pub enum OwnCaller<'a> {
    /// Somebody whom an authenticator vouches for.
    Identity(&'a Identity),
    /// Somebody who has proved to be this user without a request of theirs having an identity: whoever logs in, or owns the
    /// server's files.
    Known(&'a str),
    /// Somebody who claims to be this user, or nothing at all.
    Claimed(&'a str),
}

impl OwnCall<'_> {
    /// Whoever it is, by name.
    pub fn user(&self) -> &str {
        match self.caller {
            OwnCaller::Identity(identity) => identity.user(),
            OwnCaller::Known(name) | OwnCaller::Claimed(name) => name,
        }
    }
}

impl Trail {
    /// Writes it down, if the policy says so and its caller's share allows it; then the log should have a line of it, too.
    pub fn own_call(&self, call: &OwnCall<'_>) -> bool {
        let user = match call.caller {
            OwnCaller::Identity(identity) => User::from(identity),
            OwnCaller::Known(name) | OwnCaller::Claimed(name) => User::named(name),
        };
        // As Kubernetes would have it, for verb, resource and name.
        let path = format!("/apis/underpass.dev{}", call.path);
        let info = RequestInfo::parse(call.method, &path, None, false);
        let id = underpass_core::new_audit_id();
        let about = Call {
            user: &user,
            cluster: None,
            info: Some(&info),
            path: call.path,
        };
        let client = call.client.unwrap_or(Ipv4Addr::LOCALHOST.into());
        let kind = match call.caller {
            OwnCaller::Claimed(_) => Kind::Stranger(client),
            OwnCaller::Identity(_) if (400..500).contains(&call.code) => Kind::Refused(&user),
            OwnCaller::Identity(_) | OwnCaller::Known(_) => Kind::Done,
        };
        let Some(told) = self.tell(kind) else {
            return false;
        };
        let cut = |text| crate::cut(text, told.text_chars());
        let (path, agent) = (cut(call.path), cut(call.user_agent));
        self.write(told, Stage::ResponseComplete, about, |level| {
            let mut event = Event::new(level, Stage::ResponseComplete, &id, client, call.received);
            event.request_uri = path;
            event.user_agent = agent;
            event.user = user.cut(told.text_chars());
            event.asks(&info);
            event.answered(call.code);
            if let OwnCaller::Identity(identity) = call.caller
                && let Some(by) = identity.provenance()
            {
                let key = "underpass.dev/authenticated-by";
                event.annotations.insert(key, by.to_string());
            }
            for (key, text) in call.details {
                let text = crate::cut(text, told.text_chars());
                event.annotations.insert(key, text.into());
            }
            event
        });
        true
    }
}
