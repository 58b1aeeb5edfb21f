//! UDP sockets, with the buffers that bursts need.

use std::fmt;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Once;

use socket2::SockRef;

/// Linux grants twice what is asked for, since it counts its own bookkeeping too (socket(7)).
const COUNTED: usize = if cfg!(target_os = "linux") { 2 } else { 1 };

/// Binds a socket with buffers of `buffer` bytes, or as many as the system allows.
pub(super) fn bind(address: SocketAddr, buffer: usize) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind(address)?;
    let shortfalls = grow(&SockRef::from(&socket), buffer);
    if !shortfalls.is_empty() {
        // Of every socket the same would be said.
        static SAID: Once = Once::new();
        SAID.call_once(|| {
            let all: Vec<_> = shortfalls.iter().map(Shortfall::to_string).collect();
            tracing::warn!(
                "{}. QUIC loses packets and speed in bursts that do not fit",
                all.join("; ")
            );
        });
    }
    Ok(socket)
}

/// A buffer that is much smaller than it was asked to be.
#[derive(Debug, PartialEq, Eq)]
struct Shortfall {
    direction: &'static str,
    sysctl: &'static str,
    wanted: usize,
    granted: usize,
}

impl fmt::Display for Shortfall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the system grants UDP sockets a {} buffer of {} KiB instead of {} KiB: raise it with `sysctl -w {}={}`",
            self.direction,
            self.granted / 1024,
            self.wanted / 1024,
            self.sysctl,
            self.wanted
        )
    }
}

/// Grows buffers smaller than `wanted`, and gives those still smaller than half of it.
fn grow(socket: &SockRef<'_>, wanted: usize) -> Vec<Shortfall> {
    let receive = granted(
        wanted,
        || socket.recv_buffer_size(),
        || socket.set_recv_buffer_size(wanted),
    );
    let send = granted(
        wanted,
        || socket.send_buffer_size(),
        || socket.set_send_buffer_size(wanted),
    );
    let both = [
        ("receive", "net.core.rmem_max", receive),
        ("send", "net.core.wmem_max", send),
    ];
    both.into_iter()
        .filter_map(|(direction, sysctl, granted)| match granted {
            Ok(granted) if granted < wanted / 2 => Some(Shortfall {
                direction,
                sysctl,
                wanted,
                granted,
            }),
            Ok(_) => None,
            Err(error) => {
                tracing::debug!("cannot size the {direction} buffer of a UDP socket: {error}");
                None
            }
        })
        .collect()
}

/// The buffer's size after `set`, which is called where it is smaller than `wanted`.
fn granted(
    wanted: usize,
    size: impl Fn() -> io::Result<usize>,
    set: impl FnOnce() -> io::Result<()>,
) -> io::Result<usize> {
    if size()? < wanted.saturating_mul(COUNTED) {
        set()?;
    }
    Ok(size()? / COUNTED)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn what_the_system_grants_is_read_back() {
        const WANTED: usize = 4 * 1024 * 1024;
        const MAX: usize = 212_992;
        let now = Cell::new(128 * 1024 * COUNTED);
        let set = || {
            now.set(WANTED.min(MAX) * COUNTED);
            Ok(())
        };
        assert_eq!(granted(WANTED, || Ok(now.get()), set).unwrap(), MAX);
        let untouched = || panic!("it is large enough");
        assert_eq!(granted(MAX, || Ok(now.get()), untouched).unwrap(), MAX);
    }

    /// No system grants so much.
    #[test]
    fn only_what_is_well_below_is_worth_a_warning() {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let socket = SockRef::from(&socket);
        let has = socket.recv_buffer_size().unwrap() / COUNTED;
        assert_eq!(grow(&socket, has), []);
        let short = grow(&socket, 1 << 30);
        assert_eq!(short.len(), 2, "{short:?}");
        let granted = short.iter().map(|short| short.granted).min().unwrap();
        assert_eq!(grow(&socket, 2 * granted), []);
    }

    #[test]
    fn a_warning_names_what_to_change() {
        let shortfall = Shortfall {
            direction: "receive",
            sysctl: "net.core.rmem_max",
            wanted: 4 * 1024 * 1024,
            granted: 212_992,
        };
        assert_eq!(
            shortfall.to_string(),
            "the system grants UDP sockets a receive buffer of 208 KiB instead of 4096 KiB: \
             raise it with `sysctl -w net.core.rmem_max=4194304`"
        );
    }

    #[test]
    fn buffers_grow_and_never_shrink() {
        let small = bind((Ipv4Addr::LOCALHOST, 0).into(), 64 * 1024).unwrap();
        let plain = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let of = |socket: &UdpSocket| SockRef::from(socket).recv_buffer_size().unwrap();
        assert_eq!(of(&small), of(&plain).max(64 * 1024 * COUNTED));
        // Any system lets a socket have as much as it has by default.
        let same = bind(
            (Ipv4Addr::LOCALHOST, 0).into(),
            of(&plain) / COUNTED + COUNTED,
        );
        assert!(of(&same.unwrap()) >= of(&plain));
    }
}
