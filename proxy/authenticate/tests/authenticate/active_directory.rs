//! A directory that gives an attribute with many values in parts, as Active Directory does ([MS-ADTS], section 3.1.1.3.1.3.3):
//! a real slapd, with a relay in front that rewrites its answers.

use std::{collections::HashMap, sync::Arc};

use ldap3::asn1::{PL, StructureTag, TagClass, parse_tag, write};
use rustls::{ServerConfig, pki_types::PrivateKeyDer};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsAcceptor;
use underpass_authenticate::{GroupMembership, LdapConfig, Roots};
use underpass_core::{Rejection, limits};
use underpass_testenv::testing::providers::Directory;

use crate::ldap::{basic, config, groups, ldap};
use crate::present::{rejection, unavailable};

const SEARCH_REQUEST: u64 = 3;
const SEARCH_RESULT_ENTRY: u64 = 4;

/// The relay's way with attributes of many values.
#[derive(Clone, Copy)]
struct Parts {
    /// Values in one answer.
    most: usize,
    /// Whether it gives the others when it is asked for them.
    gives_the_rest: bool,
}

/// For each search under way, where the part of an attribute begins that it asks for.
type Asked = HashMap<Vec<u8>, HashMap<String, usize>>;

async fn in_parts(directory: &Directory, parts: Parts) -> LdapConfig {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let tls = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let tls = TlsAcceptor::from(Arc::new(tls));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let upstream = directory.ldap().replace("ldap://", "");
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let (tls, upstream) = (tls.clone(), upstream.clone());
            socket.set_nodelay(true).unwrap();
            tokio::spawn(async move {
                let client = tls.accept(socket).await.unwrap();
                let directory = TcpStream::connect(upstream).await.unwrap();
                directory.set_nodelay(true).unwrap();
                relay(client, directory, parts).await;
            });
        }
    });
    let mut config = config(directory);
    config.url = format!("ldaps://localhost:{port}");
    config.roots = Roots::from_pem(made.cert.pem().as_bytes()).unwrap();
    let search = config.groups.as_mut().unwrap();
    search.membership = GroupMembership::MemberOf("memberOf".to_owned());
    config
}

async fn relay(client: impl AsyncRead + AsyncWrite, directory: TcpStream, parts: Parts) {
    let (mut from_client, mut to_client) = tokio::io::split(client);
    let (mut from_directory, mut to_directory) = directory.into_split();
    let (mut requests, mut answers) = (Vec::new(), Vec::new());
    let mut asked = Asked::new();
    loop {
        tokio::select! {
            request = message(&mut from_client, &mut requests) => {
                let Some(mut request) = request else { return };
                rewrite_request(&mut request, &mut asked);
                send(&mut to_directory, request).await;
            }
            answer = message(&mut from_directory, &mut answers) => {
                let Some(mut answer) = answer else { return };
                rewrite_answer(&mut answer, &asked, parts);
                send(&mut to_client, answer).await;
            }
        }
    }
}

/// The next message. Bytes that were read stay in `buffer` when the future is dropped.
async fn message(
    from: &mut (impl AsyncRead + Unpin),
    buffer: &mut Vec<u8>,
) -> Option<StructureTag> {
    loop {
        if let Ok((rest, message)) = parse_tag(buffer) {
            let parsed = buffer.len() - rest.len();
            buffer.drain(..parsed);
            return Some(message);
        }
        if from.read_buf(buffer).await.unwrap_or(0) == 0 {
            return None;
        }
    }
}

async fn send(to: &mut (impl AsyncWrite + Unpin), message: StructureTag) {
    let mut bytes = bytes::BytesMut::new();
    write::encode_into(&mut bytes, message).unwrap();
    // The other side may have gone.
    let _ = to.write_all(&bytes).await;
}

fn children(tag: &mut StructureTag) -> &mut Vec<StructureTag> {
    match &mut tag.payload {
        PL::C(children) => children,
        PL::P(_) => panic!("not constructed"),
    }
}

fn bytes_of(tag: &StructureTag) -> &[u8] {
    match &tag.payload {
        PL::P(bytes) => bytes,
        PL::C(_) => panic!("not primitive"),
    }
}

fn text_of(tag: &StructureTag) -> String {
    String::from_utf8(bytes_of(tag).to_vec()).unwrap()
}

fn octets(text: &str) -> StructureTag {
    let payload = PL::P(text.as_bytes().to_vec());
    let (class, id) = (TagClass::Universal, 4);
    StructureTag { class, id, payload }
}

/// slapd knows no ranges.
fn rewrite_request(request: &mut StructureTag, asked: &mut Asked) {
    let id = bytes_of(&children(request)[0]).to_vec();
    let operation = &mut children(request)[1];
    if operation.id != SEARCH_REQUEST {
        return;
    }
    let mut begins = HashMap::new();
    for attribute in children(&mut children(operation)[7]) {
        let described = text_of(attribute);
        if let Some((name, range)) = described.split_once(";range=") {
            let from = range.strip_suffix("-*").unwrap().parse().unwrap();
            begins.insert(name.to_lowercase(), from);
            *attribute = octets(name);
        }
    }
    asked.insert(id, begins);
}

fn rewrite_answer(answer: &mut StructureTag, asked: &Asked, parts: Parts) {
    let begins = &asked.get(bytes_of(&children(answer)[0]));
    let operation = &mut children(answer)[1];
    if operation.id != SEARCH_RESULT_ENTRY {
        return;
    }
    let attributes = children(&mut children(operation)[1]);
    let mut rewritten = Vec::new();
    for mut attribute in attributes.drain(..) {
        let name = text_of(&children(&mut attribute)[0]);
        let from = begins.and_then(|begins| begins.get(&name.to_lowercase()).copied());
        let values = children(&mut children(&mut attribute)[1]);
        if from.is_none() && values.len() <= parts.most {
            rewritten.push(attribute);
            continue;
        }
        if from.is_some() && !parts.gives_the_rest {
            continue;
        }
        let mut part = attribute.clone();
        let rest = children(&mut children(&mut part)[1]).split_off(from.unwrap_or(0));
        let last = rest.len() <= parts.most;
        let some: Vec<_> = rest.into_iter().take(parts.most).collect();
        let first = from.unwrap_or(0);
        let end = if last {
            "*".to_owned()
        } else {
            (first + some.len() - 1).to_string()
        };
        *children(&mut children(&mut part)[1]) = some;
        children(&mut part)[0] = octets(&format!("{name};range={first}-{end}"));
        rewritten.push(part);
        if from.is_none() {
            children(&mut children(&mut attribute)[1]).clear();
            rewritten.push(attribute);
        }
    }
    *attributes = rewritten;
}

fn flood(groups: usize) -> Vec<String> {
    let mut all: Vec<_> = (0..groups).map(|n| format!("ldap:flood-{n}")).collect();
    all.sort();
    all
}

#[tokio::test]
async fn an_attribute_that_comes_in_parts_is_fetched_to_the_last() {
    for (count, most) in [(120, 50), (100, 50), (50, 50)] {
        let directory = Directory::with_flood(count).await;
        let parts = Parts {
            most,
            gives_the_rest: true,
        };
        let ldap = ldap(in_parts(&directory, parts).await);
        let found = groups(basic(&ldap, "bob", "bob-secret").await);
        assert_eq!(found, flood(count), "{count} in parts of {most}");
    }
}

#[tokio::test]
async fn an_attribute_of_which_a_part_is_missing_gives_no_login() {
    let directory = Directory::with_flood(20).await;
    let parts = Parts {
        most: 15,
        gives_the_rest: false,
    };
    let ldap = ldap(in_parts(&directory, parts).await);
    let said = unavailable(basic(&ldap, "bob", "bob-secret").await);
    assert!(
        said.contains("a part of the attribute \"memberOf\", and not the values from number 15 on"),
        "{said}"
    );
}

#[tokio::test]
async fn rule_11_an_attribute_without_end_is_refused() {
    let directory = Directory::with_flood(limits::LDAP_VALUES + 1).await;
    let parts = Parts {
        most: 1500,
        gives_the_rest: true,
    };
    let ldap = ldap(in_parts(&directory, parts).await);
    // The password is not tried, so that nothing but the log tells bob from a name that there is not.
    let error = basic(&ldap, "bob", "bob-secret").await.unwrap_err();
    assert_eq!(Rejection::from(&error), Rejection::Unauthorized);
    let said = rejection(Err(error)).to_string();
    assert!(
        said.contains("\"memberOf\" has more than 4096 values"),
        "{said}"
    );
}
