//! Whether a browser was made to send a request by a page of another origin.

use http::{HeaderMap, HeaderName, HeaderValue, Uri, header, uri::Authority};

/// Fetch Metadata (w3c.github.io/webappsec-fetch-metadata): pages cannot set these.
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const SEC_FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");

/// A browser's headers about the page that made it send a request.
#[derive(Clone, Debug)]
pub(super) struct Site<'a> {
    origin: Origin<'a>,
    /// The name that the client asked the server by.
    host: Option<&'a str>,
    page: Page,
}

/// The page, by Fetch Metadata.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Page {
    /// It is ours, or the user typed the address; or nothing says anything: no browser, or one that says nothing.
    Ours,
    /// Another page leads here: a link, a frame, a new window, a form.
    Leads,
    /// Another page fetched it: an image, a script, a WebSocket.
    Fetches,
}

/// The `Origin` header (RFC 6454, section 7).
#[derive(Clone, Copy, Debug)]
enum Origin<'a> {
    /// No browser sent it, or no script and no form made the browser send it.
    None,
    One(&'a str),
    /// More than one, or one that is no text.
    Unreadable,
}

impl<'a> Site<'a> {
    /// No browser is involved.
    pub(super) const NO_BROWSER: Self = Self {
        origin: Origin::None,
        host: None,
        page: Page::Ours,
    };

    pub(super) fn read(headers: &'a HeaderMap) -> Self {
        let mut lines = headers.get_all(header::ORIGIN).iter();
        let origin = match (lines.next().map(HeaderValue::to_str), lines.next()) {
            (None, _) => Origin::None,
            (Some(Ok(origin)), None) => Origin::One(origin),
            (Some(_), _) => Origin::Unreadable,
        };
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
        let page = match (text(SEC_FETCH_SITE), text(SEC_FETCH_MODE)) {
            (None | Some("same-origin" | "none"), _) => Page::Ours,
            (Some(_), Some("navigate")) => Page::Leads,
            (Some(_), _) => Page::Fetches,
        };
        Self {
            origin,
            host: text(header::HOST),
            page,
        }
    }

    /// The same request, for this URI. Its authority is the server's name over HTTP/2 (RFC 9113, section 8.3.1).
    pub(super) fn at(mut self, uri: &'a Uri) -> Self {
        self.host = uri.authority().map(Authority::as_str).or(self.host);
        self
    }

    /// Is it from a page of another origin? Browsers reach this server over TLS only, directly or through a proxy that
    /// ends it. An origin is ours where it has the name and the port that the browser itself asked for: with a wildcard in
    /// DNS and many names of one server, each name is an origin.
    pub(super) fn is_foreign(&self) -> bool {
        match self.origin {
            // A link to an answer of ours is followed with the user's knowledge; such a request changes nothing, since a form's
            // POST has an Origin.
            Origin::None => self.page == Page::Fetches,
            Origin::Unreadable => true,
            Origin::One(origin) => !origin
                .strip_prefix("https://")
                .zip(self.host)
                .is_some_and(|(origin, host)| is_same_authority(origin, host)),
        }
    }

    /// Does a page of another origin lead the browser here, by a link, a frame or a form? A `GET` changes nothing here, but
    /// a workload may act on one.
    pub(super) fn is_led_from_elsewhere(&self) -> bool {
        self.page == Page::Leads
    }
}

/// Names in any case, and `https`'s port said or left out (RFC 9110, section 4.2.3).
fn is_same_authority(one: &str, other: &str) -> bool {
    let default_port = |authority: &str| {
        let authority = authority.strip_suffix(":443").unwrap_or(authority);
        authority.to_ascii_lowercase()
    };
    default_port(one) == default_port(other)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_foreign(uri: &'static str, lines: &[(HeaderName, &'static str)]) -> bool {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(name.clone(), HeaderValue::from_static(value));
        }
        let uri = Uri::from_static(uri);
        Site::read(&headers).at(&uri).is_foreign()
    }

    #[test]
    fn rule_27_only_our_own_origin_is_not_foreign() {
        const H2: &str = "https://Up.example:8443/v1/self";
        for (uri, host, origin, foreign) in [
            (H2, None, "https://up.example:8443", false),
            (H2, None, "https://UP.example:8443", false),
            ("/v1/self", Some("up.example"), "https://up.example", false),
            (
                "/v1/self",
                Some("up.example:443"),
                "https://up.example",
                false,
            ),
            ("/v1/self", Some("[::1]:8443"), "https://[::1]:8443", false),
            (H2, None, "https://up.example", true),
            (H2, None, "http://up.example:8443", true),
            (H2, None, "https://up.example:8443.evil.example", true),
            (H2, None, "https://evil.example", true),
            (H2, None, "null", true),
            (H2, None, "", true),
            (H2, Some("evil.example"), "https://evil.example", true),
            // Without a name to compare nothing is ours.
            ("/v1/self", None, "https://up.example", true),
        ] {
            let mut lines = vec![(header::ORIGIN, origin)];
            lines.extend(host.map(|host| (header::HOST, host)));
            assert_eq!(is_foreign(uri, &lines), foreign, "{uri} {host:?} {origin}");
        }
        let twice = (header::ORIGIN, "https://up.example:8443");
        assert!(is_foreign(H2, &[twice.clone(), twice]));
        assert!(!is_foreign(H2, &[]));
    }

    #[test]
    fn rule_27_what_another_page_fetches_is_foreign_without_an_origin() {
        for (site, mode, foreign) in [
            ("cross-site", "no-cors", true),
            ("same-site", "no-cors", true),
            ("cross-site", "websocket", true),
            ("cross-site", "navigate", false),
            ("same-origin", "no-cors", false),
            ("none", "navigate", false),
        ] {
            let lines = [(SEC_FETCH_SITE, site), (SEC_FETCH_MODE, mode)];
            assert_eq!(is_foreign("/v1/self", &lines), foreign, "{site} {mode}");
        }
    }

    #[test]
    fn rule_27_a_foreign_page_that_leads_here_is_known() {
        for (site, mode, led) in [
            (Some("cross-site"), Some("navigate"), true),
            (Some("same-site"), Some("navigate"), true),
            // A value that browsers may send one day.
            (Some("x"), Some("navigate"), true),
            (Some("cross-site"), Some("no-cors"), false),
            (Some("same-origin"), Some("navigate"), false),
            (Some("none"), Some("navigate"), false),
            (None, Some("navigate"), false),
            (None, None, false),
        ] {
            let mut headers = HeaderMap::new();
            for (name, value) in [(SEC_FETCH_SITE, site), (SEC_FETCH_MODE, mode)] {
                headers.extend(value.map(|value| (name, HeaderValue::from_static(value))));
            }
            let found = Site::read(&headers).is_led_from_elsewhere();
            assert_eq!(found, led, "{site:?} {mode:?}");
        }
    }
}
