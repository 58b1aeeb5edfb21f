//! Directories that attack the server with their answers. Where an answer overflows a stack, the test's process ends.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use rustls::{ServerConfig, pki_types::PrivateKeyDer};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{RwLock, broadcast, mpsc},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use underpass_authenticate::{GroupMembership, LdapConfig, Roots};
use underpass_core::limits;
use underpass_testenv::testing::{
    chain, eventually,
    providers::{Directory, SEARCHER},
};

use crate::ldap::{basic, config_at, groups, ldap};
use crate::present::{identity, soon, unavailable};

/// RFC 4511: the tags of answers.
const BIND_RESPONSE: u8 = 0x61;
const ENTRY: u8 = 0x64;
const SEARCH_DONE: u8 = 0x65;
const REFERENCE: u8 = 0x73;
const EXTENDED_RESPONSE: u8 = 0x78;
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const OCTETS: u8 = 4;

/// More than any stack holds, and less than a message may have.
const DEEP: usize = 50_000;

/// Bytes of an answer that an attacker sends until the server closes the connection: many more than two sockets buffer.
const FLOOD: usize = 128 * 1024 * 1024;

/// The most that a connection may have taken of it: a login's bytes, and the sockets' buffers.
const TAKEN: usize = limits::LDAP_LOGIN_BYTES + 24 * 1024 * 1024;

fn element(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut bytes = vec![tag, 0x84];
    bytes.extend(u32::try_from(content.len()).unwrap().to_be_bytes());
    bytes.extend(content);
    bytes
}

/// SEQUENCEs in each other.
fn nested() -> Vec<u8> {
    let mut bytes = Vec::new();
    for inner in (0..DEEP).rev() {
        bytes.extend([SEQUENCE, 0x84]);
        bytes.extend(u32::try_from(6 * inner).unwrap().to_be_bytes());
    }
    bytes
}

/// An LDAPMessage.
fn message(id: u8, operation: u8, content: &[u8], controls: &[u8]) -> Vec<u8> {
    let parts = [&[2, 1, id], &*element(operation, content), controls].concat();
    element(SEQUENCE, &parts)
}

/// An LDAPResult.
fn result(code: u8, more: &[u8]) -> Vec<u8> {
    [&[10, 1, code, OCTETS, 0, OCTETS, 0], more].concat()
}

/// A SearchResultEntry with these values.
fn entry(values: &[u8]) -> Vec<u8> {
    let attribute = [element(OCTETS, b"cn"), element(SET, values)].concat();
    let attributes = element(SEQUENCE, &element(SEQUENCE, &attribute));
    [element(OCTETS, b"cn=a"), attributes].concat()
}

/// The certificate of a directory at localhost, and the address.
async fn listen() -> (TcpListener, TlsAcceptor, SocketAddr, Roots) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let roots = Roots::from_pem(made.cert.pem().as_bytes()).unwrap();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let tls = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, TlsAcceptor::from(Arc::new(tls)), address, roots)
}

/// A directory that gives the requests of each connection these answers, one each, and repeats the last one `repeat` times.
/// With the configuration, the number of bytes that each connection has taken of them, once it has ended.
async fn answering(
    answers: Vec<Vec<u8>>,
    repeat: usize,
) -> (LdapConfig, mpsc::UnboundedReceiver<usize>) {
    let (listener, tls, address, roots) = listen().await;
    let (taken, takes) = mpsc::unbounded_channel();
    let answers = Arc::new(answers);
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let (tls, answers, taken) = (tls.clone(), Arc::clone(&answers), taken.clone());
            tokio::spawn(async move {
                let mut client = tls.accept(socket).await.unwrap();
                // The test may have ended.
                let _ = taken.send(answer(&mut client, &answers, repeat).await);
            });
        }
    });
    let url = format!("ldaps://localhost:{}", address.port());
    (config_at(url, roots), takes)
}

async fn answer(client: &mut TlsStream<TcpStream>, answers: &[Vec<u8>], repeat: usize) -> usize {
    let mut request = vec![0; 4096];
    let mut taken = 0;
    for (number, answer) in answers.iter().enumerate() {
        if client.read(&mut request).await.unwrap_or(0) == 0 {
            return taken;
        }
        let last = number + 1 == answers.len();
        for _ in 0..if last { repeat } else { 1 } {
            if client.write_all(answer).await.is_err() {
                return taken;
            }
            taken += answer.len();
        }
    }
    // Until the client has closed it.
    while client.read(&mut request).await.unwrap_or(0) > 0 {}
    taken
}

#[tokio::test]
async fn rule_23_a_directory_cannot_overflow_the_stack_with_its_answers() {
    let controls = |value: &[u8]| {
        let paged = element(OCTETS, b"1.2.840.113556.1.4.319");
        let control = [paged, element(OCTETS, value)].concat();
        element(0xa0, &element(SEQUENCE, &control))
    };
    let bound = message(1, BIND_RESPONSE, &result(0, &[]), &[]);
    let referral = element(0xa3, &nested());
    let not_bound = "is not let in (LDAP result 49 (invalid credentials)";
    let values = element(SEQUENCE, &nested());
    let entry = [element(OCTETS, b"cn=a"), values].concat();
    for (answers, why) in [
        (vec![nested()], "no LDAP message"),
        (
            vec![message(1, BIND_RESPONSE, &result(49, &referral), &[])],
            not_bound,
        ),
        (
            vec![message(
                1,
                BIND_RESPONSE,
                &result(49, &[]),
                &element(0xa0, &nested()),
            )],
            not_bound,
        ),
        (
            vec![bound.clone(), message(2, ENTRY, &entry, &[])],
            "no LDAP message",
        ),
        // Within octets, where a parser of the whole message does not see it.
        (
            vec![
                bound,
                message(2, SEARCH_DONE, &result(0, &[]), &controls(&nested())),
            ],
            "no LDAP message",
        ),
    ] {
        let (config, _) = answering(answers, 1).await;
        let said = unavailable(basic(&ldap(config), "alice", "alice-secret").await);
        assert!(said.contains(why), "{said}");
    }
}

/// The answer to StartTLS is in plain text: anybody on the path can write it.
async fn starting_tls(answer: Vec<u8>) -> (String, Vec<u8>) {
    let (listener, _, address, roots) = listen().await;
    let (heard, mut hears) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        let (mut client, _) = listener.accept().await.unwrap();
        let mut bytes = vec![0; 4096];
        assert!(client.read(&mut bytes).await.unwrap() > 0);
        client.write_all(&answer).await.unwrap();
        let mut said = Vec::new();
        // A client that closes before it has read everything resets the connection.
        let _ = client.read_to_end(&mut said).await;
        heard.send(said).unwrap();
    });
    let mut config = config_at(format!("ldap://localhost:{}", address.port()), roots);
    config.start_tls = true;
    let said = unavailable(basic(&ldap(config), "alice", "alice-secret").await);
    (said, soon(hears.recv()).await.unwrap())
}

#[tokio::test]
async fn rule_23_the_answer_to_start_tls_cannot_overflow_the_stack() {
    let referral = element(0xa3, &nested());
    for answer in [
        nested(),
        message(1, EXTENDED_RESPONSE, &result(52, &referral), &[]),
    ] {
        let (said, heard) = starting_tls(answer).await;
        assert!(said.contains("the directory cannot be reached"), "{said}");
        assert_eq!(heard, b"");
    }
}

/// An attacker on the path can put an answer in front of TLS; it must not count behind TLS.
#[tokio::test]
async fn rule_10_nothing_follows_the_answer_to_start_tls() {
    let started = message(1, EXTENDED_RESPONSE, &result(0, &[]), &[]);
    let bound = message(2, BIND_RESPONSE, &result(0, &[]), &[]);
    let (said, heard) = starting_tls([&*started, &*bound].concat()).await;
    assert!(said.contains("has sent something unasked"), "{said}");
    assert_eq!(heard, b"");
    // Without that answer the client begins TLS, with a handshake record.
    let (listener, _, address, roots) = listen().await;
    let mut config = config_at(format!("ldap://localhost:{}", address.port()), roots);
    config.start_tls = true;
    config.remote.timeout = Duration::from_secs(5);
    let ldap = ldap(config);
    let serve = async {
        let (mut client, _) = listener.accept().await.unwrap();
        let mut bytes = vec![0; 4096];
        assert!(client.read(&mut bytes).await.unwrap() > 0);
        client.write_all(&started).await.unwrap();
        client.read_u8().await.unwrap()
    };
    let (first, _) = tokio::join!(serve, basic(&ldap, "alice", "alice-secret"));
    assert_eq!(first, 22);
}

#[tokio::test]
async fn rule_23_a_directory_has_its_answers_read_to_a_bound() {
    let bound = message(1, BIND_RESPONSE, &result(0, &[]), &[]);
    let chunk = vec![0; 64 * 1024];
    let endless = [&[SEQUENCE, 0x84, 0xff, 0xff, 0xff, 0xff][..], &chunk].concat();
    let reference = message(2, REFERENCE, &element(OCTETS, &vec![b'a'; 500_000]), &[]);
    let large = message(
        2,
        ENTRY,
        &entry(&element(OCTETS, &vec![b'a'; 900_000])),
        &[],
    );
    let many = message(2, ENTRY, &entry(&[]), &[]);
    // As many values as have room.
    let valued = message(2, ENTRY, &entry(&[OCTETS, 0].repeat(400_000)), &[]);
    for (answers, size, why) in [
        // A message that does not end.
        (vec![endless], chunk.len(), "are not read"),
        // References, which the server leaves out, without end.
        (
            vec![bound.clone(), reference.clone()],
            reference.len(),
            "has answered one login with more than",
        ),
        // The server asks for two entries, and does not wait for the rest.
        (
            vec![bound.clone(), large.clone()],
            large.len(),
            "more than one",
        ),
        (
            vec![bound.clone(), valued.clone()],
            valued.len(),
            "attributes and values",
        ),
        (vec![bound, many.clone()], many.len(), "more than one"),
    ] {
        let (config, mut takes) = answering(answers, FLOOD / size).await;
        let ldap = ldap(config);
        let answer = basic(&ldap, "alice", "alice-secret").await;
        let said = chain(&answer.expect_err("no answer lets anybody in"));
        assert!(said.contains(why), "{said}");
        let taken = soon(takes.recv()).await.unwrap();
        assert!(taken < TAKEN, "{why}: {taken}");
    }
}

/// An order to a [`relay`], for each connection that is open.
#[derive(Clone, Debug)]
enum Order {
    /// To pass nothing on for longer than a kept connection is waited for. A new one is refused meanwhile, or waits as well.
    Late {
        refuses: bool,
    },
    /// To pass nothing on any more until the client closes the connection.
    Silence,
    /// To send this, again and again up to [`FLOOD`].
    Say(Vec<u8>),
    SayOnce(Vec<u8>),
}

struct Relay {
    config: LdapConfig,
    orders: broadcast::Sender<Order>,
    /// Bytes that a connection took before it ended; of one that is silent, another 0 at once.
    reports: mpsc::UnboundedReceiver<usize>,
}

impl Relay {
    /// Orders it, once only so many connections are open.
    async fn order(&self, order: Order, open: usize) {
        eventually("users' connections end", async || {
            match self.orders.receiver_count() {
                count if count == open => Ok(()),
                count => Err(count),
            }
        })
        .await;
        assert_eq!(self.orders.send(order).unwrap(), open);
    }

    async fn report(&mut self) -> usize {
        soon(self.reports.recv()).await.unwrap()
    }
}

/// A way to a real directory that goes wrong on demand.
async fn relay(directory: &Directory) -> Relay {
    let (listener, tls, address, roots) = listen().await;
    let (orders, _) = broadcast::channel(16);
    let (report, reports) = mpsc::unbounded_channel();
    let upstream = directory.ldap().replace("ldap://", "");
    let weak = orders.downgrade();
    let gate = Arc::new(RwLock::new(()));
    let refuses = Arc::new(AtomicBool::new(false));
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let (tls, upstream, report) = (tls.clone(), upstream.clone(), report.clone());
            let Some(orders) = weak.upgrade().map(|orders| orders.subscribe()) else {
                return;
            };
            let (gate, refuses) = (Arc::clone(&gate), Arc::clone(&refuses));
            if gate.try_read().is_err() && refuses.load(Ordering::Relaxed) {
                continue;
            }
            socket.set_nodelay(true).unwrap();
            tokio::spawn(async move {
                drop(gate.read().await);
                // A client may give up meanwhile.
                let Ok(client) = tls.accept(socket).await else {
                    return;
                };
                let directory = TcpStream::connect(upstream).await.unwrap();
                directory.set_nodelay(true).unwrap();
                pass_on(client, directory, orders, report, (&gate, &refuses)).await;
            });
        }
    });
    let url = format!("ldaps://localhost:{}", address.port());
    Relay {
        config: config_at(url, roots),
        orders,
        reports,
    }
}

async fn pass_on(
    client: impl AsyncRead + AsyncWrite,
    directory: TcpStream,
    mut orders: broadcast::Receiver<Order>,
    report: mpsc::UnboundedSender<usize>,
    (gate, refuse): (&RwLock<()>, &AtomicBool),
) {
    let (mut from_client, mut to_client) = tokio::io::split(client);
    let (mut from_directory, mut to_directory) = directory.into_split();
    let order = loop {
        let passing = async {
            tokio::select! {
                _ = tokio::io::copy(&mut from_client, &mut to_directory) => {}
                _ = tokio::io::copy(&mut from_directory, &mut to_client) => {}
            }
        };
        let order = tokio::select! {
            () = passing => return,
            order = orders.recv() => order,
        };
        let Ok(Order::Late { refuses }) = order else {
            break order;
        };
        refuse.store(refuses, Ordering::Relaxed);
        let gate = gate.write().await;
        let _ = report.send(0);
        tokio::time::sleep(limits::LDAP_KEPT_ANSWER + Duration::from_secs(1)).await;
        let mut bytes = vec![0; 4096];
        let read = from_client.read(&mut bytes).await.unwrap();
        to_directory.write_all(&bytes[..read]).await.unwrap();
        // To the search's result.
        let done = |bytes: &[u8]| {
            let mut parts = bytes.windows(3);
            parts.any(|part| part[0] == SEARCH_DONE && part[2] == 10)
        };
        let mut answer = Vec::new();
        while !done(&answer) {
            assert!(from_directory.read_buf(&mut answer).await.unwrap() > 0);
        }
        to_client.write_all(&answer).await.unwrap();
        to_client.flush().await.unwrap();
        drop(gate);
    };
    let (bytes, most) = match order {
        Ok(Order::Say(bytes)) => (bytes, FLOOD),
        Ok(Order::SayOnce(bytes)) => (bytes, 1),
        Ok(Order::Silence) => {
            let _ = report.send(0);
            (Vec::new(), 0)
        }
        Ok(Order::Late { .. }) | Err(_) => return,
    };
    let mut taken = 0;
    while taken < most && to_client.write_all(&bytes).await.is_ok() {
        taken += bytes.len();
    }
    let _ = to_client.flush().await;
    while from_client.read(&mut [0; 64]).await.unwrap_or(0) > 0 {}
    let _ = report.send(taken);
}

fn binds(directory: &Directory) -> usize {
    let searcher = format!("BIND dn=\"{}\" method=128", SEARCHER.0);
    directory.log().matches(&searcher).count()
}

#[tokio::test]
async fn rule_23_an_idle_connection_to_a_directory_takes_nothing() {
    let endless = [&[SEQUENCE, 0x84, 0xff, 0xff, 0xff, 0xff][..], &[0; 65_536]].concat();
    // RFC 4511, section 4.4.1, and as Active Directory writes it.
    let notice = message(0, EXTENDED_RESPONSE, &result(52, &[]), &[0x8a, 1, b'1']);
    for order in [
        Order::SayOnce(nested()),
        Order::Say(endless),
        Order::SayOnce(notice),
        Order::SayOnce(vec![SEQUENCE]),
    ] {
        let directory = Directory::start().await;
        let mut relay = relay(&directory).await;
        let ldap = ldap(relay.config.clone());
        identity(basic(&ldap, "alice", "alice-secret").await);
        assert_eq!(binds(&directory), 1);
        relay.order(order, 1).await;
        // It is closed without a question.
        let taken = relay.report().await;
        assert!(taken < TAKEN, "{taken}");
        identity(basic(&ldap, "bob", "bob-secret").await);
        assert_eq!(binds(&directory), 2);
    }
}

#[tokio::test]
async fn rule_23_a_kept_connection_that_is_silent_is_replaced_in_time() {
    let directory = Directory::start().await;
    let mut relay = relay(&directory).await;
    // Groups that are read beside each other take several connections.
    let search = relay.config.groups.as_mut().unwrap();
    search.membership = GroupMembership::MemberOf("memberOf".to_owned());
    let ldap = ldap(relay.config.clone());
    let carols = ["ldap:dev", "ldap:everyone", "ldap:platform"];
    assert_eq!(groups(basic(&ldap, "carol", "carol-secret").await), carols);
    let kept = binds(&directory);
    assert!(kept > 1);
    relay.order(Order::Silence, kept).await;
    for _ in 0..kept {
        relay.report().await;
    }
    assert_eq!(groups(basic(&ldap, "alice", "alice-secret").await), carols);
    assert_eq!(binds(&directory), kept + 1);
    // No login waits for the others.
    for _ in 0..kept {
        relay.report().await;
    }
}

/// Active Directory takes seconds for a search by its own rule.
#[tokio::test]
async fn a_slow_directory_answers_on_the_kept_connection() {
    for refuses in [false, true] {
        let directory = Directory::start().await;
        let mut relay = relay(&directory).await;
        let ldap = ldap(relay.config.clone());
        identity(basic(&ldap, "alice", "alice-secret").await);
        relay.order(Order::Late { refuses }, 1).await;
        relay.report().await;
        identity(basic(&ldap, "bob", "bob-secret").await);
        assert_eq!(binds(&directory), 1, "{}", directory.log());
    }
}
