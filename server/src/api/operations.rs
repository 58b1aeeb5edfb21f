//! `/v1/clusters/{name}/nodes/{node}/operations`: runs of operations on a node.
//!
//! A run is the agent's: it is started with the record as its answer, and its output is asked for in pages, each of which waits for a
//! while. So no answer of the API lasts, and each page is decided on anew.

use std::time::Duration;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, Request};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use http::StatusCode;
use serde::Deserialize;
use tokio::time::{Instant, timeout_at};
use underpass_api::{
    OperationEvent, OperationId, OperationList, OperationQuestion, OperationRecord,
    OperationRequest, OutputPage,
};

use super::nodes::{Permit, find, permit};
use super::problem::Problem;
use super::{Did, Requester, State, body};
use crate::limits;
use crate::nodes::{Answer, Node, NodeError};

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
        let permit = permit(state, requester, cluster).await?;
        let node = find(state, &permit.cluster, node)?;
        Ok(Self { permit, node })
    }

    async fn ask(&self, question: &OperationQuestion) -> Result<Answer, Problem> {
        let identity = self.permit.identity.encode();
        let identity = identity.map_err(|error| Problem::invalid(error.to_string()))?;
        Ok(self.node.ask(&identity, question).await?)
    }

    /// The records that answer the question.
    async fn records(&self, question: &OperationQuestion) -> Result<Vec<OperationRecord>, Problem> {
        let asking = async {
            let mut answer = self.ask(question).await?;
            let mut records = Vec::new();
            while records.len() < limits::OPERATION_LIST {
                match answer.next().await? {
                    Some(OperationEvent::Record(record)) => records.push(record),
                    Some(OperationEvent::Refused(problem)) => return Err(problem.into()),
                    Some(OperationEvent::Output(_)) => return Err(NodeError::Unreadable.into()),
                    None => break,
                }
            }
            Ok(records)
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
        let mut records = self.records(question).await?.into_iter();
        let record = records.next().filter(|record| record.id == *id);
        record.ok_or_else(|| NodeError::Unreadable.into())
    }

    fn did(&self, id: &OperationId) -> Did {
        let Self { permit, node } = self;
        Did::to(KIND, id.as_str()).subject(format!("node:{}/{}", permit.cluster, node.view.name))
    }
}

fn silent() -> Problem {
    let detail = "the node's agent did not answer in time";
    Problem::later(StatusCode::SERVICE_UNAVAILABLE, detail, 1)
}

async fn list(
    state: State,
    requester: Requester,
    Path((cluster, node)): Path<(String, String)>,
) -> Result<Response, Problem> {
    let asking = Asking::new(&state, &requester, &cluster, &node).await?;
    let items = asking.records(&OperationQuestion::List {}).await?;
    Ok(Json(OperationList { items }).into_response())
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
    wanted.detach = true;
    requester.must_count()?;
    let id = wanted.id.clone();
    let did = asking.did(&id).spec(&wanted);
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
        () = revoked => return Err(Problem::forbidden("the permission was taken back meanwhile")),
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
    let record = match first {
        Some(OperationEvent::Record(record)) if record.id == *id => record,
        Some(OperationEvent::Refused(problem)) => return Err(problem.into()),
        _ => return Err(NodeError::Unreadable.into()),
    };
    let wait = Duration::from_secs(part.wait).min(limits::OUTPUT_WAIT);
    let mut page = OutputPage {
        record,
        pieces: Vec::new(),
        next: part.from,
        is_last: false,
    };
    let mut bytes: usize = 0;
    // Output that is there already comes at once.
    let mut until = Instant::now() + wait.max(limits::OUTPUT_GATHER);
    while bytes < limits::OUTPUT_PAGE {
        let event = match timeout_at(until, answer.next()).await {
            Ok(event) => event?,
            Err(_) => break,
        };
        match event {
            Some(OperationEvent::Output(piece)) => {
                if bytes == 0 {
                    until = Instant::now() + limits::OUTPUT_GATHER;
                }
                bytes = bytes.saturating_add(piece.data.len());
                let length = u64::try_from(piece.data.len()).unwrap_or(u64::MAX);
                page.next = piece.offset.saturating_add(length);
                page.pieces.push(piece);
            }
            Some(OperationEvent::Record(record)) if record.id == *id => {
                page.is_last = record.has_ended();
                page.record = record;
                break;
            }
            Some(OperationEvent::Refused(problem)) => return Err(problem.into()),
            _ => return Err(NodeError::Unreadable.into()),
        }
    }
    Ok(page)
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
