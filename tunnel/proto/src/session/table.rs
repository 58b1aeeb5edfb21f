//! The session's streams, and their totals.

use std::collections::HashMap;
use std::collections::hash_map::Iter;

use super::LinkId;
use super::streams::{Classes, StreamState};
use crate::frame::Class;
use crate::limits;
use crate::stream_id::{Role, StreamId};

/// Streams of one side.
#[derive(Debug)]
struct Count {
    open: u32,
    max: u32,
}

impl Count {
    fn is_full(&self) -> bool {
        self.open >= self.max
    }
}

/// The streams that are not over, and the counts of them.
///
/// The totals change with the streams and nowhere else: [`update`](Self::update) is the one way to change a
/// stream, and takes the difference; the removal of a stream removes its share.
#[derive(Debug)]
pub(super) struct Table {
    role: Role,
    streams: HashMap<StreamId, StreamState>,
    local: Count,
    remote: Count,
    /// Bytes that the peer has yet to acknowledge.
    unacked: u64,
    /// Streams of which the peer has yet to acknowledge the clean end.
    unacked_ends: usize,
    /// Bytes that windows have grown.
    grown: u64,
    classes: Classes,
}

impl Table {
    /// No streams yet; `local` may be open of this side at once, `remote` of the peer.
    pub(super) fn new(role: Role, local: u32, remote: u32) -> Self {
        let count = |max| Count { open: 0, max };
        Self {
            role,
            streams: HashMap::new(),
            local: count(local),
            remote: count(remote),
            unacked: 0,
            unacked_ends: 0,
            grown: 0,
            classes: Classes::default(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.streams.len()
    }

    pub(super) fn contains(&self, id: StreamId) -> bool {
        self.streams.contains_key(&id)
    }

    pub(super) fn get(&self, id: StreamId) -> Option<&StreamState> {
        self.streams.get(&id)
    }

    pub(super) fn iter(&self) -> Iter<'_, StreamId, StreamState> {
        self.streams.iter()
    }

    /// Whether that side has as many streams open as it may.
    pub(super) fn is_full(&self, initiator: Role) -> bool {
        if initiator == self.role {
            self.local.is_full()
        } else {
            self.remote.is_full()
        }
    }

    /// Streams that this side may have open at once.
    pub(super) fn local_max(&self) -> u32 {
        self.local.max
    }

    /// Bytes that the peer has yet to acknowledge, over all streams.
    pub(super) fn unacked(&self) -> u64 {
        self.unacked
    }

    /// Streams of which the peer has yet to acknowledge the clean end.
    pub(super) fn unacked_ends(&self) -> usize {
        self.unacked_ends
    }

    /// Bytes that windows may still grow, over all streams.
    pub(super) fn growth_left(&self) -> u64 {
        limits::SESSION_CREDIT_GROWTH.saturating_sub(self.grown)
    }

    /// Streams by class.
    pub(super) fn classes(&self) -> Classes {
        self.classes
    }

    /// A stream begins.
    pub(super) fn insert(&mut self, id: StreamId, stream: StreamState) {
        self.count(id).open += 1;
        self.unacked += stream.send.unacked();
        self.unacked_ends += usize::from(stream.send.end_is_unacked());
        self.grown += stream.recv.grown();
        if let Some(class) = stream.class() {
            *self.classes.of(class) += 1;
        }
        self.streams.insert(id, stream);
    }

    /// Changes a stream; `None` where there is none.
    pub(super) fn update<T>(
        &mut self,
        id: StreamId,
        change: impl FnOnce(&mut StreamState) -> T,
    ) -> Option<T> {
        let stream = self.streams.get_mut(&id)?;
        let (unacked, grown) = (stream.send.unacked(), stream.recv.grown());
        let end = usize::from(stream.send.end_is_unacked());
        let result = change(stream);
        self.unacked = self.unacked - unacked + stream.send.unacked();
        self.unacked_ends = self.unacked_ends - end + usize::from(stream.send.end_is_unacked());
        self.grown = self.grown - grown + stream.recv.grown();
        Some(result)
    }

    /// The stream's OPEN is known, and says how urgent it is. Only the first word counts.
    pub(super) fn classify(&mut self, id: StreamId, class: Class) {
        if let Some(stream) = self.streams.get_mut(&id)
            && stream.classify(class)
        {
            *self.classes.of(class) += 1;
        }
    }

    /// A stream is over.
    pub(super) fn remove(&mut self, id: StreamId) -> Option<StreamState> {
        let stream = self.streams.remove(&id)?;
        let count = self.count(id);
        count.open = count.open.saturating_sub(1);
        self.unacked -= stream.send.unacked();
        self.unacked_ends -= usize::from(stream.send.end_is_unacked());
        self.grown -= stream.recv.grown();
        if let Some(class) = stream.class() {
            *self.classes.of(class) -= 1;
        }
        Some(stream)
    }

    /// All streams end with their session: nothing is open or unacked any more.
    pub(super) fn clear(&mut self) {
        *self = Self::new(self.role, self.local.max, self.remote.max);
    }

    /// No stream is on a link that is gone.
    pub(super) fn uproot(&mut self, gone: LinkId) {
        for stream in self.streams.values_mut() {
            stream.link.take_if(|link| *link == gone);
        }
    }

    fn count(&mut self, id: StreamId) -> &mut Count {
        if id.initiator() == self.role {
            &mut self.local
        } else {
            &mut self.remote
        }
    }
}
