//! Viewers of shells at agents, by WebSocket: a stream to the shell, and one upgrade on it. Admission and opening are those of a CONNECT, by which
//! `underpass shell` reaches the same shells.

mod way;

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, header, response};

pub(crate) use self::way::ShellWay;
use super::{
    Connection, Front, RequestBody,
    answer::{Answer, Question},
    audit::Record,
    forward::{AUDIT_ID, read_question},
    targets::Location,
};
use underpass_core::{Rejection, empty};
use underpass_http::{exchange, upgrade::UpgradeRequest};

const NO_WEBSOCKET: &str = "a viewer attaches to a shell by a WebSocket over HTTP/1.1";

/// The headers of a viewer that its agent reads.
const OF_VIEWERS: [HeaderName; 3] = [
    header::SEC_WEBSOCKET_KEY,
    header::SEC_WEBSOCKET_VERSION,
    header::SEC_WEBSOCKET_PROTOCOL,
];

/// The headers of the agent that a viewer gets.
const OF_AGENTS: [HeaderName; 4] = [
    header::SEC_WEBSOCKET_ACCEPT,
    header::SEC_WEBSOCKET_PROTOCOL,
    header::CONTENT_TYPE,
    header::CONTENT_LENGTH,
];

/// A request to view a shell, which its answer is held against.
#[derive(Clone, Debug)]
pub(crate) struct ShellCall(UpgradeRequest);

impl ShellCall {
    /// The upgrade that a 101 has to answer.
    pub(crate) fn upgrade(&self) -> &UpgradeRequest {
        &self.0
    }

    /// Cleans an answer's headers for the client: the agent has nothing else to say to it, and speaks for this origin in nothing (rule 20).
    pub(crate) fn clean(&self, parts: &mut response::Parts) -> Result<(), Rejection> {
        let is_refusal = parts.status.is_client_error() || parts.status.is_server_error();
        if parts.status != StatusCode::SWITCHING_PROTOCOLS && !is_refusal {
            return Err(Rejection::BadAnswer("no WebSocket, and no error"));
        }
        keep(&mut parts.headers, &OF_AGENTS);
        if is_refusal {
            let text = HeaderValue::from_static("text/plain; charset=utf-8");
            parts.headers.insert(header::CONTENT_TYPE, text);
        }
        Ok(())
    }
}

fn keep(headers: &mut HeaderMap, names: &[HeaderName]) {
    let others = headers.keys().filter(|name| !names.contains(name));
    let others: Vec<_> = others.cloned().collect();
    for name in others {
        headers.remove(name);
    }
}

impl Front {
    /// Rules 4, 5, 8 and 20: decides, and asks the shell's agent for the WebSocket.
    pub(super) async fn view_shell(
        &self,
        mut request: Request<RequestBody>,
        connection: &Connection,
        way: ShellWay,
        record: &mut Record,
    ) -> Result<Answer, Rejection> {
        let asked = read_question(&mut request)?;
        let known = self.recognise(&request, connection, record).await?;
        let location = Location {
            cluster: &way.cluster,
            node: way.node.as_ref(),
        };
        record.connects(location, &way.target);
        let upgrade = asked.into_upgrade().filter(UpgradeRequest::is_websocket);
        let upgrade = upgrade.ok_or(Rejection::BadRequest(NO_WEBSOCKET))?;
        known.check_navigation()?;
        let authenticated = &known.authenticated;
        let headers = request.headers();
        let target = way.target.clone();
        let admitting = self.admit_to_target(authenticated, headers, location, &target, record);
        let decisions = admitting.await?;
        let mut headers = std::mem::take(request.headers_mut());
        underpass_http::headers::clean_request_to_service(&mut headers);
        keep(&mut headers, &OF_VIEWERS);
        headers.insert(header::HOST, HeaderValue::from_static("shell"));
        headers.insert(AUDIT_ID, record.id_header().ok_or(Rejection::Unavailable)?);
        upgrade.write(&mut headers);
        let mut outgoing = Request::new(empty());
        *outgoing.method_mut() = Method::GET;
        *outgoing.uri_mut() = way.path.clone().into();
        *outgoing.headers_mut() = headers;
        let asking = async {
            let opening = self.open_target(
                location,
                target,
                authenticated.identity(),
                &decisions,
                record,
            );
            let (seat, stream) = opening.await?;
            let answered = exchange::send(stream, outgoing).await;
            let (response, exchange) = answered.map_err(|error| {
                tracing::debug!(
                    error = &error as &dyn std::error::Error,
                    "no view of a shell"
                );
                Rejection::AgentLost(way.cluster.clone())
            })?;
            Ok::<_, Rejection>((response, exchange, seat))
        };
        let (response, exchange, seat) = tokio::select! {
            biased;
            revoked = decisions.clone().revoked() => return Err(revoked.into()),
            answered = asking => answered?,
        };
        Ok(Answer {
            response,
            exchange,
            seat,
            cluster: way.cluster.clone(),
            question: Question::Shell(Arc::new(ShellCall(upgrade))),
            decisions,
            ambient: known.authenticated.is_ambient(),
            discovery: false,
            lines: Arc::clone(&self.lines),
            recognised: known.recognised,
            watch_end: None,
        })
    }
}
