//! An answer over HTTP/1.1 where hyper writes none.

use std::{
    pin::Pin,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http_body::Body as _;

use underpass_core::{Body, Rejection};

/// A refusal as bytes, the last of their connection. `head`: the client has asked for a head alone.
pub fn refusal(why: &Rejection, head: bool) -> Vec<u8> {
    let (parts, body) = why.to_response().into_parts();
    let body = at_hand(body);
    let mut answer = format!("HTTP/1.1 {}\r\n", parts.status).into_bytes();
    for (name, value) in &parts.headers {
        for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
            answer.extend_from_slice(part);
        }
    }
    let length = body.len();
    let framing = format!("content-length: {length}\r\nconnection: close\r\n\r\n");
    answer.extend_from_slice(framing.as_bytes());
    if !head {
        answer.extend_from_slice(&body);
    }
    answer
}

/// The bytes of a body that has all of them.
fn at_hand(mut body: Body) -> Bytes {
    let mut now = Context::from_waker(Waker::noop());
    match Pin::new(&mut body).poll_frame(&mut now) {
        Poll::Ready(Some(Ok(frame))) => frame.into_data().unwrap_or_default(),
        _ => Bytes::new(),
    }
}
