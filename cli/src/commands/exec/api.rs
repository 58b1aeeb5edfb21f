//! A cluster's API, in the session.

use anyhow::{Context, Result, anyhow, bail};
use http::Request;
use http_body_util::{BodyExt as _, Limited};
use serde::de::DeserializeOwned;
use underpass_api::segment;
use underpass_core::{ClusterName, empty};
use underpass_session::UserSession;

use crate::refusal::Refusal;

/// The largest answer: the pods of a namespace.
const ANSWER_BYTES: usize = 64 * 1024 * 1024;

/// The API of a cluster, for one namespace.
pub(super) struct Api<'a> {
    session: &'a UserSession,
    cluster: &'a ClusterName,
    namespace: &'a str,
}

impl<'a> Api<'a> {
    /// # Errors
    /// The namespace has no name.
    pub(super) fn new(
        session: &'a UserSession,
        cluster: &'a ClusterName,
        namespace: &'a str,
    ) -> Result<Self> {
        is_name("namespace", namespace)?;
        Ok(Self {
            session,
            cluster,
            namespace,
        })
    }

    /// The path of something in the namespace: `api/v1/pods/web-0`, for example.
    pub(super) fn path(&self, what: &str, query: &str) -> String {
        let (cluster, namespace) = (self.cluster, segment(self.namespace));
        // Behind the version, which is that of a group or of none.
        let version = if what.starts_with("api/") { 2 } else { 3 };
        let mut words: Vec<_> = what.split('/').collect();
        let at = version.min(words.len());
        words.splice(at..at, ["namespaces", namespace.as_str()]);
        let separator = if query.is_empty() { "" } else { "?" };
        format!(
            "/k8s/clusters/{cluster}/{}{separator}{query}",
            words.join("/")
        )
    }

    /// Reads something.
    ///
    /// # Errors
    /// The API server's words.
    pub(super) async fn get<T: DeserializeOwned>(&self, what: &str, query: &str) -> Result<T> {
        let path = self.path(what, query);
        let request = Request::get(&path).header(http::header::ACCEPT, "application/json");
        let request = request
            .body(empty())
            .with_context(|| format!("{path:?} is no path"))?;
        let response = self.session.relay(request).await;
        if !response.status().is_success() {
            return Err(shown(Refusal::read(response).await));
        }
        let body = Limited::new(response.into_body(), ANSWER_BYTES).collect();
        let body = body.await.map_err(|error| anyhow!(error));
        let body =
            body.with_context(|| format!("the answer to {path} is cut off, or too large"))?;
        serde_json::from_slice(&body.to_bytes())
            .with_context(|| format!("the answer to {path} is not understood"))
    }
}

/// As kubectl shows it.
pub(super) fn shown(refusal: Refusal) -> anyhow::Error {
    anyhow!("error from server ({}): {refusal}", refusal.reason)
}

/// Is it a name that a path may have?
pub(super) fn is_name(kind: &str, name: &str) -> Result<()> {
    if name.is_empty() || name == "." || name == ".." || name.contains('/') {
        bail!("{name:?} is no name of a {kind}");
    }
    Ok(())
}
