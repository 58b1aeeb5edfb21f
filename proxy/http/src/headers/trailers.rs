//! Trailers of answers (RFC 9110, section 6.5): they pass, cleaned as headers are.
//!
//! hyper's server writes those over HTTP/1.1 that the answer's `Trailer` header announces, to a client that has sent `TE: trailers`. Both
//! headers are about one hop, so each half of the proxy writes them anew.

use http::{HeaderMap, HeaderName, HeaderValue, Version, header};
use underpass_core::list::{has_token, tokens};

use super::{remove_where, response::fate, strip_hop_by_hop};

/// Headers about a message's framing, content or handling: a receiver needs them before the body (RFC 9110, section 6.5.1), and one that
/// merges trailers into the headers would take the late one for true.
const NEVER: [HeaderName; 10] = [
    header::AUTHORIZATION,
    header::CACHE_CONTROL,
    header::CONTENT_ENCODING,
    header::CONTENT_LENGTH,
    header::CONTENT_RANGE,
    header::CONTENT_SECURITY_POLICY,
    header::CONTENT_TYPE,
    header::HOST,
    header::MAX_FORWARDS,
    header::VARY,
];

/// Whether the sender of a request reads its answer's trailers. `headers` were not cleaned yet. Over HTTP/2 every client can.
pub fn takes_trailers(version: Version, headers: &HeaderMap) -> bool {
    version == Version::HTTP_2 || has_token(headers, &header::TE, "trailers")
}

/// Says so in a request, whose headers were cleaned.
pub fn take_trailers(headers: &mut HeaderMap) {
    headers.insert(header::TE, HeaderValue::from_static("trailers"));
}

/// Cleans trailers: a client that merges trailers into the headers gets none that a header could not be.
pub fn clean_trailers(trailers: &mut HeaderMap) {
    strip_hop_by_hop(trailers);
    remove_where(trailers, |name| !may_pass(name));
}

/// Removes what is between two neighbours from an answer, and announces the trailers anew that may pass.
pub fn strip_answer(headers: &mut HeaderMap) {
    let announced = announced(headers);
    strip_hop_by_hop(headers);
    headers.extend(announced.map(|names| (header::TRAILER, names)));
}

fn announced(headers: &HeaderMap) -> Option<HeaderValue> {
    let lines = headers.get_all(header::TRAILER).iter();
    let names = lines
        .flat_map(tokens)
        .filter_map(|name| HeaderName::from_bytes(name).ok());
    let names: Vec<_> = names.filter(|name| may_pass(name.as_str())).collect();
    let names: Vec<_> = names.iter().map(HeaderName::as_str).collect();
    let names = (!names.is_empty()).then(|| names.join(", "))?;
    HeaderValue::try_from(names).ok()
}

fn may_pass(name: &str) -> bool {
    let is_about_a_hop = super::HOP_BY_HOP.contains(&name);
    !is_about_a_hop && fate(name).is_none() && !NEVER.iter().any(|never| never.as_str() == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let lines = lines.iter().map(|(name, value)| {
            (
                HeaderName::from_static(name),
                HeaderValue::from_static(value),
            )
        });
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(name, value);
        }
        headers
    }

    #[test]
    fn the_trailers_that_may_pass_are_announced() {
        let mut headers = map(&[
            ("trailer", "X-Sum, Set-Cookie,, content-length, no name"),
            ("trailer", "grpc-status, transfer-encoding, Location"),
            ("transfer-encoding", "chunked"),
            ("etag", "1"),
        ]);
        strip_answer(&mut headers);
        let expected = map(&[("trailer", "x-sum, grpc-status"), ("etag", "1")]);
        assert_eq!(headers, expected);
        let mut headers = map(&[("trailer", "set-cookie")]);
        strip_answer(&mut headers);
        assert_eq!(headers, HeaderMap::new());
    }

    #[test]
    fn rule_20_a_trailer_is_what_a_header_could_be_and_nothing_about_the_message() {
        let mut trailers = map(&[
            ("x-sum", "1"),
            ("grpc-status", "0"),
            ("content-length", "7"),
            ("content-type", "text/html"),
            ("cache-control", "public"),
            ("authorization", "x"),
            ("transfer-encoding", "chunked"),
            ("set-cookie", "a=b"),
            ("location", "/"),
        ]);
        clean_trailers(&mut trailers);
        assert_eq!(trailers, map(&[("x-sum", "1"), ("grpc-status", "0")]));
    }

    #[test]
    fn a_client_takes_trailers_where_it_says_so_or_http_does() {
        for (version, te, takes) in [
            (Version::HTTP_11, "gzip;q=0.5, Trailers", true),
            (Version::HTTP_11, "gzip", false),
            (Version::HTTP_11, "trailers2", false),
            (Version::HTTP_2, "gzip", true),
        ] {
            assert_eq!(takes_trailers(version, &map(&[("te", te)])), takes, "{te}");
        }
        assert!(!takes_trailers(Version::HTTP_11, &HeaderMap::new()));
    }
}
