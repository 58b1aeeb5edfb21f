//! Header blocks of HTTP/2 (RFC 7541), as far as a target is to be found in one and the block written anew.
//!
//! `h2` has all of this and shows none of it. Its reading of a block counts; where the reader here finds fault with one, nothing
//! is changed.

mod huffman;
mod table;

use bytes::Bytes;

pub(super) use table::Field;
use table::Table;

/// So many lines of a block are expected: more than usual clients send.
const USUAL_LINES: usize = 16;

/// A block that does not follow RFC 7541.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Malformed {
    #[error("a field or a number is cut short, or too large")]
    Length,
    #[error("an index that stands for nothing")]
    Index,
    #[error("a string that is no Huffman code")]
    Huffman,
    #[error("the table's size changes behind a field, or to more than was allowed")]
    Size,
}

/// A field of a block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) field: Field,
    /// No hop on the way may keep it in a table (section 6.2.3).
    never_indexed: bool,
}

/// Reads the blocks of one direction of a connection.
#[derive(Debug, Default)]
pub(super) struct Reader {
    table: Table,
}

impl Reader {
    /// Reads one block, whole. After an error the reader is of no use.
    pub(super) fn read(&mut self, mut block: &[u8]) -> Result<Vec<Line>, Malformed> {
        let mut lines = Vec::with_capacity(USUAL_LINES.min(block.len()));
        while let Some(first) = block.first().copied() {
            match first {
                0b1000_0000.. => {
                    let index = number(&mut block, 7)?;
                    lines.push(Line {
                        field: self.table.get(index)?,
                        never_indexed: false,
                    });
                }
                0b0100_0000.. => {
                    let field = self.literal(&mut block, 6)?;
                    self.table.insert(field.clone());
                    lines.push(Line {
                        field,
                        never_indexed: false,
                    });
                }
                0b0010_0000.. => {
                    if !lines.is_empty() {
                        return Err(Malformed::Size);
                    }
                    let size = number(&mut block, 5)?;
                    self.table.resize(size)?;
                }
                _ => {
                    let field = self.literal(&mut block, 4)?;
                    lines.push(Line {
                        field,
                        never_indexed: first >= 0b0001_0000,
                    });
                }
            }
        }
        Ok(lines)
    }

    fn literal(&self, block: &mut &[u8], prefix: u8) -> Result<Field, Malformed> {
        let name = match number(block, prefix)? {
            0 => string(block)?,
            index => self.table.get(index)?.name,
        };
        let value = string(block)?;
        Ok(Field { name, value })
    }
}

impl Line {
    pub(super) fn new(name: &'static str, value: String) -> Self {
        let field = Field {
            name: Bytes::from_static(name.as_bytes()),
            value: value.into(),
        };
        Self {
            field,
            never_indexed: true,
        }
    }

    /// Writes it without the table, which stays as it is.
    pub(super) fn write(&self, block: &mut Vec<u8>) {
        block.push(u8::from(self.never_indexed) << 4);
        for string in [&self.field.name, &self.field.value] {
            write_number(block, string.len());
            block.extend_from_slice(string);
        }
    }
}

/// Takes a number whose first byte has it in the last `prefix` bits (section 5.1).
fn number(block: &mut &[u8], prefix: u8) -> Result<usize, Malformed> {
    let first = take(block, 1)?.first().copied().unwrap_or_default();
    let full = (1_usize << prefix) - 1;
    let mut value = usize::from(first) & full;
    if value < full {
        return Ok(value);
    }
    // No block is nearly as long as four bytes count.
    for shift in [0, 7, 14, 21] {
        let byte = take(block, 1)?.first().copied().unwrap_or_default();
        value += usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(Malformed::Length)
}

/// Writes the length of a string that is no Huffman code.
fn write_number(block: &mut Vec<u8>, value: usize) {
    let low = |value: usize| value.to_le_bytes().first().copied().unwrap_or_default();
    let Some(mut rest) = value.checked_sub(0x7f) else {
        block.push(low(value));
        return;
    };
    block.push(0x7f);
    while rest >= 0x80 {
        block.push(low(rest) | 0x80);
        rest >>= 7;
    }
    block.push(low(rest));
}

/// Takes a string (section 5.2).
fn string(block: &mut &[u8]) -> Result<Bytes, Malformed> {
    let huffman = block.first().is_some_and(|first| first & 0x80 != 0);
    let length = number(block, 7)?;
    let string = take(block, length)?;
    match huffman {
        true => Ok(huffman::decode(string)?.into()),
        // A copy, since a slice in the table would keep the block.
        false => Ok(Bytes::copy_from_slice(string)),
    }
}

fn take<'a>(block: &mut &'a [u8], length: usize) -> Result<&'a [u8], Malformed> {
    let (taken, rest) = block.split_at_checked(length).ok_or(Malformed::Length)?;
    *block = rest;
    Ok(taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(reader: &mut Reader, block: &[u8]) -> Vec<(String, String)> {
        let text = |bytes: &Bytes| String::from_utf8(bytes.to_vec()).unwrap();
        let lines = reader.read(block).unwrap();
        let fields = lines.iter().map(|line| &line.field);
        fields
            .map(|field| (text(&field.name), text(&field.value)))
            .collect()
    }

    fn pairs(fields: &[(&str, &str)]) -> Vec<(String, String)> {
        let fields = fields.iter();
        fields
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect()
    }

    /// RFC 7541, appendix C.4: three requests on one connection.
    #[test]
    fn the_rfcs_examples_are_read() {
        let first = [
            0x82, 0x86, 0x84, 0x41, 0x8c, 0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab,
            0x90, 0xf4, 0xff,
        ];
        let second = [
            0x82, 0x86, 0x84, 0xbe, 0x58, 0x86, 0xa8, 0xeb, 0x10, 0x64, 0x9c, 0xbf,
        ];
        let third = [
            0x82, 0x87, 0x85, 0xbf, 0x40, 0x88, 0x25, 0xa8, 0x49, 0xe9, 0x5b, 0xa9, 0x7d, 0x7f,
            0x89, 0x25, 0xa8, 0x49, 0xe9, 0x5b, 0xb8, 0xe8, 0xb4, 0xbf,
        ];
        let mut reader = Reader::default();
        let host = (":authority", "www.example.com");
        let get = (":method", "GET");
        let expected = pairs(&[get, (":scheme", "http"), (":path", "/"), host]);
        assert_eq!(read(&mut reader, &first), expected);
        let cache = ("cache-control", "no-cache");
        let expected = pairs(&[get, (":scheme", "http"), (":path", "/"), host, cache]);
        assert_eq!(read(&mut reader, &second), expected);
        let (scheme, path) = ((":scheme", "https"), (":path", "/index.html"));
        let expected = pairs(&[get, scheme, path, host, ("custom-key", "custom-value")]);
        assert_eq!(read(&mut reader, &third), expected);
    }

    #[test]
    fn written_lines_are_read_whatever_the_table_has() {
        for (length, never_indexed) in [
            (0, false),
            (126, true),
            (127, false),
            (128, true),
            (70_000, false),
        ] {
            let field = Field {
                name: Bytes::from_static(b"a"),
                value: vec![b'x'; length].into(),
            };
            let line = Line {
                field,
                never_indexed,
            };
            let mut block = Vec::new();
            line.write(&mut block);
            assert_eq!(Reader::default().read(&block).unwrap(), [line]);
        }
    }

    #[test]
    fn an_entry_is_forgotten_when_there_is_no_room() {
        let mut reader = Reader::default();
        // `a: b` with an index, then the largest size is that of one entry.
        let indexed = [0x40, 1, b'a', 1, b'b'];
        read(&mut reader, &indexed);
        assert_eq!(read(&mut reader, &[0xbe]), pairs(&[("a", "b")]));
        assert_eq!(read(&mut reader, &[0x3f, 3]), []);
        assert_eq!(read(&mut reader, &[0xbe]), pairs(&[("a", "b")]));
        assert_eq!(
            read(&mut reader, &[0x40, 1, b'c', 1, b'd']),
            pairs(&[("c", "d")])
        );
        assert_eq!(read(&mut reader, &[0xbe]), pairs(&[("c", "d")]));
        assert_eq!(reader.read(&[0xbf]), Err(Malformed::Index));
    }

    #[test]
    fn a_malformed_block_is_refused() {
        for (block, expected) in [
            (&[0x80][..], Malformed::Index),
            (&[0xbe], Malformed::Index),
            (&[0xff], Malformed::Length),
            (&[0xff, 0x80, 0x80, 0x80, 0x80, 0x01], Malformed::Length),
            (&[0x40, 5, b'a'], Malformed::Length),
            (&[0x40, 1, b'a'], Malformed::Length),
            (&[0x82, 0x20], Malformed::Size),
            (&[0x3f, 0xe2, 0x1f], Malformed::Size),
            (&[0x04, 0x81, 0x00], Malformed::Huffman),
        ] {
            assert_eq!(Reader::default().read(block), Err(expected), "{block:x?}");
        }
    }
}
