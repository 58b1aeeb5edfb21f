//! curl, by every way to a service.

use std::process::Stdio;

use tokio::io::{AsyncBufReadExt as _, BufReader};
use underpass_testenv::testing::{DEADLINE, eventually};
use underpass_testenv::{CLUSTER_NAME, Transport};

use super::forward::Forward;
use super::programs::{curl, output, serve_pages};
use super::site::Site;
use crate::over_both_transports;

over_both_transports!(
    curl_reaches_a_service_by_every_way,
    pages_of_a_service_stay_below_its_prefix,
    events_arrive_while_their_answer_lasts,
);

async fn curl_reaches_a_service_by_every_way(transport: Transport) {
    let site = Site::start(transport).await;
    let _serving = serve_pages(site.listen("web", 80).await);
    let url = format!("http://{}/hello?x=1", site.host("web"));
    let ask = async |arguments: &[&str], url: &str| {
        let form = ["--data", "form", url];
        output(curl([arguments, &form[..]].concat())).await
    };
    let expected = "POST /hello?x=1 form";

    // By a port of this machine's, SOCKS5 and HTTP CONNECT.
    let mut forward = Forward::start(&site.deployment, &site.token, &["--socks5", "0"]);
    let (address, said) = forward.port().await;
    assert!(said.contains("leads to any host"), "{said}");
    let address = address.to_string();
    for way in [
        vec!["--socks5-hostname", &address],
        vec!["--proxytunnel", "--proxy", &address],
    ] {
        assert_eq!(ask(&way, &url).await, expected, "{way:?}");
    }
    forward.interrupt().await;

    // By the server's own port as a proxy.
    let ca = site.ca_file();
    let ca = ca.to_str().unwrap();
    let token = site.bearer();
    let (bearer, password) = (
        format!("Proxy-Authorization: Bearer {token}"),
        format!("x:{token}"),
    );
    let cluster = format!("Underpass-Cluster: {CLUSTER_NAME}");
    let proxy = [
        "--proxytunnel",
        "--proxy-cacert",
        ca,
        "--proxy",
        site.deployment.url(),
    ];
    let with_header = ["--proxy-header", &cluster, "--proxy-header", &bearer];
    let with_password = ["--proxy-header", &cluster, "--proxy-user", &password];
    for credential in [with_header, with_password] {
        let way = [&proxy[..], &credential].concat();
        assert_eq!(ask(&way, &url).await, expected);
    }
    let named = format!(
        "http://{}.{CLUSTER_NAME}.clusters.underpass.internal/hello?x=1",
        site.host("web")
    );
    let way = [&proxy[..], &["--proxy-header", &bearer]].concat();
    assert_eq!(ask(&way, &named).await, expected);

    // By a path of the server's.
    let bearer = format!("Authorization: Bearer {token}");
    let url = site.url("http", "web", 80, "/hello?x=1");
    for version in ["--http1.1", "--http2"] {
        let way = [version, "--cacert", ca, "--header", &bearer];
        assert_eq!(ask(&way, &url).await, expected, "{version}");
    }
}

async fn pages_of_a_service_stay_below_its_prefix(transport: Transport) {
    let site = Site::start(transport).await;
    let _serving = serve_pages(site.listen("web", 8080).await);
    let ca = site.ca_file();
    let bearer = format!("Authorization: Bearer {}", site.bearer());
    let jar = site.dir().join("cookies");
    let usual = [
        "--cacert",
        ca.to_str().unwrap(),
        "--header",
        &bearer,
        "--cookie-jar",
        jar.to_str().unwrap(),
        "--cookie",
        jar.to_str().unwrap(),
    ];
    let url = site.url("http", "web", 8080, "/login");
    let followed = [
        "--location",
        "--write-out",
        " %{num_redirects} %{url_effective}",
        &url,
    ];
    let home = site.url("http", "web", 8080, "/app/home?from=login");
    assert_eq!(
        output(curl([&usual[..], &followed].concat())).await,
        format!("at home with session=1 1 {home}")
    );
    // The cookie is for this service.
    let kept = std::fs::read_to_string(&jar).unwrap();
    let root = site.path("http", "web", 8080, "/");
    assert!(kept.contains(&root), "{kept}");
    let other = site.url("http", "other", 8080, "/app/home");
    let _other = serve_pages(site.listen("other", 8080).await);
    let answer = output(curl([&usual[..], &[&other]].concat())).await;
    assert_eq!(answer, "at home with ");
    // And no page leads elsewhere.
    let url = site.url("http", "web", 8080, "/elsewhere");
    let answer = output(curl([&usual[..], &["--location", &url]].concat())).await;
    assert!(answer.contains("RedirectRefused"), "{answer}");
}

async fn events_arrive_while_their_answer_lasts(transport: Transport) {
    let site = Site::start(transport).await;
    let _serving = serve_pages(site.listen("web", 80).await);
    let ca = site.ca_file();
    let bearer = format!("Authorization: Bearer {}", site.bearer());
    let url = site.url("http", "web", 80, "/events");
    for version in ["--http1.1", "--http2"] {
        let way = ["--no-buffer", version, "--cacert", ca.to_str().unwrap()];
        let what = ["--header", &bearer, &url];
        let mut curl = curl([&way[..], &what].concat())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(curl.stdout.take().unwrap()).lines();
        for number in 0..3 {
            for expected in [format!("data: {number}"), String::new()] {
                let line = tokio::time::timeout(DEADLINE, lines.next_line()).await;
                assert_eq!(line.unwrap().unwrap(), Some(expected), "{version}");
            }
        }
        assert!(curl.try_wait().unwrap().is_none(), "the answer has ended");
        let streams = in_flight(&site);
        assert!(streams.contains(" 1"), "{streams}");
        curl.kill().await.unwrap();
        // A client that goes away leaves nothing.
        eventually("the request is over", async || {
            let streams = in_flight(&site);
            match streams.contains(" 1") {
                true => Err(streams),
                false => Ok(()),
            }
        })
        .await;
    }
}

/// The metric of streams that are in flight.
fn in_flight(site: &Site) -> String {
    let metrics = site.deployment.metrics().unwrap();
    let lines = metrics.lines();
    let streams = lines.filter(|line| {
        line.starts_with("underpass_proxy_in_flight") && line.contains("kind=\"stream\"")
    });
    streams.collect()
}
