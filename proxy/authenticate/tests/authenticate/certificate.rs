//! Client certificates, good and bad.

use std::{net::IpAddr, sync::Arc, time::Duration};

use async_trait::async_trait;
use http::{HeaderMap, HeaderName, Uri, header};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer,
    CustomExtension, DistinguishedName, DnType, DnValue, ExtendedKeyUsagePurpose, IsCa,
    KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber, date_time_ymd,
};
use rustls_pki_types::CertificateDer;
use underpass_authenticate::{
    AuthenticateError, Authenticated, Authenticator as _, Caller, CertificatePrefixes, Chain,
    ClientCertificates, CredentialError, RevocationLists, Roots, Step, StoreError, Token,
    TokenAuthenticator, TokenHash, TokenRecord, TokenStore, Unowned,
};
use underpass_core::{AuthenticationMethod, ConnectionInfo, Network, Peer, Protocol, Rejection};

use crate::present::{Answer, identity, present, rejection, source};

type Ca = CertifiedIssuer<'static, KeyPair>;

fn ca_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn ca(name: &str) -> Ca {
    CertifiedIssuer::self_signed(ca_params(name), KeyPair::generate().unwrap()).unwrap()
}

/// Alice of `dev`, with a test's changes.
fn client(ca: &Ca, change: impl FnOnce(&mut CertificateParams)) -> CertificateDer<'static> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "alice");
    params
        .distinguished_name
        .push(DnType::OrganizationName, "dev");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    change(&mut params);
    let key = KeyPair::generate().unwrap();
    params.signed_by(&key, ca).unwrap().der().clone()
}

fn authenticator(ca: &Ca, revoked: &str) -> ClientCertificates {
    let roots = Roots::from_pem(ca.pem().as_bytes()).unwrap();
    let prefixes = CertificatePrefixes {
        username: "cert:".to_owned(),
        groups: String::new(),
    };
    let source = source("certs", AuthenticationMethod::Certificate);
    let mut lists = RevocationLists::default();
    if !revoked.is_empty() {
        lists.add(revoked.as_bytes()).unwrap();
    }
    ClientCertificates::new(source, &roots, lists, prefixes).unwrap()
}

async fn show(authenticator: &ClientCertificates, chain: &[CertificateDer<'static>]) -> Answer {
    present(authenticator, None, chain).await
}

#[tokio::test]
async fn common_name_and_organizations_are_user_and_groups() {
    let ca = ca("ca");
    let certs = authenticator(&ca, "");
    let alice = client(&ca, |params| {
        let organization = DnType::CustomDnType(vec![2, 5, 4, 10]);
        params.distinguished_name.push(organization, "ops");
        params.not_after = date_time_ymd(2100, 1, 1);
    });
    let found = identity(show(&certs, &[alice]).await);
    assert_eq!((found.user(), found.uid()), ("cert:alice", None));
    assert_eq!(found.groups(), ["dev", "ops"]);
    let provenance = found.provenance().unwrap();
    assert_eq!(provenance.to_string(), "certificate/certs");
    let end = std::time::SystemTime::from(date_time_ymd(2100, 1, 1));
    assert_eq!(provenance.expires_at(), Some(end));
}

/// As older CAs write them, and kube-apiserver reads them.
#[tokio::test]
async fn names_may_be_written_in_older_ways() {
    let ca = ca("ca");
    let certs = authenticator(&ca, "");
    let alice = client(&ca, |params| {
        let name = DnValue::BmpString("alíce".try_into().unwrap());
        params.distinguished_name.push(DnType::CommonName, name);
        let organization = DnType::CustomDnType(vec![2, 5, 4, 10]);
        let name = DnValue::Ia5String("ops@example.org".try_into().unwrap());
        params.distinguished_name.push(organization, name);
    });
    let found = identity(show(&certs, &[alice]).await);
    assert_eq!(found.user(), "cert:alíce");
    assert_eq!(found.groups(), ["dev", "ops@example.org"]);
    // A name that no header could hold is refused in any of them.
    let padded = client(&ca, |params| {
        let name = DnValue::BmpString("root\r\n".try_into().unwrap());
        params.distinguished_name.push(DnType::CommonName, name);
    });
    let refused = rejection(show(&certs, &[padded]).await);
    assert!(
        matches!(refused, CredentialError::Identity(_)),
        "{refused:?}"
    );
}

#[tokio::test]
async fn a_chain_may_have_intermediates() {
    let root = ca("root");
    let certs = authenticator(&root, "");
    let key = KeyPair::generate().unwrap();
    let middle = CertifiedIssuer::signed_by(ca_params("middle"), key, &root).unwrap();
    let alice = client(&middle, |_| {});
    let chain = [alice.clone(), middle.der().clone()];
    identity(show(&certs, &chain).await);
    // Without it nothing says that it leads here.
    assert!(show(&certs, &[alice]).await.unwrap().is_none());
}

#[tokio::test]
async fn other_certificates_are_not_mine() {
    let certs = authenticator(&ca("ca"), "");
    assert!(show(&certs, &[]).await.unwrap().is_none());
    let foreign = client(&ca("other"), |_| {});
    assert!(show(&certs, &[foreign]).await.unwrap().is_none());
    for garbage in [
        &b""[..],
        b"garbage",
        &[0x30, 0x82, 0xff, 0xff],
        &[0x30; 4096],
    ] {
        let chain = [CertificateDer::from(garbage.to_vec())];
        assert!(show(&certs, &chain).await.unwrap().is_none());
    }
}

#[tokio::test]
async fn a_ca_of_the_same_name_is_not_the_same_ca() {
    let certs = authenticator(&ca("ca"), "");
    let impostor = ca("ca");
    let chains = [
        vec![client(&impostor, |_| {})],
        vec![client(&impostor, |_| {}), impostor.der().clone()],
        // Self-signed in the CA's name.
        vec![impostor.der().clone()],
    ];
    for chain in chains {
        let refused = rejection(show(&certs, &chain).await);
        assert!(
            matches!(refused, CredentialError::Certificate(_)),
            "{refused:?}"
        );
    }
}

#[tokio::test]
async fn certificates_that_are_not_for_clients_of_now_are_refused() {
    let ca = ca("ca");
    let certs = authenticator(&ca, "");
    type Change = fn(&mut CertificateParams);
    let expired: Change = |params| {
        params.not_before = date_time_ymd(2000, 1, 1);
        params.not_after = date_time_ymd(2001, 1, 1);
    };
    let early: Change = |params| params.not_before = date_time_ymd(2090, 1, 1);
    assert_eq!(
        rejection(show(&certs, &[client(&ca, expired)]).await),
        CredentialError::Expired
    );
    assert_eq!(
        rejection(show(&certs, &[client(&ca, early)]).await),
        CredentialError::NotYetValid
    );
    let changes: [Change; 6] = [
        |params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth],
        |params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained),
        |params| assert!(params.distinguished_name.remove(DnType::CommonName)),
        |params| {
            let name = DnType::CustomDnType(vec![2, 5, 4, 3]);
            params.distinguished_name.push(name, "root");
        },
        |params| {
            let name = DnValue::TeletexString("root".try_into().unwrap());
            params.distinguished_name.push(DnType::CommonName, name);
        },
        |params| {
            let mut unknown = CustomExtension::from_oid_content(&[1, 2, 3, 4], vec![5, 0]);
            unknown.set_criticality(true);
            params.custom_extensions.push(unknown);
        },
    ];
    for (number, change) in changes.into_iter().enumerate() {
        let refused = rejection(show(&certs, &[client(&ca, change)]).await);
        assert!(
            matches!(refused, CredentialError::Certificate(_)),
            "{number}: {refused:?}"
        );
    }
}

#[tokio::test]
async fn rule_17_reserved_names_are_refused() {
    let ca = ca("ca");
    let certs = authenticator(&ca, "");
    let masters = client(&ca, |params| {
        let organization = DnType::OrganizationName;
        params
            .distinguished_name
            .push(organization, "system:masters");
    });
    let refused = rejection(show(&certs, &[masters]).await);
    assert_eq!(
        refused,
        CredentialError::Reserved("system:masters".to_owned())
    );
    // No header could hold this one.
    let padded = client(&ca, |params| {
        params
            .distinguished_name
            .push(DnType::OrganizationName, "dev\r\nx");
    });
    let groups = identity(show(&certs, &[padded]).await);
    assert!(
        !groups.groups().iter().any(|group| group.contains("dev\r")),
        "{groups:?}"
    );
}

#[tokio::test]
async fn rule_12_revoked_certificates_are_refused() {
    let ca = ca("ca");
    let serial = SerialNumber::from(42u64);
    let list = |next_update| {
        let revoked = RevokedCertParams {
            serial_number: serial.clone(),
            revocation_time: date_time_ymd(2020, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2020, 1, 1),
            next_update,
            crl_number: SerialNumber::from(1u64),
            issuing_distribution_point: None,
            revoked_certs: vec![revoked],
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&ca).unwrap().pem().unwrap()
    };
    let certs = authenticator(&ca, &list(date_time_ymd(2090, 1, 1)));
    let gone = client(&ca, |params| params.serial_number = Some(serial.clone()));
    let refused = rejection(show(&certs, std::slice::from_ref(&gone)).await);
    assert!(
        matches!(&refused, CredentialError::Certificate(why) if why.contains("Revoked")),
        "{refused:?}"
    );
    identity(show(&certs, &[client(&ca, |_| {})]).await);
    // A list that is out of date lacks later revocations.
    let stale = authenticator(&ca, &list(date_time_ymd(2021, 1, 1)));
    let refused = rejection(show(&stale, &[client(&ca, |_| {})]).await);
    assert!(
        matches!(refused, CredentialError::Certificate(_)),
        "{refused:?}"
    );
}

/// Otherwise revoked certificates would count while the file is written, or for ever.
#[test]
fn rule_12_a_file_without_a_revocation_list_is_none() {
    let ca = ca("ca");
    let params = CertificateRevocationListParams {
        this_update: date_time_ymd(2020, 1, 1),
        next_update: date_time_ymd(2090, 1, 1),
        crl_number: SerialNumber::from(1u64),
        issuing_distribution_point: None,
        revoked_certs: Vec::new(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    let list = params.signed_by(&ca).unwrap();
    let pem = list.pem().unwrap();
    let der = list.der().to_vec();
    let half = &pem[..pem.len() / 2];
    for good in [pem.as_bytes(), &der] {
        assert!(RevocationLists::default().add(good).is_ok());
    }
    let page = "<html>404</html>";
    for bad in [b"", page.as_bytes(), ca.pem().as_bytes(), half.as_bytes()] {
        let read = RevocationLists::default().add(bad);
        assert!(read.is_err(), "{}", String::from_utf8_lossy(bad));
    }
    // DER that is something else is told as the authenticator is made.
    for bad in [&ca.der()[..], &der[..der.len() / 2]] {
        let mut lists = RevocationLists::default();
        let read = lists.add(bad);
        let source = source("certs", AuthenticationMethod::Certificate);
        let roots = Roots::from_pem(ca.pem().as_bytes()).unwrap();
        let prefixes = CertificatePrefixes {
            username: String::new(),
            groups: String::new(),
        };
        let made = ClientCertificates::new(source, &roots, lists, prefixes);
        assert!(read.is_err() || made.is_err());
    }
}

/// A proxy that ends TLS may show a certificate of its own. It identifies the proxy, and not the client.
#[tokio::test]
async fn rule_4_a_proxys_certificate_is_nobodys() {
    let ca = ca("ca");
    let certs = authenticator(&ca, "");
    let proxy: IpAddr = [10, 0, 0, 1].into();
    let proxies = ["10.0.0.0/8".parse::<Network>().unwrap()];
    let info = |peer| ConnectionInfo {
        peer,
        protocol: Protocol::Http2,
        server_name: None,
        certificates: vec![client(&ca, |_| {})],
        unusable_certificate: None,
    };
    let mut headers = HeaderMap::new();
    headers.insert("x-forwarded-for", "192.0.2.1".parse().unwrap());
    let pem = format!(
        "Subject=\"CN=alice\";Cert=\"{}\"",
        ca.pem().escape_default()
    );
    headers.insert("x-forwarded-client-cert", pem.parse().unwrap());
    for (peer, client, known) in [
        (Peer::from(proxy), "10.0.0.1", true),
        (
            Peer::new(proxy, &proxies.into_iter().collect()),
            "192.0.2.1",
            false,
        ),
    ] {
        let info = info(peer);
        let caller = Caller::read(&headers, &info).unwrap();
        assert_eq!(caller.client().to_string(), client);
        let found = certs.authenticate(&caller).await.unwrap();
        assert_eq!(found.is_some(), known, "{client}");
    }
}

/// An own token that is known, whose owner is its name.
struct Tokens(Token);

#[async_trait]
impl TokenStore for Tokens {
    async fn find(&self, hash: &TokenHash) -> Result<Option<TokenRecord>, StoreError> {
        Ok((*hash == self.0.hash()).then(|| TokenRecord {
            id: "first".to_owned(),
            user: "admin".to_owned(),
            ..TokenRecord::default()
        }))
    }
}

/// Certificates and tokens in this order, and a token.
fn both(ca: &Ca, certificates_first: bool) -> (Chain, Token) {
    let token = Token::generate().unwrap();
    let known = Tokens(Token::parse(token.expose()).unwrap());
    let tokens = TokenAuthenticator::new("tokens", Arc::new(known));
    let limit = Duration::from_secs(5);
    let mut steps = vec![
        Step::new("certs", Arc::new(authenticator(ca, "")), limit),
        Step::new("tokens", Arc::new(tokens), limit),
    ];
    if !certificates_first {
        steps.reverse();
    }
    (Chain::new(steps, Arc::new(Unowned)), token)
}

async fn ask(
    chain: &Chain,
    certificate: &CertificateDer<'static>,
    lines: &[(HeaderName, &str)],
) -> Result<Option<Authenticated>, AuthenticateError> {
    let mut headers = HeaderMap::new();
    headers.insert(header::HOST, "up.example".parse().unwrap());
    for (name, value) in lines {
        headers.append(name.clone(), value.parse().unwrap());
    }
    let info = ConnectionInfo {
        peer: IpAddr::from([127, 0, 0, 1]).into(),
        protocol: Protocol::Http1,
        server_name: None,
        certificates: vec![certificate.clone()],
        unusable_certificate: None,
    };
    let uri = Uri::from_static("/v1/tokens");
    let caller = Caller::read(&headers, &info).unwrap().at(&uri);
    chain.authenticate(&caller).await
}

#[tokio::test]
async fn rule_21_the_configured_order_decides_and_the_other_credential_is_not_read() {
    let ca = ca("ca");
    let alice = client(&ca, |_| {});
    for (certificates_first, user, id) in
        [(true, "cert:alice", None), (false, "admin", Some("first"))]
    {
        let (chain, token) = both(&ca, certificates_first);
        let bearer = format!("Bearer {}", token.expose());
        let lines = [(header::AUTHORIZATION, bearer.as_str())];
        let found = ask(&chain, &alice, &lines).await.unwrap().unwrap();
        assert_eq!(found.identity().user(), user);
        // Which token it was, only a token's authenticator says.
        assert_eq!(found.identity().provenance().unwrap().token(), id);
    }
    // A token that is wrong does not lead to the certificate's opinion, either.
    let (chain, _) = both(&ca, false);
    let stray = format!("Bearer {}", Token::generate().unwrap().expose());
    let refused = ask(&chain, &alice, &[(header::AUTHORIZATION, &stray)]).await;
    assert!(matches!(
        refused,
        Err(AuthenticateError::Rejected(CredentialError::Unknown))
    ));
}

#[tokio::test]
async fn rule_27_a_certificate_counts_for_our_own_origin_only() {
    let ca = ca("ca");
    let alice = client(&ca, |_| {});
    let (chain, token) = both(&ca, false);
    for (origin, counts) in [
        ("https://up.example", true),
        ("https://evil.example", false),
        ("null", false),
    ] {
        let lines = [(header::ORIGIN, origin)];
        let found = ask(&chain, &alice, &lines).await;
        match counts {
            true => assert_eq!(found.unwrap().unwrap().identity().user(), "cert:alice"),
            false => assert!(matches!(
                found,
                Err(AuthenticateError::Rejected(CredentialError::ForeignOrigin))
            )),
        }
        // A page has to know a bearer token to send it.
        let bearer = format!("Bearer {}", token.expose());
        let lines = [(header::ORIGIN, origin), (header::AUTHORIZATION, &bearer)];
        let found = ask(&chain, &alice, &lines).await.unwrap().unwrap();
        assert_eq!(found.identity().user(), "admin");
    }
}

/// As kube-apiserver's union of authenticators does; the configured order is for valid credentials.
#[tokio::test]
async fn a_bad_certificate_keeps_no_token_out() {
    let (here, other, impostor) = (ca("ca"), ca("other"), ca("ca"));
    let expired = client(&here, |params| {
        params.not_before = date_time_ymd(2000, 1, 1);
        params.not_after = date_time_ymd(2001, 1, 1);
    });
    let servers = client(&here, |params| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    });
    let foreign = client(&other, |_| {});
    let impostors = client(&impostor, |_| {});
    let any = client(&here, |params| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::Any];
    });
    // As `openssl req -x509` makes them.
    let authoritys = client(&here, |params| {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    });
    let early = client(&here, |params| {
        params.not_before = date_time_ymd(1950, 1, 1);
    });
    for (certificate, said) in [
        (expired, "has expired"),
        (servers, "is not meant for client authentication"),
        (any, "anyExtendedKeyUsage is not enough"),
        (authoritys, "is a certificate authority's (CA:TRUE)"),
        (early, "begins before 1970"),
        (foreign, "leads to no certificate authority"),
        (impostors, "has a wrong signature"),
    ] {
        let (chain, token) = both(&here, true);
        let refused = ask(&chain, &certificate, &[]).await.unwrap_err();
        let told = Rejection::from(&refused);
        assert_eq!(told.code(), 401);
        assert!(told.to_string().contains(said), "{told}");
        let bearer = format!("Bearer {}", token.expose());
        let lines = [(header::AUTHORIZATION, bearer.as_str())];
        let found = ask(&chain, &certificate, &lines).await.unwrap().unwrap();
        assert_eq!(found.identity().user(), "admin");
        assert_eq!(
            found.identity().provenance().unwrap().token(),
            Some("first")
        );
        // A wrong token is the answer then.
        let stray = format!("Bearer {}", Token::generate().unwrap().expose());
        let refused = ask(&chain, &certificate, &[(header::AUTHORIZATION, &stray)]).await;
        let refused = refused.unwrap_err();
        let unknown = AuthenticateError::Rejected(CredentialError::Unknown);
        assert_eq!(refused.to_string(), unknown.to_string());
        // A kind of token that nobody knows.
        let other = [(header::AUTHORIZATION, "Bearer somebody-elses")];
        let refused = ask(&chain, &certificate, &other).await;
        assert!(!matches!(refused, Ok(Some(_))), "{said}");
    }
}

/// Two authenticators with the same CA, one of which knows that the certificate was revoked.
#[tokio::test]
async fn rule_21_a_certificate_that_one_authenticator_refuses_is_shown_to_no_other() {
    let ca = ca("ca");
    let expired = client(&ca, |params| {
        params.not_before = date_time_ymd(2000, 1, 1);
        params.not_after = date_time_ymd(2001, 1, 1);
    });
    let limit = Duration::from_secs(5);
    let chain = Chain::new(
        vec![
            Step::new("first", Arc::new(authenticator(&ca, "")), limit),
            Step::new("second", Arc::new(TakesAnyCertificate), limit),
        ],
        Arc::new(Unowned),
    );
    for lines in [
        &[][..],
        &[(header::AUTHORIZATION, "Bearer of-a-kind-that-nobody-knows")],
    ] {
        let refused = ask(&chain, &expired, lines).await.unwrap_err();
        assert!(
            matches!(refused, AuthenticateError::Certificate { .. }),
            "{refused:?}"
        );
    }
}

struct TakesAnyCertificate;

#[async_trait]
impl underpass_authenticate::Authenticator for TakesAnyCertificate {
    async fn authenticate(
        &self,
        caller: &Caller<'_>,
    ) -> Result<Option<Authenticated>, AuthenticateError> {
        match caller.certificates().is_empty() {
            true => Ok(None),
            false => panic!("it sees the certificate"),
        }
    }
}
