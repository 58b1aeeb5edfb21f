//! GitHub's tokens, against a server that speaks its documented API, over TLS.

use underpass_authenticate::{
    CredentialError, GitHub, GitHubAudience, GitHubConfig, RemoteOptions, Roots,
};
use underpass_core::AuthenticationMethod;
use underpass_https::{DeviceError, DeviceLogin};

use underpass_testenv::testing::providers::FakeGitHub;

use crate::present::{bearer, identity, rejection, soon, source, unavailable};

fn roots(fake: &FakeGitHub) -> Roots {
    Roots::from_pem(fake.ca_pem().as_bytes()).unwrap()
}

fn github_of(fake: &FakeGitHub, change: impl FnOnce(&mut GitHubConfig)) -> GitHub {
    let mut config = GitHubConfig {
        api_url: format!("{}/api/v3", fake.url()),
        roots: roots(fake),
        proxy: None,
        organizations: vec!["Org-149".to_owned(), "org-0".to_owned()],
        username_prefix: "github:".to_owned(),
        groups_prefix: "github:".to_owned(),
        audience: GitHubAudience::AnyApp,
        remote: RemoteOptions::default(),
    };
    change(&mut config);
    GitHub::new(source("hub", AuthenticationMethod::GitHub), config).unwrap()
}

#[tokio::test]
async fn a_token_gives_an_identity() {
    let fake = FakeGitHub::start().await;
    let github = github_of(&fake, |_| {});
    for token in [
        "ghp_alice",
        "github_pat_11A_alice",
        "gho_alice",
        "ghu_alice",
    ] {
        let found = identity(bearer(&github, token).await);
        assert_eq!((found.user(), found.uid()), ("github:alice", Some("7")));
        // Of all her organizations and teams those that are allowed, the second page's included.
        let wanted = ["github:Org-0", "github:Org-149", "github:Org-149:sre"];
        assert_eq!(found.groups(), wanted);
        assert_eq!(found.provenance().unwrap().to_string(), "github/hub");
    }
    let seen = fake.seen().len();
    identity(bearer(&github, "ghp_alice").await);
    assert_eq!(fake.seen().len(), seen, "asked again");
}

fn app(config: &mut GitHubConfig, secret: &str) {
    config.audience = GitHubAudience::App {
        client_id: "Iv1.underpass".to_owned(),
        client_secret: secret.to_owned().into(),
    };
}

#[tokio::test]
async fn rule_22_a_token_of_another_app_is_nobodys() {
    let fake = FakeGitHub::start().await;
    let github = github_of(&fake, |config| app(config, "app-secret"));
    for token in ["gho_alice", "ghu_alice"] {
        let found = identity(bearer(&github, token).await);
        assert_eq!(found.user(), "github:alice");
    }
    // GitHub knows whose they are: another app got them for alice, or she made them herself.
    for token in ["gho_other_alice", "ghp_alice", "github_pat_11A_alice"] {
        let refused = rejection(bearer(&github, token).await);
        assert_eq!(refused, CredentialError::Audience, "{token}");
        let shown = format!("Bearer {token}");
        let seen = fake.seen();
        assert!(!seen.iter().any(|line| line.contains(&shown)), "{token}");
    }
}

#[tokio::test]
async fn a_wrong_secret_of_the_app_is_the_operators_to_mend() {
    let fake = FakeGitHub::start().await;
    let github = github_of(&fake, |config| app(config, "wrong"));
    let said = unavailable(bearer(&github, "gho_alice").await);
    assert!(said.contains("client id and secret"), "{said}");
}

#[tokio::test]
async fn other_tokens_are_shown_to_nobody() {
    let fake = FakeGitHub::start().await;
    let github = github_of(&fake, |_| {});
    for other in [
        "upt_x",
        "eyJh.b.c",
        "ghs_alice",
        "ghr_alice",
        "GHP_alice",
        "x",
    ] {
        assert!(bearer(&github, other).await.unwrap().is_none(), "{other}");
    }
    for bad in [
        "ghp_a/../b",
        "ghp_a%20b",
        &format!("ghp_{}", "a".repeat(300)),
    ] {
        assert_eq!(
            rejection(bearer(&github, bad).await),
            CredentialError::Malformed
        );
    }
    assert!(fake.seen().is_empty());
}

#[tokio::test]
async fn who_is_not_a_member_is_not_let_in() {
    let fake = FakeGitHub::start().await;
    let github = github_of(&fake, |_| {});
    for (token, why) in [
        ("ghp_nobody", CredentialError::Unknown),
        ("ghp_outsider", CredentialError::NotAllowed),
        ("ghp_unscoped", CredentialError::NotAllowed),
        ("ghp_sso", CredentialError::NotAllowed),
    ] {
        assert_eq!(rejection(bearer(&github, token).await), why, "{token}");
    }
}

#[tokio::test]
async fn limits_and_faults_of_github_are_not_the_users() {
    let fake = FakeGitHub::start().await;
    let github = github_of(&fake, |_| {});
    for (token, why) in [
        ("ghp_limited", "limit of requests"),
        ("ghp_hasty", "does not say that the token is why"),
        ("ghp_slowed", "does not say that the token is why"),
        ("ghp_finegrained", "does not say that the token is why"),
        ("ghp_broken", "answered 502"),
    ] {
        let said = unavailable(bearer(&github, token).await);
        assert!(said.contains(why), "{said}");
    }
    // This is the user's: no further attempt helps.
    match rejection(bearer(&github, "ghp_endless").await) {
        CredentialError::Identity(why) => assert!(why.contains("more than"), "{why}"),
        other => panic!("{other:?}"),
    }
    identity(bearer(&github, "ghp_alice").await);
}

#[tokio::test]
async fn rule_2_a_token_goes_where_the_configuration_says() {
    let fake = FakeGitHub::start().await;
    let github = github_of(&fake, |_| {});
    let said = unavailable(bearer(&github, "ghp_moved").await);
    assert!(said.contains("answered 302"), "{said}");
    assert!(!fake.seen().iter().any(|line| line.contains("elsewhere")));
    let said = unavailable(bearer(&github, "ghp_astray").await);
    assert!(said.contains("another server"), "{said}");
    // Another certificate is another server, too.
    let other = FakeGitHub::start().await;
    let github = github_of(&fake, |config| config.roots = roots(&other));
    let said = unavailable(bearer(&github, "ghp_alice").await);
    assert!(said.contains("cannot be asked"), "{said}");
    assert!(other.seen().is_empty());
}

#[tokio::test]
async fn a_device_login_gives_a_token() {
    let fake = FakeGitHub::start().await;
    let login = DeviceLogin::new(&fake.url(), &roots(&fake), None, "client 1".to_owned()).unwrap();
    let waiting = soon(login.begin()).await.unwrap();
    assert_eq!(waiting.user_code(), "WDJB-MJHT");
    assert_eq!(
        waiting.verification_uri(),
        format!("{}/login/device", fake.url())
    );
    assert!(!format!("{waiting:?}").contains("code\""));
    let token = soon(login.wait(&waiting)).await.unwrap();
    assert_eq!(fake.polls(), 3);
    identity(bearer(&github_of(&fake, |_| {}), &token).await);
    let declined =
        DeviceLogin::new(&fake.url(), &roots(&fake), None, "declined".to_owned()).unwrap();
    let waiting = soon(declined.begin()).await.unwrap();
    let refused = soon(declined.wait(&waiting)).await;
    assert!(matches!(refused, Err(DeviceError::Declined)));
}

#[tokio::test]
async fn rule_6_a_code_is_typed_at_the_provider_and_nowhere_else() {
    let fake = FakeGitHub::start().await;
    let login = DeviceLogin::new(&fake.url(), &roots(&fake), None, "astray".to_owned()).unwrap();
    let begun = soon(login.begin()).await;
    let Err(DeviceError::Page { page, provider }) = begun else {
        panic!("{begun:?}");
    };
    assert_eq!(page, "https://github.com/login/device");
    assert_eq!(provider, fake.url());
}
