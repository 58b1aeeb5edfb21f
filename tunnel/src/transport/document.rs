//! Holds the names in `docs/PROTOCOL.md` to the transports.

use super::{quic, websocket};

const DOCUMENT: &str = include_str!("../../../docs/PROTOCOL.md");

#[test]
fn names_are_the_documents() {
    let alpn = std::str::from_utf8(quic::ALPN).unwrap();
    let [first, second] = websocket::Subprotocol::ALL.map(websocket::Subprotocol::name);
    for name in [alpn, websocket::PATH, first, second] {
        assert!(DOCUMENT.contains(&format!("`{name}`")), "{name}");
    }
}
