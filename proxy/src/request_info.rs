//! What a request means to Kubernetes: verb, resource, subresource.
//!
//! This follows kube-apiserver's `RequestInfoFactory` (apiserver/pkg/endpoints/request/requestinfo.go) far enough to
//! decide by. Like there, the path is percent-decoded first: `/exec` may arrive as `/%65xec`.

use http::Method;

/// The meaning of one request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestInfo {
    verb: String,
    /// Before upgrades were made `create`.
    audit_verb: String,
    api_group: String,
    api_version: String,
    namespace: String,
    resource: String,
    name: String,
    subresource: String,
    class: StreamClass,
}

/// How urgent the bytes of a request's stream are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum StreamClass {
    /// Somebody may be typing.
    Interactive,
    /// Requests, watches, logs, forwarded ports.
    #[default]
    Default,
    /// A copy.
    Bulk,
}

impl RequestInfo {
    /// Reads a request to the API server. `upgrade`: it asks to become a byte stream.
    pub fn parse(method: &Method, path: &str, query: Option<&str>, upgrade: bool) -> Self {
        let decoded = percent_decode(path);
        let parts: Vec<&str> = decoded.trim_matches('/').split('/').collect();
        let mut info = Self::resource_of(&parts);
        if info.verb.is_empty() {
            info.verb = info.verb_of(method, query);
        }
        info.audit_verb = info.verb.clone();
        if info.is_stream() || (upgrade && info.verb == "get") {
            // Kubernetes 1.35 asks for `create` whatever the method; older clusters let a WebSocket's GET pass as
            // `get`, which read-only roles hold.
            info.verb = "create".to_owned();
        }
        if matches!(info.subresource.as_str(), "attach" | "exec") {
            info.class = class_of(query);
        }
        info
    }

    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`, `proxy`, or the method in lower
    /// case. exec, attach and port-forward are `create` in every form, and so is any other upgrade but a watch.
    pub fn verb(&self) -> &str {
        &self.verb
    }

    /// The verb as kube-apiserver's audit log has it: a shell over WebSocket is a `get` there.
    pub fn audit_verb(&self) -> &str {
        &self.audit_verb
    }

    /// The API group; empty for the core group and for paths that name no resource.
    pub fn api_group(&self) -> &str {
        &self.api_group
    }

    /// The API version; empty for paths that name no resource.
    pub fn api_version(&self) -> &str {
        &self.api_version
    }

    /// The namespace, or empty.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The resource (plural), or empty for paths such as `/version`.
    pub fn resource(&self) -> &str {
        &self.resource
    }

    /// The object's name, or empty.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The subresource, or empty.
    pub fn subresource(&self) -> &str {
        &self.subresource
    }

    /// kube-apiserver's `--long-running` set: no deadline on the answer's head, no total deadline.
    pub fn is_long_running(&self) -> bool {
        matches!(self.verb.as_str(), "watch" | "proxy")
            || matches!(
                self.subresource.as_str(),
                "attach" | "exec" | "proxy" | "log" | "portforward"
            )
    }

    /// exec, attach, port-forward: a shell or a connection into a workload.
    pub fn is_stream(&self) -> bool {
        matches!(self.subresource.as_str(), "attach" | "exec" | "portforward")
    }

    /// It only asks: what a read-only right allows. A `selfsubjectaccessreview` and its kin are questions too,
    /// although they are created (`kubectl auth can-i`, `kubectl auth whoami`).
    pub fn changes_nothing(&self) -> bool {
        match self.verb.as_str() {
            "get" | "list" | "watch" | "head" | "options" => true,
            "create" => {
                let reviews = matches!(
                    (self.api_group.as_str(), self.resource.as_str()),
                    (
                        "authorization.k8s.io",
                        "selfsubjectaccessreviews" | "selfsubjectrulesreviews"
                    ) | ("authentication.k8s.io", "selfsubjectreviews")
                );
                reviews && self.name.is_empty() && self.subresource.is_empty()
            }
            _ => false,
        }
    }

    /// How urgent its bytes are, as far as the request shows it: a terminal is somebody's, and tar is what
    /// `kubectl cp` runs at the other end.
    pub fn class(&self) -> StreamClass {
        self.class
    }

    /// The answer may come from a workload instead of the API server.
    pub fn is_proxied(&self) -> bool {
        self.verb == "proxy" || self.subresource == "proxy"
    }

    fn resource_of(parts: &[&str]) -> Self {
        let mut info = Self::default();
        let mut rest = match parts {
            ["api", version, rest @ ..] => {
                info.api_version = (*version).to_owned();
                rest
            }
            ["apis", group, version, rest @ ..] => {
                info.api_version = (*version).to_owned();
                info.api_group = (*group).to_owned();
                rest
            }
            _ => return Self::default(),
        };
        if let [verb @ ("watch" | "proxy"), tail @ ..] = rest {
            info.verb = (*verb).to_owned();
            rest = tail;
        }
        if let ["namespaces", namespace, tail @ ..] = rest {
            info.namespace = (*namespace).to_owned();
            if !matches!(tail, [] | ["status" | "finalize", ..]) {
                rest = tail;
            }
        }
        let part = |index: usize| {
            rest.get(index)
                .map_or_else(String::new, ToString::to_string)
        };
        info.resource = part(0);
        info.name = part(1);
        if info.verb != "proxy" {
            info.subresource = part(2);
        }
        info
    }

    fn verb_of(&self, method: &Method, query: Option<&str>) -> String {
        let verb = match method.as_str() {
            other if self.resource.is_empty() => return other.to_ascii_lowercase(),
            "GET" | "HEAD" if watches(query) => "watch",
            "GET" | "HEAD" if self.name.is_empty() => "list",
            "GET" | "HEAD" => "get",
            "POST" => "create",
            "PUT" => "update",
            "PATCH" => "patch",
            "DELETE" if self.name.is_empty() => "deletecollection",
            "DELETE" => "delete",
            other => return other.to_ascii_lowercase(),
        };
        verb.to_owned()
    }
}

/// Of an exec or attach.
fn class_of(query: Option<&str>) -> StreamClass {
    let command = values(query, "command").next();
    if is_true(query, "tty") {
        StreamClass::Interactive
    } else if command.is_some_and(|command| command.rsplit('/').next() == Some("tar")) {
        StreamClass::Bulk
    } else {
        StreamClass::Default
    }
}

fn watches(query: Option<&str>) -> bool {
    is_true(query, "watch")
}

/// A parameter as apimachinery reads a boolean: anything but "false" and "0" is true.
fn is_true(query: Option<&str>, name: &'static str) -> bool {
    values(query, name).any(|value| !matches!(value.as_str(), "false" | "0"))
}

/// The values of a parameter, in order.
fn values(query: Option<&str>, name: &'static str) -> impl Iterator<Item = String> {
    query
        .unwrap_or_default()
        .split('&')
        .filter_map(move |pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (percent_decode(key) == name).then(|| percent_decode(value))
        })
}

/// Decodes valid escapes once and leaves anything else as it is.
fn percent_decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        if let (b'%', Some((byte, after))) = (first, escape(tail)) {
            bytes.push(byte);
            rest = after;
        } else {
            bytes.push(first);
            rest = tail;
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn escape(tail: &[u8]) -> Option<(u8, &[u8])> {
    let (digits, after) = tail.split_at_checked(2)?;
    let digits = str::from_utf8(digits)
        .ok()
        .filter(|d| !d.starts_with('+'))?;
    Some((u8::from_str_radix(digits, 16).ok()?, after))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(method: Method, uri: &str, upgrade: bool) -> RequestInfo {
        let (path, query) = uri
            .split_once('?')
            .map_or((uri, None), |(p, q)| (p, Some(q)));
        RequestInfo::parse(&method, path, query, upgrade)
    }

    #[test]
    fn reads_verbs_and_resources() {
        let cases = [
            (Method::GET, "/api/v1/pods", "list", "pods", ""),
            (Method::GET, "/api/v1/pods?watch=true", "watch", "pods", ""),
            (Method::GET, "/api/v1/pods?watch=0", "list", "pods", ""),
            (Method::GET, "/api/v1/watch/pods", "watch", "pods", ""),
            (Method::GET, "/api/v1/namespaces/a", "get", "namespaces", ""),
            (
                Method::PUT,
                "/api/v1/namespaces/a/status",
                "update",
                "namespaces",
                "status",
            ),
            (
                Method::GET,
                "/apis/apps/v1/namespaces/a/deployments/d/scale",
                "get",
                "deployments",
                "scale",
            ),
            (
                Method::DELETE,
                "/api/v1/namespaces/a/pods",
                "deletecollection",
                "pods",
                "",
            ),
            (Method::PATCH, "/api/v1/nodes/n", "patch", "nodes", ""),
            (Method::GET, "/version", "get", "", ""),
            (Method::GET, "/api/v1/proxy/nodes/n", "proxy", "nodes", ""),
        ];
        for (method, uri, verb, resource, subresource) in cases {
            let info = info(method, uri, false);
            assert_eq!(
                (info.verb(), info.resource(), info.subresource()),
                (verb, resource, subresource),
                "{uri}"
            );
        }
    }

    #[test]
    fn rule_8_streams_are_create_in_every_spelling() {
        for uri in [
            "/api/v1/namespaces/a/pods/p/exec?command=sh",
            "/api/v1/namespaces/a/pods/p/%65xec",
            "//api/v1/namespaces/a/pods/p/attach/",
            "/api/v1/namespaces/a/pods/p%2Fportforward",
        ] {
            assert_eq!(info(Method::GET, uri, false).verb(), "create", "{uri}");
            assert!(info(Method::GET, uri, true).is_long_running(), "{uri}");
        }
        assert_eq!(
            info(Method::GET, "/apis/x.io/v1/things/t/console", true).verb(),
            "create"
        );
        assert_eq!(
            info(Method::GET, "/api/v1/pods?watch=1", true).verb(),
            "watch"
        );
    }

    #[test]
    fn terminals_are_urgent_and_copies_are_not() {
        let pod = "/api/v1/namespaces/a/pods/p";
        for (what, class) in [
            (
                "exec?command=sh&tty=true&stdin=true",
                StreamClass::Interactive,
            ),
            ("attach?container=c&tty=1", StreamClass::Interactive),
            ("exec?command=sh&tty=false", StreamClass::Default),
            ("exec?command=sh&command=tar", StreamClass::Default),
            ("exec?container=c&command=tar&command=cf", StreamClass::Bulk),
            ("exec?command=%2Fbin%2Ftar", StreamClass::Bulk),
            ("log?follow=true&tty=true", StreamClass::Default),
            ("portforward", StreamClass::Default),
        ] {
            let info = info(Method::GET, &format!("{pod}/{what}"), true);
            assert_eq!(info.class(), class, "{what}");
        }
    }

    #[test]
    fn broken_escapes_stay() {
        assert_eq!(percent_decode("a%2"), "a%2");
        assert_eq!(percent_decode("%zz%+1%41"), "%zz%+1A");
    }
}
