//! WebSocket through HTTP proxies, good and bad ones. The suite tests a session's promises over one.

use std::time::Duration;

use tokio::net::TcpListener;
use underpass_tunnel::transport;
use underpass_tunnel::{
    CertificateError, ConfigError, Connector, ConnectorConfig, DialError, NoProxy, Proxy,
    ProxyConfigError, ProxyError, RouteError, Session, Step, Transports, chain,
};

use crate::addresses::{ClosedPort, Names};
use crate::harness::{acceptor_config, connector_config, dial_error, released, run, way_error};
use crate::life::still_works;
use crate::server::{NAME, Pki, Server};
use underpass_http_proxy::testing::{HttpProxy, Manner};

fn config(port: u16, pki: &Pki, proxy: Proxy) -> ConnectorConfig {
    ConnectorConfig {
        transports: Transports::WebSocket,
        proxy: Some(proxy),
        ..connector_config(port, pki)
    }
}

async fn connect(config: ConnectorConfig, server: &mut Server) -> (Session, Session) {
    let connector = Connector::new(config).unwrap();
    server.connected(&connector).await
}

async fn works(config: ConnectorConfig, server: &mut Server) {
    let (agent, session) = connect(config, server).await;
    still_works(&agent, &session).await;
    released(&agent, &session).await;
}

/// Why a proxy of that manner gives no way to a server.
async fn refusal(manner: Manner) -> ProxyError {
    let proxy = HttpProxy::with(manner, None).await.unwrap();
    match way_error(config(1, &Pki::new(), proxy.config())).await {
        RouteError::Proxy(error) => error,
        error => panic!("not the proxy's fault: {error:?}"),
    }
}

#[test]
fn the_proxy_is_asked_for_the_servers_name_which_this_side_need_not_know() {
    run(async {
        let pki = Pki::new();
        let mut server = Server::start(&pki, acceptor_config()).await;
        let proxy = HttpProxy::start().await.unwrap();
        let names = Names::of([("127.0.0.1", &["127.0.0.1"][..])]);
        for transports in [Transports::WebSocket, Transports::Auto] {
            let mut config = ConnectorConfig {
                transports,
                resolver: names.clone(),
                ..config(server.port, &pki, proxy.config())
            };
            config.servers[0].host = NAME.to_owned();
            let (agent, session) = connect(config, &mut server).await;
            assert_eq!(agent.info().transport, transport::TransportKind::WebSocket);
            assert_eq!(agent.info().remote, None, "only the proxy knows");
            still_works(&session, &agent).await;
            released(&agent, &session).await;
        }
        let wanted = format!("{NAME}:{}", server.port);
        assert_eq!(proxy.asked(), [wanted.clone(), wanted]);
    });
}

#[test]
fn quic_goes_past_the_proxy() {
    run(async {
        let pki = Pki::new();
        let mut server = Server::start(&pki, acceptor_config()).await;
        let proxy = HttpProxy::start().await.unwrap();
        let config = ConnectorConfig {
            transports: Transports::Auto,
            quic_head_start: Duration::from_secs(10),
            ..config(server.port, &pki, proxy.config())
        };
        let (agent, _session) = connect(config, &mut server).await;
        assert_eq!(agent.info().transport, transport::TransportKind::Quic);
        assert!(proxy.asked().is_empty());
    });
}

#[test]
fn servers_that_are_excepted_are_reached_directly() {
    run(async {
        let pki = Pki::new();
        let mut server = Server::start(&pki, acceptor_config()).await;
        let proxy = HttpProxy::start().await.unwrap();
        for list in ["127.0.0.0/8", "*"] {
            let mut excepted = proxy.config();
            excepted.except = NoProxy::from(list);
            works(config(server.port, &pki, excepted), &mut server).await;
        }
        assert!(proxy.asked().is_empty());
    });
}

#[test]
fn a_proxy_over_tls() {
    run(async {
        let (pki, proxy_pki) = (Pki::new(), Pki::new());
        let mut server = Server::start(&pki, acceptor_config()).await;
        let proxy = HttpProxy::with(Manner::Carry, Some(proxy_pki.tls()))
            .await
            .unwrap();
        let mut trusted = proxy.config();
        trusted.ca_pem = Some(proxy_pki.ca_pem.clone());
        works(config(server.port, &pki, trusted), &mut server).await;

        // Not signed by the CA that was named; nor by any of the system's, where it has some.
        let mut untrusted = proxy.config();
        untrusted.ca_pem = Some(pki.ca_pem.clone());
        let mut refusals = vec![untrusted];
        match Connector::new(config(server.port, &pki, proxy.config())) {
            Ok(_) => refusals.push(proxy.config()),
            Err(ConfigError::Proxy(ProxyConfigError::Ca(_))) => {}
            Err(error) => panic!("{error:?}"),
        }
        for refused in refusals {
            let error = dial_error(config(server.port, &pki, refused)).await;
            assert!(error.needs_attention(), "{error}");
            let told: Vec<_> = error.route_errors().collect();
            assert!(
                matches!(told[..], [RouteError::Proxy(ProxyError::Untrusted(_))]),
                "{error:?}"
            );
        }
    });
}

/// Even one that the system trusts, as companies' machines do.
#[test]
fn rule_10_a_proxy_that_opens_tls_is_found_out() {
    run(async {
        let (pki, proxy_pki) = (Pki::new(), Pki::new());
        // A server with the proxy's own certificate stands in for the opened TLS.
        let impostor = Server::start(&proxy_pki, acceptor_config()).await;
        let proxy = HttpProxy::start().await.unwrap();
        let error = way_error(config(impostor.port, &pki, proxy.config())).await;
        assert!(
            matches!(
                error,
                RouteError::Untrusted {
                    certificate: CertificateError::UnknownCa,
                    ..
                }
            ),
            "{error:?}"
        );
    });
}

#[test]
fn a_proxy_that_wants_a_password_says_so() {
    run(async {
        let pki = Pki::new();
        let proxy = HttpProxy::start().await.unwrap();
        for (credentials, told) in [
            ("", "the proxy wants a user and password (407)"),
            (
                "alice:wrong",
                "the proxy refuses the user and password that it was given (407)",
            ),
        ] {
            let config = config(1, &pki, Proxy::new(proxy.url(credentials).parse().unwrap()));
            let shown = format!("{config:?}");
            let error = dial_error(config).await;
            assert!(error.needs_attention());
            let line = chain(&error);
            assert!(line.contains(told), "{line}");
            assert!(line.contains("through http://127.0.0.1:"), "{line}");
            for hidden in ["alice", "wrong", "YWxpY2U6"] {
                assert!(
                    !line.contains(hidden) && !shown.contains(hidden),
                    "rule 11: {line} {shown}"
                );
            }
        }
    });
}

#[test]
fn proxies_that_refuse_or_misbehave_are_told_apart() {
    run(async {
        use ProxyError::{Closed, Forbidden, Malformed, Refused, Surplus, TooLarge, Unreachable};
        let answer = |text: &str| Manner::Answer(text.into());
        let error = refusal(answer("HTTP/1.1 403 Forbidden\r\n\r\n")).await;
        assert!(matches!(error, Forbidden), "{error:?}");
        let error = refusal(answer("HTTP/1.1 418 Teapot\r\n\r\n")).await;
        assert!(matches!(error, Refused { status: 418 }), "{error:?}");
        let error = refusal(answer("220 mail.example.org ESMTP\r\n")).await;
        assert!(matches!(error, Malformed(_)), "{error:?}");
        let head = format!("HTTP/1.1 200 OK\r\nx: {}", "y".repeat(100_000));
        let error = refusal(answer(&head)).await;
        assert!(matches!(error, TooLarge), "{error:?}");
        let error = refusal(answer("HTTP/1.1 200 OK\r\n\r\n\x16\x03\x03")).await;
        assert!(matches!(error, Surplus), "{error:?}");
        let error = refusal(Manner::HangUp).await;
        assert!(matches!(error, Closed), "{error:?}");

        let closed = ClosedPort::of(&["127.0.0.1"]);
        let nobody = closed.port;
        let proxy = HttpProxy::start().await.unwrap();
        let error = way_error(config(nobody, &Pki::new(), proxy.config())).await;
        assert!(
            matches!(error, RouteError::Proxy(Unreachable { status: 502 })),
            "{error:?}"
        );
    });
}

#[test]
fn where_no_proxy_is_the_address_is_named() {
    run(async {
        let closed = ClosedPort::of(&["127.0.0.1"]);
        let nobody = closed.port;
        let proxy = Proxy::new(format!("127.0.0.1:{nobody}").parse().unwrap());
        let error = dial_error(config(1, &Pki::new(), proxy)).await;
        assert!(!error.needs_attention(), "it may come back");
        let told = chain(&error);
        let wanted = format!("at 127.0.0.1:{nobody}: no TCP connection");
        assert!(told.contains(&wanted), "{told}");

        let mut unknown = config(1, &Pki::new(), Proxy::new("proxy.test:1".parse().unwrap()));
        unknown.resolver = Names::of([]);
        let told = dial_error(unknown).await.to_string();
        assert!(told.contains("`proxy.test` has no address"), "{told}");
    });
}

/// In real time: the handshakes below are real ones.
#[test]
fn a_proxy_that_says_nothing_is_given_up() {
    run(async {
        let silent = HttpProxy::with(Manner::Silent, None).await.unwrap();
        let mute = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mute = mute.local_addr().unwrap();
        let pki = Pki::new();
        let mut over_tls = Proxy::new(format!("https://{mute}").parse().unwrap());
        over_tls.ca_pem = Some(pki.ca_pem.clone());
        let (one, other): (DialError, DialError) = tokio::join!(
            dial_error(config(1, &pki, silent.config())),
            dial_error(config(1, &pki, over_tls)),
        );
        for error in [one, other] {
            let told: Vec<_> = error.route_errors().collect();
            assert!(
                matches!(told[..], [RouteError::Timeout { step: Step::Proxy }]),
                "{error:?}"
            );
        }
    });
}
