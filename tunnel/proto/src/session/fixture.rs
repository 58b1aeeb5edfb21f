//! A session for tests.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::{Agreed, LinkId, LinkRole, Session};
use crate::frame::{Class, Open};
use crate::stream_id::{Role, StreamId};

/// One that has its first link.
pub(super) fn session(role: Role) -> (Session, Instant) {
    let now = Instant::now();
    let agreed = Agreed {
        local_streams: 10,
        remote_streams: 10.try_into().unwrap(),
        keepalive: Duration::from_secs(10).try_into().unwrap(),
        resume_window: Duration::from_secs(60).try_into().unwrap(),
    };
    let mut session = Session::new(role, &agreed, now);
    session
        .link_up(LinkId::FIRST, LinkRole::Main, 0, now)
        .unwrap();
    (session, now)
}

pub(super) fn open(session: &mut Session, class: Class) -> StreamId {
    let open = |stream| Open {
        stream,
        class,
        target: "x".to_owned(),
        header: Bytes::new(),
    };
    session.open_stream(open).unwrap()
}
