//! Plugins of kubeconfigs.

use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use underpass_core::Identity;

use super::*;
use crate::clock::testing::sleep;
use crate::testing::{Log, Script, answer, expiry, told};

/// A plugin's token that is the number of its runs.
fn counting() -> String {
    let count = "n=$(wc -l < \"${0%/*}/runs\")\n";
    format!("{count}{}", answer(r#"{"token":"'$n'"}"#))
}

fn with_plugin(script: &Script) -> kube::Config {
    let mut config = config(1);
    config.auth_info.exec = Some(script.of_kubeconfig());
    config
}

#[tokio::test]
async fn a_plugin_of_the_kubeconfig_runs_again_after_a_401() {
    let script = Script::new(&counting());
    let reload = start(with_plugin(&script), None).await;
    let generation = reload.now().await;
    assert_eq!(generation.header().await.unwrap().unwrap(), "Bearer 1");
    pass(Duration::from_secs(3600)).await;
    let generation = reload.now().await;
    assert_eq!(generation.header().await.unwrap().unwrap(), "Bearer 1");

    generation.refused().await;
    let generation = reload.now().await;
    assert_eq!(generation.header().await.unwrap().unwrap(), "Bearer 2");
    // Just made: another one would be refused as well.
    generation.refused().await;
    assert_eq!(generation.header().await.unwrap().unwrap(), "Bearer 2");
    pass(limits::EXEC_PAUSE).await;
    generation.refused().await;
    assert_eq!(generation.header().await.unwrap().unwrap(), "Bearer 3");
}

/// A configuration whose `load` can be changed.
struct Changing {
    config: Arc<Mutex<kube::Config>>,
    file: PathBuf,
}

impl std::fmt::Debug for Changing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Changing")
    }
}

impl ConfigSource for Changing {
    fn load(&self) -> Result<kube::Config, BoxError> {
        Ok(self.config.lock().unwrap().clone())
    }

    fn files(&self) -> Vec<PathBuf> {
        vec![self.file.clone()]
    }
}

#[tokio::test]
async fn a_plugin_outlives_readings_in_which_it_is_the_same() {
    let script = Script::new(&counting());
    let broken = Script::new("echo hunter2; exit 1");
    let file = script.dir.path().join("kubeconfig");
    let config = Arc::new(Mutex::new(with_plugin(&script)));
    let source = Changing {
        config: Arc::clone(&config),
        file: file.clone(),
    };
    let reload = try_start(source).await.unwrap();
    let first = reload.now().await;
    fs::write(&file, "another CA").unwrap();
    pass(limits::TOKEN_FILE_AGE).await;
    let second = reload.now().await;
    assert!(!same(&first, &second));
    assert_eq!(second.header().await.unwrap().unwrap(), "Bearer 1");

    // Another one that fails: the last stays in use.
    config.lock().unwrap().auth_info.exec = Some(broken.of_kubeconfig());
    fs::write(&file, "another plugin").unwrap();
    pass(limits::TOKEN_FILE_AGE).await;
    assert!(same(&second, &reload.now().await));
    assert_eq!(broken.runs().len(), 1);
    assert_eq!(second.header().await.unwrap().unwrap(), "Bearer 1");
}

#[tokio::test]
async fn rule_11_a_plugins_output_and_input_are_in_no_error_and_no_log() {
    let log = Log::start();
    let working = Script::new(&counting());
    let file = working.dir.path().join("kubeconfig");
    for body in [
        "echo hunter2; exit 1",
        "echo hunter2 >&2; exit 1",
        "echo hunter2",
        "echo '{\"kind\": \"hunter2\"}'",
        &answer(r#"{"token":"hunter2\n"}"#),
        &answer(r#"{"token":"hunter2","expirationTimestamp":"hunter2"}"#),
        &answer(r#"{"clientCertificateData":"hunter2","clientKeyData":"hunter2"}"#),
    ] {
        let script = Script::new(body);
        let started = try_start(Folder {
            config: with_plugin(&script),
            ca: None,
        })
        .await;
        let started = started.unwrap().now().await;
        assert_eq!(script.runs().len(), 0, "not before it is needed");
        let error = started.try_credential().await.unwrap_err();
        assert_eq!(script.runs().len(), 1, "once, and it has failed");
        assert!(!told(&error).contains("hunter2"), "{}", told(&error));

        let config = Arc::new(Mutex::new(with_plugin(&working)));
        let source = Changing {
            config: Arc::clone(&config),
            file: file.clone(),
        };
        let reload = try_start(source).await.unwrap();
        config.lock().unwrap().auth_info.exec = Some(script.of_kubeconfig());
        fs::write(&file, body).unwrap();
        pass(limits::TOKEN_FILE_AGE).await;
        reload.now().await;
        assert_eq!(script.runs().len(), 2);
        // `Debug` of an API server shows the reader.
        assert!(!format!("{reload:#?}").contains("hunter2"));
    }
    let config = with_plugin(&working);
    let options = ApiServerOptions::default();
    let api_server = ApiServer::new(config, options).await.unwrap();
    assert!(!format!("{api_server:#?}").contains("hunter2"));
    let logged = log.text();
    assert!(logged.contains("gave no credential"), "{logged}");
    assert!(logged.contains("cannot be read again"), "{logged}");
    assert!(!logged.contains("hunter2"), "{logged}");
}

/// A plugin's client certificate.
fn certificate(made: &Made, left: Duration) -> String {
    let line = |pem: String| pem.replace('\n', "\\n");
    answer(&format!(
        r#"{{"clientCertificateData":"{}","clientKeyData":"{}","expirationTimestamp":"{}"}}"#,
        line(made.certificate.pem()),
        line(made.key.serialize_pem()),
        expiry(left),
    ))
}

#[tokio::test]
async fn a_client_certificate_of_a_plugin_is_shown_and_replaced() {
    let (server, first, second) = (make(), make(), make());
    let hour = Duration::from_secs(3600);
    let script = Script::new(&certificate(&first, hour));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let acceptor = tls(&server, &[&first, &second]);
    let mut config = with_plugin(&script);
    let port = listener.local_addr().unwrap().port();
    config.cluster_url = format!("https://127.0.0.1:{port}").parse().unwrap();
    config.root_cert = Some(vec![server.certificate.der().to_vec()]);
    let reload = start(config, None).await;
    let generation = reload.now().await;
    for _ in 0..2 {
        assert_eq!(generation.header().await.unwrap(), None);
        let (connected, shown) = meet(&generation, &listener, &acceptor).await;
        connected.unwrap();
        assert_eq!(shown.as_ref(), Some(first.certificate.der()));
    }
    script.replace(&certificate(&second, hour));
    pass(hour).await;
    generation.header().await.unwrap();
    let (connected, shown) = meet(&generation, &listener, &acceptor).await;
    connected.unwrap();
    assert_eq!(shown.as_ref(), Some(second.certificate.der()));
}

/// The client certificate of each connection, and the answers.
async fn serve(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    shown: mpsc::Sender<CertificateDer<'static>>,
) {
    loop {
        let tcp = listener.accept().await.unwrap().0;
        let mut stream = acceptor.accept(tcp).await.unwrap();
        let certificate = stream.get_ref().1.peer_certificates().unwrap()[0].clone();
        shown.send(certificate).unwrap();
        tokio::spawn(async move {
            let mut head = Vec::new();
            while let Ok(byte) = stream.read_u8().await {
                head.push(byte);
                if head.ends_with(b"\r\n\r\n") {
                    head.clear();
                    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";
                    stream.write_all(answer).await.unwrap();
                }
            }
        });
    }
}

#[tokio::test]
async fn requests_take_new_connections_after_a_sleep_and_with_a_new_client_certificate() {
    let (server, first, second) = (make(), make(), make());
    let hour = Duration::from_secs(3600);
    let script = Script::new(&certificate(&first, hour));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut config = with_plugin(&script);
    let port = listener.local_addr().unwrap().port();
    config.cluster_url = format!("https://127.0.0.1:{port}").parse().unwrap();
    config.root_cert = Some(vec![server.certificate.der().to_vec()]);
    let (shown, certificates) = mpsc::channel();
    let acceptor = tls(&server, &[&first, &second]);
    let _serving = AbortOnDropHandle::new(tokio::spawn(serve(listener, acceptor, shown)));
    let reload = start(config, None).await;
    let generation = reload.now().await;
    let ask = async || {
        let header = generation.header().await.unwrap();
        let answer = generation.ask_for_version(header).await.unwrap();
        let body = answer.into_body().collect().await.unwrap();
        assert_eq!(body.to_bytes(), "{}");
        certificates.try_recv().ok()
    };
    assert_eq!(ask().await.as_ref(), Some(first.certificate.der()));
    // A connection goes back to the pool behind the answer.
    let reused = async || {
        let reused = async { while ask().await.is_some() {} };
        let limit = Duration::from_secs(30);
        tokio::time::timeout(limit, reused).await.unwrap();
    };
    reused().await;
    sleep(limits::UPSTREAM_IDLE_HTTP1_TIMEOUT);
    assert_eq!(ask().await.as_ref(), Some(first.certificate.der()));
    reused().await;
    script.replace(&certificate(&second, hour));
    pass(hour).await;
    assert_eq!(ask().await.as_ref(), Some(second.certificate.der()));
}

/// A request of a user's, and its answer.
async fn ask(api_server: &ApiServer) -> String {
    let identity = Identity::new("alice".to_owned(), None, vec![], Default::default());
    let identity = identity.unwrap().encode().unwrap();
    let (mut front, io) = tokio::io::duplex(64 * 1024);
    let asking = async {
        let request = "GET /api/v1/pods HTTP/1.1\r\nhost: h\r\n\r\n";
        front.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        front.read_to_end(&mut answer).await.unwrap();
        String::from_utf8(answer).unwrap()
    };
    let serving = api_server.serve_stream(io, &identity);
    tokio::join!(asking, serving).0
}

#[tokio::test]
async fn rule_23_a_plugin_that_hangs_is_answered_for() {
    let left = limits::EXEC_EARLY * 2;
    let body = format!(
        r#"{{"token":"t","expirationTimestamp":"{}"}}"#,
        expiry(left)
    );
    let script = Script::new(&answer(&body));
    let config = with_plugin(&script);
    let options = ApiServerOptions::default();
    let api_server = ApiServer::new(config, options).await.unwrap();
    // Nothing listens there, which is found with the token.
    let there = ask(&api_server).await;
    assert!(there.starts_with("HTTP/1.1 502"), "{there}");
    assert!(there.contains("cannot connect"), "{there}");
    script.replace("sleep 600");
    pass(left).await;
    for _ in 0..10 {
        let given_up = tokio::time::timeout(Duration::from_millis(100), ask(&api_server)).await;
        given_up.unwrap_err();
        assert!(script.alive() <= 1);
    }
    until(|| script.runs().len() == 2).await;
    let (late, ()) = tokio::join!(ask(&api_server), pass(limits::EXEC_TIME));
    assert!(late.starts_with("HTTP/1.1 504"), "{late}");
    assert!(late.contains("the credential plugin"), "{late}");
    until(|| script.alive() == 0).await;
    // For a while the failure is the answer.
    let soon = ask(&api_server).await;
    assert!(soon.starts_with("HTTP/1.1 504"), "{soon}");
    assert_eq!(script.runs().len(), 2);
}
