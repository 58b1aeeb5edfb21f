use std::path::Path;

use async_trait::async_trait;
use futures_util::FutureExt;
use underpass_authenticate::Token;
use underpass_core::Scope;
use underpass_core::{BoxedIo, ClusterName};
use underpass_core::{ConnectError, Open};
use underpass_directory::{AccessToken, ChangeError, Expect, Login, MemoryStore, Owner};

use super::*;
use crate::data_dir::DataDir;

struct NoClusters;

#[async_trait]
impl Clusters for NoClusters {
    async fn connect(&self, _: &ClusterName, _: &Open) -> Result<BoxedIo, ConnectError> {
        Err(ConnectError::UnknownCluster)
    }
}

fn surroundings(dir: &Path) -> Surroundings {
    // Memory answers at once.
    let directory = Directory::open(Arc::new(MemoryStore::default())).now_or_never();
    Surroundings {
        directory: directory.unwrap().unwrap(),
        clusters: Arc::new(NoClusters),
        proxy: None,
        own: Vec::new(),
        fingerprints: Fingerprints::new(DataDir::open(&dir.join("data")).unwrap(), b"secret"),
    }
}

/// A folder with a CA in it.
fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let ca = rcgen::generate_simple_self_signed(["ca".to_owned()]).unwrap();
    std::fs::write(dir.path().join("ca.pem"), ca.cert.pem()).unwrap();
    std::fs::write(dir.path().join("empty.pem"), "").unwrap();
    std::fs::write(dir.path().join("password"), "secret\n").unwrap();
    dir
}

fn open(dir: &Path, text: &str) -> Result<Arc<Authentication>, String> {
    let path = dir.join("authentication.yaml");
    std::fs::write(&path, text).unwrap();
    Authentication::open(Some(path), surroundings(dir)).map_err(|error| chain(&error))
}

fn names(authentication: &Authentication) -> Vec<String> {
    let built = authentication.built.lock().unwrap();
    built.iter().map(|built| built.entry.name.clone()).collect()
}

const GOOD: &str = "
authenticators:
- name: tokens
  tokens: {}
- name: corp
  timeout: 5s
  reservedNames: {groups: ['system:monitoring']}
  jwt:
    issuer:
      url: https://issuer.example
      audiences: [underpass]
      certificateAuthorityFile: ca.pem
    claimMappings:
      username: {claim: email, prefix: ''}
      groups: {claim: groups, prefix: 'corp:'}
      uid: {claim: oid}
      extra: [{key: example.org/team, claim: team}]
    claimValidationRules: [{claim: hd, requiredValue: example.org}]
    signingAlgorithms: [RS256, ES256]
    clockSkew: 30s
    loginLifetime: 8h
- name: admins
  clientCertificates:
    certificateAuthorityFiles: [ca.pem]
    usernamePrefix: 'cert:'
    groupsPrefix: ''
- name: edge
  tokenReview:
    cluster: edge
    issuer: https://kubernetes.default.svc
    audiences: [underpass]
    namespaces: [ci]
    cache: 30s
- name: directory
  ldap:
    url: ldaps://dc.example.org
    certificateAuthorityFile: ca.pem
    bindDN: cn=underpass,dc=example,dc=org
    bindPasswordFile: password
    userSearch:
      base: ou=people,dc=example,dc=org
      filter: (&(objectClass=person)(uid={username}))
      nameAttribute: uid
      prefix: 'ldap:'
    groupSearch:
      base: ou=groups,dc=example,dc=org
      filter: (objectClass=groupOfNames)
      nameAttribute: cn
      prefix: 'ldap-group:'
      membership: {member: member}
- name: hub
  github:
    organizations: [example]
    certificateAuthorityFile: ca.pem
    usernamePrefix: 'github:'
    groupsPrefix: 'github-group:'
    app: {clientID: Iv1.a, clientSecretFile: password}
    deviceLogin: {clientID: Iv1.a}
";

#[tokio::test]
async fn a_file_describes_a_chain() {
    let dir = folder();
    let authentication = open(dir.path(), GOOD).unwrap();
    assert_eq!(
        names(&authentication),
        ["tokens", "corp", "admins", "edge", "directory", "hub"]
    );
}

#[tokio::test]
async fn without_a_file_there_are_tokens() {
    let dir = folder();
    let surroundings = surroundings(dir.path());
    let authentication = Authentication::open(None, surroundings).ok().unwrap();
    assert_eq!(names(&authentication), ["tokens"]);
}

#[tokio::test]
async fn mistakes_name_their_field() {
    let dir = folder();
    for (from, to, said) in [
        ("clockSkew", "clockSkwe", "authenticators[1].jwt"),
        (
            "clockSkew: 30s",
            "clockSkew: 30",
            "authenticators[1].jwt.clockSkew: line 20, column 5: expected a duration, such as 30s",
        ),
        (
            "clockSkew: 30s",
            "clockSkew: 1h",
            "authenticators[1]: jwt.clockSkew: must be at most 5m",
        ),
        (
            "loginLifetime: 8h",
            "loginLifetime: 13h",
            "authenticators[1]: jwt.loginLifetime: must be at most 12h",
        ),
        (
            "audiences: [underpass]",
            "audiences: x",
            "authenticators[1].jwt.issuer.audiences",
        ),
        (
            "audiences: [underpass]",
            "audiences: []",
            "jwt.issuer.audiences: must not be empty",
        ),
        (
            "https:",
            "http:",
            "authenticators[1]: jwt.issuer.url: must be a URL",
        ),
        (
            "[RS256, ES256]",
            "[RS256, HS256]",
            "jwt.signingAlgorithms[1]: \"HS256\" is none of",
        ),
        (
            "[RS256, ES256]",
            "[none]",
            "jwt.signingAlgorithms[0]: \"none\" is none of",
        ),
        (
            "name: corp",
            "name: tokens",
            "authenticators[1]: name: \"tokens\" stands there twice",
        ),
        (
            "name: corp",
            "name: 'a b'",
            "authenticators[1]: name: must be letters",
        ),
        (
            "tokens: {}",
            "timeout: 5s",
            "authenticators[0]: needs exactly one of",
        ),
        (
            "File: ca.pem",
            "File: no.pem",
            "authenticators[1].jwt.issuer.certificateAuthorityFile: cannot read",
        ),
        (
            "File: ca.pem",
            "File: empty.pem",
            "jwt.issuer.certificateAuthorityFile: cannot be used: there is no certificate",
        ),
        (
            "Files: [ca.pem]",
            "Files: [ca.pem, no.pem]",
            "authenticators[2].clientCertificates.certificateAuthorityFiles[1]",
        ),
        (
            "Files: [ca.pem]",
            "Files: [empty.pem]",
            "clientCertificates.certificateAuthorityFiles[0]: cannot be used",
        ),
    ] {
        assert!(GOOD.contains(from), "{from}");
        let error = open(dir.path(), &GOOD.replace(from, to)).err().unwrap();
        assert!(error.contains(said), "{to}: {error}");
    }
    let second = "- name: other
  tokenReview: {cluster: b, issuer: ISSUER, audiences: [x, underpass]}
";
    for (issuer, field) in [
        ("https://kubernetes.default.svc", "tokenReview.audiences"),
        ("https://issuer.example", "tokenReview.issuer"),
    ] {
        let text = format!("{GOOD}{}", second.replace("ISSUER", issuer));
        let error = open(dir.path(), &text).err().unwrap();
        assert!(
            error.contains(&format!("authenticators[6]: {field}")),
            "{error}"
        );
    }
    for text in ["", "authenticators: []", "authenticators: 7", "x: 1"] {
        let error = open(dir.path(), text).err().unwrap();
        assert!(error.contains("authentication file"), "{text}: {error}");
    }
    let twice = format!(
        "{GOOD}{}",
        GOOD.replace("authenticators:", "")
            .replace("- name: ", "- name: x")
    );
    let error = open(dir.path(), &twice).err().unwrap();
    assert!(
        error.contains("authenticators[6]: tokens: \"tokens\" stands there twice"),
        "{error}"
    );
}

/// Secrets have files of their own, but not everybody knows.
#[tokio::test]
async fn rule_11_a_secret_in_the_authentication_file_is_not_repeated() {
    let dir = folder();
    for (from, to) in [
        ("bindPasswordFile: password", "bindPassword: hunter2"),
        ("bindPasswordFile: password", "bindPasswordFile: [hunter2]"),
        ("bindPasswordFile: password", "bindPasswordFile: \"hunter2"),
        (
            "clientSecretFile: password",
            "clientSecretFile: password, clientSecret: hunter2",
        ),
        ("clockSkew: 30s", "clockSkew: hunter2"),
    ] {
        assert!(GOOD.contains(from), "{from}");
        let path = dir.path().join("authentication.yaml");
        std::fs::write(&path, GOOD.replace(from, to)).unwrap();
        let error = Authentication::open(Some(path), surroundings(dir.path()));
        let error = error.err().unwrap();
        let told = format!("{} {error:?}", chain(&error));
        assert!(!told.contains("hunter2"), "{told}");
        assert!(told.contains("line "), "{told}");
    }
}

#[tokio::test]
async fn rule_22_prefixes_have_to_be_said() {
    let dir = folder();
    for (said, field) in [
        (
            "claim: email, prefix: ''",
            "jwt.claimMappings.username.prefix",
        ),
        (
            "claim: groups, prefix: 'corp:'",
            "jwt.claimMappings.groups.prefix",
        ),
        (
            "    usernamePrefix: 'cert:'\n",
            "clientCertificates.usernamePrefix",
        ),
        ("    groupsPrefix: ''\n", "clientCertificates.groupsPrefix"),
        ("      prefix: 'ldap:'\n", "ldap.userSearch.prefix"),
        ("      prefix: 'ldap-group:'\n", "ldap.groupSearch.prefix"),
        ("    usernamePrefix: 'github:'\n", "github.usernamePrefix"),
        ("    groupsPrefix: 'github-group:'\n", "github.groupsPrefix"),
    ] {
        assert!(GOOD.contains(said), "{said}");
        let left = said.split_once(", prefix").map_or("", |(claim, _)| claim);
        let error = open(dir.path(), &GOOD.replace(said, left)).err().unwrap();
        let wanted = format!("{field}: must be said");
        assert!(error.contains(&wanted), "{field}: {error}");
        assert!(error.contains("\"\" for none"), "{error}");
        if left.is_empty() {
            let start = said.split_once('\'').unwrap().0;
            let none = format!("{start}''\n");
            open(dir.path(), &GOOD.replace(said, &none)).unwrap();
        }
    }
    // Without any mapping the name is the claim `sub`, and has a prefix all the same.
    let mapping = "      username: {claim: email, prefix: ''}\n";
    let error = open(dir.path(), &GOOD.replace(mapping, "")).err().unwrap();
    assert!(error.contains("username.prefix: must be said"), "{error}");
}

#[tokio::test]
async fn rule_22_no_two_authenticators_could_give_one_name() {
    let dir = folder();
    for (said, other, field, named) in [
        ("'ldap:'", "'cert:'", "ldap.userSearch.prefix", "admins"),
        ("'ldap:'", "'cert:eu-'", "ldap.userSearch.prefix", "admins"),
        ("'ldap:'", "'ce'", "ldap.userSearch.prefix", "admins"),
        (
            "'ldap-group:'",
            "'CORP:'",
            "ldap.groupSearch.prefix",
            "corp",
        ),
        (
            "'ldap:'",
            "'serviceaccount:edge:ci:'",
            "ldap.userSearch.prefix",
            "edge",
        ),
        (
            "'ldap-group:'",
            "'serviceaccounts:'",
            "ldap.groupSearch.prefix",
            "edge",
        ),
        (
            "'github:'",
            "'ldap:x'",
            "github.usernamePrefix",
            "directory",
        ),
        (
            "'github-group:'",
            "'ldap-group:'",
            "github.groupsPrefix",
            "directory",
        ),
    ] {
        let text = GOOD.replacen(said, other, 1);
        assert_ne!(text, GOOD);
        let error = open(dir.path(), &text).err().unwrap();
        assert!(error.contains(&format!("{field}: ")), "{error}");
        assert!(
            error.contains(&format!("authenticator {named:?}")),
            "{error}"
        );
        assert!(error.contains(&other.replace('\'', "\"")), "{error}");
    }
    // Users and groups are apart, and a prefix that is none is warned of.
    for (said, other) in [("'ldap-group:'", "'cert:'"), ("'ldap:'", "''")] {
        open(dir.path(), &GOOD.replacen(said, other, 1)).unwrap();
    }
}

#[tokio::test]
async fn rule_22_a_github_needs_to_know_whose_tokens_count() {
    let dir = folder();
    let app = "    app: {clientID: Iv1.a, clientSecretFile: password}\n";
    for (instead, said) in [
        ("", "github.app: must be said"),
        (
            &*format!("{app}    acceptTokensOfAnyApp: true\n"),
            "github.acceptTokensOfAnyApp: must be left out",
        ),
        (
            "    app: {clientID: Iv1.b, clientSecretFile: password}\n",
            "github.deviceLogin.clientID: must be app.clientID",
        ),
        (
            "    app: {clientID: Iv1.a, clientSecretFile: empty.pem}\n",
            "github.app.clientSecretFile: must not be empty",
        ),
        (
            "    app: {clientID: Iv1.a, clientSecretFile: no}\n",
            "github.app.clientSecretFile: cannot read",
        ),
    ] {
        let error = open(dir.path(), &GOOD.replace(app, instead)).err().unwrap();
        assert!(error.contains(said), "{instead}: {error}");
    }
    let any = "    acceptTokensOfAnyApp: true\n";
    open(dir.path(), &GOOD.replace(app, any)).unwrap();
}

#[tokio::test]
async fn rule_12_what_changes_is_retired_and_the_rest_stays() {
    let dir = folder();
    let authentication = open(dir.path(), GOOD).unwrap();
    let (retired, kept) = {
        let built = authentication.built.lock().unwrap();
        let [tokens, corp, admins, ..] = &built[..] else {
            panic!("{} authenticators", built.len());
        };
        let kept = [
            Arc::clone(&tokens.authenticator),
            Arc::clone(&admins.authenticator),
        ];
        ([corp.retired.clone(), admins.retired.clone()], kept)
    };
    let path = dir.path().join("authentication.yaml");
    std::fs::write(&path, "authenticators: 7").unwrap();
    authentication.refresh().unwrap_err();
    assert_eq!(names(&authentication).len(), 6);

    std::fs::write(
        &path,
        GOOD.replace("audiences: [underpass]", "audiences: [other]"),
    )
    .unwrap();
    authentication.refresh().unwrap();
    assert_eq!(
        retired.each_ref().map(CancellationToken::is_cancelled),
        [true, false]
    );
    {
        let built = authentication.built.lock().unwrap();
        assert!(Arc::ptr_eq(&built[0].authenticator, &kept[0]));
        assert!(Arc::ptr_eq(&built[2].authenticator, &kept[1]));
    }
    // A file that it names counts like itself.
    let ca = rcgen::generate_simple_self_signed(["other".to_owned()]).unwrap();
    std::fs::write(dir.path().join("ca.pem"), ca.cert.pem()).unwrap();
    authentication.refresh().unwrap();
    assert_eq!(
        retired.each_ref().map(CancellationToken::is_cancelled),
        [true, true]
    );
}

#[tokio::test]
async fn certificates_are_asked_for_only_where_somebody_reads_them() {
    use rustls::server::danger::ClientCertVerifier as _;

    let dir = folder();
    let authentication = open(dir.path(), GOOD).unwrap();
    let request = authentication.certificates();
    assert!(request.offer_client_auth() && !request.client_auth_mandatory());
    let without = GOOD.split("- name: admins").next().unwrap();
    std::fs::write(dir.path().join("authentication.yaml"), without).unwrap();
    authentication.refresh().unwrap();
    assert!(!request.offer_client_auth());
}

/// Asks nobody.
struct Own;

#[async_trait]
impl Authenticator for Own {
    async fn authenticate(
        &self,
        _: &underpass_authenticate::Caller<'_>,
    ) -> Result<
        Option<underpass_authenticate::Authenticated>,
        underpass_authenticate::AuthenticateError,
    > {
        Ok(None)
    }
}

/// Users of two authenticators with one name would be one authority's.
#[tokio::test]
async fn rule_22_an_embedders_authenticator_has_a_name_of_its_own() {
    let dir = folder();
    let path = dir.path().join("authentication.yaml");
    std::fs::write(&path, GOOD).unwrap();
    let with = |names: &[&str]| {
        let step = |name: &&str| Step::new(*name, Arc::new(Own), Duration::from_secs(1));
        let own = names.iter().map(step).collect();
        let surroundings = Surroundings {
            own,
            ..surroundings(dir.path())
        };
        Authentication::open(Some(path.clone()), surroundings).map_err(|error| chain(&error))
    };
    for (names, said) in [
        (
            &["word", "corp"][..],
            "authenticators[1]: name: \"corp\" stands there twice",
        ),
        (
            &["word", "word"],
            "two authenticators of this program have the name \"word\"",
        ),
    ] {
        let error = with(names).err().unwrap();
        assert!(error.contains(said), "{error}");
    }
    with(&["word", "sign"]).ok().unwrap();
}

/// A login by each of these authenticators, under its name.
async fn log_in(directory: &Arc<Directory>, by: &[&str]) {
    let made = directory.change(|draft| {
        for &by in by {
            let login = Login {
                user: format!("{by}:alice"),
                uid: None,
                groups: Vec::new(),
                extra: Default::default(),
                authenticated_by: format!("jwt/{by}"),
            };
            let token = AccessToken {
                created: draft.now(),
                sha256: Token::generate().unwrap().hash(),
                owner: Owner::Login(login),
                expires: Some(draft.now() + time::Duration::hours(1)),
                renewable_until: None,
                parent: None,
                scope: Scope::default(),
                description: String::new(),
            };
            draft.put(by, token, Expect::Absent)?;
        }
        Ok::<_, ChangeError>(())
    });
    made.await.unwrap();
}

fn logged_in(directory: &Directory) -> Vec<String> {
    let snapshot = directory.snapshot();
    snapshot.all::<AccessToken>().keys().cloned().collect()
}

#[tokio::test]
async fn rule_12_an_authenticator_that_was_changed_while_no_server_ran_keeps_no_logins() {
    let dir = folder();
    let path = dir.path().join("authentication.yaml");
    let surroundings = Surroundings {
        own: vec![Step::new("own", Arc::new(Own), Duration::from_secs(1))],
        ..surroundings(dir.path())
    };
    let directory = Arc::clone(&surroundings.directory);
    let run = async || {
        let opened = Authentication::open(Some(path.clone()), surroundings.clone());
        opened.ok().unwrap().end_logins().await;
    };
    std::fs::write(&path, GOOD).unwrap();
    log_in(&directory, &["admins", "corp", "hub", "own"]).await;
    // Servers before this one wrote nothing about theirs.
    run().await;
    run().await;
    assert_eq!(logged_in(&directory), ["admins", "corp", "hub", "own"]);
    let known = std::fs::read_to_string(dir.path().join("data/authenticators.json")).unwrap();
    assert!(
        known.contains("corp") && !known.contains("secret"),
        "{known}"
    );

    // The entry of one, and a file that another one names.
    let changed = GOOD.replace("hd, requiredValue", "hd2, requiredValue");
    std::fs::write(&path, &changed).unwrap();
    std::fs::write(dir.path().join("password"), "other\n").unwrap();
    run().await;
    assert_eq!(logged_in(&directory), ["admins", "own"]);
    log_in(&directory, &["corp"]).await;
    run().await;
    assert_eq!(logged_in(&directory), ["admins", "corp", "own"]);

    // Under a name that an embedder's authenticator had.
    let text = changed.replace("name: admins", "name: own");
    std::fs::write(&path, text).unwrap();
    let surroundings = Surroundings {
        own: Vec::new(),
        ..surroundings.clone()
    };
    let opened = Authentication::open(Some(path), surroundings);
    opened.ok().unwrap().end_logins().await;
    assert_eq!(logged_in(&directory), ["corp"]);
}

/// The file is read again each second until somebody mends it.
#[tokio::test]
async fn a_provider_is_asked_once_its_authenticator_is_in_force() {
    let dir = folder();
    let tasks = || {
        let runtime = tokio::runtime::Handle::current();
        runtime.metrics().num_alive_tasks()
    };
    let before = tasks();
    let authentication = Authentication::open(None, surroundings(dir.path()));
    let mut authentication = Arc::into_inner(authentication.ok().unwrap()).unwrap();
    let path = dir.path().join("authentication.yaml");
    authentication.path = Some(path.clone());
    let mistaken = GOOD.replace("url: ldaps:", "url: http:");
    std::fs::write(&path, mistaken).unwrap();
    for _ in 0..3 {
        authentication.refresh().unwrap_err();
    }
    assert_eq!(tasks(), before, "the provider of an entry before is asked");
    std::fs::write(&path, GOOD).unwrap();
    authentication.refresh().unwrap();
    assert_eq!(tasks(), before + 1);
    // One that stays is not asked again.
    std::fs::write(&path, GOOD.replace("cache: 30s", "cache: 31s")).unwrap();
    authentication.refresh().unwrap();
    assert_eq!(tasks(), before + 1);
}
