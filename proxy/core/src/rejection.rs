//! Everything that this proxy answers itself instead of forwarding.
//!
//! A [`Rejection`] is the client's view; causes, addresses and peers' texts stay in the log (security rule 11).

use std::{borrow::Cow, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};

use crate::{Body, ClusterName, Decline, Impersonated, NodeName, TcpTarget, full, status::Status};

/// Clients may try again so soon: an agent that lost its transport is back within a second.
const RETRY_SOON: Duration = Duration::from_secs(1);

/// The ways to authenticate a request to connect (RFC 9110, section 11.7.1).
const PROXY_SCHEMES: [&str; 2] = [
    "Bearer realm=\"underpass\"",
    "Basic realm=\"underpass\", charset=\"UTF-8\"",
];

/// A request that was not forwarded, or whose forwarding failed before the response's head.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Rejection {
    /// No credential, or one that no authenticator accepts.
    #[error("Unauthorized")]
    Unauthorized,
    /// The client's certificate is not valid, and the request has no other credential.
    #[error("Unauthorized: the client certificate {0}")]
    BadCertificate(&'static str),
    /// A request to connect (HTTP CONNECT) has no credential, or none that counts; with the certificate's fault where it has only
    /// that.
    #[error("Proxy authentication required{}", .0.map(|why| format!(": the client certificate {why}")).unwrap_or_default())]
    ProxyUnauthorized(Option<&'static str>),
    /// The right to a request was taken back while it was open: a binding, a cluster, the right to act as somebody.
    #[error("the right to do this was taken back")]
    Revoked,
    /// A page of another origin made a browser send the request, with a credential that browsers attach by themselves
    /// (security rule 27).
    #[error(
        "the request comes from a page of another origin, with a credential that browsers attach by themselves; send a bearer token instead"
    )]
    ForeignOrigin,
    /// A page of another origin led a browser to a workload, with a credential that browsers attach by themselves (security
    /// rule 27).
    #[error(
        "a page of another origin leads to this workload, and the browser sent a credential by itself; type the address \
         instead of following the link, or send a bearer token"
    )]
    ForeignNavigation,
    /// The caller may not reach the cluster that way.
    #[error(
        "clusters.underpass.dev \"{cluster}\" is forbidden: User \"{user}\" cannot {verb} resource \
         \"clusters\" in API group \"underpass.dev\"{}",
        because(reason.as_deref())
    )]
    Forbidden {
        /// The caller.
        user: String,
        /// For which cluster.
        cluster: ClusterName,
        /// A verb of Kubernetes.
        verb: Cow<'static, str>,
        /// Why, where the authorizer lets the user know.
        reason: Option<String>,
    },
    /// The credential is genuine, and its owner's name, groups or extras are too many or too long, or no header can hold them. No retry
    /// helps.
    #[error("your credential is accepted, but you cannot be an identity here: {0}")]
    NoIdentity(String),
    /// The identity itself may not be used here.
    #[error("{user:?} is forbidden: {reason}")]
    IdentityForbidden {
        /// The caller.
        user: String,
        /// The offending part of the identity.
        reason: String,
    },
    /// The cluster does not let the caller act as that. In kube-apiserver's words (`ForbiddenStatusError` in
    /// apiserver/pkg/endpoints/handlers/responsewriters/errors.go), since it is its decision.
    #[error("{what} is forbidden: User \"{user}\" cannot impersonate {}", what.long())]
    MayNotActAs {
        /// The caller.
        user: String,
        /// The offending part of the target identity.
        what: Box<Impersonated>,
    },
    /// The cluster does not say whether the caller may impersonate.
    #[error(
        "acting as somebody else is forbidden in cluster \"{0}\": the cluster does not let Underpass ask whether you may"
    )]
    ImpersonationNotReviewed(ClusterName),
    /// A program in a shell may not ask the API server for that.
    #[error("this shell may not do that: {0}")]
    NotInShell(String),
    /// The path names no cluster.
    #[error("the server could not find the requested resource")]
    NotFound,
    /// The names of the connection and of the request do not belong together, or no cluster can have them. Nothing was done:
    /// the client may try again on another connection (RFC 9110, section 15.5.20).
    #[error("the request is not for this connection: {0}")]
    Misdirected(&'static str),
    /// The cluster is not known. Only those who may reach a cluster of that name learn this.
    #[error("clusters.underpass.dev \"{0}\" not found")]
    UnknownCluster(ClusterName),
    /// The cluster has no agent connected at the moment.
    #[error("cluster \"{0}\" has no agent connected")]
    NoAgent(ClusterName),
    /// The agent's connection is lost or silent, and the agent has done nothing: the same may be asked again.
    #[error(
        "the agent of cluster \"{0}\" does not answer at the moment: its connection may be lost"
    )]
    AgentAway(ClusterName),
    /// Nor does the server reach it with the credential that an agent has registered.
    #[error(
        "cluster \"{0}\" has no agent connected, and the credential that one has registered has expired"
    )]
    RegisteredExpired(ClusterName),
    /// No agent of a node of that name has joined the cluster. Only those who may connect to targets at its nodes learn this.
    #[error(
        "no agent of a node \"{node}\" has joined cluster \"{cluster}\": `underpass node list {cluster}` shows the nodes whose agents are \
         connected"
    )]
    UnknownNode {
        /// The cluster.
        cluster: ClusterName,
        /// The name that no node has.
        node: NodeName,
    },
    /// The node's agent is not connected at the moment, or silent.
    #[error(
        "the agent of node \"{node}\" of cluster \"{cluster}\" is not connected, or does not answer: try again, and look at its log on the node; \
         `underpass node list {cluster}` shows those that are connected"
    )]
    NodeAway {
        /// The cluster.
        cluster: ClusterName,
        /// The node.
        node: NodeName,
    },
    /// The agent does not answer, and whether it acted is not known.
    #[error("the agent of cluster \"{0}\" does not answer")]
    AgentSilent(ClusterName),
    /// The agent declined the stream.
    #[error("the agent of cluster \"{0}\" refused the request")]
    AgentRefused(ClusterName),
    /// The agent declined a connection to a target, in its own words: its policy, or the target itself.
    #[error(
        "the agent of {}cluster \"{cluster}\" declined the connection: {reason}",
        of_node(node.as_ref())
    )]
    TargetDeclined {
        /// The cluster of the agent.
        cluster: ClusterName,
        /// Its node, where it was asked as that node's agent.
        node: Option<NodeName>,
        /// The kind of the reason.
        decline: Decline,
        /// In the agent's words.
        reason: String,
    },
    /// There are no connections into a cluster that has no agent.
    #[error(
        "cluster \"{0}\" is reached without an agent: this server connects to nothing but its API server there"
    )]
    NoTargets(ClusterName),
    /// The tunnel or the agent failed before the response's end.
    #[error("the connection to cluster \"{0}\" was lost")]
    AgentLost(ClusterName),
    /// A service that the agent connected to did not answer a request.
    #[error("the service {0} closed the connection before it answered")]
    ServiceLost(TcpTarget),
    /// A service's certificate cannot be verified, or TLS with it fails otherwise.
    #[error("there is no TLS with the service {service}: {reason}")]
    ServiceTls {
        /// The service.
        service: TcpTarget,
        /// The fault, and the remedy where there is one.
        reason: String,
    },
    /// The directory's settings for the cluster are unusable.
    #[error(
        "cluster \"{0}\" cannot be reached as it is configured: the server's log, and `underpass cluster list`, say why"
    )]
    Unusable(ClusterName),
    /// The agent, or the API server behind it, spoke something other than HTTP.
    #[error("the upstream's answer was not valid: {0}")]
    BadAnswer(&'static str),
    /// Nothing answered in time.
    #[error("timed out waiting for {0}")]
    Timeout(&'static str),
    /// The API server behind the agent, or behind this server, cannot be reached.
    #[error("the API server cannot be reached: {0}")]
    ApiServerUnreachable(&'static str),
    /// The API server does not accept our own credential.
    #[error("the API server does not accept the credential that Underpass has for it")]
    AgentUnauthorized,
    /// The API server knows us, and passed on the 401 of an aggregated API server behind it. It is no 401 for the caller:
    /// client-go would drop the credential of this server, which this server accepts.
    #[error(
        "the aggregated API \"{api}\" of the cluster answered 401 Unauthorized: kube-apiserver accepts the request, and the \
         API server behind that API does not accept the caller; another login does not help, its administrator can"
    )]
    AggregatedUnauthorized {
        /// Its group and version, or the path where that names none.
        api: String,
    },
    /// The request makes no sense.
    #[error("the request is not valid: {0}")]
    BadRequest(&'static str),
    /// The path has more than one meaning.
    #[error("the request is not valid: {0}")]
    BadPath(String),
    /// Nothing in Kubernetes is asked for with that method.
    #[error("the method is not forwarded: use GET, HEAD, OPTIONS, POST, PUT, PATCH or DELETE")]
    MethodNotAllowed,
    /// The cluster, or a workload that its API server proxies, answered with a redirect that would take the client elsewhere.
    #[error(
        "the cluster tried to redirect this request, which is not permitted: a redirect is passed on only below the \
         same pod's, service's or node's \".../proxy/\", or below the same service's path at this server"
    )]
    Redirected,
    /// The request's headers are larger than any API server reads.
    #[error("the request's headers are too large")]
    HeadersTooLarge,
    /// The request's target is longer than a URI may be here.
    #[error("the request's target is longer than 65534 bytes")]
    TargetTooLong,
    /// The caller, or all callers together, ask too much.
    #[error("too many requests, please try again later")]
    TooManyRequests,
    /// Too many of the caller's credentials were bad, or too many passwords of that name: none is looked at for so long.
    #[error("too many wrong passwords or bad credentials, wait {} s", whole(*.0))]
    TooManyFailures(Duration),
    /// A budget is spent, and waiting for a place in it does not help. Nothing was done.
    #[error("{whose} has too many {what}, please try again later")]
    OverBudget {
        /// The user or the cluster.
        whose: String,
        /// The kind of request over budget.
        what: &'static str,
        /// When it may be worth another try.
        retry_after: Duration,
    },
    /// Something that a decision needs cannot be reached.
    #[error("the server is currently unable to handle the request")]
    Unavailable,
}

fn of_node(node: Option<&NodeName>) -> String {
    node.map(|node| format!("node \"{node}\" of "))
        .unwrap_or_default()
}

fn because(reason: Option<&str>) -> String {
    reason
        .map(|reason| format!(": {reason}"))
        .unwrap_or_default()
}

/// Seconds that are not too few.
fn whole(wait: Duration) -> u64 {
    wait.as_secs().saturating_add(1)
}

impl Rejection {
    /// The HTTP status code.
    pub fn code(&self) -> StatusCode {
        match self {
            Self::Unauthorized | Self::BadCertificate(_) => StatusCode::UNAUTHORIZED,
            Self::ProxyUnauthorized(_) => StatusCode::PROXY_AUTHENTICATION_REQUIRED,
            Self::TargetDeclined { decline, .. } => match decline {
                Decline::Forbidden => StatusCode::FORBIDDEN,
                Decline::Unreachable => StatusCode::BAD_GATEWAY,
                Decline::Overloaded => StatusCode::SERVICE_UNAVAILABLE,
            },
            Self::Revoked
            | Self::ForeignOrigin
            | Self::ForeignNavigation
            | Self::Forbidden { .. }
            | Self::NoIdentity(_)
            | Self::IdentityForbidden { .. }
            | Self::MayNotActAs { .. }
            | Self::ImpersonationNotReviewed(_)
            | Self::NotInShell(_)
            | Self::AggregatedUnauthorized { .. }
            | Self::AgentRefused(_) => StatusCode::FORBIDDEN,
            Self::NotFound | Self::UnknownCluster(_) | Self::UnknownNode { .. } => {
                StatusCode::NOT_FOUND
            }
            Self::NoAgent(_)
            | Self::RegisteredExpired(_)
            | Self::AgentAway(_)
            | Self::NodeAway { .. }
            | Self::AgentSilent(_)
            | Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Self::AgentLost(_)
            | Self::NoTargets(_)
            | Self::Unusable(_)
            | Self::ServiceLost(_)
            | Self::ServiceTls { .. }
            | Self::BadAnswer(_)
            | Self::Redirected
            | Self::ApiServerUnreachable(_)
            | Self::AgentUnauthorized => StatusCode::BAD_GATEWAY,
            Self::Timeout(_) => StatusCode::GATEWAY_TIMEOUT,
            Self::BadRequest(_) | Self::BadPath(_) => StatusCode::BAD_REQUEST,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::Misdirected(_) => StatusCode::MISDIRECTED_REQUEST,
            Self::TargetTooLong => StatusCode::URI_TOO_LONG,
            Self::HeadersTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::TooManyRequests | Self::TooManyFailures(_) | Self::OverBudget { .. } => {
                StatusCode::TOO_MANY_REQUESTS
            }
        }
    }

    /// The same as the answer to a request to connect, whose credential is the proxy's (RFC 9110, section 11.7).
    #[must_use]
    pub fn of_proxy(self) -> Self {
        match self {
            Self::Unauthorized => Self::ProxyUnauthorized(None),
            Self::BadCertificate(why) => Self::ProxyUnauthorized(Some(why)),
            other => other,
        }
    }

    /// `metav1.StatusReason`, as `kubectl` prints it. Codes that the API machinery has no reason for get
    /// their HTTP name.
    pub fn reason(&self) -> &'static str {
        if matches!(self, Self::Redirected) {
            return "RedirectRefused";
        }
        match self.code().as_u16() {
            400 => "BadRequest",
            401 => "Unauthorized",
            403 => "Forbidden",
            404 => "NotFound",
            405 => "MethodNotAllowed",
            414 => "URITooLong",
            407 => "ProxyAuthenticationRequired",
            421 => "MisdirectedRequest",
            429 => "TooManyRequests",
            431 => "RequestHeaderFieldsTooLarge",
            502 => "BadGateway",
            504 => "Timeout",
            _ => "ServiceUnavailable",
        }
    }

    /// The answer for the client: a `metav1.Status`.
    pub fn to_response(&self) -> Response<Body> {
        self.to_status_response(self.retry_after())
    }

    /// How long the client shall wait before it tries again, where that makes sense.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::NoAgent(_)
            | Self::AgentAway(_)
            | Self::RegisteredExpired(_)
            | Self::NodeAway { .. }
            | Self::Unavailable
            | Self::TooManyRequests
            | Self::TargetDeclined {
                decline: Decline::Overloaded,
                ..
            } => Some(RETRY_SOON),
            Self::OverBudget { retry_after, .. } => Some(*retry_after),
            Self::TooManyFailures(wait) => Some(Duration::from_secs(whole(*wait))),
            _ => None,
        }
    }

    /// The answer for a client that asks which APIs there are.
    ///
    /// client-go does not decode a `Status` there: of a 403 and a 502 it prints a plain text, of the others words of its
    /// own. And kubectl asks five times over, ten times each where it is told to retry: nearly a minute
    /// until it says that the cluster is away.
    pub fn to_discovery_response(&self) -> Response<Body> {
        let plain = matches!(
            self,
            Self::Forbidden { .. }
                | Self::IdentityForbidden { .. }
                | Self::MayNotActAs { .. }
                | Self::ImpersonationNotReviewed(_)
                | Self::NotInShell(_)
                | Self::AggregatedUnauthorized { .. }
        );
        let plain = plain || self.code() == StatusCode::BAD_GATEWAY;
        if !plain {
            return self.to_status_response(None);
        }
        let mut response = Response::new(full(self.to_string()));
        *response.status_mut() = self.code();
        let plain = HeaderValue::from_static("text/plain; charset=utf-8");
        response.headers_mut().insert(header::CONTENT_TYPE, plain);
        response
    }

    /// The last event of a watch that ends for this: as kube-apiserver sends it, a line of JSON.
    pub fn to_watch_event(&self) -> Bytes {
        let message = self.to_string();
        let status = Status::new(self.code(), self.reason(), &message);
        status.into_watch_event()
    }

    fn to_status_response(&self, retry_after: Option<Duration>) -> Response<Body> {
        let message = self.to_string();
        let mut status = Status::new(self.code(), self.reason(), &message);
        match self {
            Self::Forbidden { cluster, .. } => status = status.about_cluster(cluster.as_str()),
            Self::UnknownCluster(cluster)
            | Self::ImpersonationNotReviewed(cluster)
            | Self::NoAgent(cluster)
            | Self::AgentAway(cluster)
            | Self::RegisteredExpired(cluster)
            | Self::AgentSilent(cluster)
            | Self::AgentRefused(cluster)
            | Self::TargetDeclined { cluster, .. }
            | Self::UnknownNode { cluster, .. }
            | Self::NodeAway { cluster, .. }
            | Self::NoTargets(cluster)
            | Self::Unusable(cluster)
            | Self::AgentLost(cluster) => status = status.about_cluster(cluster.as_str()),
            _ => {}
        }
        if let Some(after) = retry_after {
            status = status.retry_after(after);
        }
        let mut response = status.into_response();
        if matches!(self, Self::MethodNotAllowed) {
            // RFC 9110, section 15.5.6.
            let allow = HeaderValue::from_static("GET, HEAD, OPTIONS, POST, PUT, PATCH, DELETE");
            response.headers_mut().insert(header::ALLOW, allow);
        }
        if self.code() == StatusCode::UNAUTHORIZED {
            let scheme = HeaderValue::from_static("Bearer realm=\"underpass\"");
            response
                .headers_mut()
                .insert(header::WWW_AUTHENTICATE, scheme);
        }
        if self.code() == StatusCode::PROXY_AUTHENTICATION_REQUIRED {
            // Of two lines clients take the first that they know. Basic is the one that can be in a proxy's URL.
            for scheme in PROXY_SCHEMES {
                let scheme = HeaderValue::from_static(scheme);
                response
                    .headers_mut()
                    .append(header::PROXY_AUTHENTICATE, scheme);
            }
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    async fn json(rejection: &Rejection) -> (Response<()>, serde_json::Value) {
        let (parts, body) = rejection.to_response().into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        (
            Response::from_parts(parts, ()),
            serde_json::from_slice(&bytes).unwrap(),
        )
    }

    #[tokio::test]
    async fn a_missing_agent_is_worth_a_retry() {
        let rejection = Rejection::NoAgent(ClusterName::new("x").unwrap());
        let (response, status) = json(&rejection).await;
        assert_eq!(response.status(), 503);
        assert_eq!(response.headers()["retry-after"], "1");
        assert_eq!(response.headers()["content-type"], "application/json");
        let expected = serde_json::json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": "cluster \"x\" has no agent connected", "reason": "ServiceUnavailable",
            "details": {
                "name": "x", "group": "underpass.dev", "kind": "clusters", "retryAfterSeconds": 1
            },
            "code": 503
        });
        assert_eq!(status, expected);
    }

    fn over_budget() -> Rejection {
        Rejection::OverBudget {
            whose: "user \"alice\"".to_owned(),
            what: "requests in flight and waiting",
            retry_after: Duration::from_secs(7),
        }
    }

    #[tokio::test]
    async fn whose_budget_is_spent_is_told_and_for_how_long() {
        let (response, status) = json(&over_budget()).await;
        assert_eq!(response.status(), 429);
        assert_eq!(response.headers()["retry-after"], "7");
        let expected = serde_json::json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message":
                "user \"alice\" has too many requests in flight and waiting, please try again later",
            "reason": "TooManyRequests", "details": { "retryAfterSeconds": 7 }, "code": 429
        });
        assert_eq!(status, expected);
    }

    #[tokio::test]
    async fn rule_23_whoever_was_wrong_too_often_is_told_how_long() {
        let rejection = Rejection::TooManyFailures(Duration::from_millis(1_799_500));
        let (response, status) = json(&rejection).await;
        assert_eq!(response.status(), 429);
        assert_eq!(response.headers()["retry-after"], "1800");
        let message = "too many wrong passwords or bad credentials, wait 1800 s";
        assert_eq!(status["message"], message);
    }

    #[tokio::test]
    async fn discovery_is_told_at_once() {
        let rejection = Rejection::NoAgent(ClusterName::new("x").unwrap());
        let response = rejection.to_discovery_response();
        assert_eq!(response.status(), 503);
        assert!(!response.headers().contains_key("retry-after"));
        let response = over_budget().to_discovery_response();
        assert_eq!(response.status(), 429);
        assert!(!response.headers().contains_key("retry-after"));
        let rejection = Rejection::Forbidden {
            user: "alice".into(),
            cluster: ClusterName::new("prod").unwrap(),
            verb: "get".into(),
            reason: None,
        };
        let (parts, body) = rejection.to_discovery_response().into_parts();
        assert_eq!(parts.status, 403);
        assert_eq!(parts.headers["content-type"], "text/plain; charset=utf-8");
        let text = body.collect().await.unwrap().to_bytes();
        assert_eq!(text, rejection.to_string());
        // Users have nothing but this text to diagnose a cluster.
        let rejection = Rejection::ApiServerUnreachable("its certificate has expired");
        let (parts, body) = rejection.to_discovery_response().into_parts();
        assert_eq!(parts.status, 502);
        let text = body.collect().await.unwrap().to_bytes();
        assert_eq!(text, rejection.to_string());
    }

    #[tokio::test]
    async fn forbidden_reads_like_kubernetes() {
        let rejection = Rejection::Forbidden {
            user: "alice".into(),
            cluster: ClusterName::new("prod").unwrap(),
            verb: "create".into(),
            reason: None,
        };
        let (response, status) = json(&rejection).await;
        assert_eq!(response.status(), 403);
        assert_eq!(
            status["message"],
            "clusters.underpass.dev \"prod\" is forbidden: User \"alice\" cannot create resource \
             \"clusters\" in API group \"underpass.dev\""
        );
    }

    #[tokio::test]
    async fn a_proxy_names_its_schemes() {
        let why = "has expired";
        let refused = Rejection::BadCertificate(why).of_proxy();
        let (response, status) = json(&refused).await;
        assert_eq!(response.status(), 407);
        let schemes = response.headers().get_all("proxy-authenticate");
        let schemes: Vec<_> = schemes.iter().collect();
        assert_eq!(schemes, PROXY_SCHEMES);
        assert!(!response.headers().contains_key("www-authenticate"));
        assert_eq!(status["reason"], "ProxyAuthenticationRequired");
        let message = "Proxy authentication required: the client certificate has expired";
        assert_eq!(status["message"], message);
    }

    #[tokio::test]
    async fn an_agents_words_reach_the_client() {
        for (decline, code, retries) in [
            (Decline::Forbidden, 403, false),
            (Decline::Unreachable, 502, false),
            (Decline::Overloaded, 503, true),
        ] {
            let declined = Rejection::TargetDeclined {
                cluster: ClusterName::new("prod").unwrap(),
                node: None,
                decline,
                reason: "no rule allows tcp:db.prod:5432".to_owned(),
            };
            let (response, status) = json(&declined).await;
            assert_eq!(response.status(), code);
            assert_eq!(response.headers().contains_key("retry-after"), retries);
            assert_eq!(
                status["message"],
                "the agent of cluster \"prod\" declined the connection: no rule allows tcp:db.prod:5432"
            );
            assert_eq!(status["details"]["name"], "prod");
        }
    }

    #[tokio::test]
    async fn a_node_is_named_with_the_remedy() {
        let cluster = ClusterName::new("prod").unwrap();
        let node: NodeName = "worker-1".parse().unwrap();
        let declined = Rejection::TargetDeclined {
            cluster: cluster.clone(),
            node: Some(node.clone()),
            decline: Decline::Forbidden,
            reason: "no rule".to_owned(),
        };
        let unknown = Rejection::UnknownNode {
            cluster: cluster.clone(),
            node: node.clone(),
        };
        let away = Rejection::NodeAway { cluster, node };
        for (rejection, code, retries, words) in [
            (
                declined,
                403,
                false,
                "the agent of node \"worker-1\" of cluster \"prod\" declined",
            ),
            (unknown, 404, false, "`underpass node list prod`"),
            (away, 503, true, "`underpass node list prod`"),
        ] {
            let (response, status) = json(&rejection).await;
            assert_eq!(response.status(), code);
            assert_eq!(response.headers().contains_key("retry-after"), retries);
            let message = status["message"].as_str().unwrap();
            assert!(
                message.contains(words) && message.contains("worker-1"),
                "{message}"
            );
        }
    }

    #[tokio::test]
    async fn unauthorized_names_the_scheme() {
        let (response, status) = json(&Rejection::Unauthorized).await;
        assert_eq!(
            response.headers()["www-authenticate"],
            "Bearer realm=\"underpass\""
        );
        assert_eq!(status["reason"], "Unauthorized");
        assert_eq!(status["code"], 401);
    }
}
