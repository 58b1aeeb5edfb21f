//! The fields that an index stands for (RFC 7541, section 2.3 and appendix A).

use std::collections::VecDeque;

use bytes::Bytes;

use super::Malformed;

/// Bytes that each entry counts beside its name and value (section 4.1).
const ENTRY: usize = 32;

/// The largest table: the first value of SETTINGS_HEADER_TABLE_SIZE (RFC 9113, section 6.5.2). hyper asks for no other.
const LARGEST: usize = 4096;

const STATIC: [(&str, &str); 61] = [
    (":authority", ""),
    (":method", "GET"),
    (":method", "POST"),
    (":path", "/"),
    (":path", "/index.html"),
    (":scheme", "http"),
    (":scheme", "https"),
    (":status", "200"),
    (":status", "204"),
    (":status", "206"),
    (":status", "304"),
    (":status", "400"),
    (":status", "404"),
    (":status", "500"),
    ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"),
    ("accept-language", ""),
    ("accept-ranges", ""),
    ("accept", ""),
    ("access-control-allow-origin", ""),
    ("age", ""),
    ("allow", ""),
    ("authorization", ""),
    ("cache-control", ""),
    ("content-disposition", ""),
    ("content-encoding", ""),
    ("content-language", ""),
    ("content-length", ""),
    ("content-location", ""),
    ("content-range", ""),
    ("content-type", ""),
    ("cookie", ""),
    ("date", ""),
    ("etag", ""),
    ("expect", ""),
    ("expires", ""),
    ("from", ""),
    ("host", ""),
    ("if-match", ""),
    ("if-modified-since", ""),
    ("if-none-match", ""),
    ("if-range", ""),
    ("if-unmodified-since", ""),
    ("last-modified", ""),
    ("link", ""),
    ("location", ""),
    ("max-forwards", ""),
    ("proxy-authenticate", ""),
    ("proxy-authorization", ""),
    ("range", ""),
    ("referer", ""),
    ("refresh", ""),
    ("retry-after", ""),
    ("server", ""),
    ("set-cookie", ""),
    ("strict-transport-security", ""),
    ("transfer-encoding", ""),
    ("user-agent", ""),
    ("vary", ""),
    ("via", ""),
    ("www-authenticate", ""),
];

/// A field's name and value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct Field {
    pub(in super::super) name: Bytes,
    pub(in super::super) value: Bytes,
}

impl Field {
    fn size(&self) -> usize {
        self.name.len() + self.value.len() + ENTRY
    }
}

/// The entries of one direction of a connection.
#[derive(Debug)]
pub(super) struct Table {
    /// The latest first.
    entries: VecDeque<Field>,
    size: usize,
    largest: usize,
}

impl Default for Table {
    fn default() -> Self {
        Self {
            entries: VecDeque::new(),
            size: 0,
            largest: LARGEST,
        }
    }
}

impl Table {
    pub(super) fn get(&self, index: usize) -> Result<Field, Malformed> {
        let position = index.checked_sub(1).ok_or(Malformed::Index)?;
        if let Some((name, value)) = STATIC.get(position) {
            return Ok(Field {
                name: Bytes::from_static(name.as_bytes()),
                value: Bytes::from_static(value.as_bytes()),
            });
        }
        let entry = self.entries.get(position - STATIC.len());
        entry.cloned().ok_or(Malformed::Index)
    }

    pub(super) fn insert(&mut self, field: Field) {
        self.size += field.size();
        self.entries.push_front(field);
        self.evict();
    }

    pub(super) fn resize(&mut self, largest: usize) -> Result<(), Malformed> {
        if largest > LARGEST {
            return Err(Malformed::Size);
        }
        self.largest = largest;
        self.evict();
        Ok(())
    }

    fn evict(&mut self) {
        while self.size > self.largest
            && let Some(oldest) = self.entries.pop_back()
        {
            self.size -= oldest.size();
        }
    }
}
