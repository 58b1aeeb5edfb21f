//! `/v1/clusters/{name}/nodes/{node}/operations`: runs of operations on a node.
//!
//! A run is the agent's: it is started with the record as its answer, and its output is asked for in pages, each of which waits for a
//! while. So no answer of the API lasts, and each page is decided on anew.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, Request};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use http::header::CONTENT_TYPE;
use http::{HeaderValue, StatusCode};
use serde::Deserialize;
use tokio::time::{Instant, timeout_at};
use underpass_api::{
    OperationEvent, OperationId, OperationQuestion, OperationRecord, OperationRefusal,
    OperationRequest, OutputPage,
};

use super::nodes::{Permit, Wanted, find, permit};
use super::output_page::Pieces;
use super::problem::{self, Problem};
use super::{Did, Requester, State, body};
use crate::limits;
use crate::nodes::Node;
use crate::questions::{Answer, AskError};

const KIND: &str = "operation";

pub(super) fn routes() -> Router<State> {
    let all = "/v1/clusters/{name}/nodes/{node}/operations";
    let one = "/v1/clusters/{name}/nodes/{node}/operations/{id}";
    let output = "/v1/clusters/{name}/nodes/{node}/operations/{id}/output";
    Router::new()
        .route(all, get(list).post(run))
        .route(one, get(read).delete(cancel))
        .route(output, get(read_output))
}

/// A part of a run's output.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Part {
    from: u64,
    /// Seconds.
    wait: u64,
}

/// A node, and who asks it.
struct Asking {
    permit: Permit,
    node: Node,
}

impl Asking {
    async fn new(
        state: &State,
        requester: &Requester,
        cluster: &str,
        node: &str,
    ) -> Result<Self, Problem> {
        let permit = permit(state, requester, cluster, &Wanted::OPERATIONS).await?;
        let node = find(state, &permit.cluster, node)?;
        Ok(Self { permit, node })
    }

    /// Begins a change at the node: from here on it is not taken back, and its event says what it was (rules 15, 25).
    fn begin(&self, state: &State, requester: &Requester) -> Result<(), Problem> {
        requester.must_count()?;
        if self.permit.revocation.is_revoked() {
            return Err(taken_back());
        }
        match state.commit.begin() {
            true => Ok(()),
            false => Err(problem::too_slow()),
        }
    }

    async fn ask(&self, question: &OperationQuestion) -> Result<Answer<OperationEvent>, Problem> {
        let identity = self.permit.identity.encode();
        let identity = identity.map_err(|error| Problem::invalid(error.to_string()))?;
        Ok(self.node.ask(&identity, question).await?)
    }

    /// Takes records that answer the question, until there is no other one, or `take` says that there is no room for more.
    async fn records(
        &self,
        question: &OperationQuestion,
        mut take: impl FnMut(OperationRecord) -> Result<Room, Problem>,
    ) -> Result<(), Problem> {
        let asking = async {
            let mut answer = self.ask(question).await?;
            loop {
                match answer.next().await? {
                    Some(OperationEvent::Record(record)) => {
                        if let Room::Full = take(record)? {
                            return Ok(());
                        }
                    }
                    Some(OperationEvent::Refused(problem)) => return Err(problem.into()),
                    Some(OperationEvent::Output(_)) => return Err(AskError::Unreadable.into()),
                    None => return Ok(()),
                }
            }
        };
        let in_time = tokio::time::timeout(limits::NODE_TIME, asking).await;
        in_time.unwrap_or_else(|_| Err(silent()))
    }

    /// The record of one run.
    async fn record(
        &self,
        id: &OperationId,
        question: &OperationQuestion,
    ) -> Result<OperationRecord, Problem> {
        let mut first = None;
        let take = |record| {
            first = Some(record);
            Ok(Room::Full)
        };
        self.records(question, take).await?;
        let record = first.filter(|record: &OperationRecord| record.id == *id);
        record.ok_or_else(|| AskError::Unreadable.into())
    }

    fn did(&self, id: &OperationId) -> Did {
        let Self { permit, node } = self;
        Did::to(KIND, id.as_str()).subject(format!("node:{}/{}", permit.cluster, node.view.name))
    }
}

/// Is there room for another record?
enum Room {
    Left,
    Full,
}

fn silent() -> Problem {
    let detail = "the agent did not answer in time; it may have the question";
    Problem::later(StatusCode::GATEWAY_TIMEOUT, detail, 1)
}

fn taken_back() -> Problem {
    Problem::forbidden("the permission was taken back meanwhile")
}

/// Arguments that the audit log has whole.
fn must_fit(arguments: &BTreeMap<String, String>) -> Result<(), Problem> {
    let wrong = |detail: String| {
        Err(Problem::invalid(detail).of_operation(OperationRefusal::WrongArguments, None))
    };
    let texts = || arguments.iter().flat_map(|(name, value)| [name, value]);
    let bytes = texts().map(String::len).fold(0, usize::saturating_add);
    if arguments.len() > limits::OPERATION_ARGUMENTS || bytes > limits::OPERATION_ARGUMENT_BYTES {
        return wrong(format!(
            "there are {} arguments with {bytes} bytes, and there may be {} with {} altogether",
            arguments.len(),
            limits::OPERATION_ARGUMENTS,
            limits::OPERATION_ARGUMENT_BYTES
        ));
    }
    match texts().any(|text| text.contains(char::is_control)) {
        true => wrong("an argument has a control character".to_owned()),
        false => Ok(()),
    }
}

async fn list(
    state: State,
    requester: Requester,
    Path((cluster, node)): Path<(String, String)>,
) -> Result<Response, Problem> {
    let asking = Asking::new(&state, &requester, &cluster, &node).await?;
    let mut items = Items::default();
    let question = OperationQuestion::List {};
    asking
        .records(&question, |record| items.add(&record))
        .await?;
    Ok(items.into_response())
}

/// An [`OperationList`](underpass_api::OperationList) as its text: records of a hostile agent take twenty times as much as values.
#[derive(Default)]
struct Items {
    text: Vec<u8>,
    count: usize,
}

impl Items {
    fn add(&mut self, record: &OperationRecord) -> Result<Room, Problem> {
        let before: &[u8] = match self.count {
            0 => b"{\"items\":[",
            _ => b",",
        };
        self.text.extend_from_slice(before);
        let written = serde_json::to_writer(&mut self.text, record);
        written.map_err(|_| AskError::Unreadable)?;
        self.count = self.count.saturating_add(1);
        let is_full =
            self.count >= limits::OPERATION_LIST || self.text.len() >= limits::API_PAGE_BYTES;
        Ok(if is_full { Room::Full } else { Room::Left })
    }

    fn into_response(mut self) -> Response {
        let end: &[u8] = match self.count {
            0 => b"{\"items\":[]}",
            _ => b"]}",
        };
        self.text.extend_from_slice(end);
        let json = HeaderValue::from_static("application/json");
        ([(CONTENT_TYPE, json)], self.text).into_response()
    }
}

/// Nothing of the arguments is secret: policies must not have parameters for secrets, which the node's process list would show.
async fn run(
    state: State,
    requester: Requester,
    Path((cluster, node)): Path<(String, String)>,
    request: Request,
) -> Result<Response, Problem> {
    let asking = Asking::new(&state, &requester, &cluster, &node).await?;
    let mut wanted: OperationRequest =
        body::read(request, "an operation", limits::OPERATION_BODY).await?;
    must_fit(&wanted.arguments)?;
    wanted.detach = true;
    asking.begin(&state, &requester)?;
    let id = wanted.id.clone();
    let did = asking.did(&id).grant(&wanted.operation);
    let did = did.arguments(&wanted.arguments);
    let question = OperationQuestion::Run(wanted);
    match asking.record(&id, &question).await {
        Ok(record) => Ok(did.with(Json(record))),
        Err(problem) => Ok(did.with(problem.into_response())),
    }
}

async fn read(
    state: State,
    requester: Requester,
    Path((cluster, node, id)): Path<(String, String, String)>,
) -> Result<Response, Problem> {
    let asking = Asking::new(&state, &requester, &cluster, &node).await?;
    let id = parsed(&id)?;
    let question = OperationQuestion::Read { id: id.clone() };
    let record = asking.record(&id, &question).await?;
    Ok(seen(asking.did(&id), &record).with(Json(record)))
}

async fn cancel(
    state: State,
    requester: Requester,
    Path((cluster, node, id)): Path<(String, String, String)>,
) -> Result<Response, Problem> {
    let asking = Asking::new(&state, &requester, &cluster, &node).await?;
    let id = parsed(&id)?;
    asking.begin(&state, &requester)?;
    let question = OperationQuestion::Cancel { id: id.clone() };
    match asking.record(&id, &question).await {
        Ok(_) => Ok(asking
            .did(&id)
            .grant("cancelled")
            .with(StatusCode::NO_CONTENT)),
        Err(problem) => Ok(asking.did(&id).with(problem.into_response())),
    }
}

async fn read_output(
    state: State,
    requester: Requester,
    Path((cluster, node, id)): Path<(String, String, String)>,
    part: Result<Query<Part>, QueryRejection>,
) -> Result<Response, Problem> {
    let Query(part) = part?;
    let asking = Asking::new(&state, &requester, &cluster, &node).await?;
    let id = parsed(&id)?;
    let revoked = asking.permit.revocation.clone().revoked();
    let page = tokio::select! {
        page = page(&asking, &id, &part) => page?,
        () = revoked => return Err(taken_back()),
    };
    let did = asking.did(&id);
    let did = if page.is_last {
        seen(did, &page.record)
    } else {
        did
    };
    Ok(did.with(Json(page)))
}

/// Output from a byte on, once there is some, or the run has ended, or the wait is over.
async fn page(asking: &Asking, id: &OperationId, part: &Part) -> Result<OutputPage, Problem> {
    let question = OperationQuestion::Output {
        id: id.clone(),
        from: part.from,
        follow: true,
    };
    let opened = tokio::time::timeout(limits::NODE_TIME, async {
        let mut answer = asking.ask(&question).await?;
        let first = answer.next().await?;
        Ok::<_, Problem>((answer, first))
    });
    let (mut answer, first) = opened.await.unwrap_or_else(|_| Err(silent()))?;
    let mut record = match first {
        Some(OperationEvent::Record(record)) if record.id == *id => record,
        Some(OperationEvent::Refused(problem)) => return Err(problem.into()),
        _ => return Err(AskError::Unreadable.into()),
    };
    let wait = Duration::from_secs(part.wait).min(limits::OUTPUT_WAIT);
    let mut gathered = Pieces::from(part.from);
    let mut is_last = false;
    // Output that is there already comes at once.
    let mut until = Instant::now() + wait.max(limits::OUTPUT_GATHER);
    while !gathered.are_enough() {
        let event = match timeout_at(until, answer.next()).await {
            Ok(event) => event?,
            Err(_) => break,
        };
        match event {
            Some(OperationEvent::Output(piece)) => {
                if gathered.is_empty() {
                    until = Instant::now() + limits::OUTPUT_GATHER;
                }
                gathered.add(piece)?;
            }
            Some(OperationEvent::Record(latest)) if latest.id == *id => {
                is_last = latest.has_ended();
                record = latest;
                break;
            }
            Some(OperationEvent::Refused(problem)) => return Err(problem.into()),
            _ => return Err(AskError::Unreadable.into()),
        }
    }
    let (pieces, next) = gathered.into_parts();
    Ok(OutputPage {
        record,
        pieces,
        next,
        is_last,
    })
}

/// The audit log has the end of a run whenever its end was seen here; the agent's own log has it in any case.
fn seen(did: Did, record: &OperationRecord) -> Did {
    match (record.has_ended(), &record.exit) {
        (false, _) => did,
        (true, None) => did.grant(format!("{} {}", record.operation, record.state)),
        (true, Some(exit)) => did.grant(format!("{} {}, {exit}", record.operation, record.state)),
    }
}

fn parsed(id: &str) -> Result<OperationId, Problem> {
    id.parse()
        .map_err(|error| Problem::invalid(format!("{error}")))
}
