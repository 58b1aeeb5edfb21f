//! Resources of this machine that connections need.

use std::fmt;
use std::io;

use rustix::io::Errno;

/// A resource of this machine that a connection failed for want of. Displayed as an end of a sentence, without an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UsedUp {
    /// Local ports for connections to that address (`ip_local_port_range`), or an address to connect from.
    Ports,
    /// Open files, of the process or of the whole system.
    Files,
}

impl UsedUp {
    /// The one that `error` names.
    pub fn of(error: &io::Error) -> Option<Self> {
        match Errno::from_io_error(error)? {
            Errno::ADDRNOTAVAIL => Some(Self::Ports),
            Errno::MFILE | Errno::NFILE => Some(Self::Files),
            _ => None,
        }
    }
}

impl fmt::Display for UsedUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ports => {
                "no local port is left for connections to it, or no address to connect from"
            }
            Self::Files => "no open file is left",
        })
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener};

    use tokio::net::TcpSocket;

    use super::*;

    #[tokio::test]
    async fn a_used_up_resource_is_known_by_the_systems_error() {
        // No machine has the address, as it has no port left of an address whose ports are used up.
        let foreign = TcpListener::bind((Ipv4Addr::new(203, 0, 113, 77), 0)).unwrap_err();
        assert_eq!(UsedUp::of(&foreign), Some(UsedUp::Ports));
        for files in [Errno::MFILE, Errno::NFILE] {
            assert_eq!(UsedUp::of(&files.into()), Some(UsedUp::Files));
        }
        let socket = TcpSocket::new_v4().unwrap();
        let refused = socket.connect((Ipv4Addr::LOCALHOST, 1).into()).await;
        assert_eq!(UsedUp::of(&refused.unwrap_err()), None);
        assert_eq!(UsedUp::of(&io::ErrorKind::NotFound.into()), None);
    }
}
