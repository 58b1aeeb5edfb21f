//! Downloads from a server of the test's own, over TLS, and what comes of those that fail.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::certs::Authority;
use crate::recipe;

/// A recipe that builds in seconds and needs no module.
const SMALL: Recipe = Recipe {
    name: "small",
    program: Some("small"),
    ..recipe::SUPERVISE
};

/// The program that the server has.
const PROGRAM: &[u8] = b"#!/bin/sh\necho official\n";

/// Far more than loopback takes, and little to wait for.
const SHORT: Patience = Patience {
    silence: Duration::from_secs(2),
    release: Duration::from_secs(60),
};

/// How the server answers a path.
#[derive(Debug, Clone)]
enum Answer {
    Whole(Vec<u8>),
    /// Declares all of it and ends in the middle.
    Truncated,
    /// Declares no length and ends in the middle.
    TruncatedWithoutLength,
    /// Sends a part, and then nothing.
    Stalls,
    /// Takes the connection, and then nothing.
    Hangs,
    NotFound,
    RedirectTo(&'static str),
}

struct Site {
    authority: Authority,
    port: u16,
    requests: Arc<AtomicUsize>,
    /// Ends the server when it is dropped.
    _runtime: tokio::runtime::Runtime,
}

impl Site {
    fn start(answers: &[(&'static str, Answer)]) -> Self {
        let authority = Authority::generate().unwrap();
        let identity = authority.server(&["127.0.0.1"]).unwrap();
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let tls = rustls::ServerConfig::builder_with_provider(provider.into())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![CertificateDer::from_pem_slice(identity.certificate.as_bytes()).unwrap()],
                PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).unwrap(),
            )
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(tls));
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let listener = runtime
            .block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))
            .unwrap();
        let port = listener.local_addr().unwrap().port();
        let requests = Arc::new(AtomicUsize::new(0));
        let (answers, counted) = (answers.to_vec(), requests.clone());
        runtime.spawn(async move {
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                let (acceptor, answers) = (acceptor.clone(), answers.clone());
                let counted = counted.clone();
                tokio::spawn(async move {
                    // A client that does not trust us ends here.
                    let Ok(mut tls) = acceptor.accept(tcp).await else {
                        return;
                    };
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        let Ok(byte) = tls.read_u8().await else {
                            return;
                        };
                        head.push(byte);
                    }
                    counted.fetch_add(1, Ordering::SeqCst);
                    let head = String::from_utf8(head).unwrap();
                    let path = head.split(' ').nth(1).unwrap();
                    let answer = answers.iter().find(|(known, _)| *known == path);
                    let answer = answer.map_or(Answer::NotFound, |(_, answer)| answer.clone());
                    respond(&mut tls, answer, port).await;
                    let _ = tls.shutdown().await;
                });
            }
        });
        Self {
            authority,
            port,
            requests,
            _runtime: runtime,
        }
    }

    fn download(&self, path: &str) -> Download {
        let sha256 = digest::digest(&digest::SHA256, PROGRAM);
        Download {
            url: format!("https://127.0.0.1:{}{path}", self.port),
            sha256: hex(sha256.as_ref()),
            program: "small",
            member: None,
        }
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        let ca = CertificateDer::from_pem_slice(self.authority.pem().as_bytes()).unwrap();
        roots.add(ca).unwrap();
        roots
    }
}

async fn respond(to: &mut (impl tokio::io::AsyncWrite + Unpin), answer: Answer, port: u16) {
    let half = &PROGRAM[..PROGRAM.len() / 2];
    let length =
        |bytes: &[u8]| format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", bytes.len());
    let (head, body) = match &answer {
        Answer::Whole(body) => (length(body), body.as_slice()),
        Answer::Truncated | Answer::Stalls => (length(PROGRAM), half),
        Answer::TruncatedWithoutLength => {
            ("HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n".into(), half)
        }
        Answer::Hangs => (String::new(), [].as_slice()),
        Answer::NotFound => (
            "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n".into(),
            [].as_slice(),
        ),
        Answer::RedirectTo(path) => {
            let to = if path.starts_with('/') {
                format!("https://127.0.0.1:{port}{path}")
            } else {
                (*path).to_owned()
            };
            (
                format!("HTTP/1.1 302 Found\r\nlocation: {to}\r\ncontent-length: 0\r\n\r\n"),
                [].as_slice(),
            )
        }
    };
    // The client may have gone.
    let _ = to.write_all(head.as_bytes()).await;
    let _ = to.write_all(body).await;
    let _ = to.flush().await;
    if matches!(answer, Answer::Hangs | Answer::Stalls) {
        std::future::pending::<()>().await;
    }
}

/// The outcome: the folder, and the lines about it.
struct Outcome {
    folder: PathBuf,
    lines: Vec<String>,
    cache: Cache,
    _dir: tempfile::TempDir,
}

impl Outcome {
    fn of(downloads: Option<Vec<Download>>, roots: RootCertStore) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(dir.path()).unwrap();
        // The files of a killed download.
        if downloads.is_some() {
            let abandoned = dir.path().join(".fetching-small-abandoned");
            fs::create_dir(&abandoned).unwrap();
            fs::write(abandoned.join("small"), "#!").unwrap();
        }
        let mut lines = Vec::new();
        let mut progress = |line: &str| lines.push(line.to_owned());
        let folder = ensure_from(&cache, &SMALL, downloads, roots, SHORT, &mut progress).unwrap();
        Self {
            folder,
            lines,
            cache,
            _dir: dir,
        }
    }

    /// Everything in the cache but locks.
    fn entries(&self) -> Vec<PathBuf> {
        fs::read_dir(self.cache.folder())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_none_or(|extension| extension != "lock"))
            .collect()
    }

    /// It was built, one line says why, and nothing else is left.
    fn is_built_because(&self, reason: &str) {
        let reasons: Vec<_> = self
            .lines
            .iter()
            .filter(|line| line.starts_with("small is built from its Go modules: "))
            .collect();
        assert_eq!(reasons.len(), 1, "{:?}", self.lines);
        assert!(reasons[0].contains(reason), "{reasons:?}");
        assert_eq!(self.folder, self.cache.built(&SMALL).unwrap());
        assert!(self.folder.join("small").is_file());
        assert_eq!(self.entries(), std::slice::from_ref(&self.folder));
    }

    fn is_downloaded(&self) {
        assert_ne!(self.folder, self.cache.built(&SMALL).unwrap());
        assert_eq!(self.entries(), std::slice::from_ref(&self.folder));
        let program = self.folder.join("small");
        let begun = Instant::now();
        let said = loop {
            match Command::new(&program).output() {
                // A child that was just forked for another test still has it open for writing (`ETXTBSY`).
                Err(error)
                    if error.kind() == io::ErrorKind::ExecutableFileBusy
                        && begun.elapsed() < SHORT.release => {}
                said => break said.unwrap(),
            }
        };
        assert_eq!(said.stdout, b"official\n");
        let files = fs::read_dir(&self.folder).unwrap().count();
        assert_eq!(files, 1);
    }
}

fn outcome(answer: Answer) -> Outcome {
    let site = Site::start(&[("/program", answer)]);
    Outcome::of(Some(vec![site.download("/program")]), site.roots())
}

#[test]
fn a_pinned_program_is_downloaded_once() {
    let site = Site::start(&[("/program", Answer::Whole(PROGRAM.to_vec()))]);
    let downloads = vec![site.download("/program")];
    let outcome = Outcome::of(Some(downloads.clone()), site.roots());
    outcome.is_downloaded();
    let again = ensure_from(
        &outcome.cache,
        &SMALL,
        Some(downloads),
        site.roots(),
        SHORT,
        &mut |line| panic!("{line}"),
    );
    assert_eq!(again.unwrap(), outcome.folder);
    assert_eq!(site.requests.load(Ordering::SeqCst), 1);
}

#[test]
fn a_redirect_is_followed() {
    let site = Site::start(&[
        ("/old", Answer::RedirectTo("/program")),
        ("/program", Answer::Whole(PROGRAM.to_vec())),
    ]);
    Outcome::of(Some(vec![site.download("/old")]), site.roots()).is_downloaded();
}

#[test]
fn a_program_is_taken_out_of_its_archive() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("release")).unwrap();
    fs::write(dir.path().join("release/small"), PROGRAM).unwrap();
    fs::write(dir.path().join("release/README"), "").unwrap();
    let archive = Command::new("tar")
        .args(["--create", "--gzip", "--directory"])
        .arg(dir.path())
        .arg("release")
        .output()
        .unwrap()
        .stdout;
    let sha256 = hex(digest::digest(&digest::SHA256, &archive).as_ref());
    let site = Site::start(&[("/archive", Answer::Whole(archive))]);
    let download = |member: &str| Download {
        sha256: sha256.clone(),
        member: Some(member.into()),
        ..site.download("/archive")
    };
    Outcome::of(Some(vec![download("release/small")]), site.roots()).is_downloaded();
    Outcome::of(Some(vec![download("release/other")]), site.roots())
        .is_built_because("the archive with small cannot be unpacked");
}

#[test]
fn without_a_pin_it_is_built() {
    Outcome::of(None, RootCertStore::empty())
        .is_built_because("no verified checksum of its release is pinned");
}

#[test]
fn a_wrong_checksum_is_refused() {
    outcome(Answer::Whole(b"#!/bin/sh\necho forged\n".to_vec()))
        .is_built_because("small from 127.0.0.1 has SHA-256 ");
}

#[test]
fn one_wrong_file_refuses_the_release() {
    let site = Site::start(&[
        ("/program", Answer::Whole(PROGRAM.to_vec())),
        ("/other", Answer::Whole(b"forged".to_vec())),
    ]);
    let other = Download {
        program: "other",
        ..site.download("/other")
    };
    Outcome::of(Some(vec![site.download("/program"), other]), site.roots())
        .is_built_because("other from 127.0.0.1 has SHA-256 ");
}

#[test]
fn a_truncated_download_is_refused() {
    outcome(Answer::Truncated).is_built_because("the download from 127.0.0.1 ends early");
    outcome(Answer::TruncatedWithoutLength).is_built_because("small from 127.0.0.1 has SHA-256 ");
}

#[test]
fn a_refused_connection_means_building() {
    // The port is free again, and nothing listens.
    let (download, roots) = {
        let site = Site::start(&[]);
        (site.download("/program"), site.roots())
    };
    Outcome::of(Some(vec![download]), roots).is_built_because("Connection refused");
}

#[test]
fn a_site_that_hangs_means_building() {
    outcome(Answer::Hangs).is_built_because("127.0.0.1 says nothing for 2 s");
    outcome(Answer::Stalls).is_built_because("127.0.0.1 says nothing for 2 s");
}

#[test]
fn a_connection_that_hangs_before_tls_means_building() {
    // The kernel takes the connection; nobody ever answers the handshake.
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let site = Site::start(&[]);
    let port = listener.local_addr().unwrap().port();
    let download = Download {
        url: format!("https://127.0.0.1:{port}/program"),
        ..site.download("/program")
    };
    Outcome::of(Some(vec![download]), site.roots())
        .is_built_because("127.0.0.1 says nothing for 2 s");
}

#[test]
fn a_site_without_a_trusted_certificate_means_building() {
    let site = Site::start(&[("/program", Answer::Whole(PROGRAM.to_vec()))]);
    let other = Site::start(&[]);
    Outcome::of(Some(vec![site.download("/program")]), other.roots())
        .is_built_because("127.0.0.1 cannot be reached");
    assert_eq!(site.requests.load(Ordering::SeqCst), 0);
}

#[test]
fn a_redirect_without_tls_or_without_end_means_building() {
    outcome(Answer::RedirectTo("http://127.0.0.1/program"))
        .is_built_because("redirects to nowhere");
    outcome(Answer::RedirectTo("/program")).is_built_because("or too often");
}

#[test]
fn a_missing_release_means_building() {
    outcome(Answer::NotFound).is_built_because("127.0.0.1 answers 404 Not Found");
}
