use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, IsCa, KeyPair,
    KeyUsagePurpose,
};
use tempfile::TempDir;
use tokio_util::task::AbortOnDropHandle;

use super::*;

const NAME: &str = "underpass.example.org";

type Ca = CertifiedIssuer<'static, KeyPair>;

/// An operator's CA and files.
pub(crate) struct Operator {
    folder: TempDir,
    ca: Ca,
}

fn ca(name: &str) -> Ca {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

impl Operator {
    pub(crate) fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            ca: ca("corp"),
        }
    }

    pub(crate) fn files(&self) -> TlsFiles {
        TlsFiles {
            certificate: self.folder.path().join("tls.crt"),
            key: self.folder.path().join("tls.key"),
            ca: None,
        }
    }

    /// Renames a file into its place, as certbot does.
    fn put(&self, path: &Path, text: &str) {
        let new = self.folder.path().join("new");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, path).unwrap();
    }

    /// A new certificate of this CA for these names, and the chain after it.
    fn issue(&self, ca: &Ca, names: &[&str], chain: &str) -> CertificateDer<'static> {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        self.issue_as(ca, CertificateParams::new(names).unwrap(), chain)
    }

    fn issue_as(&self, ca: &Ca, made: CertificateParams, chain: &str) -> CertificateDer<'static> {
        let key = KeyPair::generate().unwrap();
        let made = made.signed_by(&key, ca).unwrap();
        let files = self.files();
        self.put(&files.key, &key.serialize_pem());
        self.put(&files.certificate, &format!("{}{chain}", made.pem()));
        made.der().clone()
    }

    /// The same as it should be.
    pub(crate) fn renew(&self, names: &[&str]) -> CertificateDer<'static> {
        self.issue(&self.ca, names, &self.ca.pem())
    }
}

#[test]
fn files_that_no_client_would_trust_are_refused() {
    let operator = Operator::new();
    let files = operator.files();
    let why = || match files.load(NAME) {
        Ok(_) => String::new(),
        Err(error) => underpass_tunnel::chain(&error).to_string(),
    };
    assert!(why().contains("cannot read"), "{}", why());
    operator.renew(&[NAME]);
    let loaded = files.load(NAME).unwrap();
    assert_eq!(loaded.ca_pem, operator.ca.pem());
    assert_eq!(loaded.pin, CaPin::of(operator.ca.der()).unwrap());
    // The first key of a pair that is replaced.
    let key = std::fs::read_to_string(&files.key).unwrap();
    operator.renew(&[NAME]);
    operator.put(&files.key, &key);
    assert!(why().contains("does not belong"), "{}", why());
    operator.renew(&["elsewhere.example.org"]);
    assert!(
        why().contains("clients that ask for underpass.example.org"),
        "{}",
        why()
    );
    operator.issue(&operator.ca, &[NAME], "");
    assert!(why().contains("--tls-ca"), "{}", why());
    operator.issue(&ca("corp"), &[NAME], &operator.ca.pem());
    assert!(why().contains("has to be its root"), "{}", why());
    operator.put(&files.certificate, "garbage");
    assert!(why().contains("no certificate"), "{}", why());
    operator.renew(&[NAME]);
    operator.put(&files.key, "garbage");
    assert!(why().contains("no private key"), "{}", why());
}

#[test]
fn no_section_of_a_file_is_passed_over() {
    let operator = Operator::new();
    let files = operator.files();
    let made = operator.renew(&[NAME]);
    let read = |path: &Path| std::fs::read_to_string(path).unwrap();
    let (certificate, key) = (read(&files.certificate), read(&files.key));
    operator.put(&files.certificate, &format!("\u{feff}{certificate}"));
    operator.put(&files.key, &format!("\u{feff}{key}"));
    let loaded = files.load(NAME).unwrap();
    assert_eq!(loaded.served.cert[0], made);
    assert_eq!(loaded.served.cert.len(), 2);

    let why = || underpass_tunnel::chain(&files.load(NAME).unwrap_err()).to_string();
    for label in ["TRUSTED CERTIFICATE", "X509 CERTIFICATE"] {
        let other = certificate.replacen(" CERTIFICATE-", &format!(" {label}-"), 2);
        operator.put(&files.certificate, &other);
        assert!(why().contains(label), "{}", why());
    }
    operator.put(&files.certificate, &certificate);
    for encrypted in [
        key.replace("PRIVATE", "ENCRYPTED PRIVATE"),
        key.replacen("-----\n", "-----\nProc-Type: 4,ENCRYPTED\n", 1),
    ] {
        operator.put(&files.key, &encrypted);
        assert!(why().contains("is encrypted"), "{}", why());
    }
}

/// A CA that the operator's own has signed, as public CAs have several and sign with any of them.
fn intermediate(operator: &Operator, name: &str) -> Ca {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    CertifiedIssuer::signed_by(params, KeyPair::generate().unwrap(), &operator.ca).unwrap()
}

/// `fullchain.pem` of certbot has no root, and the renewal another intermediate.
#[tokio::test(start_paused = true)]
async fn rule_10_a_root_is_pinned_and_no_intermediate() {
    let operator = Operator::new();
    let (first, second) = (intermediate(&operator, "R1"), intermediate(&operator, "R2"));
    let leaf = operator.issue(&first, &[NAME], &first.pem());
    let why = |files: &TlsFiles| {
        let error = files.load(NAME).unwrap_err();
        underpass_tunnel::chain(&error).to_string()
    };
    let alone = operator.files();
    assert!(why(&alone).contains("Name the root certificate with --tls-ca"));
    let root = operator.folder.path().join("root.pem");
    let files = TlsFiles {
        ca: Some(root.clone()),
        ..operator.files()
    };
    assert!(why(&files).contains("cannot read"));
    // certbot's `chain.pem`.
    operator.put(&root, &first.pem());
    assert!(why(&files).contains("name the root that"));
    operator.put(&root, &format!("{}{}", operator.ca.pem(), first.pem()));
    assert!(why(&files).contains("2 certificates"));
    operator.put(&root, &ca("corp").pem());
    assert!(why(&files).contains("root.pem, which has to be its root"));

    operator.put(&root, &operator.ca.pem());
    let loaded = files.load(NAME).unwrap();
    assert_eq!(loaded.pin, CaPin::of(operator.ca.der()).unwrap());
    assert_eq!(loaded.ca_pem, operator.ca.pem());
    let served = &loaded.served.cert;
    assert_eq!(
        served[..],
        [leaf, first.der().clone(), operator.ca.der().clone()]
    );
    let certificate = ServerCertificate::of(loaded.served);
    let following = Following {
        files: files.clone(),
        name: NAME.to_owned(),
        pin: loaded.pin,
    };
    let following = tokio::spawn(following.follow(Arc::clone(&certificate)));
    let _following = AbortOnDropHandle::new(following);
    // The renewal is of another intermediate, and one with the root in both files is served once.
    let renewed = operator.issue(&second, &[NAME], &second.pem());
    until(&certificate, &renewed).await;
    let both = format!("{}{}", second.pem(), operator.ca.pem());
    let renewed = operator.issue(&second, &[NAME], &both);
    until(&certificate, &renewed).await;
    assert_eq!(files.load(NAME).unwrap().served.cert.len(), 3);
    // Another root is another server for agents.
    let other = ca("corp");
    operator.put(&root, &other.pem());
    operator.issue(&other, &[NAME], "");
    certificate.look_again();
    tokio::time::sleep(3 * limits::TLS_FILES_AGE).await;
    assert_eq!(certificate.leaf(), renewed);
}

async fn until(certificate: &ServerCertificate, wanted: &CertificateDer<'_>) {
    let served = async {
        while certificate.leaf() != *wanted {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let served = tokio::time::timeout(5 * limits::TLS_FILES_AGE, served).await;
    served.expect("it is served");
}

/// The operator's certificate as a server has it, which follows its files until the task is dropped.
fn follow(operator: &Operator) -> (Arc<ServerCertificate>, AbortOnDropHandle<()>) {
    let loaded = operator.files().load(NAME).unwrap();
    let certificate = ServerCertificate::of(loaded.served);
    let following = Following {
        files: operator.files(),
        name: NAME.to_owned(),
        pin: loaded.pin,
    };
    let following = tokio::spawn(following.follow(Arc::clone(&certificate)));
    (certificate, AbortOnDropHandle::new(following))
}

#[tokio::test(start_paused = true)]
async fn what_replaces_a_certificate_is_served_without_a_restart() {
    let operator = Operator::new();
    let first = operator.renew(&[NAME]);
    let (certificate, _following) = follow(&operator);
    assert_eq!(certificate.leaf(), first);
    let mut last = operator.renew(&[NAME]);
    until(&certificate, &last).await;
    let other = ca("corp");
    let broken: [&dyn Fn(); 3] = [
        &|| operator.put(&operator.files().certificate, "half writ"),
        &|| drop(operator.renew(&["elsewhere.example.org"])),
        // Nobody trusts this CA.
        &|| drop(operator.issue(&other, &[NAME], &other.pem())),
    ];
    for break_it in broken {
        break_it();
        certificate.look_again();
        tokio::time::sleep(3 * limits::TLS_FILES_AGE).await;
        assert_eq!(certificate.leaf(), last, "the last good one is kept");
        last = operator.renew(&[NAME]);
        until(&certificate, &last).await;
    }
}

/// Nothing about its files changes when its time comes.
#[tokio::test(start_paused = true)]
async fn a_certificate_that_is_not_valid_yet_is_served_once_it_is() {
    let operator = Operator::new();
    let first = operator.renew(&[NAME]);
    let (certificate, _following) = follow(&operator);
    let mut early = CertificateParams::new([NAME.to_owned()]).unwrap();
    early.not_before = (SystemTime::now() + Duration::from_secs(3)).into();
    let next = operator.issue_as(&operator.ca, early, &operator.ca.pem());
    tokio::time::sleep(3 * limits::TLS_FILES_AGE).await;
    assert_eq!(certificate.leaf(), first, "nobody would trust the next one");
    let begun = std::time::Instant::now();
    while certificate.leaf() != next {
        assert!(begun.elapsed() < Duration::from_secs(30), "it is served");
        // Certificates are held against the host's clock, which does not jump.
        std::thread::sleep(Duration::from_millis(100));
        tokio::time::sleep(limits::TLS_FILES_AGE).await;
    }
}
