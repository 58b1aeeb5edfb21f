//! `/v1/clusters/{name}/recordings`: recordings of shells. Administrators of the cluster read all of them, and other users those of their own
//! shells, for as long as they may open one. Those of an earlier cluster of the name are for administrators of all clusters alone.

use std::fs::File;
use std::io::{self, Read as _};
use std::time::Duration;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use bytes::Bytes;
use futures_util::stream;
use http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use http::{HeaderName, StatusCode};
use http_body::Frame;
use http_body_util::StreamBody;
use tokio::sync::mpsc;
use tokio::time::timeout;
use underpass_api::RecordingList;
use underpass_core::{BadShellId, BoxError, Revocation, ShellKind};
use underpass_tunnel::chain;

use super::answer::Streamed;
use super::nodes::{Permit, Wanted, permit};
use super::page;
use super::places;
use super::problem::Problem;
use super::{Did, Requester, State, problem};
use crate::limits;
use crate::recordings::{Facts, Key, Page, RecordingError, Recordings};

const KIND: &str = "recording";

/// The list's name in tokens of its pages.
const LIST: &str = "recordings";

/// The hash of a recording that is finished.
const SHA256: HeaderName = HeaderName::from_static("underpass-recording-sha256");

pub(super) fn routes() -> Router<State> {
    Router::new()
        .route("/v1/clusters/{name}/recordings", get(list))
        .route(
            "/v1/clusters/{name}/recordings/{id}",
            get(read).delete(remove),
        )
}

/// A requester who may read recordings of a cluster.
struct Reader {
    readable: Readable,
    recordings: Recordings,
}

/// The recordings that a requester may read.
#[derive(Clone)]
struct Readable {
    permit: Permit,
    extent: Extent,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Extent {
    /// Those of their own shells.
    Own,
    /// Those of all users of the cluster.
    Cluster,
    /// Those of earlier clusters of its name as well, and those of which nothing is known but the name.
    Name,
}

impl Readable {
    fn includes(&self, facts: &Facts) -> bool {
        let Permit {
            identity, origin, ..
        } = &self.permit;
        match self.extent {
            Extent::Own => facts.is_of(identity, origin),
            Extent::Cluster => facts.is_in(origin),
            Extent::Name => true,
        }
    }
}

impl Reader {
    async fn new(state: &State, requester: &Requester, cluster: &str) -> Result<Self, Problem> {
        let recordings = state.sessions.keepers().recordings().clone();
        let all = permit(state, requester, cluster, &Wanted::shells(ShellKind::Node)).await;
        let (permit, extent) = match all {
            Ok(permit) if requester.is_administrator(&state.directory.snapshot()) => {
                (permit, Extent::Name)
            }
            Ok(permit) => (permit, Extent::Cluster),
            Err(problem) if problem.is_forbidden() => {
                let own = Wanted::shells(ShellKind::Kubectl);
                (permit(state, requester, cluster, &own).await?, Extent::Own)
            }
            Err(problem) => return Err(problem),
        };
        Ok(Self {
            readable: Readable { permit, extent },
            recordings,
        })
    }

    /// The recording of this id, where the requester may read it. Another one is one that there is not.
    fn find(&self, id: &str) -> Result<Facts, Problem> {
        let id = id.parse();
        let id = id.map_err(|error: BadShellId| Problem::invalid(error.to_string()))?;
        let key = Key {
            cluster: self.readable.permit.cluster.clone(),
            id,
        };
        let facts = self.recordings.facts(&key);
        let facts = facts.filter(|facts| self.readable.includes(facts));
        facts.ok_or_else(|| Problem::not_found(KIND, key.id.as_str()))
    }
}

async fn list(
    state: State,
    requester: Requester,
    Path(cluster): Path<String>,
    page: Result<Query<page::Page>, QueryRejection>,
) -> Result<Response, Problem> {
    let Reader {
        readable,
        recordings,
    } = Reader::new(&state, &requester, &cluster).await?;
    let Query(asked) = page?;
    let page = Page {
        behind: places::behind(&asked, LIST)?,
        limit: asked.limit(),
    };
    let cluster = readable.permit.cluster.clone();
    let fits = move |facts: &Facts| readable.includes(facts);
    let (items, next) = recordings.list(cluster, fits, page).await;
    let next = next.map(|behind| places::token(LIST, behind));
    Ok(Json(RecordingList { items, next }).into_response())
}

async fn read(
    state: State,
    requester: Requester,
    Path((cluster, id)): Path<(String, String)>,
) -> Result<Response, Problem> {
    let reader = Reader::new(&state, &requester, &cluster).await?;
    let facts = reader.find(&id)?;
    let mut did = Did::to(KIND, facts.id.as_str()).subject(&facts.place);
    let Permit {
        identity, origin, ..
    } = &reader.readable.permit;
    if !facts.is_of(identity, origin) {
        did = did.recorded_user(&facts.user);
    }
    let sha256 = facts.finished.as_ref().map(|told| told.sha256.clone());
    let name = format!("attachment; filename=\"{}.cast\"", facts.id);
    let opened = reader.recordings.file(facts).await;
    let (file, bytes) = opened.map_err(|error| {
        tracing::error!(id, "a recording cannot be read: {error}");
        Problem::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "the recording's file cannot be read; the server's log says why",
        )
    })?;
    let body = send(file, bytes, reader.readable.permit.revocation);
    let mut response = Response::new(axum::body::Body::new(body));
    response.extensions_mut().insert(Streamed);
    let mut headers = vec![
        (CONTENT_TYPE, "application/x-asciicast".to_owned()),
        (CONTENT_DISPOSITION, name),
    ];
    headers.extend(sha256.map(|sha256| (SHA256, sha256)));
    for (header, value) in headers {
        if let Ok(value) = value.try_into() {
            response.headers_mut().insert(header, value);
        }
    }
    Ok(did.with(response))
}

/// Sends so many bytes of a file, for as long as the permission lasts, to a client that takes some each minute.
fn send(
    file: File,
    bytes: u64,
    permission: Revocation,
) -> impl http_body::Body<Data = Bytes, Error = BoxError> + Send {
    let (to, from) = mpsc::channel(1);
    tokio::spawn(async move {
        let (mut file, mut rest) = (file, bytes);
        while rest > 0 {
            let reading = tokio::task::spawn_blocking(move || {
                let piece = piece(&mut file, rest);
                (file, piece)
            });
            let Ok((again, piece)) = reading.await else {
                return;
            };
            file = again;
            let length = piece.as_ref().map_or(0, Bytes::len);
            rest = rest.saturating_sub(u64::try_from(length).unwrap_or(u64::MAX));
            let failed = piece.is_err();
            let piece = piece.map(Frame::data).map_err(BoxError::from);
            let sent = tokio::select! {
                sent = timeout(limits::API_ANSWER_TIME, to.send(piece)) => matches!(sent, Ok(Ok(()))),
                () = permission.clone().revoked() => {
                    let revoked = "the permission was taken back meanwhile";
                    // The client may be gone.
                    let _ = timeout(Duration::from_secs(1), to.send(Err(revoked.into()))).await;
                    return;
                }
            };
            if failed || !sent {
                return;
            }
        }
        // The end is one.
        let _ = timeout(
            limits::API_ANSWER_TIME,
            to.send(Ok(Frame::data(Bytes::new()))),
        )
        .await;
    });
    let pieces = stream::unfold((from, bytes), |(mut from, rest)| async move {
        match from.recv().await {
            Some(Ok(frame)) => {
                let length = frame.data_ref().map_or(0, Bytes::len);
                if length == 0 {
                    return None;
                }
                let rest = rest.saturating_sub(u64::try_from(length).unwrap_or(u64::MAX));
                Some((Ok(frame), (from, rest)))
            }
            Some(Err(error)) => Some((Err(error), (from, 0))),
            // It was not read for too long: an end would say that this is all.
            None if rest > 0 => Some((Err("the answer was not read in time".into()), (from, 0))),
            None => None,
        }
    });
    StreamBody::new(Box::pin(pieces))
}

fn piece(file: &mut File, rest: u64) -> io::Result<Bytes> {
    let most = usize::try_from(rest).unwrap_or(usize::MAX);
    let mut piece = vec![0; most.min(limits::RECORDING_PIECE)];
    let read = file.read(&mut piece)?;
    match read {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        read => {
            piece.truncate(read);
            Ok(piece.into())
        }
    }
}

async fn remove(
    state: State,
    requester: Requester,
    Path((cluster, id)): Path<(String, String)>,
) -> Result<Response, Problem> {
    let reader = Reader::new(&state, &requester, &cluster).await?;
    if reader.readable.extent == Extent::Own {
        return Err(Problem::forbidden(
            "this needs the role admin on the cluster",
        ));
    }
    let facts = reader.find(&id)?;
    requester.must_count()?;
    if !state.commit.begin() {
        return Err(problem::too_slow());
    }
    let did = Did::to(KIND, facts.id.as_str())
        .subject(&facts.place)
        .recorded_user(&facts.user);
    Ok(match reader.recordings.remove(facts.key()).await {
        Ok(true) => did.removed().with(StatusCode::NO_CONTENT),
        Ok(false) => {
            let detail = "the recording is being written: end its shell first";
            did.with(Problem::new(StatusCode::CONFLICT, detail).into_response())
        }
        Err(error) => did.with(Problem::from(error).into_response()),
    })
}

impl From<RecordingError> for Problem {
    fn from(error: RecordingError) -> Self {
        tracing::error!("a recording fails: {}", chain(&error));
        let status = match error {
            RecordingError::Full(_) | RecordingError::NoRoom(_) | RecordingError::Share => {
                StatusCode::INSUFFICIENT_STORAGE
            }
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(status, error.to_string())
    }
}
