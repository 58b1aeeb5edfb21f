//! Uploads that are answered before they have ended: their client gets the answer, always. curl 7.88, of Debian 12, forgets an
//! answer whose stream is reset while it still sends.

use std::fs;
use std::path::PathBuf;

use underpass_testenv::{CLUSTER_NAME, Transport};

use crate::deployment::{Deployment, token_of};
use crate::services::{curl, output};

/// More than any window and any socket's buffer.
const UPLOAD: usize = 10 * 1024 * 1024;

/// How often each is tried: an answer may be lost now and then.
const TIMES: usize = 10;

/// The ways in which curl uploads.
const WAYS: [&[&str]; 5] = [
    &["--http2", "--header", "Expect:"],
    &["--http2", "--header", "Expect: 100-continue"],
    // Of a length that is not announced.
    &["--http2", "--header", "Content-Length:"],
    &["--http1.1", "--header", "Expect:"],
    &["--http1.1", "--header", "Expect: 100-continue"],
];

struct Uploads {
    deployment: &'static Deployment,
    body: PathBuf,
    name: &'static str,
}

impl Uploads {
    fn new(name: &'static str) -> Self {
        let deployment = Deployment::shared(Transport::Quic);
        let body = deployment.dir().join(format!("{name}.upload"));
        fs::write(&body, vec![b'x'; UPLOAD]).unwrap();
        Self {
            deployment,
            body,
            name,
        }
    }

    /// A token of a new user, whom the command lines let in.
    fn user(&self, user: &str, add: &[&str]) -> String {
        let user = format!("{user}-{}", self.name);
        let add = [&["user", "add", &user], add].concat();
        self.deployment.administer(&add).unwrap();
        let created = ["token", "create", "--user", &user];
        let token = self.deployment.administer(&created).unwrap();
        token.trim().to_owned()
    }

    /// Uploads to `path`, with this method and credential: each time the answer has this status, and is whole.
    async fn are_answered(&self, code: u16, method: &str, path: &str, token: Option<&str>) {
        let url = format!("{}{path}", self.deployment.url());
        let ca = self.deployment.ca_file();
        let data = format!("@{}", self.body.display());
        let bearer = format!("Authorization: Bearer {}", token.unwrap_or_default());
        let credential: &[&str] = match token {
            Some(_) => &["--header", &bearer],
            None => &[],
        };
        let usual = [
            "--cacert",
            ca.to_str().unwrap(),
            "--request",
            method,
            "--data-binary",
            &data,
            "--header",
            "Content-Type: application/json",
            "--write-out",
            "\n%{http_code} %{http_version}",
            &url,
        ];
        for way in WAYS {
            for time in 0..TIMES {
                let command = curl([way, credential, &usual].concat());
                let answer = output(command).await;
                let (body, status) = answer.rsplit_once('\n').unwrap();
                let expected = format!("{code} ");
                assert!(
                    status.starts_with(&expected),
                    "{way:?} {time}: {status} to {method} {path}: {body}"
                );
                let body: serde_json::Value = serde_json::from_str(body).unwrap();
                assert!(body.is_object(), "{body}");
            }
        }
    }
}

impl Drop for Uploads {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.body);
    }
}

fn of_cluster(cluster: &str, rest: &str) -> String {
    format!("/k8s/clusters/{cluster}{rest}")
}

const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";

#[tokio::test]
async fn the_fronts_refusals_of_an_upload_arrive() {
    let uploads = Uploads::new("front");
    let stranger = uploads.user("stranger", &[]);
    let traveller = uploads.user("traveller", &["--all-clusters"]);
    let cluster = of_cluster(CLUSTER_NAME, CONFIG_MAPS);
    uploads.are_answered(401, "POST", &cluster, None).await;
    let wrong = Some("upt_wrong");
    uploads.are_answered(401, "PUT", &cluster, wrong).await;
    uploads
        .are_answered(403, "POST", &cluster, Some(&stranger))
        .await;
    let traveller = Some(&*traveller);
    uploads
        .are_answered(404, "POST", "/nowhere", traveller)
        .await;
    let ambiguous = of_cluster(CLUSTER_NAME, "/api/v1//namespaces");
    uploads
        .are_answered(400, "POST", &ambiguous, traveller)
        .await;
    let silent = of_cluster("mute", CONFIG_MAPS);
    let add = ["cluster", "add", "mute"];
    uploads.deployment.administer(&add).unwrap();
    uploads.are_answered(503, "POST", &silent, traveller).await;
}

#[tokio::test]
async fn the_apis_refusals_of_an_upload_arrive() {
    let uploads = Uploads::new("api");
    let stranger = uploads.user("stranger", &[]);
    let stranger = Some(&*stranger);
    let users = "/v1/users";
    uploads.are_answered(401, "POST", users, None).await;
    uploads.are_answered(403, "POST", users, stranger).await;
    uploads
        .are_answered(404, "POST", "/v1/nothing", stranger)
        .await;
    uploads.are_answered(401, "POST", "/v1/login", None).await;
    let services = format!("/v1/clusters/{CLUSTER_NAME}/services/http:default:web:80/upload");
    uploads.are_answered(403, "POST", &services, stranger).await;
}

/// The API server's own, through the agent: behind the tunnel.
#[tokio::test]
async fn the_api_servers_refusals_of_an_upload_arrive() {
    let uploads = Uploads::new("api-server");
    let administrator = token_of(uploads.deployment.admin_kubeconfig());
    let cluster = of_cluster(CLUSTER_NAME, CONFIG_MAPS);
    let nobody = uploads.user("nobody", &["--cluster", CLUSTER_NAME]);
    uploads
        .are_answered(413, "POST", &cluster, Some(&administrator))
        .await;
    uploads
        .are_answered(403, "POST", &cluster, Some(&nobody))
        .await;
}
