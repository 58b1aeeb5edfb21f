//! Two multiplexers that exchange streams over cut byte streams, against a model of what may
//! arrive. A test draws the choices from a seed, a fuzzer from its input.

mod model;

use std::collections::{BTreeMap, HashSet};

use bytes::{Bytes, BytesMut};

use self::model::{Direction, read, reset, write};
use super::{Chunks, Ended, Event, Key, Mux};
use crate::choices::Choices;
use crate::code::ResetCode;
use crate::frame::Class;
use crate::limits;
use crate::stream_id::Role;

/// Live streams at the most: enough to meet each other, few enough to be driven far.
const STREAMS: usize = 12;

/// Bytes written at once at the most, some of them more than one frame holds.
const WRITE: u32 = 80_000;

/// One end's hold of a stream.
#[derive(Debug, Clone, Copy)]
struct Handle {
    key: Key,
    stream: usize,
    sends: bool,
    receives: bool,
}

impl Handle {
    fn new(key: Key, stream: usize) -> Self {
        Self {
            key,
            stream,
            sends: true,
            receives: true,
        }
    }
}

struct End {
    mux: Mux,
    /// Sent by the other end, and not arrived.
    wire: BytesMut,
    handles: Vec<Handle>,
    /// Streams that were taken and whose name has not come in full.
    unnamed: Vec<(Key, Vec<u8>)>,
    /// Streams with nothing to read, or no room to write, whose task sleeps until it is woken.
    readers: HashSet<Key>,
    writers: HashSet<Key>,
}

/// Both ends, and the allowed behaviour of the streams between them.
pub(crate) struct World<'a> {
    choices: &'a mut dyn Choices,
    ends: [End; 2],
    /// From end 0 and from end 1, for each stream.
    streams: Vec<[Direction; 2]>,
    /// Streams whose other end has not been named, and the end that opened them.
    unaccepted: BTreeMap<u32, usize>,
}

impl<'a> World<'a> {
    pub(crate) fn new(choices: &'a mut dyn Choices) -> Self {
        let ends = [Role::Connector, Role::Acceptor].map(|role| {
            let mut mux = Mux::new(role);
            mux.authenticated();
            End {
                mux,
                wire: BytesMut::new(),
                handles: Vec::new(),
                unnamed: Vec::new(),
                readers: HashSet::new(),
                writers: HashSet::new(),
            }
        });
        Self {
            choices,
            ends,
            streams: Vec::new(),
            unaccepted: BTreeMap::new(),
        }
    }

    /// Does `steps` things, then lets everything arrive and looks for leftovers.
    pub(crate) fn run(mut self, steps: usize) {
        for _ in 0..steps {
            let Some(which) = self.choices.pick(2) else {
                break;
            };
            let which = which as usize;
            match self.choices.below(16) {
                0 => self.open(which),
                1 | 2 => self.carry(which),
                3..=5 => self.deliver(which, false),
                deed => self.act(which, deed),
            }
            self.check();
        }
        self.settle();
    }

    fn open(&mut self, which: usize) {
        if self.ends.iter().map(|end| end.mux.streams()).sum::<usize>() >= STREAMS {
            return;
        }
        let stream = self.streams.len();
        let key = self.ends[which].mux.open().expect("numbers enough");
        self.streams.push(<[Direction; 2]>::default());
        // Four bytes that name it, so that the other end knows which one it takes.
        let name = u32::try_from(stream).expect("not that many");
        self.ends[which].mux.poll_writable(key).expect("it is open");
        self.ends[which]
            .mux
            .write(key, Bytes::copy_from_slice(&name.to_be_bytes()));
        self.unaccepted.insert(name, which);
        self.ends[which].handles.push(Handle::new(key, stream));
    }

    /// Frames of `which` go on the wire.
    fn carry(&mut self, which: usize) {
        let max = 64 + self.choices.below(150_000) as usize;
        let mut batch = Chunks::default();
        self.ends[which].mux.transmit(max, &mut batch);
        assert!(batch.len() <= max, "the batch is as short as was asked");
        while let Some(bytes) = batch.pop(usize::MAX) {
            self.ends[1 - which].wire.extend_from_slice(&bytes);
        }
    }

    /// Some of the bytes in flight to `which` arrive, cut anywhere; all of them with `all`.
    fn deliver(&mut self, which: usize, all: bool) {
        let cut = match self.choices.below(3) {
            0 => self.choices.below(20),
            1 => self.choices.below(3000),
            _ => self.choices.below(200_000),
        } as usize;
        let end = &mut self.ends[which];
        let len = if all { usize::MAX } else { cut }.min(end.wire.len());
        let bytes = end.wire.split_to(len).freeze();
        end.mux.receive(bytes).expect("both ends keep to the rules");
        self.accept(which);
    }

    /// Takes streams, and tells them apart by the name that they begin with.
    fn accept(&mut self, which: usize) {
        let end = &mut self.ends[which];
        while let Some(key) = end.mux.accept() {
            end.unnamed.push((key, Vec::new()));
        }
        for (key, mut name) in std::mem::take(&mut end.unnamed) {
            match end.mux.poll_read(key, 4 - name.len()) {
                Ok(Some(bytes)) => name.extend_from_slice(&bytes),
                Ok(None) => {
                    end.readers.insert(key);
                }
                // Its name was dropped with a reset.
                Err(Err(Ended::Reset(_))) => {
                    end.mux.release_send(key);
                    end.mux.release_recv(key);
                    continue;
                }
                other => panic!("no name but {other:?}"),
            }
            let Ok(name) = name[..].try_into().map(u32::from_be_bytes) else {
                end.unnamed.push((key, name));
                continue;
            };
            let opener = self.unaccepted.remove(&name);
            assert_eq!(opener, Some(1 - which), "taken once, at the other end");
            end.handles.push(Handle::new(key, name as usize));
        }
    }

    /// Does something with a stream of `which`.
    fn act(&mut self, which: usize, deed: u32) {
        let count = u32::try_from(self.ends[which].handles.len()).expect("not that many");
        if count == 0 {
            return;
        }
        let index = self.choices.below(count) as usize;
        let handle = self.ends[which].handles[index];
        let [from_first, from_second] = &mut self.streams[handle.stream];
        let (outwards, inwards) = if which == 0 {
            (from_first, from_second)
        } else {
            (from_second, from_first)
        };
        let End {
            mux,
            readers,
            writers,
            ..
        } = &mut self.ends[which];
        let code = ResetCode::from_wire(self.choices.below(300).into());
        match deed {
            6..=8 if handle.sends => {
                let len = self.choices.below(WRITE) as usize + 1;
                // A writer is not woken for a little room, but may use it.
                let writable = mux.poll_writable(handle.key).unwrap_or(usize::MAX);
                let slept = writers.remove(&handle.key);
                assert!(
                    !slept || writable < limits::MUX_SEND_QUEUE / 2,
                    "it was woken"
                );
                if !write(mux, handle.key, outwards, len) {
                    writers.insert(handle.key);
                }
            }
            9 if handle.sends && self.choices.below(4) == 0 => {
                let finished = mux.finish(handle.key);
                writers.remove(&handle.key);
                match outwards.reset {
                    None => {
                        assert_eq!(finished, Ok(()));
                        outwards.finished = true;
                    }
                    // The reset did nothing where the STOP was here before.
                    Some(_) if finished.is_ok() => assert!(outwards.stopped.is_some()),
                    Some(code) => assert_eq!(finished, Err(Ended::Reset(code))),
                }
            }
            10 if handle.sends && self.choices.below(6) == 0 => {
                mux.reset(handle.key, code);
                writers.remove(&handle.key);
                reset(outwards, code);
            }
            11 if handle.sends && self.choices.below(6) == 0 => {
                mux.release_send(handle.key);
                writers.remove(&handle.key);
                reset(outwards, ResetCode::Cancelled);
                self.ends[which].handles[index].sends = false;
            }
            12 | 13 if handle.receives => {
                let max = self.choices.below(100_000) as usize + 1;
                let lost = outwards.reset.is_some() && self.unaccepted.contains_key(&name(handle));
                if read(mux, handle.key, inwards, max, lost) {
                    assert!(!readers.contains(&handle.key), "it was woken");
                } else {
                    readers.insert(handle.key);
                }
            }
            14 if handle.receives && self.choices.below(6) == 0 => {
                mux.stop(handle.key, code);
                readers.remove(&handle.key);
                inwards.stopped.get_or_insert(code);
            }
            15 if handle.receives && self.choices.below(6) == 0 => {
                mux.release_recv(handle.key);
                readers.remove(&handle.key);
                inwards.stopped.get_or_insert(ResetCode::Cancelled);
                self.ends[which].handles[index].receives = false;
            }
            9 if handle.sends => {
                let class = [Class::Interactive, Class::Default, Class::Bulk];
                mux.prioritize(handle.key, class[self.choices.below(3) as usize]);
            }
            _ => {}
        }
        self.ends[which]
            .handles
            .retain(|handle| handle.sends || handle.receives);
    }

    fn check(&mut self) {
        for end in &mut self.ends {
            while let Some(event) = end.mux.poll_event() {
                match event {
                    Event::Readable(key) => assert!(end.readers.remove(&key), "it slept"),
                    Event::Writable(key) => assert!(end.writers.remove(&key), "it slept"),
                    Event::Opened => {}
                }
            }
            assert!(end.mux.held() <= limits::MUX_CONNECTION_RECEIVE);
        }
    }

    /// Everything arrives, and is read and released: then nothing is left.
    fn settle(&mut self) {
        for _ in 0..1000 {
            for which in 0..2 {
                let mut batch = Chunks::default();
                self.ends[which].mux.transmit(1 << 20, &mut batch);
                while let Some(bytes) = batch.pop(usize::MAX) {
                    self.ends[1 - which].wire.extend_from_slice(&bytes);
                }
                self.deliver(1 - which, true);
            }
            self.check();
            self.read_all();
            let quiet = self.ends.iter().all(|end| !end.mux.has_frames());
            if quiet && self.ends.iter().all(|end| end.wire.is_empty()) {
                break;
            }
        }
        self.ends_were_told();
        for which in 0..2 {
            for handle in std::mem::take(&mut self.ends[which].handles) {
                if handle.sends {
                    self.ends[which].mux.release_send(handle.key);
                }
                if handle.receives {
                    self.ends[which].mux.release_recv(handle.key);
                }
            }
        }
        for which in [0, 1, 0, 1] {
            let mut batch = Chunks::default();
            self.ends[which].mux.transmit(1 << 20, &mut batch);
            while let Some(bytes) = batch.pop(usize::MAX) {
                self.ends[1 - which].wire.extend_from_slice(&bytes);
            }
            self.deliver(1 - which, true);
        }
        for end in &self.ends {
            assert!(end.mux.is_between_frames());
            assert_eq!(end.mux.held(), 0, "nothing is held for nobody");
            assert_eq!(end.mux.streams(), 0, "no stream outlives its ends");
        }
    }

    fn read_all(&mut self) {
        for which in 0..2 {
            for handle in self.ends[which].handles.clone() {
                let lost = self.streams[handle.stream][which].reset.is_some()
                    && self.unaccepted.contains_key(&name(handle));
                let inwards = &mut self.streams[handle.stream][1 - which];
                let End { mux, readers, .. } = &mut self.ends[which];
                while handle.receives
                    && !inwards.over
                    && inwards.stopped.is_none()
                    && read(mux, handle.key, inwards, 100_000, lost)
                {
                    assert!(!readers.contains(&handle.key), "it was woken");
                }
                if handle.receives {
                    readers.insert(handle.key);
                }
            }
        }
    }

    /// Every end that one side made, the other has heard of.
    fn ends_were_told(&mut self) {
        for which in 0..2 {
            for handle in self.ends[which].handles.clone() {
                let taken = !self.unaccepted.contains_key(&name(handle));
                let inwards = &self.streams[handle.stream][1 - which];
                let ended = inwards.finished || inwards.reset.is_some();
                if taken && handle.receives && inwards.stopped.is_none() && ended {
                    assert!(inwards.over, "stream {}: {inwards:?}", handle.stream);
                }
                let outwards = &self.streams[handle.stream][which];
                if handle.sends
                    && taken
                    && !outwards.finished
                    && outwards.reset.is_none()
                    && let Some(code) = outwards.stopped
                {
                    let writable = self.ends[which].mux.poll_writable(handle.key);
                    assert_eq!(writable, Err(Ended::Stopped(code)));
                }
            }
        }
    }
}

fn name(handle: Handle) -> u32 {
    u32::try_from(handle.stream).expect("not that many")
}

/// Any bytes at all, to one end.
#[cfg(feature = "fuzzing")]
pub(crate) fn garbage(data: &[u8]) -> Option<super::Violation> {
    let (piece, data) = data.split_first()?;
    let mut mux = Mux::new(Role::Acceptor);
    if piece % 2 == 0 {
        mux.authenticated();
    }
    let mut handles = Vec::new();
    for bytes in data.chunks(usize::from(*piece) + 1) {
        if let Err(violation) = mux.receive(Bytes::copy_from_slice(bytes)) {
            return Some(violation);
        }
        assert!(mux.streams() <= limits::MUX_STREAMS && mux.held() <= data.len());
        while let Some(key) = mux.accept() {
            handles.push(key);
        }
        let mut batch = Chunks::default();
        mux.transmit(1000, &mut batch);
    }
    for key in handles {
        while let Ok(Some(_)) = mux.poll_read(key, 100) {}
        mux.release_send(key);
        mux.release_recv(key);
    }
    let mut batch = Chunks::default();
    mux.transmit(usize::MAX, &mut batch);
    assert_eq!((mux.streams(), mux.held()), (0, 0));
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::choices::for_each_seed;

    #[test]
    fn streams_arrive_exactly_as_they_were_sent() {
        for_each_seed("streams_arrive_exactly", 200, |choices| {
            World::new(choices).run(1500);
        });
    }
}
