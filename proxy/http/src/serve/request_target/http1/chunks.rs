//! The end of a chunked body (RFC 9112, section 7.1), as hyper reads it.

/// A place in a chunked body. Bytes that hyper might read otherwise are malformed: a blank behind a size, a line that ends in LF
/// alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Chunks {
    /// In the digits of a chunk's size.
    Size {
        size: u64,
        begun: bool,
    },
    /// Between its `;` and its CR.
    Extension {
        size: u64,
    },
    /// Before the LF behind a size.
    SizeLf {
        size: u64,
    },
    /// In a chunk that has so many bytes left.
    Data {
        left: u64,
    },
    /// Before the CR, and the LF, behind a chunk.
    DataCr,
    DataLf,
    /// At the beginning of a trailer's line, or of the last line.
    LineStart,
    Line,
    LineLf,
    /// Before the last LF.
    LastLf,
    Ended,
    /// Bytes came behind its end.
    Passed,
    Malformed,
}

impl Default for Chunks {
    fn default() -> Self {
        Self::Size {
            size: 0,
            begun: false,
        }
    }
}

impl Chunks {
    /// Follows bytes up to the end of the body. Gives how many they are.
    pub(super) fn came(&mut self, bytes: &[u8]) -> usize {
        let mut position = 0;
        while let Some(byte) = bytes.get(position) {
            match *self {
                Self::Ended | Self::Passed | Self::Malformed => break,
                Self::Data { left } => {
                    let ahead = bytes.len().saturating_sub(position);
                    let skipped = usize::try_from(left).unwrap_or(usize::MAX).min(ahead);
                    *self = match left.saturating_sub(skipped as u64) {
                        0 => Self::DataCr,
                        left => Self::Data { left },
                    };
                    position = position.saturating_add(skipped);
                }
                _ => {
                    *self = self.behind(*byte);
                    position = position.saturating_add(1);
                }
            }
        }
        position
    }

    fn behind(self, byte: u8) -> Self {
        match (self, byte) {
            (Self::Size { begun: true, size }, b'\r') => Self::SizeLf { size },
            (Self::Size { begun: true, size }, b';') => Self::Extension { size },
            (Self::Size { size, .. }, digit) => match larger(size, digit) {
                Some(size) => Self::Size { size, begun: true },
                None => Self::Malformed,
            },
            (Self::Extension { size }, b'\r') => Self::SizeLf { size },
            (Self::Extension { .. }, b'\n') => Self::Malformed,
            (Self::Extension { size }, _) => Self::Extension { size },
            (Self::SizeLf { size: 0 }, b'\n') => Self::LineStart,
            (Self::SizeLf { size }, b'\n') => Self::Data { left: size },
            (Self::DataCr, b'\r') => Self::DataLf,
            (Self::DataLf, b'\n') => Self::default(),
            (Self::LineStart, b'\r') => Self::LastLf,
            (Self::Line, b'\r') => Self::LineLf,
            (Self::LineStart | Self::Line, b'\n') => Self::Malformed,
            (Self::LineStart | Self::Line, _) => Self::Line,
            (Self::LineLf, b'\n') => Self::LineStart,
            (Self::LastLf, b'\n') => Self::Ended,
            _ => Self::Malformed,
        }
    }
}

/// A size with one more digit, unless it is none or the size is too large.
fn larger(size: u64, digit: u8) -> Option<u64> {
    let value = char::from(digit).to_digit(16)?;
    size.checked_mul(16)?.checked_add(value.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &str =
        "5\r\nhe\r\no\r\n10;name=\"a;b\"\r\n0123456789abcdef\r\n000\r\nX-Sum: 1\r\nY:\r\n\r\n";

    #[test]
    fn a_body_ends_behind_its_trailers() {
        for size in [1, 2, 3, 7, 1000] {
            let mut chunks = Chunks::default();
            for piece in BODY.as_bytes().chunks(size) {
                assert_ne!(chunks, Chunks::Ended);
                assert_eq!(chunks.came(piece), piece.len());
            }
            assert_eq!(chunks, Chunks::Ended, "{size}");
            assert_eq!(chunks.came(b"GET"), 0);
        }
        let with_next = format!("{BODY}GET / HTTP/1.1");
        assert_eq!(Chunks::default().came(with_next.as_bytes()), BODY.len());
    }

    #[test]
    fn rule_3_a_chunk_that_may_be_read_otherwise_has_no_end() {
        for body in [
            "\r\n",
            "5 \r\nhello\r\n0\r\n\r\n",
            "5\nhello\r\n0\r\n\r\n",
            "0x5\r\nhello\r\n0\r\n\r\n",
            "+5\r\nhello\r\n0\r\n\r\n",
            "5;a\nb\r\nhello\r\n0\r\n\r\n",
            "5\r\nhello0\r\n\r\n",
            "5\r\nhello\n0\r\n\r\n",
            "0\r\na: b\n\r\n",
            "0\r\n\n",
            "0\r\na: b\r\r\n\r\n",
            "10000000000000000\r\n",
        ] {
            let mut chunks = Chunks::default();
            chunks.came(body.as_bytes());
            assert_eq!(chunks, Chunks::Malformed, "{body:?}");
        }
    }
}
