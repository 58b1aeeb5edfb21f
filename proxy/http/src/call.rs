//! A request to an API server, read once: the decision and the forwarded request come from the same parse (security rule 26).

use http::{HeaderMap, Method, Request, Version, uri::PathAndQuery};

use crate::upgrade::{UpgradeRequest, UpgradeRequestError};
use underpass_core::{Rejection, RequestInfo, limits, request_info::PathError};

/// The methods that Kubernetes serves, proxied workloads included (`proxyMethods` in
/// pkg/registry/core/pod/rest/subresources.go). Any other could only mean something to a server in between: CONNECT opens a
/// tunnel, and TRACE sends the request's headers back, the agent's credential among them.
const METHODS: [Method; 7] = [
    Method::GET,
    Method::HEAD,
    Method::OPTIONS,
    Method::POST,
    Method::PUT,
    Method::PATCH,
    Method::DELETE,
];

/// One request, without its headers and its body. A forwarded request takes its method, its target and its upgrade from this
/// value only, and only [`Call::read`] makes one.
#[derive(Clone, Debug)]
pub struct Call {
    method: Method,
    target: PathAndQuery,
    upgrade: Option<UpgradeRequest>,
    info: RequestInfo,
}

/// Why a request is not forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The upgrade is ambiguous.
    #[error(transparent)]
    Upgrade(#[from] UpgradeRequestError),
    /// Another parser could read it otherwise.
    #[error(transparent)]
    Path(#[from] PathError),
    /// See [`Call::read`].
    #[error("the method is none that Kubernetes serves")]
    Method,
}

impl From<CallError> for Rejection {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Upgrade(_) => Self::BadRequest("the upgrade is ambiguous"),
            CallError::Path(error) => Self::BadPath(error.to_string()),
            CallError::Method => Self::MethodNotAllowed,
        }
    }
}

/// Whether a request asks to become a byte stream: read from its headers before these are cleaned, and the only word on it. A
/// request that is no upgrade here (another protocol, HTTP/2, an `Upgrade` that `Connection` does not name) is forwarded as
/// none.
#[derive(Clone, Debug)]
pub struct Asked(Option<UpgradeRequest>);

impl Asked {
    /// Reads it.
    pub fn read(method: &Method, version: Version, headers: &HeaderMap) -> Result<Self, CallError> {
        Ok(Self(UpgradeRequest::from_parts(method, version, headers)?))
    }

    /// Whether it is forwarded as one.
    pub fn is_upgrade(&self) -> bool {
        self.0.is_some()
    }

    /// The upgrade that a 101 has to answer.
    pub fn into_upgrade(self) -> Option<UpgradeRequest> {
        self.0
    }
}

/// Whether requests of this method are forwarded at all.
///
/// # Errors
/// [`CallError::Method`].
pub fn check_method(method: &Method) -> Result<(), CallError> {
    match METHODS.contains(method) {
        true => Ok(()),
        false => Err(CallError::Method),
    }
}

impl Call {
    /// Reads a request to an API server.
    pub fn read(
        method: &Method,
        target: Option<&PathAndQuery>,
        Asked(upgrade): Asked,
    ) -> Result<Self, CallError> {
        check_method(method)?;
        let target = target.ok_or(PathError::NoPath)?.clone();
        let (path, query) = (target.path(), target.query());
        let info = RequestInfo::parse(method, path, query, upgrade.is_some());
        info.check_path(path)?;
        Ok(Self {
            method: method.clone(),
            target,
            upgrade,
            info,
        })
    }

    /// The meaning of the request.
    pub fn info(&self) -> &RequestInfo {
        &self.info
    }

    /// The method.
    pub fn method(&self) -> &Method {
        &self.method
    }

    /// The path and query for the API server.
    pub fn target(&self) -> &PathAndQuery {
        &self.target
    }

    /// The upgrade that a 101 has to answer.
    pub fn upgrade(&self) -> Option<&UpgradeRequest> {
        self.upgrade.as_ref()
    }

    /// It takes as long as it likes: watches, logs, proxied workloads, byte streams.
    pub fn is_long(&self) -> bool {
        self.upgrade.is_some() || self.info.is_long_running()
    }

    /// A watch, and not a byte stream.
    pub fn is_watch(&self) -> bool {
        self.info.verb() == "watch"
    }

    /// The request to forward, on headers that were cleaned.
    pub fn request<B>(&self, mut headers: HeaderMap, body: B) -> Request<B> {
        if let Some(upgrade) = &self.upgrade {
            upgrade.write(&mut headers);
        }
        let mut request = Request::new(body);
        *request.method_mut() = self.method.clone();
        *request.version_mut() = Version::HTTP_11;
        *request.uri_mut() = self.target.clone().into();
        *request.headers_mut() = headers;
        request
    }
}

/// A request that the agent's half, and an API server behind it, have room for.
///
/// # Errors
/// [`Rejection::HeadersTooLarge`].
pub fn within_bounds<B>(request: Request<B>) -> Result<Request<B>, Rejection> {
    let lines = request.headers().len();
    let bytes: usize = request
        .headers()
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + 4)
        .sum();
    let room = limits::HEADER_COUNT.saturating_sub(limits::HEADER_COUNT_RESERVE);
    let target = request
        .uri()
        .path_and_query()
        .map_or(0, |target| target.as_str().len());
    if lines > room || bytes.saturating_add(target) > limits::HEADER_BYTES {
        return Err(Rejection::HeadersTooLarge);
    }
    Ok(request)
}
