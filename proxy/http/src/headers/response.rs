//! Removes or rewrites the headers of an answer that must not reach the client as they are (security rule 20).
//!
//! All clusters and all their workloads answer on one origin: the server's. So no header of theirs may speak for that origin,
//! for the connection to it, or lead a client from it. Headers that are about one document pass.

use std::borrow::Cow;

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use percent_encoding::AsciiSet;

use super::{
    caching, cookies,
    redirect::{self, Mount},
    trailers::strip_answer,
};
use crate::call::Call;
use underpass_core::Rejection;

/// Which half of the proxy an answer passes.
#[derive(Clone, Copy, Debug)]
pub enum Hop<'a> {
    /// The agent's: it comes from the API server, which is reached below `prefix` at `authority`.
    Agent {
        /// The prefix of the API server's own paths.
        prefix: &'a str,
        /// Host and port.
        authority: &'a str,
    },
    /// The server's: it goes to a client that knows the cluster below this path.
    Front {
        /// The path.
        client: &'a str,
    },
}

impl<'a> Hop<'a> {
    /// The prefixes of paths at the answer's origin and at its receiver.
    fn prefixes(self) -> (&'a str, &'a str) {
        match self {
            Self::Agent { prefix, .. } => (prefix, ""),
            Self::Front { client } => ("", client),
        }
    }
}

/// The place of a request to a service at this server: its answer may point below the prefix.
#[derive(Clone, Copy, Debug)]
pub struct ServicePlace<'a> {
    /// The path of the service's root, as clients know it, without a slash at its end.
    pub prefix: &'a str,
    /// The host and port in the request that the service got.
    pub host: &'a str,
    /// Those that the client asked for, of which the service was told.
    pub forwarded_host: Option<&'a str>,
    /// The path that the service got.
    pub path: &'a str,
    /// The query that the service got.
    pub query: Option<&'a str>,
}

impl<'a> ServicePlace<'a> {
    fn mount(&self) -> Mount<'a> {
        Mount {
            // A service may know the prefix, and write it by itself.
            upstream: self.prefix,
            authorities: [Some(self.host), self.forwarded_host],
            client: self.prefix,
            below: "",
            path: self.path,
            query: self.query,
        }
    }
}

/// The treatment of a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Drop,
    /// A URL: rewritten below the same `…/proxy/`, and dropped elsewhere.
    Url,
    Refresh,
    /// Rewritten below the same `…/proxy/`, and dropped elsewhere.
    Cookie,
}

/// By exact name. Anything else passes, unless [`PREFIXES`] has it.
const NAMES: [(&str, Fate); 37] = [
    // Where to go. Of a redirect's own Location more is asked ([`clean`]); beside a 201 it is a link.
    ("location", Fate::Url),
    ("content-location", Fate::Url),
    ("refresh", Fate::Refresh),
    ("set-cookie", Fate::Cookie),
    ("set-cookie2", Fate::Drop),
    // A challenge makes browsers ask for a password, and clients send the one they have for this origin.
    ("www-authenticate", Fate::Drop),
    ("authentication-info", Fate::Drop),
    ("authentication-control", Fate::Drop),
    ("optional-www-authenticate", Fate::Drop),
    // Sessions and logins of the origin.
    ("set-login", Fate::Drop),
    ("activate-storage-access", Fate::Drop),
    // How the origin is reached, for months.
    ("alt-svc", Fate::Drop),
    ("strict-transport-security", Fate::Drop),
    ("public-key-pins", Fate::Drop),
    ("public-key-pins-report-only", Fate::Drop),
    ("expect-ct", Fate::Drop),
    // Data that browsers keep about the origin, and reports that they send about it.
    ("clear-site-data", Fate::Drop),
    ("report-to", Fate::Drop),
    ("reporting-endpoints", Fate::Drop),
    ("nel", Fate::Drop),
    ("accept-ch", Fate::Drop),
    ("accept-ch-lifetime", Fate::Drop),
    ("critical-ch", Fate::Drop),
    ("origin-agent-cluster", Fate::Drop),
    ("observe-browsing-topics", Fate::Drop),
    ("shared-storage-write", Fate::Drop),
    // A service worker is for the directory of its script; this makes it one for the whole origin.
    ("service-worker-allowed", Fate::Drop),
    // A dictionary applies to every URL of the origin that its pattern matches.
    ("use-as-dictionary", Fate::Drop),
    // URLs that browsers fetch unasked, with their credentials for the origin.
    ("link", Fate::Drop),
    ("speculation-rules", Fate::Drop),
    ("sourcemap", Fate::Drop),
    ("x-sourcemap", Fate::Drop),
    ("pingback", Fate::Drop),
    ("x-pingback", Fate::Drop),
    // Other origins that may read timings.
    ("timing-allow-origin", Fate::Drop),
    // Orders to a cache in front of this server. [`PREFIXES`] has those to proxies, and [`CACHE_ORDERS`] the others.
    ("surrogate-control", Fate::Drop),
    ("edge-control", Fate::Drop),
];

/// By prefix; all are dropped. A cluster cannot let other origins read this one (CORS); `proxy-` is about the previous hop;
/// `x-` ones are orders to a proxy in front of this server, to answer with another resource, to keep and share this one, or to
/// take this server for unhealthy (nginx, LiteSpeed, lighttpd, Perlbal, Apache, Envoy); the others register something for the
/// origin.
const PREFIXES: [&str; 11] = [
    "access-control-",
    "attribution-reporting-",
    "proxy-",
    "sec-session-",
    "secure-session-",
    "x-accel-",
    "x-envoy-",
    "x-lighttpd-",
    "x-litespeed-",
    "x-reproxy-",
    "x-sendfile",
];

/// Orders to caches of one kind or one company (RFC 9213), which overrule `Cache-Control`: they end like this.
const CACHE_ORDERS: &str = "-cache-control";

/// Characters that browsers escape by themselves in a URL, beside non-ASCII ones: web pages' redirects hold them.
const AS_BROWSERS: AsciiSet = AsciiSet::EMPTY.add(b' ');

/// Cleans an answer's headers, or refuses the answer: a redirect is passed on only below the same `…/proxy/`.
///
/// # Errors
/// [`Rejection::Redirected`].
pub fn clean(
    status: StatusCode,
    headers: &mut HeaderMap,
    call: &Call,
    hop: Hop<'_>,
) -> Result<(), Rejection> {
    strip_answer(headers);
    let place = place(call, hop);
    let newer = redirects(status)
        .then(|| newer_openapi(headers, call, hop))
        .flatten();
    if newer.is_none() {
        check_redirect(status, headers, place.as_ref())?;
    }
    // The agent does not know the client's path.
    let keeps_cookies = matches!(hop, Hop::Agent { .. }) && place.is_some();
    rewrite(headers, place.as_ref(), keeps_cookies);
    if let Some(newer) = newer {
        headers.insert(header::LOCATION, newer);
    }
    if matches!(hop, Hop::Front { .. }) {
        caching::keep_private(headers);
    }
    Ok(())
}

/// Cleans the headers of a service's answer for the client, or refuses it: a redirect is passed on only below the service's own
/// prefix.
///
/// # Errors
/// [`Rejection::Redirected`].
pub fn clean_of_service(
    status: StatusCode,
    headers: &mut HeaderMap,
    place: &ServicePlace<'_>,
) -> Result<(), Rejection> {
    strip_answer(headers);
    let mount = place.mount();
    check_redirect(status, headers, Some(&mount))?;
    rewrite(headers, Some(&mount), false);
    caching::keep_private(headers);
    Ok(())
}

fn redirects(status: StatusCode) -> bool {
    status.is_redirection() && status != StatusCode::NOT_MODIFIED
}

fn check_redirect(
    status: StatusCode,
    headers: &HeaderMap,
    place: Option<&Mount<'_>>,
) -> Result<(), Rejection> {
    if redirects(status) && url(headers, &header::LOCATION, place).is_none() {
        tracing::debug!(%status, "a redirect is not passed on");
        return Err(Rejection::Redirected);
    }
    Ok(())
}

/// Treats each header as [`NAMES`] and [`PREFIXES`] say.
fn rewrite(headers: &mut HeaderMap, place: Option<&Mount<'_>>, keeps_cookies: bool) {
    let found = headers
        .keys()
        .filter_map(|name| Some((name.clone(), fate(name.as_str())?)));
    let found: Vec<_> = found.collect();
    for (name, fate) in found {
        if !(keeps_cookies && fate == Fate::Cookie) {
            apply(headers, &name, fate, place);
        }
    }
}

/// kube-apiserver's own redirect: `/openapi/v3/…?hash=OLD` leads to the same path with the current hash (kube-openapi,
/// pkg/handler3), which `kubectl apply` meets after each change of a CRD. It leads only to the authorised path.
fn newer_openapi(headers: &HeaderMap, call: &Call, hop: Hop<'_>) -> Option<HeaderValue> {
    let reads = matches!(*call.method(), Method::GET | Method::HEAD) && call.upgrade().is_none();
    let path = call.target().path();
    if !reads || !path.starts_with("/openapi/v3/") {
        return None;
    }
    let (upstream, client) = hop.prefixes();
    let location = single(headers, &header::LOCATION)?;
    let own = location.strip_prefix(upstream).unwrap_or(location);
    let (there, query) = own.split_once('?')?;
    let plain = |b: u8| b.is_ascii_graphic() && b != b'\\' && b != b'#';
    let same = there == path && query.bytes().all(plain);
    header_value(same.then(|| format!("{client}{path}?{query}")))
}

/// The treatment of a header; `None` passes it.
pub(super) fn fate(name: &str) -> Option<Fate> {
    if PREFIXES.iter().any(|prefix| name.starts_with(prefix)) || name.ends_with(CACHE_ORDERS) {
        return Some(Fate::Drop);
    }
    let mut names = NAMES.iter();
    names
        .find(|(found, _)| *found == name)
        .map(|(_, fate)| *fate)
}

fn place<'a>(call: &'a Call, hop: Hop<'a>) -> Option<Mount<'a>> {
    let (upstream, client) = hop.prefixes();
    let authority = match hop {
        Hop::Agent { authority, .. } => Some(authority),
        Hop::Front { .. } => None,
    };
    Some(Mount {
        upstream,
        authorities: [authority, None],
        client,
        below: call.info().below()?,
        path: call.target().path(),
        query: call.target().query(),
    })
}

fn apply(headers: &mut HeaderMap, name: &HeaderName, fate: Fate, place: Option<&Mount<'_>>) {
    let values: Vec<HeaderValue> = match (fate, place) {
        (Fate::Drop, _) | (_, None) => Vec::new(),
        (Fate::Url, place) => url(headers, name, place).into_iter().collect(),
        (Fate::Refresh, Some(place)) => {
            let value = single(headers, name).and_then(|value| redirect::refresh(value, place));
            header_value(value).into_iter().collect()
        }
        (Fate::Cookie, Some(place)) => cookies::outbound(headers, place),
    };
    headers.remove(name);
    for value in values {
        headers.append(name, value);
    }
}

fn url(headers: &HeaderMap, name: &HeaderName, place: Option<&Mount<'_>>) -> Option<HeaderValue> {
    let place = place?;
    let mut lines = headers.get_all(name).iter();
    let (Some(line), None) = (lines.next(), lines.next()) else {
        return None;
    };
    let reference = percent_encoding::percent_encode(line.as_bytes(), &AS_BROWSERS);
    header_value(place.resolve(&Cow::from(reference)))
}

/// Of two, clients take one or the other.
fn single<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h str> {
    let mut lines = headers.get_all(name).iter();
    let (Some(line), None) = (lines.next(), lines.next()) else {
        return None;
    };
    line.to_str().ok()
}

fn header_value(text: Option<String>) -> Option<HeaderValue> {
    HeaderValue::from_maybe_shared(bytes::Bytes::from(text?)).ok()
}

#[cfg(test)]
mod tests {
    use http::Version;

    use super::*;
    use crate::call::Asked;

    const PROXY: &str = "/api/v1/namespaces/a/services/s/proxy";
    const CLIENT: &str = "/k8s/clusters/c/api/v1/namespaces/a/services/s/proxy";

    fn call(path: &str) -> Call {
        let asked = Asked::read(&Method::GET, Version::HTTP_11, &HeaderMap::new()).unwrap();
        Call::read(&Method::GET, Some(&path.parse().unwrap()), asked).unwrap()
    }

    fn map(lines: &[(&str, &str)]) -> HeaderMap {
        let lines = lines.iter().map(|(name, value)| {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            (name, HeaderValue::from_bytes(value.as_bytes()).unwrap())
        });
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(name, value);
        }
        headers
    }

    fn cleaned(
        path: &str,
        hop: Hop<'_>,
        status: u16,
        lines: &[(&str, &str)],
    ) -> Result<HeaderMap, Rejection> {
        let mut headers = map(lines);
        let status = StatusCode::from_u16(status).unwrap();
        clean(status, &mut headers, &call(path), hop)?;
        if let Hop::Front { .. } = hop {
            // `caching` has the rest.
            assert_eq!(headers.remove(header::CACHE_CONTROL).unwrap(), "private");
        }
        Ok(headers)
    }

    fn hops() -> [Hop<'static>; 2] {
        [
            Hop::Agent {
                prefix: "",
                authority: "10.0.0.1:6443",
            },
            Hop::Front {
                client: "/k8s/clusters/c",
            },
        ]
    }

    #[test]
    fn rule_20_an_api_servers_redirect_is_refused_at_both_ends() {
        let there = format!("{PROXY}/x");
        for hop in hops() {
            for status in [300, 301, 302, 303, 305, 306, 307, 308, 399] {
                for location in ["https://evil.example/", "/version", &there, "x", ""] {
                    let lines = [("location", location)];
                    for path in [
                        "/version",
                        "/apis/x.io/v1/services/s/proxy/x",
                        "/api/v1/pods",
                    ] {
                        let answer = cleaned(path, hop, status, &lines);
                        assert_eq!(
                            answer,
                            Err(Rejection::Redirected),
                            "{hop:?} {status} {location}"
                        );
                    }
                }
                assert_eq!(
                    cleaned("/version", hop, status, &[]),
                    Err(Rejection::Redirected)
                );
            }
            let kept = cleaned("/version", hop, 304, &[("location", "/x"), ("etag", "1")]);
            assert_eq!(kept, Ok(map(&[("etag", "1")])));
        }
    }

    #[test]
    fn rule_20_an_openapi_document_may_lead_to_its_newer_self() {
        let path = "/openapi/v3/apis/apps/v1";
        let [agent, front] = hops();
        let newer = format!("{path}?hash=NEW");
        let asked = format!("{path}?hash=OLD");
        let passed = cleaned(&asked, agent, 301, &[("location", &newer)]);
        assert_eq!(passed, Ok(map(&[("location", &newer)])));
        let Hop::Front { client } = front else {
            panic!("not the front");
        };
        let passed = cleaned(&asked, front, 301, &[("location", &newer)]);
        assert_eq!(
            passed,
            Ok(map(&[("location", &format!("{client}{newer}"))]))
        );
        for elsewhere in [
            "https://evil.example/openapi/v3/apis/apps/v1?hash=NEW",
            "//evil.example/openapi/v3/apis/apps/v1?hash=NEW",
            "/openapi/v3/apis/batch/v1?hash=NEW",
            "/openapi/v3/apis/apps/v1/../../../../api?x",
            "/openapi/v3/apis/apps/v1",
            "?hash=NEW",
            "/openapi/v3/apis/apps/v1?hash=NEW#x",
        ] {
            for hop in hops() {
                let refused = cleaned(&asked, hop, 301, &[("location", elsewhere)]);
                assert_eq!(refused, Err(Rejection::Redirected), "{elsewhere}");
            }
        }
        let refused = cleaned(
            "/api/v1/pods?a",
            front,
            301,
            &[("location", "/api/v1/pods?b")],
        );
        assert_eq!(refused, Err(Rejection::Redirected));
    }

    #[test]
    fn rule_20_a_workloads_redirect_stays_below_its_proxy() {
        let path = format!("{PROXY}/app/page");
        let there = format!("{PROXY}/login?x=1");
        let [agent, front] = hops();
        for status in [301, 302, 303, 307, 308] {
            let answer = cleaned(&path, agent, status, &[("location", &there)]);
            assert_eq!(answer, Ok(map(&[("location", &there)])));
            let answer = cleaned(&path, front, status, &[("location", &there)]);
            let client = format!("{CLIENT}/login?x=1");
            assert_eq!(answer, Ok(map(&[("location", &client)])));
            for hop in hops() {
                for lines in [
                    &[][..],
                    &[("location", "https://evil.example/")],
                    &[("location", "/login")],
                    &[("location", &there), ("location", &there)],
                    &[("location", &there), ("location", "//evil.example")],
                ] {
                    let answer = cleaned(&path, hop, status, lines);
                    assert_eq!(answer, Err(Rejection::Redirected), "{lines:?}");
                }
            }
        }
        // As sloppy pages write it, and browsers read it.
        let answer = cleaned(&path, agent, 302, &[("location", "Z\u{fc}rich 1")]);
        let escaped = format!("{PROXY}/app/Z%C3%BCrich%201");
        assert_eq!(answer, Ok(map(&[("location", &escaped)])));
        // The API server's own, of a proxied path without its last slash.
        let slash = format!("{PROXY}/");
        let answer = cleaned(PROXY, front, 301, &[("location", &slash)]);
        assert_eq!(answer, Ok(map(&[("location", &format!("{CLIENT}/"))])));
    }

    #[test]
    fn rule_20_no_header_of_a_cluster_speaks_for_this_origin() {
        let path = format!("{PROXY}/app/page");
        let names = NAMES.iter().map(|(name, _)| *name);
        let more = PREFIXES.map(|prefix| format!("{prefix}x"));
        let names: Vec<&str> = names.chain(more.iter().map(String::as_str)).collect();
        let mut lines: Vec<_> = names
            .iter()
            .map(|name| (*name, "https://evil.example"))
            .collect();
        lines.extend([
            ("content-type", "text/html"),
            ("x-frame-options", "DENY"),
            ("etag", "1"),
        ]);
        let kept = map(&[
            ("content-type", "text/html"),
            ("x-frame-options", "DENY"),
            ("etag", "1"),
        ]);
        for path in ["/version", &path] {
            for hop in hops() {
                for status in [200, 201, 304, 401, 407, 500] {
                    let mut headers = cleaned(path, hop, status, &lines).unwrap();
                    if path != "/version" && matches!(hop, Hop::Agent { .. }) {
                        // For the server's half to rewrite.
                        headers.remove(header::SET_COOKIE);
                    }
                    assert_eq!(headers, kept, "{path} {hop:?} {status}");
                }
            }
        }
    }

    #[test]
    fn rule_20_no_header_of_a_cluster_is_an_order_to_a_proxy_in_front() {
        let orders = [
            "x-accel-redirect",
            "x-accel-expires",
            "x-accel-buffering",
            "x-litespeed-location",
            "x-litespeed-cache-control",
            "x-lighttpd-send-file",
            "x-lighttpd-send-tempfile",
            "x-reproxy-url",
            "x-reproxy-file",
            "x-sendfile",
            "x-sendfile2",
            "x-envoy-immediate-health-check-fail",
            "x-envoy-upstream-service-time",
            "surrogate-control",
            "cdn-cache-control",
            "cloudflare-cdn-cache-control",
            "akamai-cache-control",
            "edge-control",
        ];
        let lines = orders.map(|name| (name, "/v1/self"));
        for path in ["/version", &format!("{PROXY}/app/page")] {
            for hop in hops() {
                assert_eq!(cleaned(path, hop, 200, &lines), Ok(HeaderMap::new()));
            }
        }
    }

    #[test]
    fn rule_20_links_of_a_workload_are_rewritten_or_gone() {
        let [_, front] = hops();
        let lines = [
            ("location", "/api/v1/namespaces/a/services/s/proxy/made"),
            ("content-location", "page.en"),
            ("refresh", "3; url=next"),
            ("set-cookie", "a=b; Path=/"),
            ("set-cookie", "c=d; Path=/x; Domain=example"),
        ];
        let headers = cleaned(&format!("{PROXY}/app/page"), front, 201, &lines).unwrap();
        let value = |rest: &str| format!("{CLIENT}{rest}");
        let expected = map(&[
            ("location", &value("/made")),
            ("content-location", &value("/app/page.en")),
            ("refresh", &format!("3; url={CLIENT}/app/next")),
            ("set-cookie", &format!("a=b; Path={CLIENT}/")),
            ("set-cookie", &format!("c=d; Path={CLIENT}/x")),
        ]);
        assert_eq!(headers, expected);
        assert_eq!(
            cleaned("/api/v1/pods", front, 201, &lines),
            Ok(HeaderMap::new())
        );
    }

    #[test]
    fn rule_20_a_services_answer_is_held_to_its_prefix() {
        let prefix = "/v1/clusters/c/services/http:shop:web:80";
        let place = ServicePlace {
            prefix,
            host: "web.shop.svc",
            forwarded_host: Some("front"),
            path: "/app/page",
            query: None,
        };
        let clean = |status: u16, lines: &[(&str, &str)]| {
            let mut headers = map(lines);
            let status = StatusCode::from_u16(status).unwrap();
            clean_of_service(status, &mut headers, &place)?;
            assert_eq!(headers.remove(header::CACHE_CONTROL).unwrap(), "private");
            Ok(headers)
        };
        let below = |rest: &str| format!("{prefix}{rest}");
        for status in [300, 301, 302, 303, 307, 308] {
            let moved = clean(status, &[("location", "/login")]);
            assert_eq!(moved, Ok(map(&[("location", &below("/login"))])));
            for lines in [
                &[][..],
                &[("location", "https://evil.example/")],
                &[("location", "/a"), ("location", "/a")],
            ] {
                assert_eq!(
                    clean(status, lines),
                    Err(Rejection::Redirected),
                    "{lines:?}"
                );
            }
        }
        let headers = clean(
            200,
            &[
                ("set-cookie", "a=b; Path=/; Domain=example.org; HttpOnly"),
                (
                    "set-cookie",
                    "c=d; Path=/v1/clusters/c/services/http:shop:web:80/x",
                ),
                ("set-cookie", "underpass=1"),
                ("refresh", "3; url=next"),
                ("content-location", "https://evil.example/"),
                ("www-authenticate", "Basic"),
                ("strict-transport-security", "max-age=1"),
                ("connection", "x-hop"),
                ("x-hop", "1"),
                ("content-type", "text/html"),
                ("grpc-status", "0"),
            ],
        );
        let expected = map(&[
            ("set-cookie", &format!("a=b; Path={prefix}/; HttpOnly")),
            ("set-cookie", &format!("c=d; Path={prefix}/x")),
            ("refresh", &format!("3; url={prefix}/app/next")),
            ("content-type", "text/html"),
            ("grpc-status", "0"),
        ]);
        assert_eq!(headers, Ok(expected));
    }
}
