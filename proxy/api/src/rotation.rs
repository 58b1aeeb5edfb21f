//! The words about an agent's key on streams of the tunnel with the target [`AGENT_KEY`] (PROTOCOL.md, "Rotating keys"): lines of
//! JSON. And the answer of `POST /v1/agents/{id}/rotate`.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// The target of these streams.
pub const AGENT_KEY: &str = "agent-key";

/// The server's first line on a stream that the agent opens to register its next key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NextKeyChallenge {
    /// Random bytes, which the agent signs.
    #[serde(serialize_with = "encode", deserialize_with = "decode")]
    pub challenge: [u8; 32],
    /// The agent's id.
    pub agent: String,
}

/// The agent's line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct NextKeyRequest {
    /// The public key that the agent has.
    pub key: String,
    /// The public key that is to follow.
    pub next_key: String,
    /// The proof of the first.
    pub proof: String,
    /// The proof of the second.
    pub next_proof: String,
}

/// The server's last line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum NextKeyAnswer {
    /// The next key is registered, and counts beside the other one until it is proved in a handshake.
    #[serde(rename_all = "camelCase")]
    Registered {
        /// Whether it was registered now, or by an earlier request.
        is_new: bool,
    },
    /// It is not.
    Refused {
        /// Why, for programs.
        reason: NextKeyRefusal,
        /// Why, for people.
        detail: String,
    },
}

/// Why a next key is not registered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum NextKeyRefusal {
    /// The request cannot be read.
    Malformed,
    /// A signature is not by its key for this session and challenge.
    BadProof,
    /// The agent has another key than the one that was proved.
    NotCurrent,
    /// The server has made the agent's key, which stays as it is.
    StaticToken,
    /// The next key is known already.
    KeyKnown,
    /// There is no such agent any more.
    Revoked,
    /// The agent, or its cluster, rotates keys too fast.
    TooSoon,
    /// The server cannot write it down now.
    Unavailable,
    /// A reason that this version does not know.
    #[serde(other)]
    Other,
}

/// The server's line on a stream that it opens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum KeyQuestion {
    /// Rotate the key now. The answer comes once that is done, or has failed.
    Rotate {},
    /// Another key has taken the place of the one that this session has proved: prove it, or say that it is not there.
    Look {
        /// The public key that is the agent's now.
        key: String,
    },
}

/// The agent's line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum KeyAnswer {
    /// The agent uses this public key.
    Uses {
        /// The key.
        key: String,
    },
    /// It cannot do what was asked for.
    Failed {
        /// Why, for people.
        detail: String,
    },
}

/// An agent whose key was rotated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct KeyRotated {
    /// The agent's id, which stays.
    pub agent: String,
    /// The public half of the key that it uses from now on.
    pub key: String,
}

fn encode<S: Serializer>(bytes: &[u8; 32], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&BASE64_URL_SAFE_NO_PAD.encode(bytes))
}

fn decode<'de, D: Deserializer<'de>>(deserializer: D) -> Result<[u8; 32], D::Error> {
    let text = String::deserialize(deserializer)?;
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(text);
    let bytes = bytes.map_err(de::Error::custom)?;
    let no_challenge = |_| de::Error::custom("a challenge has 32 bytes");
    bytes.try_into().map_err(no_challenge)
}

#[cfg(test)]
mod tests {
    use serde_json::{from_str, to_string};

    use super::*;

    /// PROTOCOL.md has the lines.
    #[test]
    fn the_lines_are_the_documents() {
        let challenge = NextKeyChallenge {
            challenge: [0; 32],
            agent: "0a".to_owned(),
        };
        let text = format!(r#"{{"challenge":"{}","agent":"0a"}}"#, "A".repeat(43));
        assert_eq!(to_string(&challenge).unwrap(), text);
        assert_eq!(from_str::<NextKeyChallenge>(&text).unwrap(), challenge);
        let registered = NextKeyAnswer::Registered { is_new: true };
        let text = r#"{"registered":{"isNew":true}}"#;
        assert_eq!(to_string(&registered).unwrap(), text);
        let refused: NextKeyAnswer =
            from_str(r#"{"refused":{"reason":"not-current","detail":"x"}}"#).unwrap();
        assert!(matches!(
            refused,
            NextKeyAnswer::Refused {
                reason: NextKeyRefusal::NotCurrent,
                ..
            }
        ));
        let newer = from_str(r#"{"refused":{"reason":"moon-phase","detail":"x"}}"#).unwrap();
        assert!(matches!(
            newer,
            NextKeyAnswer::Refused {
                reason: NextKeyRefusal::Other,
                ..
            }
        ));
        assert_eq!(
            to_string(&KeyQuestion::Rotate {}).unwrap(),
            r#"{"rotate":{}}"#
        );
        let look = KeyQuestion::Look {
            key: "k".to_owned(),
        };
        assert_eq!(to_string(&look).unwrap(), r#"{"look":{"key":"k"}}"#);
        for bad in [
            r#"{"challenge":"AAAA","agent":"0a"}"#,
            r#"{"challenge":"!","agent":""}"#,
        ] {
            assert!(from_str::<NextKeyChallenge>(bad).is_err(), "{bad}");
        }
    }
}
