//! Requests whose agent dies before their answer.

use std::sync::atomic::Ordering;

use super::site::{WEB, head, world};
use crate::{connect::agent::Agent, upgrades::WEBSOCKET, world::World};

const TARGET: &str = "c tcp:web.shop.svc:80 alice";

/// Two agents, and a front.
async fn two_agents() -> (std::sync::Arc<Agent>, World) {
    let (agent, world) = world().await;
    agent.has_another.store(true, Ordering::Relaxed);
    (agent, world)
}

const CLOSE: &str = "Connection: close\r\nX-Own: 1\r\n";

fn request(world: &World, method: &str, root: &str, lines: &str) -> String {
    head(world, method, &format!("{root}/items?page=2"), lines)
}

#[tokio::test]
async fn a_request_that_changes_nothing_is_sent_again_where_its_agent_dies() {
    for method in ["GET", "HEAD", "OPTIONS"] {
        let (agent, world) = two_agents().await;
        let request = request(&world, method, WEB, CLOSE);
        let serving = async {
            let mut first = agent.next_end().await;
            let asked = first.head().await;
            first.die().await;
            let mut second = agent.next_end().await;
            assert_eq!(second.head().await, asked);
            second
                .write("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                .await;
            second.finish();
            asked
        };
        let (answer, asked) = tokio::join!(world.raw(&request), serving);
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        assert!(asked.contains("x-own: 1"), "{asked}");
        assert_eq!(agent.opened(), [TARGET; 2]);
    }
}

#[tokio::test]
async fn a_request_is_sent_again_once_and_over_http_2_as_well() {
    for (scheme, preface) in [("http", 4), ("h2c", 24)] {
        let (agent, world) = two_agents().await;
        let root = WEB.replace("http:", &format!("{scheme}:"));
        let request = request(&world, "GET", &root, CLOSE);
        let serving = async {
            for _ in 0..2 {
                let mut end = agent.next_end().await;
                end.read(preface).await;
                end.die().await;
            }
        };
        let (answer, ()) = tokio::join!(world.raw(&request), serving);
        assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
        assert_eq!(agent.opened(), [TARGET; 2], "{scheme}");
    }
}

/// It may have been done.
#[tokio::test]
async fn a_request_that_changes_something_or_has_a_body_is_sent_once() {
    let none = format!("{CLOSE}Content-Length: 0\r\n");
    let body = format!("{CLOSE}Content-Length: 1\r\n");
    let calls = [
        ("POST", &*none, ""),
        ("DELETE", CLOSE, ""),
        ("PUT", &body, "x"),
        ("GET", &body, "x"),
        ("GET", WEBSOCKET, ""),
    ];
    for (method, lines, body) in calls {
        let (agent, world) = two_agents().await;
        let request = request(&world, method, WEB, lines) + body;
        let serving = async {
            let mut end = agent.next_end().await;
            end.head().await;
            end.die().await;
        };
        let (answer, ()) = tokio::join!(world.raw(&request), serving);
        assert!(answer.starts_with("HTTP/1.1 502 "), "{method}: {answer}");
        assert_eq!(agent.opened(), [TARGET], "{method} {lines}");
    }
}

/// A service that closes a request's connection has had the request; and an answer that has begun is one.
#[tokio::test]
async fn a_request_is_sent_once_where_its_service_ends_it_or_nothing_else_is_there() {
    for case in ["reset", "end", "begun", "alone"] {
        let (agent, world) = two_agents().await;
        agent.has_another.store(case != "alone", Ordering::Relaxed);
        let request = request(&world, "GET", WEB, CLOSE);
        let serving = async {
            let mut end = agent.next_end().await;
            end.head().await;
            match case {
                "reset" => end.reset().await,
                "end" => end.finish(),
                "begun" => {
                    end.write("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")
                        .await;
                    end.die().await;
                }
                _ => end.die().await,
            }
        };
        let (answer, ()) = tokio::join!(world.raw(&request), serving);
        // One that has begun is cut.
        let is_answered = answer.starts_with("HTTP/1.1 502 ");
        assert_eq!(is_answered, case != "begun", "{case}: {answer}");
        assert_eq!(agent.opened(), [TARGET], "{case}");
    }
}
