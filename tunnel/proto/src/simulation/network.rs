//! Transports between the two ends: control bytes and streams, each in order, each with delays.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::frame::FrameReader;

/// Bytes or the end of a transport stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Item {
    Bytes(Bytes),
    Fin,
}

/// A queue that keeps its order at any delays.
#[derive(Debug)]
pub(super) struct Pipe<T>(VecDeque<(Duration, T)>);

impl<T> Default for Pipe<T> {
    fn default() -> Self {
        Self(VecDeque::new())
    }
}

impl<T> Pipe<T> {
    pub(super) fn post(&mut self, at: Duration, item: T) {
        let last = self.0.back().map(|(at, _)| *at);
        self.0.push_back((at.max(last.unwrap_or_default()), item));
    }

    pub(super) fn next_at(&self) -> Option<Duration> {
        self.0.front().map(|(at, _)| *at)
    }

    pub(super) fn peek(&self, now: Duration) -> Option<&T> {
        self.0
            .front()
            .filter(|(at, _)| *at <= now)
            .map(|(_, item)| item)
    }

    pub(super) fn take(&mut self, now: Duration) -> Option<T> {
        self.peek(now)?;
        self.0.pop_front().map(|(_, item)| item)
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

/// A stream of a transport: the items in flight to each end.
#[derive(Debug, Default)]
pub(super) struct Channel {
    pub(super) to: [Pipe<Item>; 2],
    /// The end that did not open it has met it.
    pub(super) met: bool,
    /// That end's reader of the first frame, and how many bytes it has read.
    pub(super) first: Option<(FrameReader, usize)>,
}

/// One transport.
#[derive(Debug)]
pub(super) struct Transport {
    pub(super) control: [Pipe<Bytes>; 2],
    pub(super) channels: Vec<Channel>,
    /// Which end opened each channel.
    pub(super) openers: Vec<usize>,
    /// It carries nothing any more.
    pub(super) dead: bool,
    /// It carries nothing to that end, and nobody is told.
    pub(super) mute: [bool; 2],
    /// When each end notices that it is dead.
    pub(super) notice: [Option<Duration>; 2],
    /// Which ends have joined it to their session.
    pub(super) up: [bool; 2],
    /// When each end's driver looks at its timers next.
    pub(super) alarm: [Option<Instant>; 2],
    /// Which ends' drivers have a turn before that.
    pub(super) woken: [bool; 2],
}

impl Transport {
    pub(super) fn new() -> Self {
        Self {
            control: Default::default(),
            channels: Vec::new(),
            openers: Vec::new(),
            dead: false,
            mute: [false; 2],
            notice: [None; 2],
            up: [false; 2],
            alarm: [None; 2],
            woken: [false; 2],
        }
    }

    pub(super) fn open(&mut self, by: usize) -> usize {
        self.channels.push(Channel::default());
        self.openers.push(by);
        self.channels.len() - 1
    }

    /// Sends `item` from `from` on a channel.
    pub(super) fn post(&mut self, from: usize, channel: usize, at: Duration, item: Item) {
        if !self.dead {
            self.channels[channel].to[1 - from].post(at, item);
        }
    }

    /// Loses all items in flight.
    pub(super) fn cut(&mut self) {
        self.dead = true;
        for pipe in &mut self.control {
            pipe.clear();
        }
        for channel in &mut self.channels {
            for pipe in &mut channel.to {
                pipe.clear();
            }
        }
    }
}
