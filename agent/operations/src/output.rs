//! The output of a run, in a file: pieces in the order in which the agent read them. A piece is its stream (a byte), its length (four
//! bytes, the highest first), and its bytes. Every method blocks.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::Path;

use underpass_api::{OutputBytes, OutputPiece, OutputStream};

use crate::limits;
use crate::store::private;

const HEAD: usize = 5;

/// The end of a file that is being written.
#[derive(Debug)]
pub(crate) struct Writer {
    file: File,
    limit: u64,
    /// The length of the whole pieces in the file.
    length: u64,
    bytes: OutputBytes,
}

impl Writer {
    /// A new file, for so many bytes of output.
    pub(crate) fn create(path: &Path, limit: u64) -> io::Result<Self> {
        let file = private()
            .create(true)
            .write(true)
            .truncate(true)
            .open(path)?;
        Ok(Self::over(file, limit))
    }

    fn over(file: File, limit: u64) -> Self {
        Self {
            file,
            limit,
            length: 0,
            bytes: OutputBytes::default(),
        }
    }

    /// Keeps a piece of output, or the part of it that fits. A disk that has no room loses it, and the run goes on.
    pub(crate) fn append(&mut self, stream: OutputStream, data: &[u8]) {
        let room = self.limit.saturating_sub(self.bytes.kept);
        let fits = usize::try_from(room).unwrap_or(usize::MAX).min(data.len());
        let (kept, dropped) = data.split_at(fits);
        self.bytes.dropped = self.bytes.dropped.saturating_add(count(dropped));
        if kept.is_empty() {
            return;
        }
        match self.write(stream, kept) {
            Ok(()) => self.bytes.kept = self.bytes.kept.saturating_add(count(kept)),
            Err(error) => {
                if self.bytes.lost == 0 {
                    tracing::error!("output of an operation is lost: {error}");
                }
                self.bytes.lost = self.bytes.lost.saturating_add(count(kept));
            }
        }
    }

    fn write(&mut self, stream: OutputStream, data: &[u8]) -> io::Result<()> {
        let length = u32::try_from(data.len()).map_err(io::Error::other)?;
        let mut piece = Vec::with_capacity(HEAD.saturating_add(data.len()));
        piece.push(match stream {
            OutputStream::Stdout => 0,
            OutputStream::Stderr => 1,
        });
        piece.extend(length.to_be_bytes());
        piece.extend(data);
        // Behind a piece that was written in part: over it.
        self.file.seek(SeekFrom::Start(self.length))?;
        self.file.write_all(&piece)?;
        self.length = self.length.saturating_add(count(&piece));
        Ok(())
    }

    /// The output so far, and how far the file can be read.
    pub(crate) fn bytes(&self) -> (OutputBytes, u64) {
        (self.bytes, self.length)
    }

    /// Nothing follows: the file has whole pieces, and is on the disk.
    pub(crate) fn finish(&mut self) -> io::Result<()> {
        self.file.set_len(self.length)?;
        self.file.sync_all()
    }
}

fn count(data: &[u8]) -> u64 {
    u64::try_from(data.len()).unwrap_or(u64::MAX)
}

/// A place in a file.
#[derive(Debug)]
pub(crate) struct Reader {
    file: File,
    at: u64,
    /// Bytes of output before that place.
    offset: u64,
}

impl Reader {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        Ok(Self {
            file,
            at: 0,
            offset: 0,
        })
    }

    /// The next piece that has a byte at `from` or behind it, without those before it; `None` where the pieces of the file's first
    /// `end` bytes are over.
    pub(crate) fn next(&mut self, from: u64, end: u64) -> io::Result<Option<OutputPiece>> {
        loop {
            let Some((stream, length)) = self.head(end)? else {
                return Ok(None);
            };
            let skipped = from.saturating_sub(self.offset).min(length);
            let begin = self.offset.saturating_add(skipped);
            self.offset = self.offset.saturating_add(length);
            self.at = self.at.saturating_add(HEAD as u64).saturating_add(length);
            if skipped == length {
                self.file.seek(SeekFrom::Start(self.at))?;
                continue;
            }
            self.file
                .seek_relative(i64::try_from(skipped).map_err(io::Error::other)?)?;
            let left = usize::try_from(length.saturating_sub(skipped)).map_err(io::Error::other)?;
            let mut data = vec![0; left];
            self.file.read_exact(&mut data)?;
            let offset = begin;
            return Ok(Some(OutputPiece {
                stream,
                offset,
                data,
            }));
        }
    }

    /// The stream and the length of the piece here, where it is whole.
    fn head(&mut self, end: u64) -> io::Result<Option<(OutputStream, u64)>> {
        let behind = self.at.saturating_add(HEAD as u64);
        if behind > end {
            return Ok(None);
        }
        let mut head = [0; HEAD];
        self.file.read_exact(&mut head)?;
        let [stream, a, b, c, d] = head;
        let length = u32::from_be_bytes([a, b, c, d]);
        let stream = match stream {
            0 => OutputStream::Stdout,
            1 => OutputStream::Stderr,
            _ => return Err(io::Error::other("the file is no output of an operation")),
        };
        if usize::try_from(length).map_or(true, |length| length > limits::PIECE_BYTES) {
            return Err(io::Error::other("a piece of the output is too long"));
        }
        let length = u64::from(length);
        match behind.saturating_add(length) > end {
            true => {
                self.file.seek(SeekFrom::Start(self.at))?;
                Ok(None)
            }
            false => Ok(Some((stream, length))),
        }
    }
}

/// The output in a file that may end in the midst of a piece: its bytes, and the length of its whole pieces.
pub(crate) fn recover(path: &Path) -> io::Result<(u64, u64)> {
    let mut reader = match Reader::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((0, 0)),
        opened => opened?,
    };
    let end = reader.file.metadata()?.len();
    while reader.next(u64::MAX, end)?.is_some() {}
    Ok((reader.offset, reader.at))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(path: &Path, from: u64, end: u64) -> Vec<(OutputStream, u64, String)> {
        let mut reader = Reader::open(path).unwrap();
        let pieces = std::iter::from_fn(|| reader.next(from, end).unwrap());
        pieces
            .map(|piece| {
                (
                    piece.stream,
                    piece.offset,
                    String::from_utf8(piece.data).unwrap(),
                )
            })
            .collect()
    }

    #[test]
    fn rule_19_output_beyond_the_limit_is_counted_and_not_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("output");
        let mut writer = Writer::create(&path, 8).unwrap();
        writer.append(OutputStream::Stdout, b"hello");
        writer.append(OutputStream::Stderr, b"world");
        writer.append(OutputStream::Stdout, b"!");
        let (bytes, end) = writer.bytes();
        assert_eq!((bytes.kept, bytes.dropped, bytes.lost), (8, 3, 0));
        writer.finish().unwrap();
        let (out, err) = (OutputStream::Stdout, OutputStream::Stderr);
        let all = [(out, 0, "hello".to_owned()), (err, 5, "wor".to_owned())];
        assert_eq!(texts(&path, 0, end), all);
        assert_eq!(texts(&path, 7, end), [(err, 7, "r".to_owned())]);
        assert_eq!(texts(&path, 5, end), all[1..]);
        assert_eq!(texts(&path, 8, end), []);
        // A piece that is not whole is none yet.
        assert_eq!(texts(&path, 0, end - 1), all[..1]);
        assert_eq!(recover(&path).unwrap(), (8, end));
        std::fs::OpenOptions::new()
            .write(true)
            .open(&path)
            .unwrap()
            .set_len(end - 1)
            .unwrap();
        assert_eq!(recover(&path).unwrap().0, 5);
    }

    #[test]
    fn a_full_disk_loses_output_and_says_so() {
        let full = std::fs::OpenOptions::new()
            .write(true)
            .open("/dev/full")
            .unwrap();
        let mut writer = Writer::over(full, 100);
        writer.append(OutputStream::Stdout, b"hello");
        let (bytes, end) = writer.bytes();
        assert_eq!((bytes.kept, bytes.dropped, bytes.lost, end), (0, 0, 5, 0));
    }
}
