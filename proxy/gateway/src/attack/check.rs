//! The invariants of everything that gets through. It knows nothing of how the front decides.

use http::Method;

use super::world::{CLUSTER, Outcome, Received, Sender, TLS_DOMAIN};
use underpass_core::RequestInfo;

/// Headers that no agent may get: an identity or a credential of the client's, or those of the client's connection.
const NEVER: [&str; 10] = [
    "authorization",
    "proxy-authorization",
    "cookie",
    "keep-alive",
    "proxy-connection",
    "forwarded",
    "x-real-ip",
    "x-forwarded-client-cert",
    "trailer",
    "x-http-method-override",
];

/// And none that begins like this.
const NEVER_BEGINNING: [&str; 2] = ["impersonate-", "x-remote-"];

/// Parts of a running pod, a service or a node that are more than looking.
const ENTERED: [&str; 4] = ["exec", "attach", "portforward", "proxy"];

/// A head as anybody reads one.
struct Head {
    method: String,
    target: String,
    headers: Vec<(String, String)>,
}

impl Head {
    fn read(received: &Received) -> Self {
        let text = &received.head;
        let mut lines = text.split("\r\n");
        let mut words = lines.next().unwrap_or_default().splitn(3, ' ');
        let mut word = || words.next().unwrap_or_default().to_owned();
        let (method, target, version) = (word(), word(), word());
        assert_eq!(version, "HTTP/1.1", "{text:?}");
        let headers = lines
            .filter(|line| !line.is_empty())
            .map(|line| {
                let colon = line.split_once(':');
                let (name, value) = colon.unwrap_or_else(|| panic!("no header: {line:?}"));
                (name.to_ascii_lowercase(), value.trim().to_owned())
            })
            .collect();
        Self {
            method,
            target,
            headers,
        }
    }

    fn has(&self, name: &str) -> bool {
        self.headers.iter().any(|(other, _)| other == name)
    }
}

/// Holds what an agent received against what was sent.
pub(super) fn outcome(sender: Sender, outcome: &Outcome) {
    let sent = String::from_utf8_lossy(&outcome.sent);
    let mine = format!(
        "{sender:?} sent {sent:?}, and an agent got {:?}",
        outcome.received
    );
    // Nothing but the first request has a credential.
    assert!(outcome.received.len() <= 1, "{mine}");
    let Some(received) = outcome.received.first() else {
        return;
    };
    let entitled = !matches!(
        sender,
        Sender::Stranger | Sender::Expired | Sender::Elsewhere
    );
    assert!(entitled, "{mine}");
    assert_eq!(Some(received.identity.user()), sender.user(), "{mine}");
    assert_eq!(received.cluster, CLUSTER, "{mine}");
    let head = Head::read(received);
    let forbidden = |name: &str| {
        NEVER.contains(&name) || NEVER_BEGINNING.iter().any(|begin| name.starts_with(begin))
    };
    let found = head.headers.iter().find(|(name, _)| forbidden(name));
    assert!(found.is_none(), "{found:?}: {mine}");
    // Of the client's, nothing but that it reads trailers.
    let mut codings = head.headers.iter().filter(|(name, _)| name == "te");
    assert!(codings.all(|(_, value)| value == "trailers"), "{mine}");
    for once in [
        "host",
        "te",
        "content-length",
        "transfer-encoding",
        "upgrade",
        "audit-id",
    ] {
        let lines = head.headers.iter().filter(|(name, _)| name == once).count();
        assert!(lines <= 1, "{once}: {mine}");
    }
    assert!(
        !(head.has("content-length") && head.has("transfer-encoding")),
        "{mine}"
    );
    // The bytes behind the cluster's name, as they were; at a name of its own, all of them.
    let line = sent.split("\r\n").next().unwrap_or_default();
    let path = head.target.strip_prefix('/').unwrap_or(&head.target);
    let named = format!("{CLUSTER}.{TLS_DOMAIN}");
    let behind = if sent.to_ascii_lowercase().contains(&named) {
        let (_, target) = line.split_once(' ').unwrap_or_else(|| panic!("{mine}"));
        target.strip_prefix('/').unwrap_or_else(|| {
            // An absolute target.
            let (_, rest) = target.split_once("://").unwrap_or_else(|| panic!("{mine}"));
            rest.find('/').map_or("", |at| rest.split_at(at + 1).1)
        })
    } else {
        let wanted = format!("/k8s/clusters/{CLUSTER}");
        let (_, behind) = line.split_once(&wanted).unwrap_or_else(|| panic!("{mine}"));
        behind.strip_prefix('/').unwrap_or(behind)
    };
    assert!(behind.starts_with(path), "{mine}");
    assert!(line.starts_with(&format!("{} ", head.method)), "{mine}");
    may(sender, &head, &mine);
    // The request decided upon is the one forwarded.
    let (bare, query) = match head.target.split_once('?') {
        Some((bare, query)) => (bare, Some(query)),
        None => (head.target.as_str(), None),
    };
    let method = Method::from_bytes(head.method.as_bytes());
    let method = method.unwrap_or_else(|_| panic!("{mine}"));
    let again = RequestInfo::parse(&method, bare, query, head.has("upgrade"));
    let decided = outcome
        .decided
        .last()
        .unwrap_or_else(|| panic!("nobody decided: {mine}"));
    assert_eq!(decided.request, Some(again), "{mine}");
    assert_eq!(
        (decided.cluster.as_str(), Some(decided.user.as_str())),
        (CLUSTER, sender.user())
    );
}

/// Does the sender's role allow what the agent got?
fn may(sender: Sender, head: &Head, mine: &str) {
    let path = head.target.split('?').next().unwrap_or_default();
    let segments: Vec<_> = path.split('/').skip(1).collect();
    // /api/v1/[namespaces/N/]pods/NAME/exec; other beginnings name no object.
    let behind_version = match segments.as_slice() {
        ["api", _, rest @ ..] | ["apis", _, _, rest @ ..] => rest,
        _ => &[],
    };
    let behind_verb = match behind_version {
        ["watch" | "proxy", rest @ ..] => rest,
        rest => rest,
    };
    let object = match behind_verb {
        ["namespaces", _, rest @ ..] => rest,
        rest => rest,
    };
    let enters = matches!(
        object,
        ["pods" | "services" | "nodes", _, what, ..] if ENTERED.contains(what)
    );
    let upgrades = head.has("upgrade");
    let reads = matches!(head.method.as_str(), "GET" | "HEAD" | "OPTIONS");
    if matches!(sender, Sender::Viewer | Sender::ReadOnly) {
        assert!(reads && !enters && !upgrades, "only looks: {mine}");
    }
    if sender == Sender::Writer {
        assert!(!enters && !upgrades, "opens no shell: {mine}");
    }
}
