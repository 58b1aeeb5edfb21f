//! The same over HTTP/1.1. Heads and bodies are followed from the connection's first byte, and hyper's view of each head must
//! agree. After a pipelined request or an upgrade, nothing is changed any more.

mod chunks;

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
};

use http::{HeaderMap, Method, Request, Version, header};

use self::chunks::Chunks;
use super::{Encode, Others, Part};

/// A connection's place in its requests. Clones are of one connection.
#[derive(Clone, Debug, Default)]
pub(in super::super) struct Place(Arc<Mutex<At>>);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum At {
    /// Before a request line.
    #[default]
    Start,
    /// In one.
    Line { spaces: u8, part: Part },
    /// In the fields of a head. `blank`: so far the line has no byte but a CR.
    Fields { blank: bool },
    /// A head has ended, and so many bytes came after it: where they are of a chunked body, they lead there.
    Ended { after: u64, chunks: Chunks },
    /// In a body that has so many bytes left.
    Body { left: u64 },
    /// In a chunked body.
    Chunked(Chunks),
    /// Nobody knows.
    Lost,
}

impl Place {
    fn with<T>(&self, work: impl FnOnce(&mut At) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// hyper has read a head. Gives whether bytes of a next one are known to have come already.
    pub(in super::super) fn head_ended<B: http_body::Body>(&self, request: &Request<B>) -> bool {
        let switches =
            request.method() == Method::CONNECT || request.headers().contains_key(header::UPGRADE);
        let body = match request.body().is_end_stream() {
            _ if switches => Body::Unknown,
            true => Body::Sized(0),
            false => match request.body().size_hint().exact() {
                Some(length) => Body::Sized(length),
                None if is_chunked(request.version(), request.headers()) => Body::Chunked,
                None => Body::Unknown,
            },
        };
        self.with(|at| {
            let next = at.has_passed(body);
            *at = at.behind_head(body);
            next
        })
    }
}

/// The body behind a head, as hyper sees it.
#[derive(Clone, Copy, Debug)]
enum Body {
    Sized(u64),
    Chunked,
    /// Another protocol's bytes may follow.
    Unknown,
}

/// `chunked` is the one transfer coding, once.
fn is_chunked(version: Version, headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    let coding = codings.next();
    version == Version::HTTP_11
        && coding.is_some_and(|coding| coding.as_bytes().eq_ignore_ascii_case(b"chunked"))
        && codings.next().is_none()
}

impl At {
    /// Bytes of the next request have come with this one.
    fn has_passed(self, body: Body) -> bool {
        match (self, body) {
            (Self::Ended { after, .. }, Body::Sized(length)) => after > length,
            (Self::Ended { chunks, .. }, Body::Chunked) => chunks == Chunks::Passed,
            _ => false,
        }
    }

    fn behind_head(self, body: Body) -> Self {
        match (self, body) {
            (Self::Ended { after, .. }, Body::Sized(length)) => match length.checked_sub(after) {
                Some(0) => Self::Start,
                Some(left) => Self::Body { left },
                None => Self::Lost,
            },
            (Self::Ended { chunks, .. }, Body::Chunked) => Self::in_chunks(chunks),
            _ => Self::Lost,
        }
    }

    fn in_chunks(chunks: Chunks) -> Self {
        match chunks {
            Chunks::Ended => Self::Start,
            Chunks::Passed | Chunks::Malformed => Self::Lost,
            chunks => Self::Chunked(chunks),
        }
    }

    fn came(&mut self, bytes: &[u8]) -> Option<Vec<u8>> {
        let mut others = Others::default();
        let mut position = 0;
        while let Some(byte) = bytes.get(position) {
            let next = position.saturating_add(1);
            let rest = bytes.get(position..).unwrap_or_default();
            match self {
                Self::Lost => break,
                Self::Ended { after, chunks } => {
                    *after = after.saturating_add(rest.len() as u64);
                    if chunks.came(rest) < rest.len() && *chunks == Chunks::Ended {
                        *chunks = Chunks::Passed;
                    }
                    break;
                }
                Self::Chunked(chunks) => {
                    position = position.saturating_add(chunks.came(rest));
                    *self = Self::in_chunks(*chunks);
                    continue;
                }
                Self::Body { left } => {
                    let skipped = usize::try_from(*left).unwrap_or(usize::MAX);
                    let skipped = skipped.min(rest.len());
                    *self = match left.saturating_sub(skipped as u64) {
                        0 => Self::Start,
                        left => Self::Body { left },
                    };
                    position = position.saturating_add(skipped);
                    continue;
                }
                Self::Line { spaces: 1, part } => {
                    if let Some(code) = part.encodes(*byte) {
                        others.replace(bytes, position..next, &code);
                    }
                }
                _ => {}
            }
            self.step(*byte);
            position = next;
        }
        (!others.is_untouched()).then(|| others.finish(bytes))
    }

    fn step(&mut self, byte: u8) {
        *self = match (*self, byte) {
            (Self::Start, b'\r' | b'\n') => Self::Start,
            (Self::Start, _) => Self::Line {
                spaces: 0,
                part: Part::Start,
            },
            (Self::Line { .. }, b'\n') => Self::Fields { blank: true },
            (Self::Line { spaces, .. }, b' ') => Self::Line {
                spaces: spaces.saturating_add(1),
                part: Part::Start,
            },
            (Self::Line { spaces, part }, byte) => Self::Line {
                spaces,
                part: part.behind(byte),
            },
            (Self::Fields { blank: true }, b'\n') => Self::Ended {
                after: 0,
                chunks: Chunks::default(),
            },
            (Self::Fields { .. }, b'\n') => Self::Fields { blank: true },
            (Self::Fields { blank }, b'\r') => Self::Fields { blank },
            (Self::Fields { .. }, _) => Self::Fields { blank: false },
            (other, _) => other,
        };
    }
}

impl Encode for Place {
    fn came(&mut self, bytes: &[u8]) -> io::Result<Option<Vec<u8>>> {
        Ok(self.with(|at| at.came(bytes)))
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::Full;

    use super::{super::Targets, *};

    const RAW: &str = "GET /a?q=up{job=\"a\"}>0&r=<b> HTTP/1.1\r\nHost: \"x\"?<y>\r\n\r\n";
    const ENCODED: &str =
        "GET /a?q=up{job=%22a%22}%3E0&r=%3Cb%3E HTTP/1.1\r\nHost: \"x\"?<y>\r\n\r\n";

    const CHUNKED: &str = "4;<\">\r\n?<\"\n\r\n0\r\nx: GET /?\"<>\r\n\r\n";

    const ENDED: At = At::Ended {
        after: 0,
        chunks: Chunks::Size {
            size: 0,
            begun: false,
        },
    };

    fn pieces(at: &mut At, bytes: &str, size: usize) -> String {
        let came = bytes.as_bytes().chunks(size);
        let came = came.flat_map(|piece| at.came(piece).unwrap_or_else(|| piece.to_vec()));
        String::from_utf8(came.collect()).unwrap()
    }

    #[test]
    fn a_targets_forbidden_bytes_are_encoded_and_no_others() {
        for size in [1, 2, 3, 7, 1000] {
            let mut at = At::default();
            assert_eq!(pieces(&mut at, RAW, size), ENCODED, "{size}");
            assert_eq!(at, ENDED);
            // A body of the length that hyper says, and the next request.
            at = at.behind_head(Body::Sized(9));
            assert_eq!(pieces(&mut at, "?\"<>\"\n?<>", size), "?\"<>\"\n?<>");
            assert_eq!(pieces(&mut at, RAW, size), ENCODED, "{size}");
            // A chunked body, some of which came before hyper has seen the head.
            let (ahead, behind) = CHUNKED.split_at(size.min(CHUNKED.len()));
            assert_eq!(pieces(&mut at, ahead, size), ahead);
            assert!(!at.has_passed(Body::Chunked));
            at = at.behind_head(Body::Chunked);
            assert_eq!(pieces(&mut at, behind, size), behind);
            assert_eq!(pieces(&mut at, RAW, size), ENCODED, "{size}");
        }
        let path = pieces(&mut At::default(), "GET /\"<`ü HTTP/1.1\n\n", 3);
        assert_eq!(path, "GET /\"%3C%60%C3%BC HTTP/1.1\n\n");
        // Not in a request line of another form.
        for line in [
            "GET  /?\" HTTP/1.1\n\n",
            "CONNECT <a>:1 HTTP/1.1\n\n",
            "a?\"<>\n\n",
        ] {
            assert_eq!(pieces(&mut At::default(), line, 1000), line);
        }
    }

    #[test]
    fn rule_3_where_a_request_begins_is_certain_or_nothing_is_changed() {
        let behind = |bytes: &str| {
            let mut at = ENDED;
            at.came(bytes.as_bytes());
            at
        };
        let pipelined = behind(&format!("{CHUNKED}GET"));
        assert!(pipelined.has_passed(Body::Chunked));
        let next = behind("G");
        assert!(next.has_passed(Body::Sized(0)));
        let mut broken = ENDED.behind_head(Body::Chunked);
        broken.came(b"5\nhello");
        for mut lost in [
            // An upgrade.
            ENDED.behind_head(Body::Unknown),
            // A request that came with the one before it.
            next.behind_head(Body::Sized(0)),
            pipelined.behind_head(Body::Chunked),
            // A chunk that hyper refuses.
            behind("5\nhello").behind_head(Body::Chunked),
            broken,
            // hyper saw a head's end elsewhere.
            At::Fields { blank: false }.behind_head(Body::Sized(0)),
            At::Start.behind_head(Body::Sized(0)),
            At::Start.behind_head(Body::Chunked),
        ] {
            assert_eq!(lost, At::Lost);
            assert_eq!(pieces(&mut lost, RAW, 7), RAW);
            assert_eq!(lost.behind_head(Body::Sized(0)), At::Lost);
        }
        // hyper has not seen the end of this head.
        let mut at = ENDED;
        assert_eq!(pieces(&mut at, RAW, 7), RAW);
        let place = Place(Arc::new(Mutex::new(ENDED)));
        let upgrade = Request::get("/").header("upgrade", "websocket");
        place.head_ended(&upgrade.body(Full::new(bytes::Bytes::new())).unwrap());
        assert_eq!(place.with(|at| *at), At::Lost);
    }

    #[tokio::test]
    async fn more_bytes_than_there_is_room_for_come_later() {
        use tokio::io::AsyncReadExt;

        let place = Place::default();
        let mut targets = Targets::new(RAW.as_bytes(), place);
        let (mut read, mut piece) = (Vec::new(), [0; 5]);
        loop {
            match targets.read(&mut piece).await.unwrap() {
                0 => break,
                count => read.extend_from_slice(&piece[..count]),
            }
        }
        assert_eq!(String::from_utf8(read).unwrap(), ENCODED);
    }
}
