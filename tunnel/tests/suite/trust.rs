//! How the connector verifies its server (security rule 10), over each transport alike.

use underpass_tunnel::{
    CaPin, CertificateError, ConfigError, Connector, ConnectorConfig, RouteError, Trust, chain,
};

use crate::harness::{
    Kind, acceptor_config, connector_config, dial_error, key, released, run, transports,
};
use crate::life::still_works;
use crate::server::{NAME, Pki, Server};

const KINDS: [Kind; 2] = [Kind::Quic, Kind::WebSocket];

fn config(kind: Kind, server: &Server, pki: &Pki, trust: impl Into<Trust>) -> ConnectorConfig {
    ConnectorConfig {
        transports: transports(kind),
        trust: trust.into(),
        ..connector_config(server.port, pki)
    }
}

async fn works(config: ConnectorConfig, server: &mut Server) {
    let connector = Connector::new(config).unwrap();
    let (agent, session) = server.connected(&connector).await;
    still_works(&agent, &session).await;
    released(&agent, &session).await;
}

/// Why the server is not trusted, and how it is told.
async fn refused(config: ConnectorConfig) -> (CertificateError, String) {
    let error = dial_error(config).await;
    assert!(error.needs_attention(), "{error}");
    let certificate = error.route_errors().find_map(|error| match error {
        RouteError::Untrusted { certificate, .. } => Some(*certificate),
        _ => None,
    });
    let told = chain(&error);
    (
        certificate.unwrap_or_else(|| panic!("not for its certificate: {told}")),
        told,
    )
}

/// Over both transports, with `pki` and the `change` of the configuration.
fn each_refuses(
    pki: impl Fn() -> Pki,
    change: impl Fn(&mut ConnectorConfig, &Pki),
    wanted: impl Fn(&Pki) -> CertificateError,
) {
    for kind in KINDS {
        run(async {
            let pki = pki();
            let server = Server::start(&pki, acceptor_config()).await;
            for trust in [Trust::from(pki.ca_pem.clone()), pki.pin().into()] {
                let mut config = config(kind, &server, &pki, trust);
                change(&mut config, &pki);
                let (certificate, told) = refused(config).await;
                assert_eq!(certificate, wanted(&pki), "{kind:?}: {told}");
                assert!(told.contains(&certificate.to_string()), "{told}");
            }
        });
    }
}

#[test]
fn a_pin_is_as_good_as_a_file() {
    for kind in KINDS {
        run(async move {
            let pki = Pki::new();
            let mut server = Server::start(&pki, acceptor_config()).await;
            let pin: CaPin = pki.pin().to_string().parse().unwrap();
            works(config(kind, &server, &pki, pin), &mut server).await;
            let both = Trust::PinnedCa(pki.ca_pem.clone(), pin);
            works(config(kind, &server, &pki, both), &mut server).await;
        });
    }
}

/// A CA and a token that were replaced on disk.
#[test]
fn another_trust_and_another_key_count_from_the_next_handshake_on() {
    for kind in KINDS {
        run(async move {
            let (pki, other) = (Pki::new(), Pki::new());
            let mut server = Server::start(&pki, acceptor_config()).await;
            let mut config = config(kind, &server, &pki, other.ca_pem.clone());
            let admitted = std::mem::replace(&mut config.key, key(42));
            let new = admitted.public_key();
            let connector = Connector::new(config).unwrap();
            connector.connect().await.unwrap_err();
            let unusable = connector.renew(&Trust::Ca(b"none".to_vec()), key(42));
            assert!(matches!(unusable, Err(ConfigError::Ca(_))));
            connector
                .renew(&pki.ca_pem.clone().into(), admitted)
                .unwrap();
            let (agent, session) = server.connected(&connector).await;
            assert_eq!(session.info().key, new);
            still_works(&agent, &session).await;
            released(&agent, &session).await;
        });
    }
}

#[test]
fn rule_10_a_server_of_another_ca_is_untrusted() {
    let other = Pki::new();
    each_refuses(
        Pki::new,
        |config, _| config.trust = other.ca_pem.clone().into(),
        |_| CertificateError::UnknownCa,
    );
    let pin = other.pin();
    each_refuses(
        Pki::new,
        |config, _| config.trust = pin.into(),
        |_| CertificateError::NotPinned(pin),
    );
}

#[test]
fn rule_10_the_error_names_the_pin() {
    let pin = Pki::new().pin();
    let told = CertificateError::NotPinned(pin).to_string();
    assert!(told.contains(&pin.to_string()), "{told}");
}

/// With the pinned CA in the chain for show, and a certificate of another.
#[test]
fn rule_10_a_chain_that_shows_the_pinned_ca_is_not_enough() {
    let pinned = Pki::new();
    let pin = pinned.pin();
    each_refuses(
        || {
            let mut pki = Pki::new();
            pki.chain.push(pinned.chain[1].clone());
            pki
        },
        |config, _| config.trust = pin.into(),
        |_| CertificateError::UnknownCa,
    );
}

#[test]
fn rule_10_a_chain_without_the_ca_proves_nothing_to_who_knows_its_pin() {
    each_refuses(
        || {
            let mut pki = Pki::new();
            pki.chain.truncate(1);
            pki
        },
        |config, pki| config.trust = pki.pin().into(),
        |pki| CertificateError::NotPinned(pki.pin()),
    );
    // A file is enough for that.
    run(async {
        let mut pki = Pki::new();
        pki.chain.truncate(1);
        let mut server = Server::start(&pki, acceptor_config()).await;
        let both = Trust::PinnedCa(pki.ca_pem.clone(), pki.pin());
        works(config(Kind::Quic, &server, &pki, both), &mut server).await;
    });
}

#[test]
fn rule_10_the_name_must_be_the_one_that_was_dialled() {
    let other = |params: &mut rcgen::CertificateParams| {
        let name = rcgen::SanType::DnsName(NAME.try_into().unwrap());
        params.subject_alt_names = vec![name];
    };
    each_refuses(
        || Pki::with(other),
        |_, _| {},
        |_| CertificateError::WrongName,
    );
}

#[test]
fn rule_10_the_time_must_be_right() {
    let day = rcgen::date_time_ymd;
    each_refuses(
        || Pki::with(|params| params.not_after = day(2020, 1, 1)),
        |_, _| {},
        |_| CertificateError::Expired,
    );
    each_refuses(
        || Pki::with(|params| params.not_before = day(3000, 1, 1)),
        |_, _| {},
        |_| CertificateError::NotYetValid,
    );
}

#[test]
fn a_file_that_is_not_the_pinned_one_is_noticed_at_once() {
    let (pki, other) = (Pki::new(), Pki::new());
    let trust = Trust::PinnedCa(pki.ca_pem.clone(), other.pin());
    let config = ConnectorConfig {
        trust,
        ..connector_config(1, &pki)
    };
    let error = Connector::new(config).unwrap_err();
    assert!(matches!(error, ConfigError::Ca(_)), "{error:?}");
    assert!(chain(&error).contains(&other.pin().to_string()), "{error}");
}
