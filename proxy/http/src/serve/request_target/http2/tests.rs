use std::io;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request};
use proptest::{collection::vec, prelude::*};

use super::{super::Targets, *};
use crate::serve::ClientEnd;

fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let [_, high, middle, low] = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = vec![high, middle, low, kind, flags, 0, 0, 0, 1];
    frame.extend_from_slice(payload);
    frame
}

fn preface() -> Vec<u8> {
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend([0, 0, 0, 4, 0, 0, 0, 0, 0]);
    bytes
}

/// A literal without an index and with one.
fn path(indexed: bool, value: &[u8]) -> Vec<u8> {
    let mut block = vec![
        if indexed { 0x44 } else { 0x04 },
        u8::try_from(value.len()).unwrap(),
    ];
    block.extend_from_slice(value);
    block
}

fn came(heads: &mut Heads, bytes: &[u8], size: usize) -> io::Result<Vec<u8>> {
    let mut all = Vec::new();
    for piece in bytes.chunks(size) {
        all.extend(heads.came(piece)?.unwrap_or_else(|| piece.to_vec()));
    }
    Ok(all)
}

/// The heads in what was written.
fn heads(bytes: &[u8]) -> Vec<Vec<Line>> {
    let (mut reader, mut at, mut heads) = (Reader::default(), PREFACE, Vec::new());
    while at < bytes.len() {
        match next(&bytes[at..]) {
            Next::Passes(length) | Next::Last { length, .. } => at += length,
            Next::Head(head) => {
                at += head.length;
                heads.push(reader.read(&head.block).unwrap());
            }
            other => panic!("{other:?}"),
        }
    }
    heads
}

/// The paths in what was written.
fn paths(bytes: &[u8]) -> Vec<String> {
    let lines = heads(bytes).into_iter().flatten();
    let values = lines.filter(|line| line.field.name == ":path");
    values
        .map(|line| String::from_utf8_lossy(&line.field.value).into_owned())
        .collect()
}

#[test]
fn a_paths_forbidden_bytes_are_encoded_and_other_bytes_pass() {
    let raw = b"/a<b?q=up{job=\"a\"}>0";
    let mut bytes = preface();
    bytes.extend(frame(HEADERS, END_HEADERS | END_STREAM, &[0x82, 0x84]));
    let untouched = bytes.len();
    bytes.extend(frame(HEADERS, END_HEADERS, &path(true, raw)));
    bytes.extend(frame(0, END_STREAM, b"?\"<>\""));
    // The entry that the one before has made.
    bytes.extend(frame(HEADERS, END_HEADERS | END_STREAM, &[0xbe]));
    // Padded, with a priority, in three frames.
    let block = path(false, raw);
    let mut payload = vec![3, 0, 0, 0, 0, 7];
    payload.extend_from_slice(&block[..4]);
    payload.extend_from_slice(&[0; 3]);
    bytes.extend(frame(HEADERS, PADDED | PRIORITY, &payload));
    bytes.extend(frame(CONTINUATION, 0, &[]));
    bytes.extend(frame(CONTINUATION, END_HEADERS, &block[4..]));
    bytes.extend(frame(HEADERS, END_HEADERS, &path(false, b"*")));
    let encoded = "/a%3Cb?q=up{job=%22a%22}%3E0";
    for size in [1, 2, 5, 16, 100_000] {
        let mut heads = Heads::default();
        let all = came(&mut heads, &bytes, size).unwrap();
        assert_eq!(all[..untouched], bytes[..untouched]);
        assert_eq!(paths(&all), ["/", encoded, encoded, encoded, "*"], "{size}");
        assert!(all.windows(5).any(|piece| piece == b"?\"<>\""));
        // The priority stays, at the end of the frame's header.
        assert!(all.windows(6).any(|piece| piece == [1, 0, 0, 0, 0, 7]));
        assert_eq!(heads.ended(), b"");
    }
}

#[test]
fn bytes_pass_as_they_came_while_no_path_is_forbidden() {
    let mut bytes = preface();
    bytes.extend(frame(HEADERS, END_HEADERS, &path(true, b"/a\"?b={|}")));
    bytes.extend(frame(0, END_STREAM, &[0; 70_000]));
    for size in [1, 7, 100_000] {
        assert_eq!(came(&mut Heads::default(), &bytes, size).unwrap(), bytes);
    }
    assert_eq!(
        Heads::default().came(&bytes).unwrap(),
        None,
        "not even copied"
    );
    // The connection ends within a head.
    let mut heads = Heads::default();
    bytes.extend(&frame(HEADERS, END_HEADERS, &[0x82, 0x84])[..10]);
    let mut all = came(&mut heads, &bytes, 7).unwrap();
    all.extend(heads.ended());
    assert_eq!(all, bytes);
}

#[test]
fn rule_3_a_block_is_read_for_certain_or_nothing_is_changed() {
    let raw = frame(HEADERS, END_HEADERS, &path(true, b"/<"));
    let mut too_large = frame(HEADERS, 0, &[0x82]);
    for _ in 0..limits::FOLLOWED_HEAD_FRAMES - 2 {
        too_large.extend(frame(CONTINUATION, 0, &[0; PAYLOAD]));
    }
    let mut frames = frame(HEADERS, 0, &[0x82]);
    for _ in 0..limits::FOLLOWED_HEAD_FRAMES {
        frames.extend(frame(CONTINUATION, 0, &[]));
    }
    let mut interleaved = frame(HEADERS, 0, &[0x82]);
    interleaved.extend(frame(0, 0, &[]));
    for unknown in [
        frame(HEADERS, END_HEADERS, &[0x80]),
        frame(HEADERS, END_HEADERS | PADDED, &[]),
        frame(HEADERS, END_HEADERS | PADDED, &[5, 0x82]),
        frame(HEADERS, END_HEADERS | PRIORITY, &[0; 4]),
        too_large,
        frame(CONTINUATION, END_HEADERS, &[]),
        frame(PUSH_PROMISE, END_HEADERS, &[]),
        frames,
        interleaved,
    ] {
        for size in [1, 1000, 1_000_000] {
            let mut bytes = preface();
            bytes.extend(&unknown);
            bytes.extend(&raw);
            let all = came(&mut Heads::default(), &bytes, size).unwrap();
            assert_eq!(all, bytes, "{size}");
            // Where something was changed, it ends the connection.
            let mut bytes = preface();
            bytes.extend(&raw);
            bytes.extend(&unknown);
            let failed = came(&mut Heads::default(), &bytes, size).unwrap_err();
            assert_eq!(failed.kind(), io::ErrorKind::InvalidData);
        }
    }
}

#[test]
fn a_reset_has_a_code_that_is_no_clean_end() {
    let reset = |code| frame(RST_STREAM, 0, &[0, 0, 0, code]);
    for lost in [false, true] {
        let mut before = preface();
        if lost {
            before.extend(frame(PUSH_PROMISE, END_HEADERS, &[]));
        }
        // One that is too long is left to `h2`, which refuses it.
        let behind = frame(RST_STREAM, 0, &[0, 0, 0, 8, 0]);
        let with = |codes: [u8; 4]| {
            let resets = codes.into_iter().flat_map(reset);
            [&before[..], &Vec::from_iter(resets), &behind].concat()
        };
        for size in [1, 5, 9, 12, 13, 1000] {
            let all = came(&mut Heads::default(), &with([0, 8, 2, 13]), size);
            assert_eq!(all.unwrap(), with([10, 10, 2, 13]), "{lost} {size}");
        }
    }
}

/// The table goes on behind it.
#[test]
fn a_connect_has_its_streams_number() {
    let field = |name: &[u8], value: &[u8]| {
        let length = |bytes: &[u8]| vec![u8::try_from(bytes.len()).unwrap()];
        [&[0x40][..], &length(name), name, &length(value), value].concat()
    };
    let connect = [
        field(b":method", b"CONNECT"),
        field(b"underpass-stream", b"3"),
    ]
    .concat();
    for first in [&[0x82, 0x84][..], &path(true, b"/<")] {
        let mut bytes = preface();
        bytes.extend(frame(HEADERS, END_HEADERS, first));
        let mut payload = vec![2];
        payload.extend_from_slice(&connect);
        payload.extend([0; 2]);
        bytes.extend(frame(HEADERS, END_HEADERS | PADDED, &payload));
        // The client's own two lines, by their indices.
        bytes.extend(frame(HEADERS, 0, &[0xbf]));
        bytes.extend(frame(CONTINUATION, END_HEADERS, &[0xbe]));
        bytes.extend(frame(HEADERS, END_HEADERS, &[0xbe]));
        for size in [1, 7, 1000] {
            let all = came(&mut Heads::default(), &bytes, size).unwrap();
            let heads = heads(&all);
            let numbers = heads.iter().map(|lines| {
                let numbers = lines.iter().filter(|line| line.field.name == STREAM);
                Vec::from_iter(numbers.map(|line| line.field.value.clone()))
            });
            let expected: [&[&str]; 4] = [&[], &["3", "1"], &["3", "1"], &["3"]];
            assert_eq!(Vec::from_iter(numbers), expected, "{size}");
        }
    }
}

#[test]
fn a_connects_half_ends_with_its_last_frame() {
    let connect = [&[0x02, 7][..], b"CONNECT"].concat();
    let head = |flags| frame(HEADERS, END_HEADERS | flags, &connect);
    let half = [head(0), frame(DATA, 0, b"half of")].concat();
    let unknown = frame(PUSH_PROMISE, END_HEADERS, &[]);
    // In a frame of its own, in trailers, and behind a head that cannot be read.
    let ends = [
        (half.clone(), frame(DATA, END_STREAM, b"it")),
        (half.clone(), frame(DATA, END_STREAM, b"")),
        (half.clone(), frame(HEADERS, END_HEADERS | END_STREAM, &[])),
        (
            half.iter().chain(&unknown).copied().collect(),
            frame(HEADERS, END_STREAM, &[]),
        ),
        (Vec::new(), head(END_STREAM)),
    ];
    for (before, last) in ends {
        for size in [1, 7, 1000] {
            let ends = ClientEnds::default();
            let mut heads = Heads::new(ends.clone());
            let (cut, behind) = last.split_at(last.len() - 1);
            came(&mut heads, &[&preface(), &before[..], cut].concat(), size).unwrap();
            let end = (!before.is_empty()).then(|| ends.of(1));
            assert!(
                end.as_ref().is_none_or(ClientEnd::is_open),
                "{last:?} {size}"
            );
            came(&mut heads, behind, size).unwrap();
            let end = end.unwrap_or_else(|| ends.of(1));
            assert!(!end.is_open(), "{last:?} {size}");
        }
    }
}

#[test]
fn the_number_of_a_stream_is_the_last_line() {
    let mut fields = HeaderMap::new();
    assert_eq!(Heads::stream(&fields), None);
    for (value, expected) in [("3", Some(3)), ("x", None), ("4294967295", Some(u32::MAX))] {
        fields.append(STREAM, value.parse().unwrap());
        assert_eq!(Heads::stream(&fields), expected);
    }
}

/// The paths of requests that arrive at a server of `h2`; the last one must.
async fn arrived(heads: &[Vec<u8>]) -> Vec<Option<String>> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    let (mut near, far) = tokio::io::duplex(1 << 22);
    near.write_all(&preface()).await.unwrap();
    for (number, head) in heads.iter().enumerate() {
        let mut head = head.clone();
        let mut at = 0;
        while at < head.len() {
            head[at + 8] = u8::try_from(2 * number + 1).unwrap();
            at = Frame::at(&head, at).unwrap().payload.end;
        }
        near.write_all(&head).await.unwrap();
    }
    let mut builder = h2::server::Builder::new();
    builder.max_header_list_size(u32::try_from(limits::HTTP1_BUFFER_BYTES).unwrap());
    let io = Targets::new(far, Heads::default());
    let mut server = builder.handshake::<_, Bytes>(io).await.unwrap();
    let mut arrived = vec![None; heads.len()];
    let serving = async {
        while let Some(request) = server.accept().await {
            let (request, mut respond) = request.unwrap();
            let number = u32::from(respond.stream_id()) as usize / 2;
            arrived[number] = Some(request.uri().path_and_query().unwrap().to_string());
            respond
                .send_response(http::Response::new(()), true)
                .unwrap();
            if number + 1 == heads.len() {
                return;
            }
        }
        panic!("the connection has ended");
    };
    let mut answers = [0; 1024];
    let reading = async { while near.read(&mut answers).await.is_ok_and(|read| read > 0) {} };
    tokio::select! {
        () = serving => {}
        () = reading => panic!("the connection has ended"),
    }
    arrived
}

fn get(path: &[u8], fields: &[u8]) -> Vec<u8> {
    let block = [&[0x82, 0x87][..], path, fields].concat();
    let fragments: Vec<_> = block.chunks(PAYLOAD).collect();
    let frames = fragments.iter().enumerate().map(|(number, fragment)| {
        let first = number == 0;
        let kind = if first { HEADERS } else { CONTINUATION };
        let ends = if number + 1 == fragments.len() {
            END_HEADERS
        } else {
            0
        };
        frame(kind, ends | if first { END_STREAM } else { 0 }, fragment)
    });
    frames.flatten().collect()
}

/// Of a proxy's connection with many users' requests: the one that its table makes much larger ends, and no other.
#[tokio::test]
async fn rule_23_a_head_that_cannot_be_written_ends_its_stream_alone() {
    let mut bomb = vec![0x40, 1, b'a', 0x7f, 0xa1, 0x1e];
    bomb.extend(vec![b'x'; 4000]);
    bomb.extend([0xbe; 100]);
    let mut large = vec![0x00, 1, b'b', 0x7f, 0xf1, 0xa1, 0x04];
    large.extend(vec![b'y'; 70_000]);
    let heads = [
        get(&path(false, b"/a"), &[]),
        get(&path(false, b"/b?\""), &bomb),
        get(&path(false, b"/c?\""), &large),
        get(&path(false, b"/d"), &[]),
    ];
    let arrived = arrived(&heads).await;
    let arrived: Vec<_> = arrived.iter().map(Option::as_deref).collect();
    assert_eq!(arrived, [Some("/a"), None, Some("/c?%22"), Some("/d")]);
}

/// The heads of requests of `h2`'s client as they arrive at its server, behind blocks that are written anew.
async fn through(requests: Vec<(String, HeaderMap)>) -> Vec<(String, HeaderMap)> {
    let (near, far) = tokio::io::duplex(1 << 16);
    let heads = Heads {
        mode: Mode::Writes,
        ..Heads::default()
    };
    let count = requests.len();
    let client = async move {
        let (sender, connection) = h2::client::handshake(near).await.unwrap();
        let connection = tokio::spawn(connection);
        for (path, fields) in requests {
            let mut sender = sender.clone().ready().await.unwrap();
            let mut request = Request::get(format!("https://a.example{path}"))
                .body(())
                .unwrap();
            *request.headers_mut() = fields;
            let (answer, _) = sender.send_request(request, true).unwrap();
            answer.await.unwrap();
        }
        connection.abort();
    };
    let server = async move {
        let mut server = h2::server::handshake(Targets::new(far, heads))
            .await
            .unwrap();
        let mut arrived = Vec::new();
        while let Some(Ok((request, mut respond))) = server.accept().await {
            respond
                .send_response(http::Response::new(()), true)
                .unwrap();
            let (parts, _) = request.into_parts();
            let path = parts.uri.path_and_query().unwrap().to_string();
            arrived.push((path, parts.headers));
        }
        arrived
    };
    let ((), arrived) = tokio::join!(client, server);
    assert_eq!(arrived.len(), count);
    arrived
}

fn fields() -> impl Strategy<Value = HeaderMap> {
    const KNOWN: &[&str] = &[
        "accept",
        "authorization",
        "cookie",
        "user-agent",
        "x-a",
        "x-b",
    ];
    let name = prop_oneof![
        proptest::sample::select(KNOWN).prop_map(str::to_owned),
        "[a-z][a-z0-9-]{0,20}".prop_map(|name| format!("x-{name}")),
    ];
    let value = prop_oneof![
        "[ -~]{0,40}".prop_map(|value| value.trim().as_bytes().to_vec()),
        vec(prop_oneof![0x21..=0x7e_u8, 0x80..=0xff_u8], 0..20),
        "[a-z]{1,2}".prop_map(String::into_bytes),
        (0..3000_usize).prop_map(|length| vec![b'~'; length]),
    ];
    vec((name, value, any::<bool>()), 0..12).prop_map(|fields| {
        let mut map = HeaderMap::new();
        for (name, value, sensitive) in fields {
            let mut value = HeaderValue::from_bytes(&value).unwrap();
            value.set_sensitive(sensitive);
            map.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), value);
        }
        map
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Against `h2`'s own encoder, with its Huffman code and its table, which forgets.
    #[test]
    fn rule_3_heads_that_are_written_anew_are_the_same(
        requests in vec(("/[a-z0-9%?&=]{0,40}", fields()), 1..12),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let arrived = runtime.block_on(through(requests.clone()));
        prop_assert_eq!(&arrived, &requests);
    }

    #[test]
    fn whatever_comes_is_read_without_a_panic_and_in_any_pieces(
        bytes in vec(prop_oneof![any::<u8>(), 0..10_u8], 0..400),
        size in 1..50_usize,
    ) {
        let mut all = preface();
        all.extend(frame(HEADERS, END_HEADERS, &path(true, b"/<")));
        all.extend(bytes);
        let whole = came(&mut Heads::default(), &all, all.len()).ok();
        let pieces = came(&mut Heads::default(), &all, size).ok();
        prop_assert_eq!(whole, pieces);
    }
}

#[test]
fn an_authority_that_cannot_be_read_is_marked_and_others_pass() {
    let head = |authority: &[u8]| {
        let length = u8::try_from(authority.len()).unwrap();
        let block = [&[0x82, 0x84, 0x87, 0x41, length][..], authority].concat();
        [preface(), frame(HEADERS, END_HEADERS | END_STREAM, &block)].concat()
    };
    let marked = |authority: &[u8]| {
        let bytes = head(authority);
        let all = came(&mut Heads::default(), &bytes, 7).unwrap();
        let lines = heads(&all).remove(0);
        let value = |name: &str| {
            let line = lines.iter().find(|line| line.field.name == name);
            line.map(|line| line.field.value.clone())
        };
        let is_marked = value(BAD_AUTHORITY).is_some();
        assert_eq!(is_marked, all != bytes, "{authority:?}");
        if is_marked {
            assert_eq!(value(":authority").unwrap(), NO_AUTHORITY);
        }
        is_marked
    };
    for good in [&b"front"[..], b"front:8443", b"[::1]:443", b"127.0.0.1"] {
        assert!(!marked(good), "{good:?}");
    }
    for bad in [
        &b""[..],
        b"a b",
        b"user@front",
        b"user:secret@front:443",
        b"a:b:c",
        b"[::1",
        b"front/path",
        b"fr\xc3\xb6nt",
        b"<script>",
    ] {
        assert!(marked(bad), "{bad:?}");
    }
}
