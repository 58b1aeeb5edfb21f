//! Certificates, users and passwords.

use std::fs;

use underpass_directory::Store as _;
use underpass_directory_etcd::{ClientCertificate, EtcdError, EtcdStore, EtcdUser, Missing};

use super::*;

async fn refused(config: &EtcdConfig) -> EtcdError {
    let opening = EtcdStore::open(config.clone(), Missing::Create);
    soon(opening).await.unwrap_err()
}

#[tokio::test]
async fn rule_10_members_and_server_prove_themselves_by_certificates_read_anew() {
    let etcd = EtcdMembers::start(EtcdSetup {
        tls: true,
        ..EtcdSetup::default()
    })
    .await;
    let [certificate, key] = etcd.client_files();
    let ours = EtcdConfig {
        ca: Some(etcd.ca_file()),
        certificate: Some(ClientCertificate { certificate, key }),
        ..config(etcd.urls())
    };
    let store = open(&ours).await;
    let at = commit(&store, Revision(0), vec![user("alice")]).await;
    // Without a certificate, and with members whose CA is another one.
    let bare = EtcdConfig {
        certificate: None,
        ..ours.clone()
    };
    let error = refused(&bare).await;
    assert!(
        matches!(
            error,
            EtcdError::Unreachable { .. } | EtcdError::NoAnswer(_)
        ),
        "{error:?}"
    );
    let other = EtcdMembers::start(EtcdSetup {
        tls: true,
        ..EtcdSetup::default()
    })
    .await;
    let strange = EtcdConfig {
        ca: Some(other.ca_file()),
        ..ours.clone()
    };
    let error = chain(&refused(&strange).await);
    assert!(error.contains("cannot be trusted"), "{error}");
    // The same store goes on with files that are replaced.
    let ca = etcd.dir().join("renewed-ca.pem");
    fs::copy(other.ca_file(), &ca).unwrap();
    let renewed = EtcdConfig {
        ca: Some(ca.clone()),
        ..ours.clone()
    };
    refused(&renewed).await;
    fs::copy(etcd.ca_file(), &ca).unwrap();
    let store = open(&renewed).await;
    assert_eq!(load(&store).await.revision, at);
    fs::write(&ca, "no certificate").unwrap();
    etcd.kill(0);
    etcd.start_again(0);
    etcd.healthy(None).await;
    let error = chain(&soon(store.load()).await.unwrap_err());
    assert!(error.contains("renewed-ca.pem"), "{error}");
    fs::copy(etcd.ca_file(), &ca).unwrap();
    assert_eq!(load(&store).await.revision, at);
}

#[tokio::test]
async fn a_user_logs_in_and_again_when_etcd_has_forgotten_it() {
    let etcd = EtcdMembers::start(EtcdSetup::default()).await;
    let password_file = etcd.dir().join("password");
    fs::write(&password_file, "s3cret phrase\n").unwrap();
    let named = |name: &str| EtcdConfig {
        user: Some(EtcdUser {
            name: name.to_owned(),
            password_file: password_file.clone(),
        }),
        ..config(etcd.urls())
    };
    let ours = named("underpass");
    etcd.ctl(&["role", "add", "directory"]);
    let prefix = ours.prefix.to_string();
    etcd.ctl(&[
        "role",
        "grant-permission",
        "directory",
        "readwrite",
        &prefix,
        "--prefix=true",
    ]);
    for (name, password) in [
        ("root", "root"),
        ("underpass", "s3cret phrase"),
        ("other", "s3cret phrase"),
    ] {
        etcd.ctl(&["user", "add", &format!("{name}:{password}")]);
    }
    etcd.ctl(&["user", "grant-role", "root", "root"]);
    etcd.ctl(&["user", "grant-role", "underpass", "directory"]);
    etcd.ctl(&["auth", "enable"]);
    let store = open(&ours).await;
    let at = commit(&store, Revision(0), vec![user("alice")]).await;
    soon(store.check()).await.unwrap();
    // Tokens are in the memory of a member.
    etcd.kill(0);
    etcd.start_again(0);
    let at = commit(&store, at, vec![user("bob")]).await;
    etcd.kill(0);
    etcd.start_again(0);
    assert_eq!(load(&store).await.revision, at);
    // A change of the users makes tokens old.
    etcd.ctl(&["--user=root:root", "user", "add", "more:more"]);
    let at = commit(&store, at, vec![user("carol")]).await;
    // A large change needs no more rights.
    let many = (0..500).map(|number| user(&format!("u{number}")));
    commit(&store, at, many.collect()).await;
    soon(store.check()).await.unwrap();

    let nobody = EtcdConfig {
        user: None,
        ..ours.clone()
    };
    let error = refused(&nobody).await;
    assert!(error.to_string().contains("given a user"), "{error}");
    let without_right = EtcdConfig {
        prefix: ours.prefix.clone(),
        ..named("other")
    };
    let error = refused(&without_right).await;
    assert!(matches!(error, EtcdError::Denied(_)), "{error:?}");
    fs::write(&password_file, "wrong").unwrap();
    let error = refused(&ours).await;
    assert!(matches!(error, EtcdError::Login { .. }), "{error:?}");
    assert!(!chain(&error).contains("wrong"), "{error:?}");
    fs::remove_file(&password_file).unwrap();
    let error = refused(&ours).await;
    assert!(matches!(error, EtcdError::Password { .. }), "{error:?}");
}
