//! The system's account of a TCP connection (`TCP_INFO`), asked for by netlink (sock_diag(7)): the socket option has no safe
//! wrapper.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use rustix::net::netlink::{SOCK_DIAG, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use tokio::net::TcpStream;

/// `SOCK_DIAG_BY_FAMILY` and `NLMSG_ERROR`, types of messages.
const BY_FAMILY: u16 = 20;
const ERROR: u16 = 2;

/// `NLM_F_REQUEST`.
const REQUEST: u16 = 1;

/// `INET_DIAG_INFO`, an attribute: a `tcp_info`.
const INFO: u16 = 2;

/// Bytes of a message's header (`nlmsghdr`), and of an answer's fixed part behind it (`inet_diag_msg`).
const HEADER: usize = 16;
const ANSWER: usize = 72;

/// An answer has some 500 bytes.
const ANSWER_BYTES: usize = 4096;

/// How a peer answers to bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Acknowledged {
    /// How often in a row it has not answered: bytes that were sent again, or questions whether it has room for more.
    pub(crate) unanswered: u8,
    /// Time since it acknowledged anything, be it that it has no room.
    pub(crate) last: Duration,
}

impl Acknowledged {
    /// Asks the system about a connection.
    pub(crate) fn of(tcp: &TcpStream) -> io::Result<Self> {
        let question = question(tcp.local_addr()?, tcp.peer_addr()?);
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (family, raw) = (AddressFamily::NETLINK, SocketType::RAW);
        let socket = rustix::net::socket_with(family, raw, flags, Some(SOCK_DIAG))?;
        let kernel = SocketAddrNetlink::new(0, 0);
        rustix::net::sendto(&socket, &question, SendFlags::empty(), &kernel)?;
        // The system answers before `sendto` ends.
        let mut answer = [0; ANSWER_BYTES];
        let (count, _) = rustix::net::recv(&socket, &mut answer, RecvFlags::empty())?;
        let answer = answer.get(..count).unwrap_or_default();
        read(answer).unwrap_or_else(|| Err(io::ErrorKind::InvalidData.into()))
    }
}

/// `nlmsghdr` and `inet_diag_req_v2`, in the machine's byte order but for addresses and ports.
fn question(local: SocketAddr, remote: SocketAddr) -> Vec<u8> {
    let mut request = vec![
        u8::try_from(family(local).as_raw()).unwrap_or_default(),
        // IPPROTO_TCP
        6,
        1 << (INFO - 1),
        0,
    ];
    // In every state.
    request.extend(u32::MAX.to_ne_bytes());
    request.extend(local.port().to_be_bytes());
    request.extend(remote.port().to_be_bytes());
    request.extend(octets(local));
    request.extend(octets(remote));
    // On any interface, with any cookie.
    request.extend(0_u32.to_ne_bytes());
    request.extend([0xff; 8]);
    let length = u32::try_from(HEADER + request.len()).unwrap_or_default();
    let mut message = length.to_ne_bytes().to_vec();
    message.extend(BY_FAMILY.to_ne_bytes());
    message.extend(REQUEST.to_ne_bytes());
    // Number and sender, of which one question needs none.
    message.extend([0; 8]);
    message.extend(request);
    message
}

fn family(address: SocketAddr) -> AddressFamily {
    match address {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    }
}

fn octets(address: SocketAddr) -> [u8; 16] {
    match address.ip() {
        IpAddr::V4(ip) => {
            let [a, b, c, d] = ip.octets();
            [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
        }
        IpAddr::V6(ip) => ip.octets(),
    }
}

/// `None` where it is not understood.
fn read(answer: &[u8]) -> Option<io::Result<Acknowledged>> {
    let kind = u16::from_ne_bytes(part(answer, 4)?);
    if kind == ERROR {
        let code = i32::from_ne_bytes(part(answer, HEADER)?);
        return Some(Err(io::Error::from_raw_os_error(code.saturating_neg())));
    }
    if kind != BY_FAMILY {
        return None;
    }
    let mut attributes = answer.get(HEADER + ANSWER..)?;
    loop {
        let length = usize::from(u16::from_ne_bytes(part(attributes, 0)?));
        let attribute = attributes.get(4..length)?;
        if u16::from_ne_bytes(part(attributes, 2)?) == INFO {
            return info(attribute).map(Ok);
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
}

/// `tcp_info`: linux/tcp.h. It only grows at its end.
fn info(info: &[u8]) -> Option<Acknowledged> {
    let [retransmits, probes] = part(info, 2)?;
    let last = u32::from_ne_bytes(part(info, 56)?);
    Some(Acknowledged {
        unanswered: retransmits.max(probes),
        last: Duration::from_millis(last.into()),
    })
}

fn part<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use socket2::{SockFilter, SockRef};
    use tokio::io::AsyncReadExt as _;
    use tokio::net::TcpListener;

    use super::*;

    async fn pair(address: IpAddr) -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind((address, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let client = TcpStream::connect((Ipv4Addr::LOCALHOST, port));
        let client = client.await.unwrap();
        (listener.accept().await.unwrap().0, client)
    }

    async fn fill(server: &TcpStream) {
        server.writable().await.unwrap();
        while server.try_write(&[0; 64 * 1024]).is_ok() {}
    }

    /// Until the system says so.
    async fn until(server: &TcpStream, what: impl Fn(Acknowledged) -> bool) -> Acknowledged {
        let seen = async {
            loop {
                let now = Acknowledged::of(server).unwrap();
                if what(now) {
                    return now;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let seen = tokio::time::timeout(Duration::from_secs(60), seen);
        seen.await.expect("it happens")
    }

    /// The listener of a server takes both kinds of addresses.
    #[tokio::test]
    async fn a_peer_that_reads_nothing_goes_on_acknowledging() {
        let (server, mut client) = pair(Ipv6Addr::UNSPECIFIED.into()).await;
        fill(&server).await;
        // It is asked whether it has room, and answers: the time begins anew.
        until(&server, |now| now.last >= Duration::from_millis(300)).await;
        until(&server, |now| now.last < Duration::from_millis(300)).await;
        until(&server, |now| now.last >= Duration::from_millis(600)).await;
        let now = until(&server, |now| now.last < Duration::from_millis(600)).await;
        assert!(now.unanswered <= 1, "{now:?}");
        client.read_exact(&mut [0; 1024]).await.unwrap();
    }

    #[tokio::test]
    async fn a_peer_that_is_gone_acknowledges_nothing() {
        let (server, client) = pair(Ipv4Addr::LOCALHOST.into()).await;
        // Its system drops everything, as a link does that is down: BPF_RET with no byte.
        let nothing = [SockFilter::new(6, 0, 0, 0)];
        SockRef::from(&client).attach_filter(&nothing).unwrap();
        fill(&server).await;
        let now = until(&server, |now| now.unanswered >= 3).await;
        assert!(now.last >= Duration::from_millis(200), "{now:?}");
    }

    #[test]
    fn an_answer_that_is_cut_off_is_none() {
        let mut whole = vec![0; HEADER + ANSWER];
        whole[4..6].copy_from_slice(&BY_FAMILY.to_ne_bytes());
        let mut attribute = 8_u16.to_ne_bytes().to_vec();
        attribute.extend([9, 0, 1, 2, 3, 4]);
        whole.extend(attribute);
        whole.extend(104_u16.to_ne_bytes());
        whole.extend(INFO.to_ne_bytes());
        let mut info = vec![0; 100];
        (info[2], info[3]) = (1, 7);
        info[56..60].copy_from_slice(&1500_u32.to_ne_bytes());
        whole.extend(info);
        let read_now = read(&whole).unwrap().unwrap();
        let last = Duration::from_millis(1500);
        assert_eq!(
            read_now,
            Acknowledged {
                unanswered: 7,
                last
            }
        );
        for length in 0..whole.len() {
            assert!(read(&whole[..length]).is_none(), "{length}");
        }
        whole[4..6].copy_from_slice(&ERROR.to_ne_bytes());
        whole[HEADER..HEADER + 4].copy_from_slice(&(-13_i32).to_ne_bytes());
        let refused = read(&whole).unwrap().unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied);
    }
}
