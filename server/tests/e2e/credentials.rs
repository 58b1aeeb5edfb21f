//! Users who are not let in, and why.

use underpass_testenv::testing::{Wire, eventually};
use underpass_testenv::{CLUSTER_NAME, Transport};

use crate::deployment::{Deployment, changed, led_to, token_of};
use crate::raw;

const LOGIN: &str = "error: You must be logged in to the server (Unauthorized)\n";

fn deployment() -> &'static Deployment {
    Deployment::shared(Transport::Quic)
}

fn path() -> String {
    format!("/k8s/clusters/{CLUSTER_NAME}/api/v1/namespaces")
}

/// kubectl's output with this token in place of the administrator's.
async fn kubectl_with(token: &str, name: &str) -> String {
    let admin = deployment().admin_kubeconfig();
    let kubeconfig = changed(admin, name, &token_of(admin), token);
    let client = deployment().client(&kubeconfig, Wire::WebSocket);
    client.fail(&["get", "--raw", "/api/v1/namespaces"]).await
}

#[tokio::test]
async fn no_token_is_unauthorized() {
    let answer = raw::get(deployment(), &path(), None).await;
    answer.assert_status(401, "Unauthorized");
    assert_eq!(
        answer.headers["www-authenticate"],
        "Bearer realm=\"underpass\""
    );
    // Nor is anything learnt about clusters.
    let unknown = raw::get(deployment(), "/k8s/clusters/nowhere/api", None).await;
    assert_eq!(unknown.body, answer.body);
}

#[tokio::test]
async fn a_wrong_token_is_unauthorized() {
    let token = token_of(deployment().admin_kubeconfig());
    let last = token.chars().last().unwrap();
    let other = if last == 'a' { "b" } else { "a" };
    let wrong = format!("{}{other}", &token[..token.len() - 1]);
    for (name, wrong) in [
        ("wrong", wrong.as_str()),
        ("foreign", "eyJhbGciOi.e30.c2ln"),
    ] {
        let answer = raw::get(deployment(), &path(), Some(wrong)).await;
        answer.assert_status(401, "Unauthorized");
        assert_eq!(kubectl_with(wrong, name).await, LOGIN);
    }
    let log = deployment().server_log().unwrap();
    assert!(
        !log.contains(&wrong) && !log.contains(&token),
        "a token in the log"
    );
}

#[tokio::test]
async fn a_revoked_token_is_unauthorized() {
    let kubeconfig = deployment().kubeconfig("forgetful", &[]).unwrap();
    let client = deployment().client(&kubeconfig, Wire::WebSocket);
    let get = ["get", "--raw", "/version"];
    client.run(&get).await;
    let id = token_id("forgetful");
    deployment().administer(&["token", "revoke", &id]).unwrap();
    eventually("the token is refused", async || {
        let answer = client.output(&get).await;
        if answer.status.success() {
            return Err("it still works");
        }
        assert_eq!(String::from_utf8_lossy(&answer.stderr), LOGIN);
        Ok(())
    })
    .await;
}

fn token_id(user: &str) -> String {
    let list = deployment()
        .administer(&["token", "list", "--user", user])
        .unwrap();
    let row = list.lines().nth(1).expect("a token");
    row.split_whitespace().next().unwrap().to_owned()
}

#[tokio::test]
async fn an_expired_token_is_unauthorized() {
    let kubeconfig = deployment().dir().join("brief.kubeconfig");
    let output = kubeconfig.to_string_lossy();
    let who = ["kubeconfig", "--user", "brief", "--cluster", CLUSTER_NAME];
    let how = ["--expires", "1s", "--output", &output];
    deployment().administer(&[&who[..], &how].concat()).unwrap();
    let token = token_of(&kubeconfig);
    eventually("the token has expired", async || {
        let answer = raw::get(deployment(), &path(), Some(&token)).await;
        // Until then it is refused otherwise: the token's user has no right in the cluster.
        if answer.code == 401 {
            Ok(())
        } else {
            Err(answer)
        }
    })
    .await;
    let client = deployment().client(&kubeconfig, Wire::WebSocket);
    assert_eq!(client.fail(&["get", "--raw", "/version"]).await, LOGIN);
    let list = deployment()
        .administer(&["token", "list", "--user", "brief"])
        .unwrap();
    assert!(list.contains("expired"), "{list}");
}

#[tokio::test]
async fn a_user_without_the_cluster_is_forbidden() {
    deployment()
        .administer(&["user", "add", "outsider"])
        .unwrap();
    deployment()
        .administer(&["cluster", "add", "elsewhere"])
        .unwrap();
    let kubeconfig = deployment().dir().join("outsider.kubeconfig");
    let output = kubeconfig.to_string_lossy();
    let who = ["kubeconfig", "--user", "outsider", "--cluster", "elsewhere"];
    deployment()
        .administer(&[&who[..], &["--output", &output]].concat())
        .unwrap();
    let kubeconfig = led_to(&kubeconfig, "outsider", "elsewhere", CLUSTER_NAME);
    let client = deployment().client(&kubeconfig, Wire::WebSocket);
    let said = client.fail(&["get", "--raw", "/api/v1/namespaces"]).await;
    assert_eq!(
        said,
        "Error from server (Forbidden): clusters.underpass.dev \"edge\" is forbidden: User \"outsider\" cannot list \
         resource \"clusters\" in API group \"underpass.dev\"\n"
    );
    // Existing and missing clusters look the same to a user without access to either.
    let token = token_of(&kubeconfig);
    let unknown = raw::get(deployment(), "/k8s/clusters/nowhere/api", Some(&token)).await;
    unknown.assert_status(403, "Forbidden");
}
