//! Programs of others that know nothing of us: psql with a real PostgreSQL, and a real Prometheus that scrapes through its `proxy_url`.

use std::sync::Arc;

use rustls::pki_types::PrivateKeyDer;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio_rustls::TlsAcceptor;
use tokio_util::task::AbortOnDropHandle;
use underpass_testenv::testing::{
    eventually,
    providers::{Postgres, Prometheus},
};
use underpass_testenv::{CLUSTER_NAME, Transport};

use super::forward::Forward;
use super::programs::{curl, output};
use super::site::Site;
use crate::over_both_transports;

over_both_transports!(
    psql_reaches_a_postgresql,
    prometheus_scrapes_through_its_proxy_url,
);

/// Rows of about 50 bytes: some megabytes, in both directions.
const ROWS: usize = 100_000;

async fn psql_reaches_a_postgresql(transport: Transport) {
    let site = Site::start(transport).await;
    let postgres = Postgres::start().await;
    let rule = format!("0:127.0.0.1:{}", postgres.port());
    let mut forward = Forward::start(&site.deployment, &site.token, &["-v", &rule]);
    let (address, _) = forward.port().await;
    let psql = |commands: &[&str]| {
        let mut psql = Command::new("psql");
        psql.env_clear()
            .arg("--no-psqlrc")
            .args(["--no-align", "--tuples-only", "--quiet", "--set", "ON_ERROR_STOP=1"])
            .arg(format!(
                "host=127.0.0.1 port={} user=postgres dbname=postgres sslmode=disable connect_timeout=20",
                address.port()
            ))
            .args(commands.iter().flat_map(|command| ["--command", command]))
            .kill_on_drop(true);
        output(psql)
    };
    let file = site.dir().join("rows");
    let path = file.to_str().unwrap();
    let create = "create table cart (n int, text text)";
    let fill = format!("insert into cart select n, md5(n::text) from generate_series(1, {ROWS}) n");
    let take = format!("\\copy cart to '{path}'");
    let give = format!("\\copy back from '{path}'");
    let again = "create table back (like cart)";
    let compare = "select count(*), md5(string_agg(text, '' order by n)) = \
         (select md5(string_agg(text, '' order by n)) from cart) from back";
    let answer = psql(&[create, &fill, &take, again, &give, compare]).await;
    assert_eq!(answer.trim(), format!("{ROWS}|t"));
    let bytes = std::fs::metadata(&file).unwrap().len();
    assert!(bytes > 3_000_000, "{bytes}");
    // Many sessions at once.
    let sessions: Vec<_> = (0..10)
        .map(|_| psql(&["select pg_sleep(0.2), count(*) from cart"]))
        .collect();
    for answer in futures_util::future::join_all(sessions).await {
        assert_eq!(answer.trim(), format!("|{ROWS}"));
    }
    forward.interrupt().await;
}

/// A target of Prometheus's that speaks TLS.
fn serve_metrics(listener: TcpListener, tls: TlsAcceptor) -> AbortOnDropHandle<()> {
    AbortOnDropHandle::new(tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let tls = tls.clone();
            tokio::spawn(async move {
                let Ok(mut tls) = tls.accept(tcp).await else {
                    return;
                };
                let metrics = "# TYPE carts gauge\ncarts 42\n";
                let head = "HTTP/1.1 200 OK\r\ncontent-type: text/plain; version=0.0.4\r\nconnection: close";
                let answer = format!(
                    "{head}\r\ncontent-length: {}\r\n\r\n{metrics}",
                    metrics.len()
                );
                let _ = tls.read(&mut [0; 4096]).await;
                let _ = tls.write_all(answer.as_bytes()).await;
                let _ = tls.shutdown().await;
            });
        }
    }))
}

async fn prometheus_scrapes_through_its_proxy_url(transport: Transport) {
    let site = Site::start(transport).await;
    let name = format!(
        "{}.{CLUSTER_NAME}.clusters.underpass.internal",
        site.host("metrics")
    );
    let made = rcgen::generate_simple_self_signed([name.clone()]).unwrap();
    let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let listener = site.listen("metrics", 9100).await;
    let _serving = serve_metrics(listener, TlsAcceptor::from(Arc::new(tls)));
    // Go verifies a proxy by the same CAs as its targets.
    let authorities = std::fs::read_to_string(site.ca_file()).unwrap() + &made.cert.pem();
    let ca_file = site.dir().join("scrape-ca.pem");
    std::fs::write(&ca_file, authorities).unwrap();
    let proxy = site
        .deployment
        .url()
        .replace("https://", &format!("https://x:{}@", site.bearer()));
    let configuration = serde_json::json!({
        "scrape_configs": [{
            "job_name": "edge",
            "scheme": "https",
            "scrape_interval": "1s",
            "scrape_timeout": "1s",
            "proxy_url": proxy,
            // Go offers a proxy HTTP/2, and then speaks HTTP/1.1 to it.
            "enable_http2": false,
            "tls_config": { "ca_file": ca_file },
            "static_configs": [{ "targets": [format!("{name}:9100")] }],
        }],
    });
    let prometheus = Prometheus::start(&configuration.to_string()).await;
    let ask = async |path: &str| -> Value {
        // It does not listen at once.
        let answer = curl([prometheus.api(path)]).output().await.unwrap();
        serde_json::from_slice(&answer.stdout).unwrap_or_default()
    };
    eventually("Prometheus has scraped", async || {
        let answer = ask("query?query=carts").await;
        match &answer["data"]["result"][0]["value"][1] {
            Value::String(carts) if carts == "42" => Ok(()),
            _ => Err((ask("targets?state=active").await, prometheus.log())),
        }
    })
    .await;
}
