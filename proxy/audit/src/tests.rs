//! Bounds on a caller's events (security rule 23).

use std::{
    borrow::Cow,
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use http::Method;
use time::OffsetDateTime;
use underpass_core::{
    AuthenticationMethod as Proof, Authority, BoxError, Identity, Provenance, RequestInfo, limits,
};

use super::*;

/// Events as they were written.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<Bytes>>>);

#[async_trait]
impl Sink for Kept {
    async fn write(&mut self, events: &[Bytes]) -> Result<(), BoxError> {
        self.0.lock().unwrap().extend_from_slice(events);
        Ok(())
    }
}

impl Kept {
    fn audit_log(&self) -> AuditLog {
        let backend = Backend::start("kept", Box::new(self.clone()), BackendConfig::default());
        let audit_log = AuditLog::new(Policy::everything(), vec![backend]);
        audit_log.strangers("strangers", Box::new(self.clone()))
    }

    async fn of(&self, audit_log: &AuditLog) -> Vec<Bytes> {
        assert_eq!(audit_log.flush(Duration::from_secs(20)).await, 0);
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

/// The largest identity of an authenticator, in characters that JSON escapes.
fn long_identity() -> Identity {
    let text = "\"".repeat(limits::NAME_BYTES);
    let extra = BTreeMap::from([("key".to_owned(), vec![text.clone(); 8])]);
    let identity = Identity::new(text.clone(), Some(text.clone()), vec![text; 40], extra).unwrap();
    let authority = Authority::provider(Proof::Jwt, "corp".into());
    identity.vouched_for(Provenance::new(Proof::Jwt, "corp", authority))
}

fn call<'a>(
    caller: OwnCaller<'a>,
    method: &'a Method,
    path: &'a str,
    code: u16,
    details: &'a [(Cow<'static, str>, String)],
) -> OwnCall<'a> {
    OwnCall {
        caller,
        client: None,
        method,
        path,
        user_agent: path,
        received: OffsetDateTime::now_utc(),
        code,
        details,
    }
}

#[tokio::test]
async fn rule_23_no_event_is_longer_than_its_kind_may_be() {
    let kept = Kept::default();
    let audit_log = kept.audit_log();
    // The largest head, with characters that JSON escapes.
    let long = "\\\"%22é\u{7f}".repeat(limits::HEADER_BYTES / 16);
    let path = format!("/v1/namespaces/{long}/{long}/{long}/{long}");
    let method = Method::from_bytes(&[b'X'; 4096]).unwrap();
    let details = ["a", "b", "c", "d"].map(|key| (Cow::from(key), long.clone()));
    let identity = long_identity();
    let caller = OwnCaller::Identity(&identity);
    for (caller, method, code) in [
        (OwnCaller::Claimed(&long), &method, 401),
        (OwnCaller::Known(&long), &method, 201),
        (caller, &method, 403),
        (caller, &Method::GET, 200),
        (caller, &method, 201),
    ] {
        let told = audit_log.own_call(&call(caller, method, &path, code, &details));
        let told = told.expect("it is told");
        let event = &kept.of(&audit_log).await[0];
        assert!(event.len() <= told.event_bytes(), "{}", event.len());
    }
    // A call to a cluster, by an impersonating caller.
    let info = RequestInfo::parse(&method, &path, None, false);
    let user = User::from(&identity);
    let (name, by) = (user.name(), "jwt/corp");
    let client = IpAddr::from(Ipv4Addr::LOCALHOST);
    for kind in [
        EventKind::Stranger(client),
        EventKind::Refused {
            name,
            authority: by,
        },
        EventKind::Done,
    ] {
        let told = audit_log.tell(kind).unwrap();
        let about = Call {
            user: &user,
            cluster: None,
            info: Some(&info),
            verb: "",
            path: &path,
        };
        audit_log.write(told, Stage::ResponseComplete, about, |level| {
            let now = OffsetDateTime::now_utc();
            let mut event = Event::new(level, Stage::ResponseComplete, "id", client, now);
            event.request_uri = &path;
            event.user_agent = &long;
            event.user = user.clone();
            event.impersonated_user = Some(user.clone());
            event.asks(&info);
            for key in ["cluster", "by", "outcome", "up", "down", "milliseconds"] {
                event.annotations.insert(key, long.clone());
            }
            event
        });
        let event = &kept.of(&audit_log).await[0];
        assert!(
            event.len() <= told.event_bytes(),
            "{kind:?}: {}",
            event.len()
        );
        let event: serde_json::Value = serde_json::from_slice(event).unwrap();
        let cut = &event["annotations"]["underpass.dev/cut"];
        assert_eq!(cut, "user, impersonatedUser", "and it says so");
    }
}

#[tokio::test]
async fn what_fits_is_written_whole() {
    let kept = Kept::default();
    let audit_log = kept.audit_log();
    let groups: Vec<_> = (0..1500)
        .map(|number| format!("group-{number:04}"))
        .collect();
    let extra = BTreeMap::from([("key".to_owned(), vec!["value".to_owned()])]);
    let identity = Identity::new("alice".into(), None, groups.clone(), extra.clone()).unwrap();
    let method = Method::POST;
    audit_log.own_call(&call(
        OwnCaller::Identity(&identity),
        &method,
        "/v1/users",
        201,
        &[],
    ));
    let event: serde_json::Value = serde_json::from_slice(&kept.of(&audit_log).await[0]).unwrap();
    assert_eq!(event["user"]["groups"], serde_json::json!(groups));
    assert_eq!(event["user"]["extra"], serde_json::json!(extra));
    assert_eq!(event["annotations"], serde_json::Value::Null);
}

#[tokio::test(start_paused = true)]
async fn rule_23_a_captured_authenticator_does_not_rotate_the_history_with_ever_new_names() {
    let audit_log = AuditLog::default();
    let refused = |name: &str, by: &str| {
        audit_log
            .tell(EventKind::Refused {
                name,
                authority: by,
            })
            .is_some()
    };
    let told = (0..100_000)
        .filter(|number| refused(&number.to_string(), "token-review/captured"))
        .count();
    let share = limits::AUTHORITY_REFUSED_EVENTS as usize;
    assert_eq!(told, share);
    assert!(refused("alice", "token/tokens"), "others are told");
    // All authenticators together have a share, for any number of them.
    let told = (0..100_000)
        .filter(|number| refused(&number.to_string(), &format!("jwt/{}", number % 100)))
        .count();
    assert_eq!(share + 1 + told, limits::ALL_REFUSED_EVENTS as usize);
    tokio::time::advance(limits::ALL_REFUSED_EVENT_EVERY).await;
    assert!(refused("bob", "token/tokens"));
}

/// A token of a login is the directory's, for any authority of its user.
#[tokio::test(start_paused = true)]
async fn rule_23_a_share_is_the_authoritys_and_not_the_tokens() {
    let kept = Kept::default();
    let audit_log = kept.audit_log();
    let with_a_token = |name: &str, authority: Authority| {
        let identity = Identity::new(name.into(), None, Vec::new(), BTreeMap::new()).unwrap();
        identity.vouched_for(Provenance::new(Proof::Token, "tokens", authority))
    };
    let refused = |identity: &Identity| {
        let caller = OwnCaller::Identity(identity);
        let told = audit_log.own_call(&call(caller, &Method::GET, "/v1/users", 403, &[]));
        told.is_some()
    };
    let captured = Authority::provider(Proof::Jwt, "captured".into());
    let told = (0..100_000)
        .filter(|number| refused(&with_a_token(&number.to_string(), captured.clone())))
        .count();
    assert_eq!(told, limits::AUTHORITY_REFUSED_EVENTS as usize);
    assert!(refused(&with_a_token("alice", Authority::Directory)));
    let events = kept.of(&audit_log).await;
    let event: serde_json::Value = serde_json::from_slice(events.last().unwrap()).unwrap();
    let by = &event["annotations"]["underpass.dev/authenticated-by"];
    assert_eq!(by, "token/tokens", "and it says what was shown");
}

#[tokio::test(start_paused = true)]
async fn rule_23_reads_of_the_api_have_a_share_of_the_audit_log() {
    let kept = Kept::default();
    let audit_log = kept.audit_log();
    let identity = Identity::new("mallory".into(), None, Vec::new(), BTreeMap::new()).unwrap();
    let caller = OwnCaller::Identity(&identity);
    let read = || audit_log.own_call(&call(caller, &Method::GET, "/v1/self", 200, &[]));
    let told = (0..10_000).filter(|_| read().is_some()).count();
    assert_eq!(told, limits::REFUSED_EVENTS as usize);
    tokio::time::advance(limits::REFUSED_EVENT_EVERY).await;
    let left_out = 10_000 - u64::from(limits::REFUSED_EVENTS);
    assert_eq!(read().map(Told::suppressed), Some(left_out));
    // Changes are written one by one, and so are refusals of another user.
    let post = call(caller, &Method::POST, "/v1/tokens", 201, &[]);
    assert!((0..1000).all(|_| audit_log.own_call(&post).is_some()));
    let events = kept.of(&audit_log).await;
    assert_eq!(events.len(), told + 1 + 1000);
    let event: serde_json::Value = serde_json::from_slice(&events[told]).unwrap();
    let suppressed = &event["annotations"]["underpass.dev/suppressed"];
    assert_eq!(suppressed, &left_out.to_string());
}

/// Panics when it is to write.
struct Broken;

#[async_trait]
impl Sink for Broken {
    async fn write(&mut self, _: &[Bytes]) -> Result<(), BoxError> {
        panic!("a fault of this program");
    }
}

/// Its owner ends the server: calls would happen unwritten.
#[tokio::test]
async fn rule_15_the_end_of_a_task_that_writes_is_known() {
    let whole = Backend::start("whole", Box::new(Kept::default()), BackendConfig::default());
    let broken = Backend::start("broken", Box::new(Broken), BackendConfig::default());
    let audit_log = AuditLog::new(Policy::everything(), vec![whole, broken]);
    let mut ended = std::pin::pin!(audit_log.ended());
    let early = tokio::time::timeout(Duration::ZERO, ended.as_mut()).await;
    assert!(early.is_err());
    let method = Method::POST;
    audit_log.own_call(&call(
        OwnCaller::Known("alice"),
        &method,
        "/v1/users",
        201,
        &[],
    ));
    tokio::time::timeout(Duration::from_secs(20), ended)
        .await
        .expect("it has ended");
}
