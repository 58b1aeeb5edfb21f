//! The file of a recording.

use std::fs;

use super::*;

const SIZE: TerminalSize = TerminalSize {
    columns: 80,
    rows: 24,
};

const MOST: u64 = 1024 * 1024;

fn header() -> CastHeader {
    CastHeader::new(SIZE, 0, "a shell".to_owned())
}

fn output(ms: u64, data: &[u8]) -> RecordingEvent {
    RecordingEvent::Output {
        ms,
        data: data.to_vec(),
    }
}

fn at(output: u64) -> RecordingPlace {
    RecordingPlace { output, input: 0 }
}

/// The output in a file, and the number of bytes that are missing.
fn read(path: &Path) -> (Vec<u8>, u64) {
    let text = fs::read_to_string(path).unwrap();
    let (mut reader, mut all, mut missing) = (CastReader::default(), Vec::new(), 0);
    for line in text.lines().skip(1) {
        let Some((event, bytes)) = reader.read(line.parse().unwrap()) else {
            continue;
        };
        all.extend(bytes);
        if let CastData::Note(CastNote::Missing { output, input }) = event.what {
            missing += output + input;
        }
    }
    (all, missing)
}

/// Wherever a server is killed while it writes, the next one goes on behind what is whole, and every byte is there once.
#[test]
fn a_recording_goes_on_behind_any_part_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let whole = folder.path().join("whole.cast");
    let all = b"a\xe2\x82\xac\xff\x1b[1m\xfe\xf0\x9f\x98\x80 end";
    let mut file = CastFile::create(&whole, &header(), MOST).unwrap();
    for piece in all.chunks(5) {
        file.add(&[output(1, piece)]).unwrap();
    }
    file.settle().unwrap();
    assert_eq!((file.had(), read(&whole)), (at(18), (all.to_vec(), 0)));
    let bytes = fs::read(&whole).unwrap();
    for cut in header().line().len()..=bytes.len() {
        let path = folder.path().join(format!("{cut}.cast"));
        fs::write(&path, &bytes[..cut]).unwrap();
        let mut file = CastFile::reopen(&path, MOST).unwrap();
        let had = file.had();
        file.go_on_at(had, 2).unwrap();
        let rest = &all[usize::try_from(had.output).unwrap()..];
        file.add(&[output(2, rest)]).unwrap();
        file.settle().unwrap();
        assert_eq!(read(&path), (all.to_vec(), 0), "cut at {cut}");
        assert_eq!(hash(&path).unwrap().1, file.progress().bytes);
    }
    // Without a whole header there is nothing to go on with.
    let path = folder.path().join("none.cast");
    fs::write(&path, &bytes[..10]).unwrap();
    let error = CastFile::reopen(&path, MOST).unwrap_err();
    assert!(matches!(error, RecordingError::Unreadable), "{error}");
}

#[test]
fn a_gap_is_named_and_times_do_not_go_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.cast");
    let mut file = CastFile::create(&path, &header(), MOST).unwrap();
    file.add(&[output(2000, b"one\xe2")]).unwrap();
    assert_eq!(file.had(), at(3));
    file.go_on_at(at(10), 1500).unwrap();
    let larger = TerminalSize {
        columns: 100,
        rows: 30,
    };
    let resized = |size| RecordingEvent::Resized { ms: 2500, size };
    // The second one is told again.
    file.add(&[resized(larger), resized(larger), output(2400, b"two")])
        .unwrap();
    let lines = fs::read_to_string(&path).unwrap();
    let lines: Vec<_> = lines.lines().skip(1).collect();
    assert_eq!(
        lines,
        [
            r#"[2.000, "o", "one"]"#,
            r#"[2.000, "u", "missing:7:0"]"#,
            r#"[2.000, "m", "underpass: 7 bytes of output and 0 of input were not recorded here"]"#,
            r#"[2.500, "r", "100x30"]"#,
            r#"[2.500, "o", "two"]"#,
        ]
    );
    assert_eq!((file.had(), file.progress().missing), (at(13), 7));
    let again = CastFile::reopen(&path, MOST).unwrap();
    assert_eq!((again.had(), again.progress()), (at(13), file.progress()));
    let error = file.go_on_at(at(5), 0).unwrap_err();
    assert!(matches!(error, RecordingError::AnotherShell), "{error}");
}

/// /dev/full fails as a full disk does.
#[test]
fn rule_15_a_full_disk_is_named_and_nothing_counts_that_is_not_in_the_file() {
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    let error = CastFile::begin(full, &header(), MOST).unwrap_err();
    assert!(matches!(error, RecordingError::Full(_)), "{error:?}");
    assert!(error.to_string().contains("is full"), "{error}");
    let folder = tempfile::tempdir().unwrap();
    let mut file = CastFile::create(&folder.path().join("x.cast"), &header(), MOST).unwrap();
    let on_disk = std::mem::replace(
        &mut file.file,
        OpenOptions::new().write(true).open("/dev/full").unwrap(),
    );
    let before = file.progress();
    let error = file.add(&[output(1, b"lost")]).unwrap_err();
    assert!(matches!(error, RecordingError::Full(_)), "{error:?}");
    assert_eq!((file.had(), file.progress()), (at(0), before));
    file.file = on_disk;
    file.add(&[output(1, b"kept")]).unwrap();
    assert_eq!(read(&folder.path().join("x.cast")).0, b"kept");
}

#[test]
fn rule_19_a_recording_has_a_bound_and_says_that_it_ends_there() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.cast");
    let mut file = CastFile::create(&path, &header(), 200).unwrap();
    let error = file.add(&[output(1, &[b'x'; 300])]).unwrap_err();
    assert!(matches!(error, RecordingError::TooLarge(200)), "{error:?}");
    assert!(!error.passes());
    file.label("the end".to_owned()).unwrap();
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.ends_with("[0.000, \"m\", \"the end\"]\n"), "{text}");
}

#[test]
fn rule_9_a_recording_is_for_its_owner_alone_and_follows_no_link() {
    use std::os::unix::fs::PermissionsExt as _;

    let folder = tempfile::tempdir().unwrap();
    let (path, elsewhere) = (folder.path().join("x.cast"), folder.path().join("y"));
    CastFile::create(&path, &header(), MOST).unwrap();
    let mode = fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let error = CastFile::create(&path, &header(), MOST).unwrap_err();
    assert!(matches!(error, RecordingError::Exists), "{error:?}");
    let link = folder.path().join("link.cast");
    std::os::unix::fs::symlink(&elsewhere, &link).unwrap();
    CastFile::create(&link, &header(), MOST).unwrap_err();
    CastFile::reopen(&link, MOST).unwrap_err();
    hash(&link).unwrap_err();
    assert!(!elsewhere.exists());
}
