//! The user's errors when something is missing or broken, and what these leave out (security rule 11).

use std::{fs, os::unix::fs::PermissionsExt, sync::Arc, time::Duration};

use http::Response;
use tokio::net::TcpListener;
use underpass_core::empty;
use underpass_upstream::{ApiServer, ApiServerError, ApiServerOptions};

use crate::{
    api::{Api, ok},
    world::{World, code, collect, soon, status},
};

#[tokio::test]
async fn each_failure_of_the_tunnel_is_a_status() {
    let api = Api::start(ok).await;
    let world = World::new(&api).await;
    for (cluster, expected, reason) in [
        ("unknown", 404, "NotFound"),
        ("no-agent", 503, "ServiceUnavailable"),
        ("refused", 403, "Forbidden"),
        ("lost", 502, "BadGateway"),
        ("vanishing", 502, "BadGateway"),
        ("silent", 503, "ServiceUnavailable"),
        ("declined", 403, "Forbidden"),
        ("garbage", 502, "BadGateway"),
    ] {
        let mut request = world.request("GET", "/api", empty());
        *request.uri_mut() = format!("http://front/k8s/clusters/{cluster}/api")
            .parse()
            .unwrap();
        let response = soon(world.http2().await.send_request(request))
            .await
            .unwrap();
        assert_eq!(response.status(), expected, "{cluster}");
        assert_eq!(response.headers()["content-type"], "application/json");
        assert!(response.headers().contains_key("audit-id"));
        let retry = response.headers().get("retry-after").is_some();
        assert_eq!(retry, expected == 503, "{cluster}");
        let body = collect(response.into_body()).await;
        let status: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(status["reason"], reason, "{cluster}");
        assert_eq!(
            status["details"]["name"].is_null(),
            cluster == "garbage",
            "{status}"
        );
        let text = status.to_string();
        assert!(
            !text.contains("10.0.0.7") && !text.contains("secret"),
            "{text}"
        );
    }
}

/// Of two agents one has died: a request that changes nothing and has no body is asked of the other one.
#[tokio::test]
async fn a_request_that_a_dead_agent_has_not_taken_goes_to_another_one() {
    let api = Api::start(ok).await;
    let world = World::new(&api).await;
    let ask = async |method, body| code_of(&world, "two", method, body).await;
    assert_eq!(ask("GET", "").await, 200);
    // The agent may have heard it, and the answer may be lost.
    assert_eq!(ask("POST", "").await, 503);
    assert_eq!(ask("POST", "").await, 200);
    assert_eq!(ask("GET", "{}").await, 503);
}

/// One that the dead agent has taken as well, once.
#[tokio::test]
async fn a_request_that_an_agent_has_taken_is_repeated_where_it_may_be() {
    let api = Api::start(ok).await;
    let world = World::new(&api).await;
    let ask = async |method, body| code_of(&world, "away", method, body).await;
    for method in ["GET", "OPTIONS"] {
        assert_eq!(ask(method, "").await, 200, "{method}");
    }
    for (method, body) in [("POST", ""), ("DELETE", ""), ("PUT", "{}"), ("GET", "{}")] {
        assert_eq!(ask(method, body).await, 502, "{method} {body}");
    }
    assert_eq!(api.seen().len(), 2);
}

/// The status of a request to this cluster.
async fn code_of(world: &World, cluster: &str, method: &str, body: &'static str) -> u16 {
    let body = underpass_core::body::boxed(http_body_util::Full::from(body));
    let mut request = world.request(method, "/api", body);
    let uri = format!("http://front/k8s/clusters/{cluster}/api");
    *request.uri_mut() = uri.parse().unwrap();
    let answered = soon(world.http2().await.send_request(request)).await;
    answered.unwrap().status().as_u16()
}

#[tokio::test]
async fn discovery_is_not_told_to_try_again() {
    let api = Api::start(ok).await;
    let world = World::new(&api).await;
    let accept =
        "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";
    let mut request = world.request("GET", "/api", empty());
    *request.uri_mut() = "http://front/k8s/clusters/no-agent/api".parse().unwrap();
    request
        .headers_mut()
        .insert("accept", accept.parse().unwrap());
    let response = soon(world.http2().await.send_request(request))
        .await
        .unwrap();
    assert_eq!(response.status(), 503);
    assert!(!response.headers().contains_key("retry-after"));
    assert!(response.headers().contains_key("audit-id"));
}

#[tokio::test]
async fn what_changes_something_is_not_to_be_asked_for_again() {
    let api = Api::start(ok).await;
    let world = World::new(&api).await;
    let mut request = world.request("POST", "/api", empty());
    *request.uri_mut() = "http://front/k8s/clusters/silent/api".parse().unwrap();
    let response = soon(world.http2().await.send_request(request))
        .await
        .unwrap();
    assert_eq!(response.status(), 503);
    assert!(!response.headers().contains_key("retry-after"));
}

async fn ask(config: kube::Config) -> String {
    let agent = ApiServer::new(config, ApiServerOptions::default())
        .await
        .unwrap();
    let world = World::with_agent(Arc::new(agent), vec![]).await;
    world.get("/api", "").await
}

#[tokio::test]
async fn rule_11_an_unreachable_api_server_is_told_without_its_address() {
    let port = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap().port()
    };
    let answer = ask(kube::Config::new(
        format!("https://127.0.0.1:{port}").parse().unwrap(),
    ))
    .await;
    assert_eq!(code(&answer), 502);
    assert_eq!(
        status(&answer)["message"],
        "the API server cannot be reached: cannot connect"
    );
    assert!(!answer.contains(&port.to_string()), "{answer}");
}

#[tokio::test]
async fn rule_10_an_untrusted_certificate_gets_no_credential() {
    let api = Api::start(ok).await;
    let other = crate::api::Pki::new(&[]);
    let mut config = kube::Config::new(format!("https://{}", api.address).parse().unwrap());
    config.root_cert = Some(vec![other.certificate]);
    config.auth_info.token = Some("agent-token".to_owned().into());
    let answer = ask(config).await;
    assert_eq!(code(&answer), 502);
    let message = "the API server cannot be reached: its certificate is not signed by the CA";
    assert_eq!(status(&answer)["message"], message);
    assert_eq!(api.seen().len(), 0);
}

#[tokio::test]
async fn rule_10_verification_is_not_turned_off_by_a_kubeconfig() {
    let url = |url: &str| kube::Config::new(url.parse().unwrap());
    let mut unverified = url("https://127.0.0.1:1");
    unverified.accept_invalid_certs = true;
    for config in [unverified.clone(), url("http://127.0.0.1:1")] {
        let made = ApiServer::new(config, ApiServerOptions::default()).await;
        assert!(matches!(made, Err(ApiServerError::Insecure)));
    }
    let insecure = ApiServerOptions {
        insecure: true,
        ..ApiServerOptions::default()
    };
    assert!(ApiServer::new(unverified, insecure).await.is_ok());
    let mut impersonating = url("https://127.0.0.1:1");
    impersonating.auth_info.impersonate = Some("root".to_owned());
    let made = ApiServer::new(impersonating, ApiServerOptions::default()).await;
    assert!(matches!(made, Err(ApiServerError::Unsupported("as"))));
}

/// An API server that accepts this token, before an aggregated one that accepts nobody.
async fn before_an_aggregated_api(accepted: &'static str) -> Api {
    Api::start(move |request| async move {
        let authorization = request.headers().get("authorization");
        let known = authorization.is_some_and(|value| value == accepted);
        let aggregated = request.uri().path().starts_with("/apis/metrics.k8s.io/");
        let mut response = Response::new(underpass_core::full("{\"gitVersion\": \"v1\"}"));
        if aggregated || !known {
            *response.status_mut() = http::StatusCode::UNAUTHORIZED;
        }
        response
    })
    .await
}

#[tokio::test]
async fn the_401_of_an_aggregated_api_is_neither_the_agents_nor_the_callers() {
    let api = before_an_aggregated_api("Bearer agent-token").await;
    let world = World::new(&api).await;
    for _ in 0..3 {
        let answer = world.get("/apis/metrics.k8s.io/v1beta1/nodes", "").await;
        // A 401 would make client-go drop the caller's credential.
        assert_eq!(code(&answer), 403, "{answer}");
        assert_eq!(status(&answer)["reason"], "Forbidden");
        let message = status(&answer)["message"].to_string();
        assert!(message.contains("metrics.k8s.io/v1beta1"), "{message}");
        assert!(message.contains("401"), "{message}");
    }
    let seen = api.seen();
    let mut asked = seen.iter().filter(|seen| seen.target == "/version");
    let as_ourselves = asked.next().expect("the API server was asked");
    assert_eq!(as_ourselves.all("authorization"), ["Bearer agent-token"]);
    assert_eq!(as_ourselves.all("impersonate-user"), [""; 0]);
    assert!(asked.next().is_none(), "its word counts for a while");
    assert_eq!(code(&world.get("/api/v1/pods", "").await), 200);
}

#[tokio::test]
async fn an_aggregated_api_hides_no_credential_that_is_refused() {
    let api = before_an_aggregated_api("Bearer of-another").await;
    let world = World::new(&api).await;
    for path in ["/apis/metrics.k8s.io/v1beta1/nodes", "/api/v1/pods"] {
        let answer = world.get(path, "").await;
        assert_eq!(code(&answer), 502, "{answer}");
        let message = status(&answer)["message"].to_string();
        assert!(message.contains("does not accept the credential"));
    }
}

#[tokio::test]
async fn the_agents_own_401_does_not_look_like_the_callers() {
    let api = Api::start(|_| async {
        let mut response = Response::new(underpass_core::full("no"));
        *response.status_mut() = http::StatusCode::UNAUTHORIZED;
        response
    })
    .await;
    let world = World::new(&api).await;
    let answer = world.get("/api/v1/pods", "").await;
    assert_eq!(code(&answer), 502);
    assert!(
        status(&answer)["message"]
            .as_str()
            .unwrap()
            .contains("does not accept the credential")
    );
    // A service behind the proxy subresource speaks for itself.
    let answer = world
        .get("/api/v1/namespaces/a/services/s/proxy/x", "")
        .await;
    assert_eq!(code(&answer), 401);
}

/// Asks until the API server accepts the agent's credential again. Before that, the answer says that it does not.
async fn accepted_again(world: &World) {
    let asking = async {
        loop {
            let answer = world.get("/api/v1/pods", "").await;
            if code(&answer) == 200 {
                return;
            }
            assert!(answer.contains("does not accept the credential"));
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    soon(asking).await;
}

#[tokio::test]
async fn a_credential_that_died_is_had_anew() {
    let api = before_an_aggregated_api("Bearer alive").await;
    let dir = tempfile::tempdir().unwrap();
    let (token, plugin) = (dir.path().join("token"), dir.path().join("plugin"));
    let head = r#""apiVersion":"client.authentication.k8s.io/v1","kind":"ExecCredential""#;
    let script = format!(
        "#!/bin/sh\nprintf '{{{head},\"status\":{{\"token\":\"%s\"}}}}' \"$(cat {})\"\n",
        token.display()
    );
    fs::write(&plugin, script).unwrap();
    fs::set_permissions(&plugin, fs::Permissions::from_mode(0o755)).unwrap();
    let exec = serde_json::json!({
        "apiVersion": "client.authentication.k8s.io/v1",
        "command": plugin.to_str().unwrap(),
        "interactiveMode": "Never",
    });
    for by_plugin in [true, false] {
        fs::write(&token, "dead").unwrap();
        let mut config = kube::Config::new(format!("https://{}", api.address).parse().unwrap());
        config.root_cert = Some(vec![api.certificate.clone()]);
        let auth = &mut config.auth_info;
        match by_plugin {
            true => auth.exec = Some(serde_json::from_value(exec.clone()).unwrap()),
            false => auth.token_file = Some(token.to_str().unwrap().to_owned()),
        }
        let agent = ApiServer::new(config, ApiServerOptions::default()).await;
        let world = World::with_agent(Arc::new(agent.unwrap()), vec![]).await;
        assert_eq!(code(&world.get("/api/v1/pods", "").await), 502);
        fs::write(&token, "alive").unwrap();
        accepted_again(&world).await;
    }
}
