//! Holds the names in `docs/PROTOCOL.md` to the transports.

use super::{quic, websocket};
use crate::role::ConnectorRole;

const DOCUMENT: &str = include_str!("../../../docs/PROTOCOL.md");

#[test]
fn names_are_the_documents() {
    let alpns = ConnectorRole::ALL.map(|role| std::str::from_utf8(quic::alpn(role)).unwrap());
    let paths = ConnectorRole::ALL.map(websocket::path);
    let subprotocols = websocket::Subprotocol::ALL.map(websocket::Subprotocol::name);
    for name in [alpns, paths, subprotocols].concat() {
        assert!(DOCUMENT.contains(&format!("`{name}`")), "{name}");
    }
}
