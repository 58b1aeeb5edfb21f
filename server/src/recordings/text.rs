//! Bytes of a program as the text of events: text that pieces cut is whole, and bytes that are no text are kept beside it.

use underpass_api::{CastData, CastEvent, CastNote};

/// The text of one sequence of bytes: output, or input.
#[derive(Clone, Debug, Default)]
pub(super) struct Text {
    /// The beginning of a character: three bytes at the most.
    begun: Vec<u8>,
}

impl Text {
    /// Events of some more bytes, and the number of bytes that they are. The beginning of a character waits for its end.
    pub(super) fn add(
        &mut self,
        bytes: &[u8],
        at: u64,
        event: fn(String) -> CastData,
    ) -> (Vec<CastEvent>, usize) {
        let mut all = std::mem::take(&mut self.begun);
        all.extend_from_slice(bytes);
        let whole = all.len().saturating_sub(begun(&all));
        self.begun = all.split_off(whole);
        (events(&all, at, event), whole)
    }

    /// Events of the beginning of a character that had no end, and the number of its bytes.
    pub(super) fn flush(
        &mut self,
        at: u64,
        event: fn(String) -> CastData,
    ) -> (Vec<CastEvent>, usize) {
        let rest = std::mem::take(&mut self.begun);
        (events(&rest, at, event), rest.len())
    }

    /// Does the beginning of a character wait?
    pub(super) fn waits(&self) -> bool {
        !self.begun.is_empty()
    }
}

fn events(bytes: &[u8], at: u64, event: fn(String) -> CastData) -> Vec<CastEvent> {
    if bytes.is_empty() {
        return Vec::new();
    }
    let text = String::from_utf8_lossy(bytes);
    let is_exact = text.as_bytes() == bytes;
    let exact = CastData::Note(CastNote::Exact(bytes.to_vec()));
    let exact = (!is_exact).then_some(CastEvent { at, what: exact });
    let event = CastEvent {
        at,
        what: event(text.into_owned()),
    };
    exact.into_iter().chain([event]).collect()
}

/// Bytes at the end that are the beginning of a character.
fn begun(bytes: &[u8]) -> usize {
    let most = bytes.len().min(3);
    let is_begun = |number: &usize| {
        let tail = bytes.get(bytes.len().saturating_sub(*number)..);
        let read = tail.map(std::str::from_utf8);
        matches!(read, Some(Err(error)) if error.valid_up_to() == 0 && error.error_len().is_none())
    };
    (1..=most).find(is_begun).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use underpass_api::CastReader;

    use super::*;

    /// The bytes that a reader of the events gets.
    fn read(events: Vec<CastEvent>) -> Vec<u8> {
        let mut reader = CastReader::default();
        let lines = events.iter().map(CastEvent::line);
        let events = lines.map(|line| line.parse::<CastEvent>().unwrap());
        let read = events.filter_map(|event| reader.read(event));
        read.flat_map(|(_, bytes)| bytes).collect()
    }

    #[test]
    fn any_bytes_cut_anywhere_are_read_as_they_were() {
        let all = b"a\xe2\x82\xac\xff\xfe\xf0\x9f\x98\x80\xed\xa0\x80\0\x1b[1m\xc3\xe2\x82\"\\\xef\xbf\xbd\xf4\x90";
        for size in 1..=all.len() {
            let mut text = Text::default();
            let (mut events, mut written) = (Vec::new(), 0);
            for piece in all.chunks(size) {
                let (some, number) = text.add(piece, 5, CastData::Output);
                events.extend(some);
                written += number;
                assert!(text.begun.len() <= 3);
            }
            let (rest, number) = text.flush(5, CastData::Output);
            events.extend(rest);
            assert_eq!(written + number, all.len());
            assert_eq!(read(events), all, "in pieces of {size}");
        }
    }

    #[test]
    fn a_character_that_pieces_cut_is_one_and_needs_no_note() {
        let mut text = Text::default();
        let (first, number) = text.add(b"a\xe2\x82", 0, CastData::Output);
        assert_eq!(
            (first[0].line().as_str(), number),
            ("[0.000, \"o\", \"a\"]\n", 1)
        );
        assert!(text.waits());
        let (second, number) = text.add(b"\xac", 0, CastData::Output);
        assert_eq!(
            (second[0].line().as_str(), number),
            ("[0.000, \"o\", \"€\"]\n", 3)
        );
        assert_eq!((first.len(), second.len(), text.waits()), (1, 1, false));
    }
}
