//! Manifests of an agent that runs in its cluster, beside those of its account, which `underpass-agent rbac` prints.

use anyhow::Result;
use serde_json::{Value, json};
use underpass_api::JoinTokenMade;
use zeroize::Zeroizing;

use super::join::Way;

/// As `underpass-agent rbac` has them, unless its flags say otherwise.
const NAMESPACE: &str = "underpass-system";
const NAME: &str = "underpass-agent";

/// The Secret that the agent keeps its key in.
pub(super) const KEY: &str = "underpass-agent-key";

/// The Secret with the join token, and where the agent finds it.
const JOIN: &str = "underpass-agent-join";
const JOIN_FOLDER: &str = "/var/run/underpass/join";

/// The user of the agent in its container: nobody's.
const USER: u32 = 65_532;

/// A Secret with the join token, and a Deployment of the agent.
pub(super) fn yaml(made: &JoinTokenMade, image: &str, way: &Way) -> Result<Zeroizing<String>> {
    let mut yaml = Zeroizing::new(String::new());
    for object in [token(made), deployment(image, way)] {
        yaml.push_str("---\n");
        yaml.push_str(&Zeroizing::new(serde_saphyr::to_string(&object)?));
    }
    Ok(yaml)
}

fn metadata(name: &str) -> Value {
    json!({ "name": name, "namespace": NAMESPACE })
}

fn token(made: &JoinTokenMade) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": metadata(JOIN),
        "stringData": { "token": *made.token },
    })
}

fn deployment(image: &str, way: &Way) -> Value {
    let labels = json!({ "app.kubernetes.io/name": NAME });
    let container = json!({
        "name": "agent",
        "image": image,
        "command": ["underpass-agent"],
        "args": [
            "--server", way.url,
            "--ca-pin", way.ca_pin,
            "--join-token-file", format!("{JOIN_FOLDER}/token"),
            "--key-secret", format!("{NAMESPACE}/{KEY}"),
        ],
        "securityContext": {
            "runAsUser": USER,
            "runAsNonRoot": true,
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": { "drop": ["ALL"] },
            "seccompProfile": { "type": "RuntimeDefault" },
        },
        "volumeMounts": [{ "name": "join", "mountPath": JOIN_FOLDER, "readOnly": true }],
    });
    // The agent runs without the token once it has joined.
    let join = json!({ "name": "join", "secret": { "secretName": JOIN, "optional": true } });
    json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata(NAME),
        "spec": {
            // They share the key, and the load.
            "replicas": 2,
            "selector": { "matchLabels": labels },
            "template": {
                "metadata": { "labels": labels },
                "spec": { "serviceAccountName": NAME, "containers": [container], "volumes": [join] },
            },
        },
    })
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::apps::v1::Deployment;
    use k8s_openapi::api::core::v1::Secret;
    use underpass_api::JoinTokenView;

    use super::*;

    #[test]
    fn kubernetes_reads_the_manifests() {
        let about: JoinTokenView = serde_json::from_value(json!({
            "id": "i", "revision": 1, "created": "2026-01-01T00:00:00Z", "cluster": "edge", "role": "cluster",
            "uses": 1, "usesLeft": 1, "expires": "2026-01-01T01:00:00Z",
        }))
        .unwrap();
        let token = Zeroizing::new("upj_secret".to_owned());
        let way = Way {
            url: "https://u.example.org:8443".to_owned(),
            ca_pin: "sha256:ab".to_owned(),
        };
        let image = "registry.example.org/agent:1 # \"x\"";
        let yaml = yaml(&JoinTokenMade { token, about }, image, &way).unwrap();
        let documents: Vec<_> = yaml.split("---\n").skip(1).collect();
        let [secret, deployment] = documents[..] else {
            panic!("{documents:?}");
        };
        let secret: Secret = serde_saphyr::from_str(secret).unwrap();
        assert_eq!(secret.string_data.unwrap()["token"], "upj_secret");
        let deployment: Deployment = serde_saphyr::from_str(deployment).unwrap();
        let pod = deployment.spec.unwrap().template.spec.unwrap();
        let container = &pod.containers[0];
        assert_eq!(container.image.as_deref(), Some(image));
        let args = container.args.as_ref().unwrap();
        assert!(
            args.contains(&way.url) && args.contains(&way.ca_pin),
            "{args:?}"
        );
        assert!(!args.iter().any(|arg| arg.contains("upj_")), "rule 11");
    }
}
