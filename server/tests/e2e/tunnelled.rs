//! Every scenario that passes directly, through the tunnel: over both transports, and over both of kubectl's streaming
//! protocols.

use underpass_testenv::testing::{Client, Wire};
use underpass_testenv::{Transport, request_tests, streaming_tests};

use crate::deployment::Deployment;

fn client(transport: Transport, wire: Wire) -> Client<'static> {
    Deployment::shared(transport).admin(wire)
}

mod quic {
    use super::*;
    request_tests!(client(Transport::Quic, Wire::WebSocket));
}

mod quic_spdy_streams {
    use super::*;
    streaming_tests!(client(Transport::Quic, Wire::Spdy));
}

mod quic_websocket_streams {
    use super::*;
    streaming_tests!(client(Transport::Quic, Wire::WebSocket));
}

mod websocket {
    use super::*;
    request_tests!(client(Transport::WebSocket, Wire::WebSocket));
}

mod websocket_spdy_streams {
    use super::*;
    streaming_tests!(client(Transport::WebSocket, Wire::Spdy));
}

mod websocket_websocket_streams {
    use super::*;
    streaming_tests!(client(Transport::WebSocket, Wire::WebSocket));
}

/// The server's own figures say which way a deployment goes.
#[tokio::test]
async fn each_transport_is_the_one_meant() {
    for (transport, kind) in [
        (Transport::Quic, "quic"),
        (Transport::WebSocket, "websocket"),
    ] {
        let metrics = Deployment::shared(transport).metrics().unwrap();
        let sessions: Vec<_> = metrics
            .lines()
            .filter(|line| line.starts_with("underpass_agent_sessions{") && line.ends_with(" 1"))
            .collect();
        let wanted = format!("underpass_agent_sessions{{transport=\"{kind}\"}} 1");
        assert_eq!(sessions, [wanted]);
    }
}
