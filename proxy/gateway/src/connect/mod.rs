//! HTTP CONNECT: a connection to a target in a cluster, or at a node of one (RFC 9110, section 9.3.6; RFC 9113, section 8.5). The steps are those of a
//! request to the API server: authenticate, authorize, wait for a seat, open a stream, and keep all of it until the stream ends.

mod client;
#[cfg(test)]
mod tests;
mod way;

use std::sync::Arc;

use http::{Method, Request, Response, StatusCode, Version};
use hyper::upgrade::OnUpgrade;
use tracing::Instrument;

use self::{
    client::{Answered, Ends, StreamEnds},
    way::Way,
};
use super::{
    Connection, Front, Recognised, RequestBody,
    admit::Decisions,
    answer::{note, refuse},
    audit::Record,
    budget::Seat,
    forward::AUDIT_ID,
    targets::Location,
};
use underpass_authenticate::adopt_proxy_authorization;
use underpass_core::{Body, BoxedIo, Rejection, empty};
use underpass_http::{
    pipe::{self, Meter, PipeError},
    serve::{Active, ClientEnd, Heads},
};

impl Front {
    /// Answers a CONNECT. `ambiguous`: a reason to refuse it, for any target.
    pub(super) async fn handle_connect(
        &self,
        request: Request<RequestBody>,
        connection: &Connection,
        ambiguous: Option<Rejection>,
    ) -> Response<Body> {
        connection.standing().head_ended();
        let id = underpass_core::new_audit_id();
        let span = tracing::info_span!("request", audit_id = id);
        let answering = self.answer_connect(request, connection, id, ambiguous);
        connection.sending_at_last(answering.instrument(span).await)
    }

    async fn answer_connect(
        &self,
        mut request: Request<RequestBody>,
        connection: &Connection,
        id: String,
        ambiguous: Option<Rejection>,
    ) -> Response<Body> {
        let peer = connection.info().peer.client(request.headers());
        let (audit_log, asked) = (self.config.audit.clone(), request.uri().to_string());
        let (method, fields) = (Method::CONNECT, request.headers());
        let mut record = Record::new(audit_log, id, peer, method, &asked, fields);
        let id_header = record.id_header();
        let is_connection = request.version() <= Version::HTTP_11;
        // Before anything is awaited: a reset and an end that come meanwhile are noted.
        let stream = Heads::stream(request.headers());
        let end = stream.map(|stream| connection.served.client_ends().of(stream));
        let client = hyper::upgrade::on(&mut request);
        let server_name = connection.info().server_name.as_deref();
        let way = match ambiguous {
            Some(rejection) => Err(rejection),
            None => Way::read(&request, server_name, &self.config.domains),
        };
        let opened = match way {
            Ok(way) => self.open(request, connection, way, &mut record).await,
            Err(rejection) => Err(rejection),
        };
        let mut response = match opened {
            // Nothing is awaited from here on.
            Ok(opened) => opened.pipe(client, end, record, connection),
            Err(rejection) => {
                if is_connection {
                    connection.pipes.spawn(pipe::close(client));
                }
                refuse(&rejection.of_proxy(), &mut record, false)
            }
        };
        if let Some(id) = id_header {
            response.headers_mut().insert(AUDIT_ID, id);
        }
        response
    }

    /// Rules 4, 5, 8 and 21: decides, and opens the stream.
    async fn open(
        &self,
        mut request: Request<RequestBody>,
        connection: &Connection,
        way: Way,
        record: &mut Record,
    ) -> Result<Opened, Rejection> {
        let Way {
            cluster,
            node,
            target,
        } = way;
        let location = Location {
            cluster: &cluster,
            node: node.as_ref(),
        };
        let adopted = adopt_proxy_authorization(request.headers_mut());
        adopted.map_err(|_| Rejection::Unauthorized)?;
        let known = self.recognise(&request, connection, record).await?;
        record.connects(location, &target);
        let authenticated = &known.authenticated;
        let headers = request.headers();
        let admitting = self.admit_to_target(authenticated, headers, location, &target, record);
        let decisions = admitting.await?;
        let real = authenticated.identity();
        let opening = self.open_target(location, target, real, &decisions, record);
        let (seat, stream) = tokio::select! {
            biased;
            revoked = decisions.clone().revoked() => return Err(revoked.into()),
            opened = opening => opened?,
        };
        Ok(Opened {
            stream,
            seat,
            recognised: known.recognised,
            decisions,
        })
    }
}

/// A stream that the agent has accepted, and all that it rests on.
struct Opened {
    stream: BoxedIo,
    /// Its seat in its user's and its cluster's budgets.
    seat: Seat,
    recognised: Recognised,
    decisions: Decisions,
}

impl Opened {
    /// The 200, after which the client's bytes are the stream's (rule 1). It has to be returned before anything is awaited.
    fn pipe(
        self,
        client: OnUpgrade,
        end: Option<ClientEnd>,
        mut record: Record,
        connection: &Connection,
    ) -> Response<Body> {
        record.head(StatusCode::OK);
        let meter = Arc::new(Meter::default());
        record.piped(Arc::clone(&meter));
        let (ends, presence) = match connection.served.turns() {
            Some(turns) => {
                let unread = connection.standing().body();
                let (ends, presence) = StreamEnds::of_this_task(turns.clone(), unread, end);
                (Ends::Stream(ends), Some(presence))
            }
            None => {
                self.recognised.upgraded();
                (Ends::Connection, None)
            }
        };
        let (gone, revoked) = (connection.gone.clone(), self.decisions.revoked());
        let active = Active::new(connection.served.activity());
        let held = (self.seat, self.recognised, active);
        let (client, stream) = (Answered::new(client, ends), self.stream);
        let piping = async move {
            let _held = held;
            let relaying = async {
                let client = client.written().await.map_err(PipeError::Upgrade)?;
                let relayed = pipe::between(client, stream, &meter).await;
                relayed.map_err(PipeError::Lost)
            };
            let left = async {
                match presence {
                    Some(presence) => presence.ended().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                ended = relaying => note(&mut record, ended),
                () = left => record.ended("client gone"),
                () = gone.cancelled() => record.ended("connection closed"),
                _ = revoked => record.ended("revoked"),
            }
        };
        connection.pipes.spawn(piping.in_current_span());
        Response::new(empty())
    }
}
