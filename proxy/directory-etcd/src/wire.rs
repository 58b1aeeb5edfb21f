//! The part of etcd's API (v3) that the store calls: its messages, and where the calls go.
//!
//! They are written here rather than generated, since a generator needs `protoc` wherever this is built.

/// A call of the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Method(pub(crate) &'static str);

pub(crate) const RANGE: Method = Method("/etcdserverpb.KV/Range");
pub(crate) const PUT: Method = Method("/etcdserverpb.KV/Put");
pub(crate) const DELETE_RANGE: Method = Method("/etcdserverpb.KV/DeleteRange");
pub(crate) const TXN: Method = Method("/etcdserverpb.KV/Txn");
pub(crate) const WATCH: Method = Method("/etcdserverpb.Watch/Watch");
pub(crate) const AUTHENTICATE: Method = Method("/etcdserverpb.Auth/Authenticate");

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Header {
    #[prost(int64, tag = "3")]
    pub(crate) revision: i64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct KeyValue {
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) key: Vec<u8>,
    #[prost(bytes = "vec", tag = "5")]
    pub(crate) value: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct RangeRequest {
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) range_end: Vec<u8>,
    #[prost(int64, tag = "3")]
    pub(crate) limit: i64,
    #[prost(int64, tag = "4")]
    pub(crate) revision: i64,
    #[prost(bool, tag = "8")]
    pub(crate) keys_only: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct RangeResponse {
    #[prost(message, optional, tag = "1")]
    pub(crate) header: Option<Header>,
    #[prost(message, repeated, tag = "2")]
    pub(crate) kvs: Vec<KeyValue>,
    #[prost(bool, tag = "3")]
    pub(crate) more: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct PutRequest {
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) value: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct DeleteRangeRequest {
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) range_end: Vec<u8>,
}

/// An answer of which nothing is read.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Done {}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct RequestOp {
    #[prost(oneof = "Operation", tags = "1, 2, 3")]
    pub(crate) request: Option<Operation>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub(crate) enum Operation {
    #[prost(message, tag = "1")]
    Range(RangeRequest),
    #[prost(message, tag = "2")]
    Put(PutRequest),
    #[prost(message, tag = "3")]
    DeleteRange(DeleteRangeRequest),
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct ResponseOp {
    #[prost(oneof = "Outcome", tags = "1, 2, 3")]
    pub(crate) response: Option<Outcome>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub(crate) enum Outcome {
    #[prost(message, tag = "1")]
    Range(RangeResponse),
    #[prost(message, tag = "2")]
    Put(Done),
    #[prost(message, tag = "3")]
    DeleteRange(Done),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub(crate) enum Comparison {
    Equal = 0,
    Greater = 1,
    Less = 2,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub(crate) enum Target {
    Version = 0,
    Create = 1,
    Value = 3,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Compare {
    #[prost(enumeration = "Comparison", tag = "1")]
    pub(crate) result: i32,
    #[prost(enumeration = "Target", tag = "2")]
    pub(crate) target: i32,
    #[prost(bytes = "vec", tag = "3")]
    pub(crate) key: Vec<u8>,
    #[prost(oneof = "Operand", tags = "4, 5, 7")]
    pub(crate) operand: Option<Operand>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub(crate) enum Operand {
    #[prost(int64, tag = "4")]
    Version(i64),
    #[prost(int64, tag = "5")]
    CreateRevision(i64),
    #[prost(bytes, tag = "7")]
    Value(Vec<u8>),
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct TxnRequest {
    #[prost(message, repeated, tag = "1")]
    pub(crate) compare: Vec<Compare>,
    #[prost(message, repeated, tag = "2")]
    pub(crate) success: Vec<RequestOp>,
    #[prost(message, repeated, tag = "3")]
    pub(crate) failure: Vec<RequestOp>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct TxnResponse {
    #[prost(message, optional, tag = "1")]
    pub(crate) header: Option<Header>,
    #[prost(bool, tag = "2")]
    pub(crate) succeeded: bool,
    #[prost(message, repeated, tag = "3")]
    pub(crate) responses: Vec<ResponseOp>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct WatchRequest {
    #[prost(message, optional, tag = "1")]
    pub(crate) create: Option<WatchCreate>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct WatchCreate {
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) key: Vec<u8>,
    #[prost(int64, tag = "3")]
    pub(crate) start_revision: i64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct WatchResponse {
    #[prost(bool, tag = "4")]
    pub(crate) canceled: bool,
    #[prost(int64, tag = "5")]
    pub(crate) compact_revision: i64,
    #[prost(string, tag = "6")]
    pub(crate) cancel_reason: String,
    #[prost(message, repeated, tag = "11")]
    pub(crate) events: Vec<Event>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Event {
    #[prost(message, optional, tag = "2")]
    pub(crate) kv: Option<KeyValue>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct AuthenticateRequest {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    #[prost(string, tag = "2")]
    pub(crate) password: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct AuthenticateResponse {
    #[prost(string, tag = "2")]
    pub(crate) token: String,
}

pub(crate) fn get(key: &[u8]) -> RequestOp {
    Operation::Range(RangeRequest {
        key: key.to_vec(),
        ..RangeRequest::default()
    })
    .into()
}

pub(crate) fn put(key: Vec<u8>, value: Vec<u8>) -> RequestOp {
    Operation::Put(PutRequest { key, value }).into()
}

pub(crate) fn delete(key: Vec<u8>) -> RequestOp {
    let range_end = Vec::new();
    Operation::DeleteRange(DeleteRangeRequest { key, range_end }).into()
}

pub(crate) fn delete_all(prefix: &[u8]) -> RequestOp {
    Operation::DeleteRange(DeleteRangeRequest {
        key: prefix.to_vec(),
        range_end: end_of(prefix),
    })
    .into()
}

impl From<Operation> for RequestOp {
    fn from(operation: Operation) -> Self {
        Self {
            request: Some(operation),
        }
    }
}

impl Compare {
    /// The key has this value.
    pub(crate) fn is(key: &[u8], value: &[u8]) -> Self {
        let operand = Operand::Value(value.to_vec());
        Self::new(key, Comparison::Equal, Target::Value, operand)
    }

    pub(crate) fn exists(key: &[u8]) -> Self {
        let operand = Operand::CreateRevision(0);
        Self::new(key, Comparison::Greater, Target::Create, operand)
    }

    pub(crate) fn is_absent(key: &[u8]) -> Self {
        let operand = Operand::CreateRevision(0);
        Self::new(key, Comparison::Equal, Target::Create, operand)
    }

    /// Never true.
    pub(crate) fn never(key: &[u8]) -> Self {
        let operand = Operand::Version(0);
        Self::new(key, Comparison::Less, Target::Version, operand)
    }

    fn new(key: &[u8], result: Comparison, target: Target, operand: Operand) -> Self {
        Self {
            result: result.into(),
            target: target.into(),
            key: key.to_vec(),
            operand: Some(operand),
        }
    }
}

impl TxnResponse {
    /// The value of the key that the operation with this number has read.
    pub(crate) fn read(&self, number: usize) -> Option<&KeyValue> {
        match self.responses.get(number)?.response.as_ref()? {
            Outcome::Range(range) => range.kvs.first(),
            Outcome::Put(_) | Outcome::DeleteRange(_) => None,
        }
    }

    /// etcd's revision with it.
    pub(crate) fn revision(&self) -> i64 {
        self.header.as_ref().map_or(0, |header| header.revision)
    }
}

/// The end of the range of all keys that begin with `prefix`.
pub(crate) fn end_of(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last.saturating_add(1));
            return end;
        }
    }
    // To the last of all keys.
    vec![0]
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;

    fn hex(message: &impl prost::Message) -> String {
        let bytes = message.encode_to_vec();
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// As etcd's own client encodes them: proto3, by the field numbers of `rpc.proto`.
    #[test]
    fn messages_are_etcds() {
        let put = PutRequest {
            key: b"k".to_vec(),
            value: b"v".to_vec(),
        };
        assert_eq!(hex(&put), "0a016b120176");
        let txn = TxnRequest {
            compare: vec![Compare::is(b"k", b"v"), Compare::exists(b"k")],
            success: vec![super::put(b"k".to_vec(), b"w".to_vec())],
            failure: vec![get(b"k")],
        };
        assert_eq!(
            hex(&txn),
            "0a0810031a016b3a0176\
             0a09080110011a016b2800\
             120812060a016b120177\
             1a050a030a016b"
        );
        let watch = WatchRequest {
            create: Some(WatchCreate {
                key: b"k".to_vec(),
                start_revision: 7,
            }),
        };
        assert_eq!(hex(&watch), "0a050a016b1807");
        // With fields that nothing here reads.
        let answer = RangeResponse::decode(
            &[
                0x0a, 4, 8, 1, 0x18, 9, 0x12, 8, 0x0a, 1, b'k', 0x10, 5, 0x2a, 1, b'v', 0x18, 1,
                0x20, 3,
            ][..],
        )
        .unwrap();
        assert_eq!(answer.header.unwrap().revision, 9);
        assert!(answer.more);
        assert_eq!(answer.kvs[0].key, b"k");
        assert_eq!(answer.kvs[0].value, b"v");
    }

    #[test]
    fn a_prefix_ends_where_the_next_one_begins() {
        assert_eq!(end_of(b"/a/"), b"/a0");
        assert_eq!(end_of(&[1, 0xff]), [2]);
        assert_eq!(end_of(&[0xff]), [0]);
    }
}
