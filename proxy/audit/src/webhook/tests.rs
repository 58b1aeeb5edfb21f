use std::sync::Mutex;

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    task::JoinHandle,
};

use super::*;

#[test]
fn a_list_is_one_object() {
    for count in 0..3 {
        let events = vec![Bytes::from_static(b"{\"kind\":\"Event\"}"); count];
        let list: serde_json::Value = serde_json::from_slice(&list(&events)).unwrap();
        assert_eq!(list["kind"], "EventList");
        assert_eq!(list["items"].as_array().unwrap().len(), count);
    }
}

/// A service that takes events with one token, and refuses others.
struct FakeService {
    port: u16,
    token: Arc<Mutex<&'static str>>,
    serving: JoinHandle<()>,
}

impl Drop for FakeService {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl FakeService {
    async fn start(token: &'static str) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let token = Arc::new(Mutex::new(token));
        let wanted = Arc::clone(&token);
        let serving = tokio::spawn(async move {
            loop {
                let (mut tcp, _) = listener.accept().await.unwrap();
                let mut request = Vec::new();
                // The list is all there when its brackets are closed.
                while !request.ends_with(b"]}") && tcp.read_buf(&mut request).await.unwrap() > 0 {}
                let request = String::from_utf8(request).unwrap().to_ascii_lowercase();
                let line = format!("authorization: bearer {}\r\n", wanted.lock().unwrap());
                let code = if request.contains(&line) { 200 } else { 401 };
                let answer =
                    format!("HTTP/1.1 {code} X\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
                tcp.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        Self {
            port,
            token,
            serving,
        }
    }

    fn kubeconfig(&self, user: &str) -> String {
        let key = rcgen::KeyPair::generate().unwrap();
        let ca = rcgen::CertificateParams::default().self_signed(&key);
        let data = BASE64.encode(ca.unwrap().pem());
        // Tools wrap it.
        let (begin, end) = data.split_at(64);
        let data = format!("\"{begin}\\n  {end}\\n\"");
        format!(
            "current-context: one\ncontexts: [{{name: one, context: {{cluster: c, user: u}}}}]\n\
             clusters: [{{name: c, cluster: {{server: 'http://127.0.0.1:{}/events', proxy-url: '', \
             certificate-authority: '', certificate-authority-data: {data}}}}}]\n\
             users: [{{name: u, user: {{{user}}}}}, {{name: other, user: {{tokenFile: missing}}}}]\n",
            self.port
        )
    }
}

/// As `openssl req -x509` makes it: a CA's.
#[tokio::test]
async fn rule_10_the_services_own_certificate_in_the_kubeconfig_is_trusted_itself() {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let certificate = params.self_signed(&key).unwrap();
    let der = rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let tls = rustls::ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], der)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(tls));
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let serving = async {
        let tcp = listener.accept().await.unwrap().0;
        let mut tls = acceptor.accept(tcp).await?;
        let mut request = Vec::new();
        while !request.ends_with(b"]}") && tls.read_buf(&mut request).await? > 0 {}
        tls.write_all(b"HTTP/1.1 200 X\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
            .await
    };
    let dir = tempfile::tempdir().unwrap();
    let (file, ca) = (dir.path().join("config"), dir.path().join("ca.pem"));
    std::fs::write(&ca, certificate.pem()).unwrap();
    let text = format!(
        "current-context: one\ncontexts: [{{name: one, context: {{cluster: c, user: u}}}}]\n\
         clusters: [{{name: c, cluster: {{server: 'https://127.0.0.1:{port}/', certificate-authority: ca.pem}}}}]\n\
         users: [{{name: u, user: {{token: one}}}}]\n"
    );
    std::fs::write(&file, text).unwrap();
    let webhook = Webhook::from_kubeconfig(&file, None).await;
    let mut webhook = webhook.ok().unwrap();
    let (sent, served) = tokio::join!(send(&mut webhook), serving);
    served.unwrap();
    sent.unwrap();
}

/// A reader that waited for a writer would send no event any more.
#[tokio::test]
async fn rule_23_a_pipe_in_the_place_of_a_webhooks_file_is_refused_and_not_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config");
    let made = std::process::Command::new("mkfifo").arg(&file).status();
    assert!(made.unwrap().success());
    let none = Webhook::from_kubeconfig(&file, None).await;
    assert!(matches!(none, Err(WebhookError::File { .. })));
}

async fn send(webhook: &mut Webhook) -> Result<(), String> {
    let events = [Bytes::from_static(b"{}")];
    let sent = webhook.write(&events);
    let sent = tokio::time::timeout(Duration::from_secs(30), sent).await;
    sent.expect("an answer").map_err(|error| error.to_string())
}

#[tokio::test]
async fn what_a_kubeconfig_names_is_read_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let put = |name: &str, text: &str| {
        std::fs::write(path("new"), text).unwrap();
        std::fs::rename(path("new"), path(name)).unwrap();
    };
    let service = FakeService::start("one").await;
    put(
        "config",
        &service.kubeconfig("tokenFile: token, token: other"),
    );
    let none = Webhook::from_kubeconfig(&path("config"), None).await;
    assert!(matches!(none, Err(WebhookError::TokenFile { .. })));
    put("token", "\n");
    let none = Webhook::from_kubeconfig(&path("config"), None).await;
    assert!(matches!(none, Err(WebhookError::TokenFile { .. })));
    // As an editor writes it.
    put("token", "one\n");
    let webhook = Webhook::from_kubeconfig(&path("config"), None).await;
    let mut webhook = webhook.ok().unwrap();
    send(&mut webhook).await.unwrap();

    *service.token.lock().unwrap() = "two";
    let refused = send(&mut webhook).await.unwrap_err();
    assert!(refused.contains("401"), "{refused}");
    put("token", "two\n");
    send(&mut webhook).await.unwrap();
    // A file that is half written changes nothing.
    put("token", "");
    put("config", "current-con");
    send(&mut webhook).await.unwrap();
    assert!(webhook.told.is_some());

    let elsewhere = FakeService::start("three").await;
    put("config", &elsewhere.kubeconfig("token: three"));
    send(&mut webhook).await.unwrap();
    assert!(webhook.told.is_none());
}

/// Where the system cannot tell that a file has changed, a refusal has it read all the same.
#[tokio::test]
async fn after_a_refusal_the_files_are_read_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let service = FakeService::start("two").await;
    std::fs::write(path("config"), service.kubeconfig("tokenFile: token")).unwrap();
    std::fs::write(path("token"), "one").unwrap();
    let webhook = Webhook::from_kubeconfig(&path("config"), None).await;
    let mut webhook = webhook.ok().unwrap();
    std::fs::write(path("token"), "two").unwrap();
    webhook.service.stamps = Stamps::default();
    send(&mut webhook).await.unwrap_err();
    send(&mut webhook).await.unwrap();
}
