//! The output of a run, in two files: its bytes, in the order in which the agent read them, and the places where the stream changes.
//! A place is eight bytes, the highest first: its highest bit is set for standard error, and the rest is the offset of the first byte.
//! So any byte is found without those before it, a file that ends anywhere is whole, and no content can be misread. Every method blocks.

use std::fs::File;
use std::io::{self, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::FileExt as _;

use underpass_api::{OutputBytes, OutputPiece, OutputStream};

use crate::limits;

/// Bytes of a place.
const PLACE: u64 = 8;
const STDERR: u64 = 1 << 63;

/// The end of the files that are being written.
#[derive(Debug)]
pub(crate) struct Writer {
    data: File,
    places: File,
    /// Bytes of both files.
    limit: u64,
    bytes: OutputBytes,
    /// Bytes of the places.
    places_bytes: u64,
    /// The stream of the last place.
    stream: Option<OutputStream>,
    /// Whether a file has bytes that could not be cut off: nothing may follow them.
    is_broken: bool,
}

impl Writer {
    /// Over empty files, of so many bytes altogether.
    pub(crate) fn new(data: File, places: File, limit: u64) -> Self {
        Self {
            data,
            places,
            limit,
            bytes: OutputBytes::default(),
            places_bytes: 0,
            stream: None,
            is_broken: false,
        }
    }

    /// Keeps some output, or the part of it that fits. A disk that has no room loses it, and the run goes on.
    pub(crate) fn append(&mut self, stream: OutputStream, data: &[u8]) {
        let place = match self.stream == Some(stream) {
            true => 0,
            false => PLACE,
        };
        let (_, used) = self.bytes();
        let room = self.limit.saturating_sub(used.saturating_add(place));
        let fits = usize::try_from(room).unwrap_or(usize::MAX).min(data.len());
        let (kept, dropped) = data.split_at(fits);
        self.bytes.dropped = self.bytes.dropped.saturating_add(count(dropped));
        if kept.is_empty() {
            return;
        }
        match self.write(stream, kept) {
            Ok(()) => {
                self.stream = Some(stream);
                self.places_bytes = self.places_bytes.saturating_add(place);
                self.bytes.kept = self.bytes.kept.saturating_add(count(kept));
            }
            Err(error) => {
                if self.bytes.lost == 0 {
                    tracing::error!("output of an operation is lost: {error}");
                }
                self.bytes.lost = self.bytes.lost.saturating_add(count(kept));
                self.cut_back();
            }
        }
    }

    fn write(&mut self, stream: OutputStream, data: &[u8]) -> io::Result<()> {
        if self.is_broken {
            return Err(io::Error::other("earlier output could not be cut off"));
        }
        if self.stream != Some(stream) {
            let bit = match stream {
                OutputStream::Stdout => 0,
                OutputStream::Stderr => STDERR,
            };
            self.places
                .write_all(&(self.bytes.kept | bit).to_be_bytes())?;
        }
        self.data.write_all(data)
    }

    /// Removes a part that a failed write has left.
    fn cut_back(&mut self) {
        let cut = |file: &mut File, length: u64| {
            file.set_len(length)?;
            file.seek(SeekFrom::Start(length)).map(drop)
        };
        let data = cut(&mut self.data, self.bytes.kept);
        let places = cut(&mut self.places, self.places_bytes);
        self.is_broken = data.is_err() || places.is_err();
    }

    /// The output so far, and the bytes of its files.
    pub(crate) fn bytes(&self) -> (OutputBytes, u64) {
        let on_disk = self.bytes.kept.saturating_add(self.places_bytes);
        (self.bytes, on_disk)
    }

    /// Nothing follows: the output is on the disk from now on.
    pub(crate) fn finish(&mut self) -> io::Result<()> {
        self.data.sync_all()?;
        self.places.sync_all()
    }
}

fn count(data: &[u8]) -> u64 {
    u64::try_from(data.len()).unwrap_or(u64::MAX)
}

/// Reads output that was kept, also while more of it is written.
#[derive(Debug)]
pub(crate) struct Reader {
    data: File,
    places: File,
}

impl Reader {
    pub(crate) fn new(data: File, places: File) -> Self {
        Self { data, places }
    }

    /// Output of one stream from this byte on, of [`limits::PIECE_BYTES`] at the most; `None` where the first `kept` bytes are over.
    pub(crate) fn at(&self, from: u64, kept: u64) -> io::Result<Option<OutputPiece>> {
        let left = kept.saturating_sub(from);
        if left == 0 {
            return Ok(None);
        }
        let (stream, same) = self.stream(from)?;
        let length = usize::try_from(left.min(same)).unwrap_or(usize::MAX);
        let mut data = vec![0; length.min(limits::PIECE_BYTES)];
        self.data.read_exact_at(&mut data, from)?;
        Ok(Some(OutputPiece {
            stream,
            offset: from,
            data,
        }))
    }

    /// The stream of a byte, and how many bytes from there on are of the same one.
    fn stream(&self, byte: u64) -> io::Result<(OutputStream, u64)> {
        let mut stream = OutputStream::Stdout;
        let mut same = u64::MAX;
        let (mut low, mut high) = (0, self.places.metadata()?.len() / PLACE);
        while low < high {
            let middle = low.midpoint(high);
            let mut place = [0; 8];
            self.places
                .read_exact_at(&mut place, middle.saturating_mul(PLACE))?;
            let place = u64::from_be_bytes(place);
            match (place & !STDERR).checked_sub(byte) {
                Some(behind) if behind > 0 => {
                    (same, high) = (behind, middle);
                }
                _ => {
                    low = middle.saturating_add(1);
                    stream = match place & STDERR {
                        0 => OutputStream::Stdout,
                        _ => OutputStream::Stderr,
                    };
                }
            }
        }
        Ok((stream, same))
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::*;

    const OUT: OutputStream = OutputStream::Stdout;
    const ERR: OutputStream = OutputStream::Stderr;

    struct Files {
        _folder: tempfile::TempDir,
        data: PathBuf,
        places: PathBuf,
    }

    impl Files {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let (data, places) = (folder.path().join("data"), folder.path().join("places"));
            Self {
                _folder: folder,
                data,
                places,
            }
        }

        fn writer(&self, limit: u64) -> Writer {
            let new = |path: &Path| File::create(path).unwrap();
            Writer::new(new(&self.data), new(&self.places), limit)
        }

        fn texts(&self, mut from: u64, kept: u64) -> Vec<(OutputStream, u64, String)> {
            let open = |path: &Path| File::open(path).unwrap();
            let reader = Reader::new(open(&self.data), open(&self.places));
            let mut texts = Vec::new();
            while let Some(piece) = reader.at(from, kept).unwrap() {
                from += count(&piece.data);
                let text = String::from_utf8(piece.data).unwrap();
                texts.push((piece.stream, piece.offset, text));
            }
            texts
        }
    }

    #[test]
    fn rule_19_output_beyond_the_limit_is_counted_and_not_kept() {
        let files = Files::new();
        let mut writer = files.writer(8 + 2 * PLACE);
        writer.append(OUT, b"hello");
        writer.append(ERR, b"world");
        writer.append(OUT, b"!");
        let (bytes, _) = writer.bytes();
        assert_eq!((bytes.kept, bytes.dropped, bytes.lost), (8, 3, 0));
        writer.finish().unwrap();
        let all = [(OUT, 0, "hello".to_owned()), (ERR, 5, "wor".to_owned())];
        assert_eq!(files.texts(0, 8), all);
        assert_eq!(files.texts(7, 8), [(ERR, 7, "r".to_owned())]);
        assert_eq!(files.texts(5, 8), all[1..]);
        assert_eq!(files.texts(8, 8), []);
        assert_eq!(files.texts(9, 8), []);
        assert_eq!(files.texts(0, 5), all[..1]);
    }

    #[test]
    fn rule_19_output_of_single_bytes_takes_no_more_of_the_disk_than_its_limit() {
        let files = Files::new();
        let mut writer = files.writer(1000);
        for number in 0..1000 {
            writer.append([OUT, ERR][number % 2], b"x");
        }
        let length = |path: &Path| path.metadata().unwrap().len();
        let (bytes, on_disk) = writer.bytes();
        assert_eq!(length(&files.data) + length(&files.places), on_disk);
        assert!((992..=1000).contains(&on_disk), "{on_disk}");
        assert_eq!(bytes.kept + bytes.dropped, 1000);
        // Single bytes of one stream are one piece.
        let files = Files::new();
        let mut writer = files.writer(1000);
        (0..500).for_each(|_| writer.append(ERR, b"x"));
        assert_eq!(files.texts(1, 500), [(ERR, 1, "x".repeat(499))]);
    }

    #[test]
    fn every_byte_is_found_with_its_stream() {
        let files = Files::new();
        let mut writer = files.writer(10_000);
        let mut expected = Vec::new();
        for number in 0..40_usize {
            let stream = [OUT, ERR][number / 3 % 2];
            writer.append(stream, &vec![b'a'; number % 7 + 1]);
            expected.resize(expected.len() + number % 7 + 1, stream);
        }
        let kept = count(&vec![0; expected.len()]);
        for (from, stream) in expected.iter().enumerate() {
            let texts = files.texts(u64::try_from(from).unwrap(), kept);
            assert_eq!(texts[0].0, *stream, "{from}");
            let length: usize = texts.iter().map(|(_, _, text)| text.len()).sum();
            assert_eq!(length, expected.len() - from);
        }
    }

    #[test]
    fn a_full_disk_loses_output_and_says_so() {
        let full = || {
            let options = std::fs::OpenOptions::new().write(true).open("/dev/full");
            options.unwrap()
        };
        let mut writer = Writer::new(full(), full(), 100);
        writer.append(OUT, b"hello");
        let (bytes, _) = writer.bytes();
        assert_eq!((bytes.kept, bytes.dropped, bytes.lost), (0, 0, 5));
    }

    #[test]
    fn output_that_a_disk_has_in_part_is_cut_off() {
        let files = Files::new();
        let mut writer = files.writer(100);
        writer.append(OUT, b"hello");
        // As a write leaves it that fails in its midst.
        writer.data.write_all(b"wor").unwrap();
        writer.places.write_all(&[1, 2, 3]).unwrap();
        writer.cut_back();
        writer.append(ERR, b"!");
        assert_eq!(std::fs::read(&files.data).unwrap(), b"hello!");
        assert_eq!(
            files.texts(0, 6),
            [(OUT, 0, "hello".to_owned()), (ERR, 5, "!".to_owned())]
        );
    }

    #[test]
    fn places_that_are_damaged_harm_nothing_else() {
        let files = Files::new();
        let mut writer = files.writer(100);
        writer.append(OUT, b"hello");
        writer.append(ERR, b"world");
        for damaged in [&[b'a'; 4000][..], &[0xff; 13], &[0; 16], b""] {
            std::fs::write(&files.places, damaged).unwrap();
            let text: String = files.texts(0, 10).into_iter().map(|text| text.2).collect();
            assert_eq!(text, "helloworld");
        }
    }
}
