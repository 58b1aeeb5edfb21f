//! An endpoint's room for received batches.

use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};

/// The most bytes that an IP packet carries in UDP: so much the kernel puts together, however many datagrams that is.
const PACKET: usize = 65_507;

/// A socket that promises no larger batches than there are.
///
/// quinn makes room for 32 batches of as many of the largest datagrams as the socket says, and fills it with zeroes, for
/// each endpoint. Linux says 64 at the most, but never puts more than a packet's worth together: with datagrams of 6,550
/// bytes that is a sixth of the room, 2.3 MB instead of 13.4, which an agent would need anew with each connection.
#[derive(Debug)]
pub(super) struct Batches {
    socket: Arc<dyn AsyncUdpSocket>,
    segments: usize,
}

impl Batches {
    /// On a socket where datagrams have `datagram` bytes at the most.
    pub(super) fn of(socket: Arc<dyn AsyncUdpSocket>, datagram: u16) -> Arc<Self> {
        let segments = PACKET.div_ceil(usize::from(datagram.max(1)));
        let segments = segments.min(socket.max_receive_segments());
        Arc::new(Self { socket, segments })
    }
}

impl AsyncUdpSocket for Batches {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Arc::clone(&self.socket).create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.socket.try_send(transmit)
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        batches: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        self.socket.poll_recv(cx, buffers, batches)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.socket.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.segments
    }

    fn may_fragment(&self) -> bool {
        self.socket.may_fragment()
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, UdpSocket};

    use quinn::{Runtime as _, TokioRuntime};

    use super::*;

    #[tokio::test]
    async fn there_is_room_for_a_packet_and_hardly_more() {
        for datagram in [1200, 1472, 6550, u16::MAX] {
            let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            let socket = TokioRuntime.wrap_udp_socket(socket).unwrap();
            let most = socket.max_receive_segments();
            let segments = Batches::of(socket, datagram).max_receive_segments();
            let room = segments * usize::from(datagram);
            assert!(room >= PACKET || segments == most, "{room}");
            assert!(room < PACKET + usize::from(datagram), "{room}");
        }
    }
}
