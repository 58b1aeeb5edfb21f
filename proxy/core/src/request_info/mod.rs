//! The meaning of a request to Kubernetes: verb, resource, subresource.
//!
//! This follows kube-apiserver's `RequestInfoFactory` (apiserver/pkg/endpoints/request/requestinfo.go) far enough to
//! decide by. Like there, the path is percent-decoded first: `/exec` may arrive as `/%65xec`.

mod path;
mod query;
#[cfg(test)]
mod tests;

use http::Method;

pub use self::path::{PathError, check_workloads, decode, is_dots};

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
    /// It asks to become a byte stream.
    upgrade: bool,
    /// The method is one that reads.
    reads: bool,
    /// It is below `/debug/pprof/`: a profile takes as long as it is asked to.
    profile: bool,
    /// The path's bytes up to and with `proxy`; empty where it is none of a pod, a service or a node.
    below: String,
}

/// How urgent the bytes of a request's stream are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum StreamClass {
    /// A user may be typing.
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
        // An invalid escape is refused where a request is forwarded; here it stays as it is.
        let decoded = decode(path).unwrap_or_else(|| path.to_owned());
        let parts: Vec<&str> = decoded.trim_matches('/').split('/').collect();
        let (mut info, behind) = Self::resource_of(&parts);
        if info.verb.is_empty() {
            info.verb = info.verb_of(method, query);
        }
        info.audit_verb = info.verb.clone();
        info.upgrade = upgrade;
        info.reads = matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS);
        if info.is_stream() || upgrade {
            // Kubernetes 1.35 asks for `create` for every method; older clusters let a WebSocket's GET pass as
            // `get`, which read-only roles hold.
            info.verb = "create".to_owned();
        }
        if matches!(info.subresource.as_str(), "attach" | "exec") {
            info.class = class_of(query);
        }
        info.profile = info.resource.is_empty() && decoded.starts_with("/debug/pprof/");
        info.below = info.below_of(path, behind).unwrap_or_default();
        info
    }

    /// Refuses a path that was read here in one way and could be read elsewhere in another.
    pub fn check_path(&self, path: &str) -> Result<(), PathError> {
        path::check(path, self)
    }

    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`, `proxy`, or the method in lower
    /// case. exec, attach and port-forward are `create` in every form, and so is every other upgrade.
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

    /// kube-apiserver's `--long-running` set, and profiles (apiserver/pkg/server/filters/longrunning.go): no deadline on the answer's head, no total deadline.
    pub fn is_long_running(&self) -> bool {
        matches!(self.audit_verb.as_str(), "watch" | "proxy")
            || matches!(
                self.subresource.as_str(),
                "attach" | "exec" | "proxy" | "log" | "portforward"
            )
            || self.profile
    }

    /// exec, attach, port-forward: a shell or a connection into a workload.
    pub fn is_stream(&self) -> bool {
        matches!(self.subresource.as_str(), "attach" | "exec" | "portforward")
    }

    /// It asks to become a byte stream, by an upgrade that is forwarded.
    pub fn is_upgrade(&self) -> bool {
        self.upgrade
    }

    /// The path's bytes up to the `proxy` of a pod, a service or a node: the rest is the workload's.
    pub fn below(&self) -> Option<&str> {
        (!self.below.is_empty()).then_some(self.below.as_str())
    }

    /// Does a read-only right allow it? A `selfsubjectaccessreview` and its kin are questions too, although they are created
    /// (`kubectl auth can-i`, `kubectl auth whoami`). The method counts as well as the verb: a path that begins with `watch`
    /// has that verb for every method.
    pub fn changes_nothing(&self) -> bool {
        match self.verb.as_str() {
            _ if self.upgrade => false,
            "get" | "list" | "watch" | "head" | "options" => self.reads,
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

    /// How urgent its bytes are, as far as the request shows it: a terminal has a user, and `kubectl cp` runs tar at the other
    /// end.
    pub fn class(&self) -> StreamClass {
        self.class
    }

    /// The answer may come from a workload instead of the API server.
    pub fn is_proxied(&self) -> bool {
        self.audit_verb == "proxy" || self.subresource == "proxy"
    }

    /// Everything but the verb, unless the path begins with it; and how many of the parts stand before the resource.
    fn resource_of(parts: &[&str]) -> (Self, usize) {
        let mut info = Self::default();
        let mut rest = match parts {
            ["api", version, rest @ ..] if !rest.is_empty() => {
                info.api_version = (*version).to_owned();
                rest
            }
            ["apis", group, version, rest @ ..] if !rest.is_empty() => {
                info.api_version = (*version).to_owned();
                info.api_group = (*group).to_owned();
                rest
            }
            _ => return (info, parts.len()),
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
        let behind = parts.len().saturating_sub(rest.len());
        (info, behind)
    }

    fn verb_of(&self, method: &Method, query: Option<&str>) -> String {
        let verb = match method.as_str() {
            other if self.resource.is_empty() => return other.to_ascii_lowercase(),
            "GET" | "HEAD" if !self.name.is_empty() => "get",
            "GET" | "HEAD" if query::is_true(query, "watch") => "watch",
            "GET" | "HEAD" => "list",
            "POST" => "create",
            "PUT" => "update",
            "PATCH" => "patch",
            "DELETE" if self.name.is_empty() => "deletecollection",
            "DELETE" => "delete",
            other => return other.to_ascii_lowercase(),
        };
        verb.to_owned()
    }

    /// The first `behind` parts of the path and the object's `proxy`, as they were written. Where an escaped slash is among
    /// them there is no such beginning, and the answer gets no leave to point anywhere.
    fn below_of(&self, path: &str, behind: usize) -> Option<String> {
        let proxied = self.audit_verb != "proxy"
            && self.subresource == "proxy"
            && self.api_group.is_empty()
            && matches!(self.resource.as_str(), "pods" | "services" | "nodes");
        let count = behind.checked_add(3)?;
        let segments: Vec<&str> = path.strip_prefix('/')?.split('/').take(count).collect();
        let split = segments.iter().any(|segment| {
            let decoded = decode(segment);
            decoded.is_none_or(|decoded| decoded.is_empty() || decoded.contains('/'))
        });
        (proxied && !split).then(|| format!("/{}", segments.join("/")))
    }
}

/// Of an exec or attach.
fn class_of(query: Option<&str>) -> StreamClass {
    let command = query::values(query, "command").next();
    if query::is_true(query, "tty") {
        StreamClass::Interactive
    } else if command.is_some_and(|command| command.rsplit('/').next() == Some("tar")) {
        StreamClass::Bulk
    } else {
        StreamClass::Default
    }
}
