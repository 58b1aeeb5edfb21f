//! The parts of a service's answer that reach the client: all clusters' services answer on the server's own origin.

use super::site::{WEB, answered, head, world};
use crate::world::{BROWSER, code, status};

fn line<'a>(answer: &'a str, name: &str) -> Vec<&'a str> {
    let (head, _) = answer.split_once("\r\n\r\n").unwrap();
    let lines = head.lines().filter_map(|line| line.split_once(": "));
    lines
        .filter(|(other, _)| other.eq_ignore_ascii_case(name))
        .map(|(_, value)| value)
        .collect()
}

#[tokio::test]
async fn rule_20_a_services_redirect_and_cookies_stay_below_its_prefix() {
    let (agent, world) = world().await;
    for (location, rest) in [
        ("/login?next=/", "/login?next=/"),
        ("next", "/app/next"),
        ("http://web.shop.svc/x", "/x"),
        (
            "https://front:8443/v1/clusters/c/services/http:shop:web:80/x",
            "/x",
        ),
        ("/v1/clusters/c/services/http:shop:web:80/x", "/x"),
        ("/v1/users", "/v1/users"),
        ("../../../../k8s/clusters/c/api", "/k8s/clusters/c/api"),
    ] {
        let moved = format!(
            "HTTP/1.1 302 Found\r\nlocation: {location}\r\nset-cookie: a=b; Path=/; Domain=front; HttpOnly\r\n\
             set-cookie: underpass=1; Path=/\r\ncontent-length: 0\r\n\r\n"
        );
        let (_, answer) = answered(&agent, &world, "/app/page", "", &moved).await;
        assert_eq!(code(&answer), 302, "{location}: {answer}");
        assert_eq!(line(&answer, "location"), [format!("{WEB}{rest}")]);
        let cookie = format!("a=b; Path={WEB}/; HttpOnly");
        assert_eq!(line(&answer, "set-cookie"), [cookie]);
    }
    for location in [
        "https://evil.example/",
        "//evil.example/",
        "http://web.shop.svc:81/",
        "https:///evil.example",
        "javascript:alert(1)",
    ] {
        let moved =
            format!("HTTP/1.1 302 Found\r\nlocation: {location}\r\ncontent-length: 0\r\n\r\n");
        let (_, answer) = answered(&agent, &world, "/", "", &moved).await;
        assert_eq!(code(&answer), 502, "{location}: {answer}");
        assert_eq!(status(&answer)["reason"], "RedirectRefused");
        assert!(!answer.contains("evil"), "{answer}");
    }
}

#[tokio::test]
async fn rule_20_no_header_of_a_service_speaks_for_this_origin() {
    let (agent, world) = world().await;
    let told = "HTTP/1.1 401 Unauthorized\r\nwww-authenticate: Basic realm=x\r\nstrict-transport-security: max-age=1\r\n\
        access-control-allow-origin: *\r\nalt-svc: h3\r\nservice-worker-allowed: /\r\nclear-site-data: \"*\"\r\n\
        x-accel-redirect: /v1/users\r\ncache-control: public, max-age=60\r\ncontent-type: text/html\r\ncontent-length: 2\r\n\r\nno";
    let (_, answer) = answered(&agent, &world, "/", "", told).await;
    // The service's own 401, without its challenge.
    assert_eq!(code(&answer), 401, "{answer}");
    assert!(answer.ends_with("\r\n\r\nno"), "{answer}");
    for gone in [
        "www-authenticate",
        "strict-transport-security",
        "access-control",
        "alt-svc",
        "service-worker-allowed",
        "clear-site-data",
        "x-accel",
    ] {
        assert!(!answer.contains(gone), "{gone}: {answer}");
    }
    assert_eq!(line(&answer, "cache-control"), ["max-age=60, private"]);
}

#[tokio::test]
async fn rule_27_a_services_page_has_no_origin_of_ours_in_a_browser() {
    let (agent, world) = world().await;
    let page = "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-security-policy: default-src *\r\n\
        content-length: 4\r\n\r\npage";
    let browse = |lines: &str| {
        let request = head(
            &world,
            "GET",
            &format!("{WEB}/"),
            &format!("{lines}Connection: close\r\n"),
        );
        request.replace(&format!("Bearer {}", world.alice), BROWSER)
    };
    let serving = async {
        let mut end = agent.next_end().await;
        end.head().await;
        end.write(page).await;
        end.finish();
    };
    let request = browse("");
    let (answer, ()) = tokio::join!(world.raw(&request), serving);
    let policies = line(&answer, "content-security-policy");
    assert_eq!(policies.len(), 2, "{answer}");
    assert!(policies[1].starts_with("sandbox ") && !policies[1].contains("same-origin"));
    // Its scripts, and pages of others, ask for nothing.
    for lines in [
        "Origin: null\r\nSec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: cors\r\n",
        "Origin: https://evil.example\r\n",
        "Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: navigate\r\n",
        "Sec-Fetch-Site: same-site\r\nSec-Fetch-Mode: navigate\r\n",
    ] {
        let answer = world.raw(&browse(lines)).await;
        assert_eq!(code(&answer), 403, "{lines}: {answer}");
    }
    assert_eq!(agent.opened().len(), 1);
    // A bearer token is sent by who knows it.
    let led = "Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: navigate\r\n";
    let (_, answer) = answered(&agent, &world, "/", led, page).await;
    assert_eq!(line(&answer, "content-security-policy"), ["default-src *"]);
}

#[tokio::test]
async fn a_prefix_without_its_slash_is_led_to_it() {
    let (agent, world) = world().await;
    for (rest, location) in [("", "/"), ("?a=b", "/?a=b")] {
        let path = format!("{WEB}{rest}");
        let answer = world
            .raw(&head(&world, "GET", &path, "Connection: close\r\n"))
            .await;
        assert_eq!(code(&answer), 301, "{answer}");
        assert_eq!(line(&answer, "location"), [format!("{WEB}{location}")]);
    }
    // For those only who may reach the service.
    let request = head(&world, "GET", WEB, "Connection: close\r\n");
    let request = request.replace(&world.alice, &world.mallory);
    assert_eq!(code(&world.raw(&request).await), 403);
    assert_eq!(agent.opened(), [""; 0]);
}
