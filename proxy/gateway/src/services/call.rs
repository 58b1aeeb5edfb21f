//! A request to a service, read once: the decision, the forwarded request and what its answer may point to come from the same value
//! (security rule 26).

use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri, Version, header,
    uri::Authority,
};

use super::way::{Scheme, ServiceWay};
use crate::{audit::Record, forward::AUDIT_ID};
use underpass_core::{Rejection, Target, UNDERPASS_NODE, X_FORWARDED_FOR, forwarded_for};
use underpass_http::{
    call::{Asked, check_method},
    headers::{self, ServicePlace},
    upgrade::UpgradeRequest,
};

/// The place of the service in its client's world, as kube-apiserver's proxy tells it (apimachinery/pkg/util/proxy/transport.go), and
/// the prefix alone, which most web frameworks read.
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_URI: HeaderName = HeaderName::from_static("x-forwarded-uri");
const X_FORWARDED_PREFIX: HeaderName = HeaderName::from_static("x-forwarded-prefix");

const NO_UPGRADE: &str =
    "an upgrade needs a service that speaks HTTP/1.1: write http or https in place of h2c";

/// To leave the header out of consideration would be to connect elsewhere than its client says.
const NO_NODE: &str = "a service is its cluster's, and at no node: leave the header Underpass-Node out, or connect to a port of the node \
     with CONNECT";

/// One request to a service, without its body.
#[derive(Clone, Debug)]
pub(crate) struct ServiceCall {
    way: ServiceWay,
    method: Method,
    upgrade: Option<UpgradeRequest>,
    /// The client's name for this server.
    host: Option<String>,
    /// The client reads trailers (RFC 9110, section 10.1.4), and gRPC's servers want to be told so.
    takes_trailers: bool,
}

impl ServiceCall {
    /// Reads a request whose headers were not cleaned yet.
    pub(super) fn read<B>(
        request: &Request<B>,
        way: ServiceWay,
        asked: Asked,
    ) -> Result<Self, Rejection> {
        check_method(request.method())?;
        if asked.is_upgrade() && way.scheme == Scheme::H2c {
            return Err(Rejection::BadRequest(NO_UPGRADE));
        }
        let fields = request.headers();
        if fields.contains_key(UNDERPASS_NODE) {
            return Err(Rejection::BadRequest(NO_NODE));
        }
        let in_header = || fields.get(header::HOST)?.to_str().ok();
        let authority = request.uri().authority().map(Authority::as_str);
        Ok(Self {
            way,
            method: request.method().clone(),
            upgrade: asked.into_upgrade(),
            host: authority.or_else(in_header).map(str::to_owned),
            takes_trailers: headers::takes_trailers(request.version(), fields),
        })
    }

    pub(super) fn way(&self) -> &ServiceWay {
        &self.way
    }

    pub(super) fn target(&self) -> Target {
        Target::Tcp(self.way.service.clone())
    }

    /// The upgrade that a 101 has to answer.
    pub(crate) fn upgrade(&self) -> Option<&UpgradeRequest> {
        self.upgrade.as_ref()
    }

    /// The request for the service, of this version. Its headers are cleaned first, and written last (security rules 3 and 4).
    pub(super) fn request<B>(
        &self,
        mut headers: HeaderMap,
        body: B,
        version: Version,
        record: &Record,
    ) -> Result<Request<B>, Rejection> {
        headers::clean_request_to_service(&mut headers);
        self.write_headers(&mut headers, record)?;
        if self.takes_trailers {
            headers::take_trailers(&mut headers);
        }
        let (path, authority) = (self.way.path.clone(), self.way.authority());
        let mut request = Request::new(body);
        *request.uri_mut() = match version {
            Version::HTTP_2 => {
                let uri = Uri::builder().scheme(self.way.url_scheme());
                let uri = uri.authority(authority).path_and_query(path).build();
                uri.map_err(|_| Rejection::Unavailable)?
            }
            _ => {
                headers.insert(header::HOST, written(&authority)?);
                if let Some(upgrade) = &self.upgrade {
                    upgrade.write(&mut headers);
                }
                path.into()
            }
        };
        *request.method_mut() = self.method.clone();
        *request.version_mut() = version;
        *request.headers_mut() = headers;
        Ok(request)
    }

    fn write_headers(&self, headers: &mut HeaderMap, record: &Record) -> Result<(), Rejection> {
        headers.remove(header::HOST);
        headers.insert(AUDIT_ID, record.id_header().ok_or(Rejection::Unavailable)?);
        let client = forwarded_for(record.client()).ok_or(Rejection::Unavailable)?;
        headers.insert(X_FORWARDED_FOR, client);
        if let Some(host) = &self.host {
            headers.insert(X_FORWARDED_HOST, written(host)?);
        }
        // Nobody reaches this server otherwise.
        headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static("https"));
        let uri = format!("{}{}", self.way.prefix, self.way.path.path());
        headers.insert(X_FORWARDED_URI, written(&uri)?);
        headers.insert(X_FORWARDED_PREFIX, written(&self.way.prefix)?);
        Ok(())
    }

    /// Cleans an answer's headers for the client, or refuses the answer (security rule 20).
    pub(crate) fn clean(
        &self,
        status: StatusCode,
        headers: &mut HeaderMap,
    ) -> Result<(), Rejection> {
        let place = ServicePlace {
            prefix: &self.way.prefix,
            host: &self.way.authority(),
            forwarded_host: self.host.as_deref(),
            path: self.way.path.path(),
            query: self.way.path.query(),
        };
        headers::clean_of_service(status, headers, &place)
    }
}

fn written(text: &str) -> Result<HeaderValue, Rejection> {
    HeaderValue::from_str(text).map_err(|_| Rejection::HeadersTooLarge)
}
