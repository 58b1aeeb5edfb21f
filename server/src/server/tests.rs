mod acting;
mod sessions;

use std::net::Ipv4Addr;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use underpass_core::ClusterName;
use underpass_directory::{Agent, Cluster, Expect};
use underpass_tunnel::transport::TransportKind;
use underpass_tunnel::{AgentKey, Connector, ConnectorConfig, Session};

use super::*;
use crate::tls_files::tests::Operator;

const DEADLINE: Duration = Duration::from_secs(20);

fn config(data: &std::path::Path) -> ServerConfig {
    let mut config = ServerConfig::new(data);
    config.listen = (Ipv4Addr::LOCALHOST, 0).into();
    config
}

async fn start(data: &std::path::Path) -> Result<Server, StartError> {
    Server::start(config(data)).await
}

/// Starts a server where another one has ended; its last tasks may hold the directory a little longer.
async fn start_again(data: &std::path::Path) -> Server {
    let starting = async {
        loop {
            match start(data).await {
                Ok(server) => return server,
                Err(_) => tokio::task::yield_now().await,
            }
        }
    };
    within("the directory is free", starting).await
}

async fn within<T>(what: &str, work: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, work).await.expect(what)
}

/// A connection that stays open between its requests.
async fn user(server: &Server) -> TlsStream<TcpStream> {
    let mut tls = connect(server, "localhost").await.unwrap();
    assert_eq!(ask(&mut tls, "x").await, "HTTP/1.1 200");
    tls
}

/// A connection whose TLS is for that name.
async fn connect(server: &Server, name: &'static str) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = rustls::RootCertStore::empty();
    let ca = CertificateDer::from_pem_slice(server.ca_pem().as_bytes()).unwrap();
    roots.add(ca).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let tcp = TcpStream::connect(server.address()).await.unwrap();
    let connector = TlsConnector::from(Arc::new(config));
    connector.connect(name.try_into().unwrap(), tcp).await
}

/// The beginning of the answer to a stranger's question about the server's health.
async fn ask(tls: &mut TlsStream<TcpStream>, host: &str) -> String {
    let request = format!("GET /healthz HTTP/1.1\r\nHost: {host}\r\n\r\n");
    tls.write_all(request.as_bytes()).await.unwrap();
    let mut answer = [0; 12];
    within("an answer", tls.read_exact(&mut answer))
        .await
        .unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

/// Reads to the end.
async fn ended(mut tls: TlsStream<TcpStream>) {
    let mut rest = Vec::new();
    // A connection may end without TLS's goodbye.
    let _ = within("the connection ends", tls.read_to_end(&mut rest)).await;
}

async fn agent(server: &Server) -> Session {
    let key = AgentKey::from_seed([7; 32]).unwrap();
    let public = key.public_key().to_string();
    let added = server.directory().change(|draft| {
        let created = draft.now();
        let cluster = Cluster::new(created);
        draft.put("edge", cluster, Expect::Absent)?;
        let edge = ClusterName::new("edge").expect("a name");
        let agent = Agent::new(created, edge, public.clone());
        draft.put("agent", agent, Expect::Absent)
    });
    added.await.unwrap();
    let ca = server.ca_pem().as_bytes().to_vec();
    let config = ConnectorConfig::new("localhost", server.address().port(), ca, key);
    let connector = Connector::new(config).unwrap();
    within("a session", connector.connect()).await.unwrap()
}

async fn nothing_is_served_after(end: impl AsyncFnOnce(Server)) {
    let data = tempfile::tempdir().unwrap();
    let server = start(data.path()).await.unwrap();
    let (user, agent, address) = (user(&server).await, agent(&server).await, server.address());
    end(server).await;
    ended(user).await;
    within("the session ends", agent.closed()).await;
    let refused = async {
        while TcpStream::connect(address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    within("nobody listens", refused).await;
    start_again(data.path()).await.stop().await;
}

/// As on a full disk.
#[tokio::test]
async fn a_server_starts_where_its_url_cannot_be_written() {
    let data = tempfile::tempdir().unwrap();
    // No file takes the place of a folder.
    std::fs::create_dir_all(data.path().join("url/full")).unwrap();
    let server = start(data.path()).await.unwrap();
    user(&server).await;
    server.stop().await;
}

#[tokio::test]
async fn rule_12_a_server_that_stopped_serves_nothing() {
    nothing_is_served_after(Server::stop).await;
}

#[tokio::test]
async fn rule_12_a_server_that_was_dropped_serves_nothing() {
    nothing_is_served_after(async |server| drop(server)).await;
}

/// A new server can follow at once.
#[tokio::test]
async fn a_server_that_stopped_leaves_the_directory_to_the_next() {
    let data = tempfile::tempdir().unwrap();
    for _ in 0..3 {
        start(data.path()).await.unwrap().stop().await;
    }
}

/// A data directory of before has the certificate with the clusters' names from the next start on, by the same CA.
#[tokio::test]
async fn rule_6_the_name_in_tls_says_which_cluster() {
    let data = tempfile::tempdir().unwrap();
    let server = start(data.path()).await.unwrap();
    let refused = connect(&server, "edge.k8s.example.org").await;
    refused.expect_err("it has no such name");
    let ca = server.ca_pem().to_owned();
    server.stop().await;
    let named = async || {
        let mut config = config(data.path());
        config.cluster_domains = vec!["k8s.example.org".parse().unwrap()];
        Server::start(config).await
    };
    let server = within("the directory is free", async {
        loop {
            match named().await {
                Ok(server) => return server,
                Err(_) => tokio::task::yield_now().await,
            }
        }
    })
    .await;
    assert_eq!(server.ca_pem(), ca);
    let (dns, tls) = ("edge.k8s.example.org", "edge.clusters.underpass.internal");
    for (name, host, status) in [
        ("localhost", "localhost", 200),
        // The cluster's own, where a stranger is told nothing.
        ("localhost", dns, 401),
        (tls, "localhost", 401),
        (tls, dns, 401),
        (dns, dns, 401),
        (dns, "localhost", 421),
        (dns, "other.k8s.example.org", 421),
        (tls, "other.k8s.example.org", 421),
    ] {
        let mut connection = connect(&server, name).await.unwrap();
        let answer = ask(&mut connection, host).await;
        assert_eq!(answer, format!("HTTP/1.1 {status}"), "{name} {host}");
    }
}

/// Users connect over TCP, and agents over QUIC. They know its CA only.
#[tokio::test]
async fn a_certificate_of_the_operators_is_served_and_replaced() {
    let operator = Operator::new();
    let served = async |server: &Server| {
        let tls = user(server).await;
        let (_, tls) = tls.get_ref();
        tls.peer_certificates().unwrap()[0].clone()
    };
    let first = operator.renew(&["localhost"]);
    let data = tempfile::tempdir().unwrap();
    let mut config = ServerConfig::new(data.path());
    config.listen = (Ipv4Addr::LOCALHOST, 0).into();
    config.tls_files = Some(operator.files());
    let server = Server::start(config).await.unwrap();
    assert_eq!(served(&server).await, first);
    let second = operator.renew(&["localhost"]);
    // As SIGHUP does.
    server.certificate.look_again();
    let replaced = async {
        while served(&server).await != second {
            tokio::task::yield_now().await;
        }
    };
    within("the new certificate", replaced).await;
    let agent = agent(&server).await;
    assert_eq!(agent.transport(), Some(TransportKind::Quic));
    server.stop().await;
}

#[tokio::test]
async fn names_of_the_server_and_of_clusters_do_not_mix() {
    let data = tempfile::tempdir().unwrap();
    for (name, domains, wanted) in [
        (
            "up.k8s.example.org",
            &["k8s.example.org"][..],
            "up.k8s.example.org is below",
        ),
        (
            "edge.clusters.underpass.internal",
            &[],
            "is below a cluster domain",
        ),
        (
            "localhost",
            &["example.org", "k8s.example.org"],
            "leave one of them out",
        ),
    ] {
        let mut config = config(data.path());
        config.names.push(name.to_owned());
        config.cluster_domains = domains.iter().map(|text| text.parse().unwrap()).collect();
        let refused = Server::start(config).await.expect_err("no such server");
        assert!(refused.to_string().contains(wanted), "{refused}");
    }
    // The domain itself may be the server's name.
    let mut config = config(data.path());
    config.names = vec!["k8s.example.org".to_owned()];
    config.cluster_domains = vec!["k8s.example.org".parse().unwrap()];
    Server::start(config).await.unwrap().stop().await;
}

#[tokio::test]
async fn a_certificate_that_cannot_be_used_stops_the_start() {
    let operator = Operator::new();
    operator.renew(&["elsewhere.example.org"]);
    let data = tempfile::tempdir().unwrap();
    let mut config = ServerConfig::new(data.path());
    config.listen = (Ipv4Addr::LOCALHOST, 0).into();
    config.tls_files = Some(operator.files());
    let error = Server::start(config).await.unwrap_err();
    let error = underpass_tunnel::chain(&error).to_string();
    assert!(error.contains("clients that ask for localhost"), "{error}");
}
