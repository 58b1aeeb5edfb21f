//! HELLO: the connector names itself.

use bytes::{BufMut, BytesMut};

use super::{Body, DecodeError, Fields, VarInt, limits, put_varint};
use crate::wire::put_bytes;

/// The first frame of a session, from the connector.
///
/// ```text
/// 0x01 | length | count (varint) | version (varint) × count | public key (32) | instance (16)
///      | max streams (varint) | resume window, ms (varint) | software (length + UTF-8)
///      | 0                                                          a new session
///      | 1 | session (16) | attempt (varint) | received (varint)    one that exists, or a new one
///      | 2 | session (16) | attempt (varint) | received (varint)    a lane of one that exists
///      | 3 | session (16) | attempt (varint) | received (varint)    one that exists
///      | 4 | session (16) | attempt (varint) | received (varint)    a standby of one that exists
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// The protocol versions that the connector speaks, best first.
    pub versions: Vec<u32>,
    /// The Ed25519 key (RFC 8032) whose owner the connector claims to be.
    pub public_key: [u8; 32],
    /// A random number of the connector's process. A second session of the same key and instance
    /// replaces the first; one of another instance stands beside it.
    pub instance: [u8; 16],
    /// Streams that the acceptor may have open at once.
    pub max_streams: u32,
    /// How long the connector wants sessions to wait for it without a transport; 0: not at all.
    pub resume_window_ms: u32,
    /// The connector's software, for logs: name and version.
    pub software: String,
    /// The transport's purpose.
    pub purpose: Purpose,
}

/// A transport's purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// A session of its own.
    NewSession,
    /// To carry on a session.
    Resume {
        /// Its id, of its WELCOME.
        session: [u8; 16],
        /// Counts the connector's transports of this session, so that a late one is recognized.
        /// The session's first transport is 0.
        attempt: u64,
        /// Lasting control frames of the acceptor's that have arrived since the session began.
        received: u64,
        /// The link that the transport is to become.
        wish: Wish,
    },
}

/// A connector's request to an existing session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// Its main link, or a new session where that one is not to be had.
    MainOrNew,
    /// Its main link.
    Main,
    /// A lane beside its main link.
    Lane,
    /// A link that stands by, for when its main link falls silent.
    Standby,
}

impl Purpose {
    fn encode(self, out: &mut BytesMut) {
        match self {
            Self::NewSession => put_varint(out, 0),
            Self::Resume {
                session,
                attempt,
                received,
                wish,
            } => {
                let purpose = match wish {
                    Wish::MainOrNew => 1,
                    Wish::Lane => 2,
                    Wish::Main => 3,
                    Wish::Standby => 4,
                };
                put_varint(out, purpose);
                out.put_slice(&session);
                put_varint(out, attempt);
                put_varint(out, received);
            }
        }
    }

    fn decode(fields: &mut Fields) -> Result<Self, DecodeError> {
        match fields.varint("purpose")? {
            0 => Ok(Self::NewSession),
            purpose @ 1..=4 => Ok(Self::Resume {
                session: fields.array("session")?,
                attempt: fields.varint("attempt")?,
                received: fields.varint("received")?,
                wish: match purpose {
                    1 => Wish::MainOrNew,
                    2 => Wish::Lane,
                    3 => Wish::Main,
                    _ => Wish::Standby,
                },
            }),
            value => Err(DecodeError::BadValue {
                what: "purpose",
                value,
            }),
        }
    }
}

impl Body for Hello {
    const TYPE: u32 = 0x01;

    fn encode_body(&self, out: &mut BytesMut) {
        let count = self.versions.len().min(limits::VERSIONS);
        VarInt::from_u32(u32::try_from(count).unwrap_or(u32::MAX)).encode(out);
        for version in self.versions.iter().take(count) {
            VarInt::from_u32(*version).encode(out);
        }
        out.put_slice(&self.public_key);
        out.put_slice(&self.instance);
        VarInt::from_u32(self.max_streams).encode(out);
        VarInt::from_u32(self.resume_window_ms).encode(out);
        put_bytes(out, self.software.as_bytes());
        self.purpose.encode(out);
    }

    fn decode_body(fields: &mut Fields) -> Result<Self, DecodeError> {
        let count = fields.varint("versions")?;
        if count > limits::VERSIONS as u64 {
            return Err(DecodeError::TooLong {
                what: "versions",
                len: count,
                max: limits::VERSIONS,
            });
        }
        let versions = (0..count)
            .map(|_| fields.u32("version"))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            versions,
            public_key: fields.array("public key")?,
            instance: fields.array("instance")?,
            max_streams: fields.u32("max streams")?,
            resume_window_ms: fields.u32("resume window")?,
            software: fields.string("software", limits::SOFTWARE)?,
            purpose: Purpose::decode(fields)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::assert_wire;
    use super::*;

    fn hello(purpose: Purpose) -> Hello {
        Hello {
            versions: vec![1],
            public_key: [0xaa; 32],
            instance: [0xbb; 16],
            max_streams: 100,
            resume_window_ms: 7,
            software: "x/1".into(),
            purpose,
        }
    }

    #[test]
    fn wire() {
        let mut wire = vec![0x01, 0x3a, 1, 1];
        wire.extend([0xaa; 32]);
        wire.extend([0xbb; 16]);
        wire.extend([0x40, 100, 7, 3, b'x', b'/', b'1', 0]);
        assert_wire(&hello(Purpose::NewSession), &wire);
    }

    #[test]
    fn wire_of_one_that_resumes() {
        for (purpose, wish) in [
            (1, Wish::MainOrNew),
            (2, Wish::Lane),
            (3, Wish::Main),
            (4, Wish::Standby),
        ] {
            resumes(purpose, wish);
        }
    }

    fn resumes(purpose: u8, wish: Wish) {
        let mut wire = vec![0x01, 0x40, 0x4c, 1, 1];
        wire.extend([0xaa; 32]);
        wire.extend([0xbb; 16]);
        wire.extend([0x40, 100, 7, 3, b'x', b'/', b'1', purpose]);
        wire.extend([0xee; 16]);
        wire.extend([2, 9]);
        let purpose = Purpose::Resume {
            session: [0xee; 16],
            attempt: 2,
            received: 9,
            wish,
        };
        assert_wire(&hello(purpose), &wire);
    }

    #[test]
    fn a_list_of_versions_is_bounded() {
        let mut fields = Fields::new(vec![17; 20].into());
        assert!(matches!(
            Hello::decode_body(&mut fields),
            Err(DecodeError::TooLong { .. })
        ));
    }
}
