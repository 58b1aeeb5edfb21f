//! Calls of the server's own API, written like those of clusters.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr};

use http::Method;
use time::OffsetDateTime;

use super::{AuditLog, Call, Event, EventKind, Stage, Told, User};
use underpass_core::{Identity, Provenance, RequestInfo};

/// One call of the server's own API, when it has been answered. Its objects are of the API group `underpass.dev`, so that
/// policies can tell them from a cluster's.
#[derive(Clone, Debug)]
pub struct OwnCall<'a> {
    /// The caller.
    pub caller: OwnCaller<'a>,
    /// From where; `None` is from this machine.
    pub client: Option<IpAddr>,
    /// How they asked.
    pub method: &'a Method,
    /// The path, which begins with `/v1/`.
    pub path: &'a str,
    /// Their `User-Agent`.
    pub user_agent: &'a str,
    /// When.
    pub received: OffsetDateTime,
    /// The answer's status.
    pub code: u16,
    /// The result, by annotation: the object, the subject, the granted right. Never a secret.
    pub details: &'a [(Cow<'static, str>, String)],
}

/// The caller of an [`OwnCall`].
#[derive(Clone, Copy, Debug)]
pub enum OwnCaller<'a> {
    /// A caller whom an authenticator vouches for.
    Identity(&'a Identity),
    /// A caller who has proved to be this user, though the request has no identity: by a login, or as the owner of the server's
    /// files.
    Known(&'a str),
    /// A caller with an unproved name, or with none.
    Claimed(&'a str),
}

/// The annotation with the user whose shell a recording shows. A read that has it is written in any case.
pub const RECORDED_USER: &str = "underpass.dev/recorded-user";

impl OwnCall<'_> {
    /// The caller's name.
    pub fn user(&self) -> &str {
        match self.caller {
            OwnCaller::Identity(identity) => identity.user(),
            OwnCaller::Known(name) | OwnCaller::Claimed(name) => name,
        }
    }
}

impl OwnCall<'_> {
    /// Is something of another user's shown to the caller?
    fn shows_another_user(&self) -> bool {
        self.details.iter().any(|(key, _)| key == RECORDED_USER)
    }

    /// Nothing was done. A request that took too long (408) may have changed something.
    fn was_refused(&self) -> bool {
        match self.code {
            408 => self.method.is_safe(),
            429 | 503 => true,
            code => (400..500).contains(&code),
        }
    }
}

impl AuditLog {
    /// Writes it down, if the policy says so and its caller's share allows it; then the log should have a line of it, too,
    /// whose texts are cut likewise.
    pub fn own_call(&self, call: &OwnCall<'_>) -> Option<Told> {
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
            verb: "",
            path: call.path,
        };
        let client = call.client.unwrap_or(Ipv4Addr::LOCALHOST.into());
        let provenance = match call.caller {
            OwnCaller::Identity(identity) => identity.provenance(),
            OwnCaller::Known(_) | OwnCaller::Claimed(_) => None,
        };
        let authority = provenance.map(Provenance::authority);
        let authority = authority.map(ToString::to_string).unwrap_or_default();
        let authority = authority.as_str();
        let name = user.name();
        let told = self.tell(match call.caller {
            OwnCaller::Claimed(_) => EventKind::Stranger(client),
            OwnCaller::Known(_) | OwnCaller::Identity(_) if call.was_refused() => {
                EventKind::Refused { name, authority }
            }
            OwnCaller::Known(_) => EventKind::Done,
            OwnCaller::Identity(_) if call.method.is_safe() && !call.shows_another_user() => {
                EventKind::Read { name, authority }
            }
            OwnCaller::Identity(_) => EventKind::Done,
        })?;
        self.write(told, Stage::ResponseComplete, about, |level| {
            let mut event = Event::new(level, Stage::ResponseComplete, &id, client, call.received);
            event.request_uri = call.path;
            event.user_agent = call.user_agent;
            event.user = user.clone();
            event.asks(&info);
            event.answered(call.code);
            if let Some(by) = provenance {
                let key = "underpass.dev/authenticated-by";
                event.annotations.insert(key, by.to_string());
            }
            for (key, text) in call.details {
                event.annotations.insert(key, text.clone());
            }
            event
        });
        Some(told)
    }
}
