//! The charge of one connection: bytes in memory that its client has sent or caused, and that no budget of requests counts.

use underpass_core::limits;

/// The bytes of a connection. A stranger is charged for all that was read of it. An authenticated connection is charged for
/// bytes that the server has not taken yet, and for answers that it has not sent, beyond [`limits::KNOWN_HEAD_FREE`].
#[derive(Debug, Default)]
pub(super) struct Charge {
    /// Of a stranger: all bytes read from the socket.
    pub(super) strange: usize,
    /// Of a stranger's bodies: bytes that were read and discarded.
    discarded: usize,
    /// Of an authenticated HTTP/1.1 connection: those since its last head or its last piece of a body.
    pub(super) ahead: usize,
    frames: Option<Frames>,
    unsent: usize,
    /// The charge among the authenticated.
    pub(super) known: usize,
}

/// The bytes of an HTTP/2 connection, by its frames: one that carries a watch sends PING and WINDOW_UPDATE for hours, which
/// nothing keeps.
#[derive(Debug, Default)]
struct Frames {
    /// Of the head that has not ended. There is one at the most (RFC 9113, section 6.10).
    head: usize,
    /// Of bodies that nobody has read.
    unread: usize,
    /// Requests whose bodies may be among these.
    bodies: usize,
}

impl Charge {
    /// The connection is no stranger's any more. Gives its charge as one.
    pub(super) fn recognised(&mut self) -> usize {
        self.discarded = 0;
        std::mem::take(&mut self.strange)
    }

    /// So many bytes of a stranger's body were discarded. Gives their part of its charge, which goes, or nothing where there
    /// were too many.
    pub(super) fn discarded(&mut self, bytes: usize) -> Option<usize> {
        self.body_read(bytes);
        self.discarded = self.discarded.saturating_add(bytes);
        if self.discarded > limits::LINGER_BYTES {
            return None;
        }
        let cost = bytes.saturating_mul(limits::STRANGER_BYTE);
        let cost = cost.min(self.strange);
        self.strange -= cost;
        Some(cost)
    }

    /// From now on frames are charged, and not what is read.
    pub(super) fn by_frames(&mut self) {
        self.frames.get_or_insert_default();
    }

    pub(super) fn is_by_frames(&self) -> bool {
        self.frames.is_some()
    }

    /// An HTTP/1.1 head has ended, or a piece of a body was read.
    pub(super) fn taken(&mut self) {
        self.ahead = 0;
    }

    /// Frames came: so much of a head that has not ended is there, and `data` bytes more of bodies.
    pub(super) fn frames_came(&mut self, head: usize, data: usize) {
        if let Some(frames) = &mut self.frames {
            frames.head = head;
            // HTTP/2 lets a client send no more ahead; above that are bodies that were dropped unread beside others.
            let most = limits::FRONT_CONNECTION_WINDOW as usize;
            frames.unread = frames.unread.saturating_add(data).min(most);
        }
    }

    /// A piece of a body was read.
    pub(super) fn body_read(&mut self, bytes: usize) {
        match &mut self.frames {
            Some(frames) => frames.unread = frames.unread.saturating_sub(bytes),
            None => self.ahead = 0,
        }
    }

    pub(super) fn body_begun(&mut self) {
        if let Some(frames) = &mut self.frames {
            frames.bodies = frames.bodies.saturating_add(1);
        }
    }

    /// A request is gone, and the rest of its body with it. How much that was is not known while there are others.
    pub(super) fn body_gone(&mut self) {
        if let Some(frames) = &mut self.frames {
            frames.bodies = frames.bodies.saturating_sub(1);
            if frames.bodies == 0 {
                frames.unread = 0;
            }
        }
    }

    pub(super) fn answer_begun(&mut self) {
        self.unsent = self.unsent.saturating_add(limits::UNSENT_ANSWER);
    }

    pub(super) fn answer_sent(&mut self) {
        self.unsent = self.unsent.saturating_sub(limits::UNSENT_ANSWER);
    }

    /// The bytes that an authenticated connection is to be charged for.
    pub(super) fn due(&self) -> usize {
        let came = match &self.frames {
            Some(frames) => frames.head.saturating_add(frames.unread),
            None => self.ahead,
        };
        let held = came.saturating_add(self.unsent);
        held.saturating_sub(limits::KNOWN_HEAD_FREE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rule_23_what_was_read_of_one_body_pays_for_no_other() {
        let mut charge = Charge::default();
        charge.by_frames();
        let free = limits::KNOWN_HEAD_FREE;
        charge.body_begun();
        charge.frames_came(0, free + 1000);
        assert_eq!(charge.due(), 1000);
        // Another request comes, and goes.
        charge.body_begun();
        charge.frames_came(0, 10);
        charge.body_read(10);
        charge.body_gone();
        assert_eq!(charge.due(), 1000);
        charge.body_read(600);
        assert_eq!(charge.due(), 400);
        charge.body_gone();
        assert_eq!(charge.due(), 0);
    }

    /// Beside a body that lasts, nobody knows what was dropped of others: h2 has let go of it.
    #[test]
    fn rule_23_bodies_that_were_dropped_unread_are_charged_to_a_bound() {
        let mut charge = Charge::default();
        charge.by_frames();
        charge.body_begun();
        for _ in 0..10_000 {
            charge.body_begun();
            charge.frames_came(0, limits::FRONT_STREAM_WINDOW as usize);
            charge.body_gone();
        }
        assert!(charge.due() <= limits::FRONT_CONNECTION_WINDOW as usize);
        charge.body_gone();
        assert_eq!(charge.due(), 0);
    }

    #[test]
    fn rule_23_answers_that_are_not_sent_are_charged() {
        let mut charge = Charge::default();
        let free = limits::KNOWN_HEAD_FREE / limits::UNSENT_ANSWER;
        (0..free).for_each(|_| charge.answer_begun());
        assert_eq!(charge.due(), 0);
        charge.answer_begun();
        assert_eq!(charge.due(), limits::UNSENT_ANSWER);
        charge.answer_sent();
        assert_eq!(charge.due(), 0);
    }
}
