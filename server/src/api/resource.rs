//! The operations on every kind of object that has a name and can be changed as a whole.

use axum::extract::{Path, Query, Request};
use axum::response::Response;
use axum::routing::get;
use axum::{Json, Router};
use http::header::{ETAG, IF_MATCH, IF_NONE_MATCH, LOCATION};
use http::{HeaderMap, HeaderValue, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use time::OffsetDateTime;
use underpass_api::{New, View, segment};
use underpass_directory::{Checked, Draft, Entry, Expect, Revision, Snapshot};

use super::page::{Page, etag, tagged};
use super::problem::Problem;
use super::requester::Rights;
use super::{Did, Requester, State, body};
use crate::limits;

/// A kind of object, as the API has it.
pub(super) trait Resource: Send + Sync + 'static {
    /// The directory's object.
    type Object: Checked;
    /// The fields that a client may set.
    type Spec: Clone + Serialize + DeserializeOwned + utoipa::ToSchema + Send + Sync;
    /// The other fields that a client sees.
    type Status: Serialize + DeserializeOwned + utoipa::ToSchema;

    /// The name in paths: the plural.
    const PATH: &'static str;
    /// The kind's description, for OpenAPI.
    const ABOUT: &'static str;

    /// The fields of the object that a client may set, without its secrets.
    fn spec(object: &Self::Object) -> Self::Spec;

    /// The object with the client's `spec`. Its other fields are those of `before`, or of a new object.
    fn object(spec: Self::Spec, before: Option<&Self::Object>, now: OffsetDateTime)
    -> Self::Object;

    /// Adds to `object`, which was made of `spec`, the fields that no client can see: from `spec`, or from
    /// `before`.
    fn complete(
        object: Self::Object,
        spec: Self::Spec,
        name: &str,
        before: Option<&Self::Object>,
        state: &State,
    ) -> Result<Self::Object, Problem> {
        let _ = (spec, name, before, state);
        Ok(object)
    }

    /// Takes out of a view what the requester has no business with.
    fn redact(spec: &mut Self::Spec, status: &mut Self::Status, rights: &Rights<'_>) {
        let _ = (spec, status, rights);
    }

    fn created(object: &Self::Object) -> OffsetDateTime;

    fn status(
        name: &str,
        object: &Self::Object,
        state: &State,
        snapshot: &Snapshot,
    ) -> Self::Status;

    /// May the requester see it?
    fn visible(name: &str, object: &Self::Object, rights: &Rights<'_>) -> bool;

    /// May the requester change any object of the kind? Asked before a request's body is read and before anything is looked
    /// up: a caller without the right learns nothing.
    fn may_change(requester: &Requester, snapshot: &Snapshot) -> Result<(), Problem> {
        requester.must_administer(snapshot)
    }

    /// May the requester make `after` of `before`, either of which may be nothing?
    fn allow(
        before: Option<&Self::Object>,
        after: Option<&Self::Object>,
        requester: &Requester,
        draft: &Draft,
    ) -> Result<(), Problem>;
}

type ViewOf<R> = View<<R as Resource>::Spec, <R as Resource>::Status>;

pub(super) fn routes<R: Resource>() -> Router<State> {
    let one = get(read::<R>)
        .put(replace::<R>)
        .patch(patch::<R>)
        .delete(remove::<R>);
    Router::new()
        .route(
            &format!("/v1/{}", R::PATH),
            get(list::<R>).post(create::<R>),
        )
        .route(&format!("/v1/{}/{{name}}", R::PATH), one)
}

fn view<R: Resource>(
    name: &str,
    entry: &Entry<R::Object>,
    rights: &Rights<'_>,
    state: &State,
) -> ViewOf<R> {
    let mut spec = R::spec(&entry.object);
    let mut status = R::status(name, &entry.object, state, rights.snapshot());
    R::redact(&mut spec, &mut status, rights);
    View {
        name: name.to_owned(),
        revision: entry.revision,
        created: R::created(&entry.object),
        spec,
        status,
    }
}

async fn list<R: Resource>(
    state: State,
    requester: Requester,
    headers: HeaderMap,
    page: Result<Query<Page>, axum::extract::rejection::QueryRejection>,
) -> Result<Response, Problem> {
    let Query(page) = page?;
    let snapshot = state.directory.snapshot();
    let rights = requester.rights(&snapshot);
    let shown = page.of(snapshot.all::<R::Object>(), |name, entry| {
        R::visible(name, &entry.object, &rights).then(|| view::<R>(name, entry, &rights, &state))
    });
    Ok(tagged(&headers, snapshot.revision(), &shown))
}

async fn read<R: Resource>(
    state: State,
    requester: Requester,
    headers: HeaderMap,
    Path(name): Path<String>,
) -> Result<Response, Problem> {
    let snapshot = state.directory.snapshot();
    let rights = requester.rights(&snapshot);
    let entry = snapshot
        .get::<R::Object>(&name)
        .filter(|entry| R::visible(&name, &entry.object, &rights))
        .ok_or_else(|| absent::<R>(&name))?;
    let view = view::<R>(&name, entry, &rights, &state);
    Ok(tagged(&headers, entry.revision, &view))
}

async fn create<R: Resource>(
    state: State,
    requester: Requester,
    request: Request,
) -> Result<Response, Problem> {
    R::may_change(&requester, &state.directory.snapshot())?;
    let New { name, spec } =
        body::read::<New<R::Spec>>(request, "an object", limits::API_BODY).await?;
    let put = |draft: &mut Draft| put::<R>(draft, &requester, &state, &name, &spec, Expect::Absent);
    state.change(&requester, put).await?;
    let mut response = answer::<R>(&state, &requester, StatusCode::CREATED, &name)?;
    if let Ok(location) = HeaderValue::from_str(&path::<R>(&name)) {
        response.headers_mut().insert(LOCATION, location);
    }
    Ok(response)
}

async fn replace<R: Resource>(
    state: State,
    requester: Requester,
    headers: HeaderMap,
    Path(name): Path<String>,
    request: Request,
) -> Result<Response, Problem> {
    R::may_change(&requester, &state.directory.snapshot())?;
    let spec: R::Spec = body::read(request, "an object", limits::API_BODY).await?;
    let expect = expected(&headers)?.ok_or_else(|| {
        Problem::new(
            StatusCode::PRECONDITION_REQUIRED,
            "to replace an object, send its ETag in If-Match; to make one, If-None-Match: *",
        )
    })?;
    let before = state.directory.snapshot().get::<R::Object>(&name).is_some();
    let put = |draft: &mut Draft| put::<R>(draft, &requester, &state, &name, &spec, expect);
    state.change(&requester, put).await?;
    let status = if before {
        StatusCode::OK
    } else {
        StatusCode::CREATED
    };
    answer::<R>(&state, &requester, status, &name)
}

/// JSON merge patch (RFC 7396) of the spec.
async fn patch<R: Resource>(
    state: State,
    requester: Requester,
    headers: HeaderMap,
    Path(name): Path<String>,
    request: Request,
) -> Result<Response, Problem> {
    R::may_change(&requester, &state.directory.snapshot())?;
    let change: serde_json::Value = body::read(request, "a change", limits::API_BODY).await?;
    let expect = expected(&headers)?.unwrap_or(Expect::Present);
    let amend = |draft: &mut Draft| {
        let before = draft
            .get::<R::Object>(&name)
            .map(|entry| entry.object.clone());
        // Before anything is said of it, or of its not being there.
        R::allow(before.as_deref(), None, &requester, draft)?;
        let before = before.ok_or_else(|| absent::<R>(&name))?;
        let spec = R::spec(&before);
        let mut spec =
            serde_json::to_value(spec).map_err(|error| Problem::invalid(error.to_string()))?;
        merge(&mut spec, &change);
        let spec =
            serde_json::from_value(spec).map_err(|error| Problem::invalid(error.to_string()))?;
        put::<R>(draft, &requester, &state, &name, &spec, expect)
    };
    state.change(&requester, amend).await?;
    answer::<R>(&state, &requester, StatusCode::OK, &name)
}

async fn remove<R: Resource>(
    state: State,
    requester: Requester,
    headers: HeaderMap,
    Path(name): Path<String>,
) -> Result<Response, Problem> {
    R::may_change(&requester, &state.directory.snapshot())?;
    let expect = expected(&headers)?.unwrap_or(Expect::Present);
    let remove = |draft: &mut Draft| {
        let before = draft
            .get::<R::Object>(&name)
            .map(|entry| entry.object.clone());
        R::allow(before.as_deref(), None, &requester, draft)?;
        draft.remove::<R::Object>(&name, expect)?;
        let did = did::<R>(&name, before.as_deref());
        state.commit.is_to(did.removed());
        Ok(before)
    };
    let removed = state.change(&requester, remove).await?;
    let did = did::<R>(&name, removed.as_deref());
    Ok(did.removed().with(StatusCode::NO_CONTENT))
}

fn put<R: Resource>(
    draft: &mut Draft,
    requester: &Requester,
    state: &State,
    name: &str,
    spec: &R::Spec,
    expect: Expect,
) -> Result<(), Problem> {
    let before = draft
        .get::<R::Object>(name)
        .map(|entry| entry.object.clone());
    if before.is_none() && matches!(expect, Expect::Present | Expect::Unchanged(_)) {
        // As of an object that is not theirs: they are not told that there is none.
        R::allow(None, None, requester, draft)?;
    }
    // The change may be tried again.
    let object = R::object(spec.clone(), before.as_deref(), draft.now());
    R::allow(before.as_deref(), Some(&object), requester, draft)?;
    let object = R::complete(object, spec.clone(), name, before.as_deref(), state)?;
    state.commit.is_to(did::<R>(name, Some(&object)));
    Ok(draft.put(name, object, expect)?)
}

fn answer<R: Resource>(
    state: &State,
    requester: &Requester,
    status: StatusCode,
    name: &str,
) -> Result<Response, Problem> {
    let snapshot = state.directory.snapshot();
    // Somebody else may have removed it since.
    let entry = snapshot
        .get::<R::Object>(name)
        .ok_or_else(|| absent::<R>(name))?;
    let view = view::<R>(name, entry, &requester.rights(&snapshot), state);
    let did = did::<R>(name, Some(&entry.object));
    Ok(did.with((status, [(ETAG, etag(entry.revision))], Json(view))))
}

fn absent<R: Resource>(name: &str) -> Problem {
    use underpass_directory::Object;

    Problem::not_found(R::Object::KIND.as_str(), name)
}

/// The audit log's text of an object. It is the directory's object, as the API shows it: the client's may hold a
/// credential.
fn did<R: Resource>(name: &str, object: Option<&R::Object>) -> Did {
    use underpass_directory::Object;

    let did = Did::to(R::Object::KIND.as_str(), name);
    match object {
        Some(object) => did.spec(&R::spec(object)),
        None => did,
    }
}

/// The client's precondition (RFC 9110, section 13.1).
pub(super) fn expected(headers: &HeaderMap) -> Result<Option<Expect>, Problem> {
    let one = |name| -> Result<Option<&str>, Problem> {
        let mut lines = headers.get_all(&name).iter();
        match (lines.next(), lines.next()) {
            (None, _) => Ok(None),
            (Some(line), None) => Ok(line.to_str().ok()),
            (Some(_), Some(_)) => Err(Problem::new(
                StatusCode::BAD_REQUEST,
                format!("{name} stands in the request twice"),
            )),
        }
    };
    match (one(IF_MATCH)?, one(IF_NONE_MATCH)?) {
        (None, None) => Ok(None),
        (None, Some("*")) => Ok(Some(Expect::Absent)),
        (Some("*"), None) => Ok(Some(Expect::Present)),
        (Some(tag), None) => {
            let digits = tag.strip_prefix('"').and_then(|tag| tag.strip_suffix('"'));
            let revision = digits.and_then(|digits| digits.parse().ok());
            let revision = revision.ok_or_else(|| {
                let detail = format!("{tag} is no ETag of this API");
                Problem::new(StatusCode::PRECONDITION_FAILED, detail)
            })?;
            Ok(Some(Expect::Unchanged(Revision(revision))))
        }
        _ => Err(Problem::new(
            StatusCode::BAD_REQUEST,
            "a change takes one If-Match, or If-None-Match: *",
        )),
    }
}

fn path<R: Resource>(name: &str) -> String {
    format!("/v1/{}/{}", R::PATH, segment(name))
}

fn merge(target: &mut serde_json::Value, change: &serde_json::Value) {
    use serde_json::Value;

    let (Value::Object(target), Value::Object(change)) = (&mut *target, change) else {
        target.clone_from(change);
        return;
    };
    for (key, value) in change {
        match value {
            Value::Null => drop(target.remove(key)),
            value => merge(target.entry(key.as_str()).or_insert(Value::Null), value),
        }
    }
}
