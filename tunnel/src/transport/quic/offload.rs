//! Does segmentation offload work here?
//!
//! A kernel, or its imitation in a container, may claim to cut a batch into datagrams and lose
//! it, or deliver it as one. QUIC would then lose its bulk packets and nothing else, which looks like
//! a path that fails under load. So one batch is sent to this process itself first.
//!
//! Network cards that refuse batches are not seen by this: the kernel says so at the first one
//! (EIO), and quinn sends one by one from then on.

use std::io::{self, IoSliceMut};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::OnceLock;
use std::time::Duration;

use quinn::udp::{RecvMeta, Transmit, UdpSocketState};
use thiserror::Error;

/// As large as on any path, and as many as quinn puts into one batch, the last one shorter.
const SEGMENT: usize = 1200;
const BATCH: usize = 9 * SEGMENT + SEGMENT / 2;

/// Loopback delivers at once: this is for a machine that stands still.
const PATIENCE: Duration = Duration::from_millis(200);

/// Why segmentation offload is not used.
#[derive(Debug, Error)]
enum Fault {
    #[error("the kernel does not offer it")]
    Unsupported,
    #[error("the kernel refuses a batch")]
    Refused(#[source] io::Error),
    #[error("a batch of {BATCH} bytes was sent, {arrived} of them arrived")]
    Lost { arrived: usize },
    #[error("a datagram of {0} bytes arrived where {SEGMENT} were sent")]
    NotCut(usize),
    #[error("a batch arrived with other bytes than it was sent with")]
    Altered,
}

/// The trial's outcome.
#[derive(Debug)]
enum Outcome {
    Works,
    Fails(Fault),
    /// Nothing: there is no loopback, or no socket is to be had.
    Untried(io::Error),
}

/// Whether batches arrive in this process as they should. Tried once.
pub(super) fn works() -> bool {
    static WORKS: OnceLock<bool> = OnceLock::new();
    *WORKS.get_or_init(|| match trial(Loopback::new) {
        Outcome::Works => true,
        Outcome::Untried(error) => {
            tracing::debug!("segmentation offload could not be tried: {error}");
            true
        }
        Outcome::Fails(fault) => {
            tracing::info!(
                "QUIC sends without segmentation offload, at more CPU per byte: {}",
                underpass_proto::chain(&fault)
            );
            false
        }
    })
}

/// Sends and receives batches.
trait Link {
    /// Datagrams that one batch may have; 1 where there are no batches, or no longer.
    fn segments(&self) -> usize;
    fn send(&mut self, batch: &[u8], segment: usize) -> io::Result<()>;
    /// Bytes that arrived, and how many of them make one datagram.
    fn receive(&mut self, buffer: &mut [u8]) -> io::Result<(usize, usize)>;
}

fn trial<L: Link>(link: impl FnOnce() -> io::Result<L>) -> Outcome {
    match link() {
        Ok(mut link) => try_batch(&mut link),
        Err(error) => Outcome::Untried(error),
    }
}

fn try_batch(link: &mut impl Link) -> Outcome {
    if link.segments() < BATCH.div_ceil(SEGMENT) {
        return Outcome::Fails(Fault::Unsupported);
    }
    let numbers = (0..BATCH).flat_map(usize::to_be_bytes);
    let batch: Vec<u8> = numbers.take(BATCH).collect();
    if let Err(error) = link.send(&batch, SEGMENT) {
        // quinn-udp takes this error for one about offload, or for one about the network.
        return match link.segments() {
            1 => Outcome::Fails(Fault::Refused(error)),
            _ => Outcome::Untried(error),
        };
    }
    match arrives(link, &batch) {
        Ok(()) => Outcome::Works,
        Err(fault) => Outcome::Fails(fault),
    }
}

fn arrives(link: &mut impl Link, batch: &[u8]) -> Result<(), Fault> {
    let mut buffer = vec![0; 64 * 1024];
    let mut left = batch.chunks(SEGMENT);
    let mut arrived = 0;
    while arrived < batch.len() {
        let Ok((len, stride)) = link.receive(&mut buffer) else {
            return Err(Fault::Lost { arrived });
        };
        let bytes = buffer.get(..len).unwrap_or_default();
        // The kernel may put datagrams together again, and says then how long each was.
        for datagram in bytes.chunks(stride.max(1)) {
            match left.next() {
                Some(sent) if sent == datagram => arrived += sent.len(),
                _ if datagram.len() > SEGMENT => return Err(Fault::NotCut(datagram.len())),
                _ => return Err(Fault::Altered),
            }
        }
        if len == 0 {
            return Err(Fault::Lost { arrived });
        }
    }
    Ok(())
}

/// A socket that sends to itself, through the code that quinn's sockets use.
struct Loopback {
    socket: UdpSocket,
    state: UdpSocketState,
    address: SocketAddr,
}

impl Loopback {
    fn new() -> io::Result<Self> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        let state = UdpSocketState::new((&socket).into())?;
        socket.set_nonblocking(false)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        let address = socket.local_addr()?;
        Ok(Self {
            socket,
            state,
            address,
        })
    }
}

impl Link for Loopback {
    fn segments(&self) -> usize {
        self.state.max_gso_segments()
    }

    fn send(&mut self, batch: &[u8], segment: usize) -> io::Result<()> {
        let transmit = Transmit {
            destination: self.address,
            ecn: None,
            contents: batch,
            segment_size: Some(segment),
            src_ip: None,
        };
        self.state.try_send((&self.socket).into(), &transmit)
    }

    fn receive(&mut self, buffer: &mut [u8]) -> io::Result<(usize, usize)> {
        let mut meta = [RecvMeta::default()];
        let mut buffers = [IoSliceMut::new(buffer)];
        loop {
            self.state
                .recv((&self.socket).into(), &mut buffers, &mut meta)?;
            let [meta] = meta;
            // Any process of this machine may send here.
            if meta.addr == self.address {
                return Ok((meta.len, meta.stride));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A kernel that does `deliver` with a batch.
    struct Fake<D> {
        segments: usize,
        refuses: Option<io::ErrorKind>,
        deliver: D,
        arrived: Vec<(Vec<u8>, usize)>,
    }

    impl<D: Fn(&[u8]) -> Vec<(Vec<u8>, usize)>> Link for Fake<D> {
        fn segments(&self) -> usize {
            self.segments
        }

        fn send(&mut self, batch: &[u8], segment: usize) -> io::Result<()> {
            assert_eq!(segment, SEGMENT);
            if let Some(kind) = self.refuses {
                return Err(kind.into());
            }
            self.arrived = (self.deliver)(batch);
            self.arrived.reverse();
            Ok(())
        }

        fn receive(&mut self, buffer: &mut [u8]) -> io::Result<(usize, usize)> {
            let (bytes, stride) = self.arrived.pop().ok_or(io::ErrorKind::WouldBlock)?;
            buffer[..bytes.len()].copy_from_slice(&bytes);
            Ok((bytes.len(), stride))
        }
    }

    fn outcome(deliver: impl Fn(&[u8]) -> Vec<(Vec<u8>, usize)>) -> Outcome {
        try_batch(&mut Fake {
            segments: 64,
            refuses: None,
            deliver,
            arrived: Vec::new(),
        })
    }

    fn one_by_one(batch: &[u8]) -> Vec<(Vec<u8>, usize)> {
        let datagrams = batch.chunks(SEGMENT);
        datagrams.map(|one| (one.to_vec(), one.len())).collect()
    }

    #[test]
    fn a_batch_may_arrive_in_one_piece_or_in_several() {
        assert!(matches!(outcome(one_by_one), Outcome::Works));
        let together = |batch: &[u8]| vec![(batch.to_vec(), SEGMENT)];
        assert!(matches!(outcome(together), Outcome::Works));
        let halves = |batch: &[u8]| {
            let (a, b) = batch.split_at(4 * SEGMENT);
            vec![(a.to_vec(), SEGMENT), (b.to_vec(), SEGMENT)]
        };
        assert!(matches!(outcome(halves), Outcome::Works));
    }

    #[test]
    fn a_kernel_that_loses_batches_is_found_out() {
        let lost = outcome(|_| Vec::new());
        assert!(
            matches!(lost, Outcome::Fails(Fault::Lost { arrived: 0 })),
            "{lost:?}"
        );
        let cut_off = outcome(|batch| one_by_one(&batch[..3 * SEGMENT]));
        assert!(
            matches!(cut_off, Outcome::Fails(Fault::Lost { arrived: 3600 })),
            "{cut_off:?}"
        );
        let empty = outcome(|_| vec![(Vec::new(), 0)]);
        assert!(
            matches!(empty, Outcome::Fails(Fault::Lost { arrived: 0 })),
            "{empty:?}"
        );
    }

    #[test]
    fn a_kernel_that_does_not_cut_is_found_out() {
        let whole = outcome(|batch| vec![(batch.to_vec(), batch.len())]);
        assert!(
            matches!(whole, Outcome::Fails(Fault::NotCut(BATCH))),
            "{whole:?}"
        );
    }

    #[test]
    fn a_kernel_that_mixes_bytes_up_is_found_out() {
        let swapped = outcome(|batch| {
            let mut datagrams = one_by_one(batch);
            datagrams.swap(2, 3);
            datagrams
        });
        assert!(
            matches!(swapped, Outcome::Fails(Fault::Altered)),
            "{swapped:?}"
        );
        // Segments of a wrong length: the second one begins too early.
        let wrong = outcome(|batch| vec![(batch.to_vec(), SEGMENT - 1)]);
        assert!(matches!(wrong, Outcome::Fails(Fault::Altered)), "{wrong:?}");
    }

    #[test]
    fn a_kernel_without_offload_is_believed() {
        let mut without = Fake {
            segments: 1,
            refuses: None,
            deliver: one_by_one,
            arrived: Vec::new(),
        };
        let outcome = try_batch(&mut without);
        assert!(
            matches!(outcome, Outcome::Fails(Fault::Unsupported)),
            "{outcome:?}"
        );
    }

    #[test]
    fn without_a_network_nothing_is_concluded() {
        let mut unreachable = Fake {
            segments: 64,
            refuses: Some(io::ErrorKind::NetworkUnreachable),
            deliver: one_by_one,
            arrived: Vec::new(),
        };
        let outcome = try_batch(&mut unreachable);
        assert!(matches!(outcome, Outcome::Untried(_)), "{outcome:?}");
        let none = trial::<Loopback>(|| Err(io::ErrorKind::AddrNotAvailable.into()));
        assert!(matches!(none, Outcome::Untried(_)), "{none:?}");
    }

    /// Linux has it since 4.18; its imitations may not.
    #[test]
    fn a_real_kernel_cuts_batches_or_says_that_it_does_not() {
        let outcome = trial(Loopback::new);
        assert!(
            matches!(outcome, Outcome::Works | Outcome::Fails(Fault::Unsupported)),
            "{outcome:?}"
        );
    }
}
