//! Pages in a user's browser, where the browser attaches the user's credential by itself (security rule 27).

use bytes::Bytes;
use http::Response;
use underpass_core::full;

use crate::{
    api::Api,
    world::{BROWSER, World, code, status},
};

const PROXY: &str = "/api/v1/namespaces/a/services/http:s:80/proxy";
const SANDBOX: &str = "sandbox allow-scripts allow-forms allow-popups allow-downloads allow-modals";

/// A cluster that answers each request with a page, and says that the page may do everything.
async fn page() -> Api {
    Api::start(|_| async {
        Response::builder()
            .header("content-type", "text/html")
            .header("content-security-policy", "default-src *")
            .body(full(Bytes::from_static(b"<script>steal()</script>")))
            .unwrap()
    })
    .await
}

/// As somebody whose browser remembers a password.
async fn browse(world: &World, path: &str, lines: &str) -> String {
    let head = format!(
        "GET /k8s/clusters/c{path} HTTP/1.1\r\nHost: front\r\nConnection: close\r\n\
         Authorization: {BROWSER}\r\n{lines}\r\n"
    );
    world.raw(&head).await
}

fn led(site: &str) -> String {
    format!("Sec-Fetch-Site: {site}\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: iframe\r\n")
}

fn policies(answer: &str) -> Vec<&str> {
    let (head, _) = answer.split_once("\r\n\r\n").unwrap();
    let lines = head.lines().filter_map(|line| line.split_once(": "));
    lines
        .filter(|(name, _)| name.eq_ignore_ascii_case("content-security-policy"))
        .map(|(_, value)| value)
        .collect()
}

#[tokio::test]
async fn rule_27_a_foreign_page_leads_no_browser_to_a_workload() {
    let api = page().await;
    let world = World::new(&api).await;
    let below = format!("{PROXY}/run?command=rm");
    let node = "/api/v1/nodes/n/proxy/configz";
    let old = "/api/v1/proxy/namespaces/a/pods/p/x";
    for path in [PROXY, &below, node, old, "/apis/x.io/v1/things/t/proxy"] {
        for site in ["cross-site", "same-site"] {
            let answer = browse(&world, path, &led(site)).await;
            assert_eq!(code(&answer), 403, "{path} {site}: {answer}");
            let message = status(&answer)["message"].to_string();
            assert!(message.contains("type the address"), "{message}");
        }
    }
    assert_eq!(api.seen().len(), 0, "and nothing reached the workload");
    // The user's own doing, and tools.
    for lines in [led("none"), led("same-origin"), String::new()] {
        assert_eq!(code(&browse(&world, &below, &lines).await), 200, "{lines}");
    }
    // The API server's own answers change nothing; and a page has to know a token to send it.
    let pods = browse(&world, "/api/v1/pods", &led("cross-site")).await;
    assert_eq!(code(&pods), 200);
    assert_eq!(code(&world.get(&below, &led("cross-site")).await), 200);
}

#[tokio::test]
async fn rule_27_a_clusters_page_has_none_of_our_origins_in_a_browser() {
    let api = page().await;
    let world = World::new(&api).await;
    // An agent that was captured answers any question with a page.
    for path in [PROXY, "/version", "/api/v1/pods"] {
        let answer = browse(&world, path, "").await;
        assert_eq!(policies(&answer), ["default-src *", SANDBOX], "{path}");
        assert!(!SANDBOX.contains("allow-same-origin"));
        // Such a page's requests say `Origin: null`.
        let lines = "Origin: null\r\nSec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: websocket\r\n";
        assert_eq!(code(&browse(&world, path, lines).await), 403, "{path}");
    }
    // A bearer token is sent by who knows it: the page may have its own origin (`kubectl proxy`).
    let answer = world.get(PROXY, "").await;
    assert_eq!(policies(&answer), ["default-src *"]);
}
