//! Removes the headers that must not cross the proxy (security rules 3 and 4).
//!
//! The order matters. Hop-by-hop headers go first, together with each that a `Connection` header names (RFC 9110, section
//! 7.6.1); identities and credentials go next; only then are headers written. A proxy that writes first lets `Connection:
//! Impersonate-User` take its own header away again (CVE-2021-31999).

mod caching;
mod cookies;
mod redirect;
mod response;
mod trailers;

use http::{HeaderMap, HeaderName, HeaderValue, header};

pub use self::{
    response::{Hop, ServicePlace, clean as clean_response, clean_of_service},
    trailers::{clean_trailers, strip_answer, take_trailers, takes_trailers},
};
use underpass_core::{RequestInfo, list::tokens};

/// A browser's way of sending a token, which kube-apiserver accepts as an authentication: the
/// client's credential must not reach the cluster.
pub const BEARER_SUBPROTOCOL: &str = "base64url.bearer.authorization.k8s.io.";

const SEC_WEBSOCKET_PROTOCOL: HeaderName = header::SEC_WEBSOCKET_PROTOCOL;

/// RFC 9110, section 7.6.1, and headers that older proxies and h2c treat alike.
const HOP_BY_HOP: [&str; 9] = [
    "connection",
    "http2-settings",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "x-http2-stream-id",
];

/// Headers that carry a credential, claim an identity or address of the caller, or ask for another method or path than the one
/// decided about (security rule 26), by exact name.
const CLAIMS: [&str; 12] = [
    "authorization",
    "cookie",
    "expect",
    "forwarded",
    "remote-email",
    "remote-groups",
    "remote-user",
    "x-http-method",
    "x-http-method-override",
    "x-method-override",
    "x-real-ip",
    "x-rewrite-url",
];

/// The same by prefix. `HeaderName` is always lower-case.
///
/// Those of logins in front of the server hold its tokens: Cloudflare Access, AWS's load balancers, Google's IAP, Azure App Service,
/// Pomerium, oauth2-proxy, authentik.
const CLAIM_PREFIXES: [&str; 15] = [
    "cf-access-",
    "impersonate-",
    "proxy-",
    "ssl-client-",
    "x-amzn-oidc-",
    "x-auth-request-",
    "x-authentik-",
    "x-forwarded-",
    "x-goog-authenticated-",
    "x-goog-iap-",
    "x-ms-client-principal",
    "x-ms-token-",
    "x-original-",
    "x-pomerium-",
    "x-remote-",
];

/// Cleans a request's headers: nothing that is left speaks for the connection it came on, for an identity, or holds a
/// credential. `Expect` goes because hyper answers it with 100 by itself at the first read of the body. Cookies go too, but
/// those that a proxied workload may have set.
pub fn clean_request(headers: &mut HeaderMap, asked: &RequestInfo) {
    clean(headers, asked.below().is_some());
}

/// The same of a request to a service: the cookies that it may have set stay.
pub fn clean_request_to_service(headers: &mut HeaderMap) {
    clean(headers, true);
}

fn clean(headers: &mut HeaderMap, keeps_cookies: bool) {
    strip_hop_by_hop(headers);
    let cookies = keeps_cookies.then(|| cookies::inbound(headers)).flatten();
    remove_where(headers, |name| match name.contains('_') {
        // Servers that give programs headers as variables take one for the other.
        true => is_claim(&name.replace('_', "-")),
        false => is_claim(name),
    });
    headers.extend(cookies.map(|cookies| (header::COOKIE, cookies)));
    strip_bearer_subprotocol(headers);
}

fn is_claim(name: &str) -> bool {
    CLAIMS.contains(&name) || CLAIM_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// Does the request ask to impersonate (`kubectl --as`)?
pub fn asks_impersonation(headers: &HeaderMap) -> bool {
    headers
        .keys()
        .any(|name| name.as_str().starts_with("impersonate-"))
}

/// Removes what is between two neighbours, and nothing else: for a relay between a caller and a proxy that does the rest.
pub fn strip_hop_by_hop(headers: &mut HeaderMap) {
    if headers.contains_key(header::TRANSFER_ENCODING) {
        // The coding said where the body ends (RFC 9112, section 6.3). Once it is gone, the length would cut the body for the next hop.
        headers.remove(header::CONTENT_LENGTH);
    }
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .flat_map(tokens)
        .filter_map(|item| HeaderName::from_bytes(item).ok())
        .collect();
    for name in &named {
        headers.remove(name);
    }
    for name in HOP_BY_HOP {
        headers.remove(name);
    }
}

fn remove_where(headers: &mut HeaderMap, condemned: impl Fn(&str) -> bool) {
    let names: Vec<HeaderName> = headers
        .keys()
        .filter(|name| condemned(name.as_str()))
        .cloned()
        .collect();
    for name in &names {
        headers.remove(name);
    }
}

fn strip_bearer_subprotocol(headers: &mut HeaderMap) {
    let secret = |item: &[u8]| item.starts_with(BEARER_SUBPROTOCOL.as_bytes());
    let lines = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter();
    if !lines.flat_map(tokens).any(secret) {
        return;
    }
    let kept: Vec<Vec<u8>> = headers
        .get_all(SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .flat_map(tokens)
        .filter(|item| !secret(item))
        .map(<[u8]>::to_vec)
        .collect();
    headers.remove(SEC_WEBSOCKET_PROTOCOL);
    if let Ok(value) = HeaderValue::from_bytes(&kept.join(&b", "[..]))
        && !kept.is_empty()
    {
        headers.insert(SEC_WEBSOCKET_PROTOCOL, value);
    }
}

/// kubectl and client-go begin with this (KEP-3352), and treat its errors unlike any other's.
pub fn asks_for_discovery(headers: &HeaderMap) -> bool {
    let mut accepted = headers.get_all(header::ACCEPT).iter();
    accepted.any(|line| {
        line.to_str()
            .is_ok_and(|line| line.contains("apidiscovery.k8s.io"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(lines: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            headers.append(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        headers
    }

    #[test]
    fn rule_3_everything_that_connection_names_goes() {
        let mut headers = map(&[
            ("CONNECTION", "close, X-One"),
            ("Connection", "x-TWO ,,\u{e9}, Keep-Alive"),
            ("X-One", "1"),
            ("x-one", "2"),
            ("X-Two", "2"),
            ("X-Three", "3"),
            ("Transfer-Encoding", "chunked"),
            ("TE", "trailers"),
        ]);
        clean_request(&mut headers, &RequestInfo::default());
        assert_eq!(headers, map(&[("x-three", "3")]));
    }

    #[test]
    fn rule_1_a_length_beside_a_transfer_coding_goes() {
        let lines = [("content-length", "4"), ("accept", "*/*")];
        let mut headers = map(&lines);
        clean_request(&mut headers, &RequestInfo::default());
        assert_eq!(headers, map(&lines));
        headers.insert("transfer-encoding", HeaderValue::from_static("chunked"));
        clean_request(&mut headers, &RequestInfo::default());
        assert_eq!(headers, map(&[("accept", "*/*")]));
    }

    #[test]
    fn rule_4_identities_and_credentials_go() {
        let mut headers = map(&[
            ("IMPERSONATE-USER", "root"),
            ("Impersonate-Group", "system:masters"),
            ("Impersonate-Uid", "0"),
            ("Impersonate-Extra-scopes", "all"),
            ("Impersonate-New-Thing", "x"),
            ("X-Remote-User", "root"),
            ("X-Remote-Extra-x", "y"),
            ("Authorization", "Bearer a"),
            ("authorization", "Bearer b"),
            ("Cookie", "a=b"),
            ("Proxy-Authorization", "Basic x"),
            ("X-Forwarded-For", "10.0.0.1"),
            ("X-Forwarded-Proto", "http"),
            ("Forwarded", "for=10.0.0.1"),
            ("X-Real-Ip", "10.0.0.1"),
            ("X-HTTP-Method-Override", "DELETE"),
            ("X-HTTP-Method", "DELETE"),
            ("X-Method-Override", "DELETE"),
            ("X-Original-URL", "/api/v1/secrets"),
            ("X-Rewrite-URL", "/api/v1/secrets"),
            // In the spelling of a variable.
            ("X_Remote_User", "root"),
            ("x_forwarded-for", "10.0.0.1"),
            // Of logins in front.
            ("Cf-Access-Jwt-Assertion", "j"),
            ("X-Amzn-Oidc-Accesstoken", "t"),
            ("X-Amzn-Oidc-Data", "j"),
            ("X-Goog-Iap-Jwt-Assertion", "j"),
            ("X-Goog-Authenticated-User-Email", "a"),
            ("X-Pomerium-Jwt-Assertion", "j"),
            ("X-Ms-Token-Aad-Id-Token", "j"),
            ("X-Ms-Client-Principal-Name", "a"),
            ("X-Auth-Request-Access-Token", "t"),
            ("X-Authentik-Jwt", "j"),
            ("Remote-User", "root"),
            ("Ssl-Client-Cert", "c"),
            ("Accept", "application/json"),
            ("Accept-Encoding", "gzip"),
        ]);
        clean_request(&mut headers, &RequestInfo::default());
        assert_eq!(
            headers,
            map(&[("accept", "application/json"), ("accept-encoding", "gzip")])
        );
    }

    #[test]
    fn rule_4_a_token_among_subprotocols_goes() {
        let mut headers = map(&[
            (
                "Sec-WebSocket-Protocol",
                "v4.channel.k8s.io, base64url.bearer.authorization.k8s.io.Zm9v",
            ),
            ("Sec-WebSocket-Protocol", "v5.channel.k8s.io"),
        ]);
        clean_request(&mut headers, &RequestInfo::default());
        assert_eq!(
            headers,
            map(&[(
                "sec-websocket-protocol",
                "v4.channel.k8s.io, v5.channel.k8s.io"
            )])
        );
    }

    #[test]
    fn stream_protocols_pass_as_they_are() {
        let lines = [
            ("x-stream-protocol-version", "v4.channel.k8s.io"),
            ("x-stream-protocol-version", "v3.channel.k8s.io"),
            ("sec-websocket-key", "x"),
            ("sec-websocket-protocol", "v5.channel.k8s.io"),
            ("sec-websocket-extensions", "permessage-deflate"),
        ];
        let mut headers = map(&lines);
        clean_request(&mut headers, &RequestInfo::default());
        assert_eq!(headers, map(&lines));
    }
}
