//! Several servers, and several addresses of one.

use std::collections::HashMap;
use std::fmt::Debug;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;

use futures_util::future::BoxFuture;
use tokio::net::TcpSocket;
use tokio::time::Instant;
use underpass_tunnel::{
    AttemptError, Connector, ConnectorConfig, Resolve, ServerAddress, Session, Transports,
};

use crate::harness::{
    Kind, acceptor_config, connector_config, dial_error, fails, released, run, transports, within,
};
use crate::life::still_works;
use crate::server::{Listen, NAME, Pki, Server};

/// A resolver that knows some names.
#[derive(Debug)]
pub(crate) struct Names(HashMap<&'static str, Vec<IpAddr>>);

impl Names {
    pub(crate) fn of<const N: usize>(names: [(&'static str, &[&str]); N]) -> Arc<Self> {
        let parse =
            |addresses: &[&str]| addresses.iter().map(|text| text.parse().unwrap()).collect();
        let names = names.map(|(name, addresses)| (name, parse(addresses)));
        Arc::new(Self(names.into()))
    }
}

impl Resolve for Names {
    fn resolve<'a>(
        &'a self,
        host: &'a str,
        port: u16,
    ) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>> {
        let addresses = self.0.get(host).into_iter().flatten();
        let addresses = addresses.map(|&address| (address, port).into()).collect();
        Box::pin(async move { Ok(addresses) })
    }
}

/// A port of some addresses on which no process listens, or will.
pub(crate) struct ClosedPort {
    pub(crate) port: u16,
    _held: Vec<TcpSocket>,
}

impl ClosedPort {
    pub(crate) fn of(addresses: &[&str]) -> Self {
        let mut tries = (0..100).filter_map(|_| Self::try_of(addresses));
        tries.next().expect("a port is free on all of them")
    }

    fn try_of(addresses: &[&str]) -> Option<Self> {
        let mut port = 0;
        let mut held = Vec::new();
        for address in addresses {
            let address = SocketAddr::new(address.parse().unwrap(), port);
            let socket = match address {
                SocketAddr::V4(_) => TcpSocket::new_v4(),
                SocketAddr::V6(_) => TcpSocket::new_v6(),
            };
            let socket = socket.unwrap();
            socket.bind(address).ok()?;
            port = socket.local_addr().unwrap().port();
            held.push(socket);
        }
        Some(Self { port, _held: held })
    }
}

/// Takes connections and datagrams, and never says a word.
struct BlackHole {
    _tcp: TcpListener,
    _udp: UdpSocket,
}

impl BlackHole {
    fn at(address: SocketAddr) -> Option<Self> {
        Some(Self {
            _tcp: TcpListener::bind(address).ok()?,
            _udp: UdpSocket::bind(address).ok()?,
        })
    }
}

/// A server on 127.0.0.1, and black holes on the same port of other addresses.
async fn beside_black_holes(pki: &Pki, holes: &[&str]) -> (Server, Vec<BlackHole>) {
    for _ in 0..100 {
        let server = Server::start(pki, acceptor_config()).await;
        let holes: Option<_> = holes
            .iter()
            .map(|address| BlackHole::at((address.parse::<IpAddr>().unwrap(), server.port).into()))
            .collect();
        if let Some(holes) = holes {
            return (server, holes);
        }
    }
    panic!("no port is free on all of them");
}

fn named(port: u16, pki: &Pki, addresses: &[&str]) -> ConnectorConfig {
    let mut config = connector_config(port, pki);
    config.servers = vec![ServerAddress::new(NAME, port)];
    config.resolver = Names::of([(NAME, addresses)]);
    config
}

async fn connect(config: ConnectorConfig, server: &mut Server) -> (Session, Session) {
    let connector = Connector::new(config).unwrap();
    server.connected(&connector).await
}

async fn start_v6(pki: &Pki) -> Server {
    let address = SocketAddr::from((Ipv6Addr::LOCALHOST, 0));
    Server::start_at(address, pki, acceptor_config(), Listen::Both).await
}

#[test]
fn a_server_that_has_ipv6_only() {
    for kind in [Kind::Quic, Kind::WebSocket] {
        run(async move {
            let pki = Pki::new();
            let mut server = start_v6(&pki).await;
            let mut config = connector_config(server.port, &pki);
            config.servers = vec![ServerAddress::new("::1", server.port)];
            config.transports = transports(kind);
            let (agent, session) = connect(config, &mut server).await;
            still_works(&agent, &session).await;
            released(&agent, &session).await;
        });
    }
}

/// The server's address family is found, in either order of the resolver's answer.
#[test]
fn a_name_with_addresses_of_both_families() {
    for kind in [Kind::Quic, Kind::WebSocket] {
        for addresses in [["::1", "127.0.0.1"], ["127.0.0.1", "::1"]] {
            run(async move {
                let pki = Pki::new();
                let mut v6 = start_v6(&pki).await;
                let config = ConnectorConfig {
                    transports: transports(kind),
                    ..named(v6.port, &pki, &addresses)
                };
                let (agent, _session) = connect(config, &mut v6).await;
                let remote = agent.info().remote.unwrap();
                assert_eq!(remote.ip(), IpAddr::from(Ipv6Addr::LOCALHOST));

                let mut v4 = Server::start(&pki, acceptor_config()).await;
                let config = ConnectorConfig {
                    transports: transports(kind),
                    ..named(v4.port, &pki, &addresses)
                };
                let (agent, _session) = connect(config, &mut v4).await;
                let remote = agent.info().remote.unwrap();
                assert_eq!(remote.ip(), IpAddr::from(Ipv4Addr::LOCALHOST));
            });
        }
    }
}

/// The first address takes everything and answers nothing, as behind a broken tunnel for IPv6.
#[test]
fn an_address_that_swallows_everything_holds_nobody_up() {
    for transports in [Transports::Quic, Transports::WebSocket, Transports::Auto] {
        run(async move {
            let pki = Pki::new();
            let (mut server, _holes) = beside_black_holes(&pki, &["::1", "127.0.0.2"]).await;
            let config = ConnectorConfig {
                transports,
                ..named(server.port, &pki, &["::1", "127.0.0.2", "127.0.0.1"])
            };
            let start = Instant::now();
            let (agent, session) = connect(config, &mut server).await;
            assert!(
                start.elapsed() < underpass_tunnel::limits::CONNECT_TIME,
                "the others had their time first"
            );
            still_works(&agent, &session).await;
            released(&agent, &session).await;
        });
    }
}

#[test]
fn every_address_that_was_tried_is_named() {
    run(async {
        let pki = Pki::new();
        let addresses = ["127.0.0.1", "::1", "127.0.0.2"];
        let closed = ClosedPort::of(&addresses);
        let port = closed.port;
        let config = ConnectorConfig {
            transports: Transports::WebSocket,
            ..named(port, &pki, &addresses)
        };
        let error = dial_error(config).await;
        assert_eq!(error.attempts.len(), 3);
        let told = error.to_string();
        assert!(
            told.starts_with(&format!("no way to {NAME}:{port}: ")),
            "{told}"
        );
        for address in ["127.0.0.1", "[::1]", "127.0.0.2"] {
            let wanted = format!("websocket to {address}:{port}: no TCP connection");
            assert!(told.contains(&wanted), "{told}");
        }

        let unknown = ConnectorConfig {
            resolver: Names::of([]),
            ..named(port, &pki, &[])
        };
        let error = dial_error(unknown).await;
        assert!(
            matches!(&error.attempts[..], [AttemptError::NoAddress { host }] if host == NAME),
            "{error:?}"
        );
    });
}

/// Which of the servers has a new session.
async fn arrived(servers: &mut [Server]) -> (usize, Session) {
    let sessions = servers.iter_mut().enumerate();
    let sessions = sessions.map(|(place, server)| {
        let session: BoxFuture<'_, _> = Box::pin(async move { (place, server.session().await) });
        session
    });
    futures_util::future::select_all(sessions).await.0
}

#[test]
fn an_agent_keeps_to_a_server_and_goes_on_when_it_fails() {
    run(async {
        let pki = Pki::new();
        let mut servers = Vec::new();
        for _ in 0..3 {
            servers.push(Server::start(&pki, acceptor_config()).await);
        }
        let ports: Vec<_> = servers.iter().map(|server| server.port).collect();
        let mut config = connector_config(ports[0], &pki);
        config.servers = ports
            .iter()
            .map(|&port| ServerAddress::new("127.0.0.1", port))
            .collect();
        config.transports = Transports::WebSocket;
        let connector = Connector::new(config).unwrap();

        let mut left = Vec::new();
        while let Some(count) = 3usize.checked_sub(left.len()).filter(|count| *count > 0) {
            let (agent, (place, session)) =
                tokio::join!(connector.connect(), arrived(&mut servers));
            let (agent, port) = (agent.unwrap(), servers[place].port);
            assert_eq!(agent.info().remote.unwrap().port(), port);
            assert!(!left.contains(&port), "{port} was left before");
            drop((agent, session));
            // It comes back to the same one…
            let (again, (same, _session)) =
                tokio::join!(connector.connect(), arrived(&mut servers));
            assert_eq!(servers[same].port, port);
            drop(again);
            // …until that is gone: then one attempt fails, and the next goes elsewhere.
            let gone = servers.remove(place);
            within("the server stops", gone.stop()).await;
            left.push(port);
            if count > 1 {
                let error = fails("dialling", connector.connect()).await;
                let told = underpass_tunnel::chain(&error);
                assert!(told.contains(&format!("127.0.0.1:{port}")), "{told}");
            }
        }
        left.sort_unstable();
        let mut ports = ports;
        ports.sort_unstable();
        assert_eq!(left, ports, "each had its turn");
    });
}

/// A server that can be reached and refuses the session has had its turn, too.
#[test]
fn a_server_that_refuses_the_session_is_left() {
    run(async {
        let pki = Pki::new();
        let mut servers = vec![
            Server::start(&pki, acceptor_config()).await,
            Server::start(&pki, acceptor_config()).await,
        ];
        let mut config = connector_config(1, &pki);
        config.key = crate::harness::key(2);
        config.servers = servers
            .iter()
            .map(|server| ServerAddress::new("127.0.0.1", server.port))
            .collect();
        let connector = Connector::new(config).unwrap();
        fails("the first", connector.connect()).await;
        fails("the second", connector.connect()).await;
        for server in &mut servers {
            assert!(server.result().await.is_err(), "each was asked");
        }
    });
}
