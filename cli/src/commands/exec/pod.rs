//! The pod, and the container, that a command runs in.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use underpass_api::segment;

use super::api::{Api, is_name};
use super::selector::Selector;

/// The annotation that names a pod's usual container.
const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";

/// Objects that have pods: their names, as kubectl knows them, and where the API has them.
const KINDS: [(&[&str], &str); 7] = [
    (
        &["deployment", "deployments", "deploy"],
        "apis/apps/v1/deployments",
    ),
    (
        &["statefulset", "statefulsets", "sts"],
        "apis/apps/v1/statefulsets",
    ),
    (
        &["daemonset", "daemonsets", "ds"],
        "apis/apps/v1/daemonsets",
    ),
    (
        &["replicaset", "replicasets", "rs"],
        "apis/apps/v1/replicasets",
    ),
    (&["job", "jobs"], "apis/batch/v1/jobs"),
    (
        &["replicationcontroller", "replicationcontrollers", "rc"],
        "api/v1/replicationcontrollers",
    ),
    (&["service", "services", "svc"], "api/v1/services"),
];

/// A pod, as far as its containers are concerned.
#[derive(Debug, Deserialize)]
pub(super) struct Pod {
    metadata: Metadata,
    spec: Spec,
    #[serde(default)]
    status: Status,
}

#[derive(Debug, Deserialize)]
struct Metadata {
    name: String,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Spec {
    containers: Vec<Container>,
    init_containers: Vec<Container>,
    ephemeral_containers: Vec<Container>,
}

#[derive(Debug, Deserialize)]
struct Container {
    name: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Status {
    phase: String,
    conditions: Vec<Condition>,
}

#[derive(Debug, Deserialize)]
struct Condition {
    #[serde(rename = "type")]
    kind: String,
    status: String,
}

/// A container for a command.
pub(super) struct Choice<'a> {
    pub(super) container: &'a str,
    /// All of them, where it was taken as the first of several.
    pub(super) others: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Owner {
    spec: OwnerSpec,
}

#[derive(Debug, Deserialize)]
struct OwnerSpec {
    #[serde(default)]
    selector: Option<Selector>,
}

#[derive(Debug, Deserialize)]
struct Pods {
    items: Vec<Pod>,
}

/// Finds the pod of this name, or one of the object `TYPE/NAME`.
///
/// # Errors
/// There is none, or the caller may not see it; it has come to its end.
pub(super) async fn find(api: &Api<'_>, asked: &str) -> Result<Pod> {
    let pod = match asked.split_once('/') {
        None => named(api, asked).await?,
        Some((kind, name)) if is_pod(kind) => named(api, name).await?,
        Some((kind, name)) => of_owner(api, kind, name).await?,
    };
    let phase = pod.status.phase.as_str();
    if matches!(phase, "Succeeded" | "Failed") {
        bail!(
            "cannot exec into a container in a completed pod; the current phase of {} is {phase}",
            pod.name()
        );
    }
    Ok(pod)
}

fn is_pod(kind: &str) -> bool {
    matches!(kind, "pod" | "pods" | "po")
}

async fn named(api: &Api<'_>, name: &str) -> Result<Pod> {
    api.get(&path(name)?, "").await
}

/// A pod's place in its namespace. Its name may be the user's, or an answer's.
fn path(name: &str) -> Result<String> {
    is_name("pod", name)?;
    Ok(format!("api/v1/pods/{}", segment(name)))
}

async fn of_owner(api: &Api<'_>, kind: &str, name: &str) -> Result<Pod> {
    // The group may be there, as in `deployment.apps`.
    let short = kind.split('.').next().unwrap_or(kind).to_lowercase();
    let mut kinds = KINDS.into_iter();
    let found = kinds.find(|(names, _)| names.contains(&short.as_str()));
    let (_, path) = found.with_context(|| {
        let names: Vec<_> = KINDS
            .iter()
            .filter_map(|(names, _)| names.first())
            .copied()
            .collect();
        format!(
            "{kind:?} has no pods that this program knows: it knows pod, {}",
            names.join(", ")
        )
    })?;
    is_name(&short, name)?;
    let owner: Owner = api.get(&format!("{path}/{}", segment(name)), "").await?;
    let selector = owner.spec.selector.as_ref().and_then(Selector::text);
    let selector = selector.with_context(|| format!("{kind}/{name} selects no pods"))?;
    let query = format!("labelSelector={}", segment(&selector));
    let pods: Pods = api.get("api/v1/pods", &query).await?;
    let pod = pods.items.into_iter().max_by_key(Pod::rank);
    pod.with_context(|| format!("{kind}/{name} has no pods"))
}

impl Pod {
    pub(super) fn name(&self) -> &str {
        &self.metadata.name
    }

    /// The place of its streams of a command.
    ///
    /// # Errors
    /// The cluster gave it a name that no path has.
    pub(super) fn exec(&self) -> Result<String> {
        Ok(format!("{}/exec", path(self.name())?))
    }

    /// A pod that is ready is better than one that runs, and that one better than others. Of equal ones it is the first by name.
    fn rank(&self) -> (bool, bool, Reverse<String>) {
        let mut conditions = self.status.conditions.iter();
        let ready = conditions.any(|one| one.kind == "Ready" && one.status == "True");
        let runs = self.status.phase == "Running";
        (runs && ready, runs, Reverse(self.metadata.name.clone()))
    }

    /// The container of this name, or the usual one.
    ///
    /// # Errors
    /// There is none.
    pub(super) fn container(&self, asked: Option<&str>) -> Result<Choice<'_>> {
        let Spec {
            containers,
            init_containers,
            ephemeral_containers,
        } = &self.spec;
        let all = || {
            let others = init_containers.iter().chain(ephemeral_containers);
            containers.iter().chain(others).map(|one| one.name.as_str())
        };
        let chosen = |container| Choice {
            container,
            others: None,
        };
        if let Some(asked) = asked {
            let found = all().find(|name| *name == asked).map(chosen);
            return found.with_context(|| {
                let names: Vec<_> = all().collect();
                let (pod, names) = (self.name(), names.join(", "));
                format!("container {asked} not found in pod {pod}, which has {names}")
            });
        }
        let usual = self.metadata.annotations.get(DEFAULT_CONTAINER);
        if let Some(usual) = usual.and_then(|usual| all().find(|name| name == usual)) {
            return Ok(chosen(usual));
        }
        let first = containers.first();
        let first = first.with_context(|| format!("pod {} has no containers", self.name()))?;
        let names: Vec<_> = all().collect();
        Ok(Choice {
            container: &first.name,
            others: (names.len() > 1).then(|| names.join(", ")),
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(annotation: Option<&str>) -> Pod {
        let mut annotations = json!({});
        if let Some(name) = annotation {
            annotations = json!({ DEFAULT_CONTAINER: name });
        }
        serde_json::from_value(json!({
            "metadata": {"name": "web-0", "annotations": annotations},
            "spec": {"containers": [{"name": "app"}, {"name": "proxy"}], "initContainers": [{"name": "setup"}]},
        }))
        .unwrap()
    }

    #[test]
    fn a_name_of_an_answer_is_one_segment_of_the_path() {
        let of = |name: &str| {
            let mut pod = pod(None);
            pod.metadata.name = name.to_owned();
            pod.exec().ok()
        };
        let path = |name: &str| Some(format!("api/v1/pods/{name}/exec"));
        assert_eq!(of("web-0"), path("web-0"));
        assert_eq!(of("a?b#c%2e"), path("a%3Fb%23c%252e"));
        for none in ["", ".", "..", "../secrets/a", "a/b"] {
            assert_eq!(of(none), None, "{none}");
        }
    }

    #[test]
    fn the_container_is_kubectls_choice() {
        for (annotation, asked, expected) in [
            (None, None, Ok(("app", Some("app, proxy, setup")))),
            (Some("proxy"), None, Ok(("proxy", None))),
            (Some("gone"), None, Ok(("app", Some("app, proxy, setup")))),
            (Some("proxy"), Some("setup"), Ok(("setup", None))),
            (None, Some("no"), Err("container no not found in pod web-0")),
        ] {
            let pod = pod(annotation);
            match (pod.container(asked), expected) {
                (Ok(choice), Ok((container, others))) => {
                    assert_eq!(choice.container, container);
                    assert_eq!(choice.others.as_deref(), others);
                }
                (Err(error), Err(words)) => {
                    assert!(error.to_string().contains(words), "{error}")
                }
                (choice, _) => panic!("{annotation:?} {asked:?}: {}", choice.is_ok()),
            }
        }
    }

    #[test]
    fn a_ready_pod_is_taken_before_one_that_runs() {
        let pod = |name: &str, phase: &str, ready: &str| -> Pod {
            serde_json::from_value(json!({
                "metadata": {"name": name}, "spec": {},
                "status": {"phase": phase, "conditions": [{"type": "Ready", "status": ready}]},
            }))
            .unwrap()
        };
        let pods = [
            pod("a", "Succeeded", "True"),
            pod("b", "Pending", "False"),
            pod("c", "Running", "False"),
            pod("e", "Running", "True"),
            pod("d", "Running", "True"),
        ];
        let best = pods.iter().max_by_key(|pod| pod.rank()).unwrap();
        assert_eq!(best.name(), "d");
    }
}
