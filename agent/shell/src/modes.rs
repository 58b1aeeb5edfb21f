//! Modes of a terminal that change its input: the screen's model does not know them, since nothing that is seen depends on them.

use std::fmt::Write as _;

/// DEC private modes (xterm's ctlseqs): mouse reports, focus reports, the forms of mouse reports, bracketed paste.
const KNOWN: [u16; 11] = [
    9, 1000, 1001, 1002, 1003, 1004, 1005, 1006, 1015, 1016, 2004,
];

/// Parameters of one sequence that are looked at. Terminals allow 16 to 32.
const PARAMETERS: usize = 32;

/// The modes that a program has set.
#[derive(Debug, Default)]
pub(crate) struct Modes {
    /// As in [`KNOWN`].
    set: [bool; KNOWN.len()],
    /// DECKPAM.
    has_application_keypad: bool,
    state: State,
    parameters: Vec<u16>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Ground,
    /// Behind ESC.
    Escape,
    /// Behind CSI.
    Control,
    /// Behind CSI and `?`.
    Private,
    /// Behind CSI and `!`.
    Soft,
}

impl Modes {
    pub(crate) fn feed(&mut self, text: &str) {
        text.chars().for_each(|character| self.take(character));
    }

    fn take(&mut self, character: char) {
        self.state = match (self.state, character) {
            (_, '\x1b') => State::Escape,
            (_, '\u{9b}') | (State::Escape, '[') => State::Control,
            (State::Escape, 'c') => {
                *self = Self::default();
                State::Ground
            }
            (State::Escape, '=' | '>') => {
                self.has_application_keypad = character == '=';
                State::Ground
            }
            (State::Control, '?') => {
                self.parameters.clear();
                self.parameters.push(0);
                State::Private
            }
            (State::Control, '!') => State::Soft,
            (State::Soft, 'p') => {
                self.has_application_keypad = false;
                State::Ground
            }
            (State::Private, '0'..='9') => {
                let digit = character
                    .to_digit(10)
                    .and_then(|digit| digit.try_into().ok());
                if let Some((last, digit)) = self.parameters.last_mut().zip(digit) {
                    *last = last.saturating_mul(10).saturating_add(digit);
                }
                State::Private
            }
            (State::Private, ';') => {
                if self.parameters.len() < PARAMETERS {
                    self.parameters.push(0);
                }
                State::Private
            }
            (State::Private, 'h' | 'l') => {
                self.change(character == 'h');
                State::Ground
            }
            // Control characters inside a sequence are carried out, and change nothing about it; CAN and SUB end it.
            (state, '\0'..='\x1f') if !matches!(character, '\x18' | '\x1a') => state,
            _ => State::Ground,
        };
    }

    fn change(&mut self, is_set: bool) {
        for (known, own) in KNOWN.iter().zip(&mut self.set) {
            if self.parameters.contains(known) {
                *own = is_set;
            }
        }
    }

    /// The sequences that give a terminal these modes and no others.
    pub(crate) fn restore(&self) -> String {
        let mut text = String::new();
        for (known, is_set) in KNOWN.iter().zip(&self.set) {
            let last = if *is_set { 'h' } else { 'l' };
            // Writing into a String does not fail.
            let _ = write!(text, "\x1b[?{known}{last}");
        }
        text.push_str(if self.has_application_keypad {
            "\x1b="
        } else {
            "\x1b>"
        });
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn modes(pieces: &[&str]) -> Modes {
        let mut modes = Modes::default();
        pieces.iter().for_each(|piece| modes.feed(piece));
        modes
    }

    #[test]
    fn modes_of_the_input_are_kept() {
        let restored = |pieces: &[&str]| modes(pieces).restore();
        let nothing = restored(&[]);
        assert!(nothing.contains("\x1b[?2004l") && nothing.ends_with("\x1b>"));
        let paste = restored(&["\x1b[?20", "04h"]);
        assert!(paste.contains("\x1b[?2004h") && paste.contains("\x1b[?1000l"));
        let mouse = restored(&["\x1b[?1002;1006h\x1b=\u{9b}?2004h\x1b[?2004l"]);
        assert!(mouse.contains("\x1b[?1002h") && mouse.contains("\x1b[?1006h"));
        assert!(mouse.contains("\x1b[?2004l") && mouse.ends_with("\x1b="));
        for undone in [
            "\x1b[?2004h\x1bc",
            "\x1b[?2004h\x1b[?2004l",
            "\x1b[2004h",
            "\x1b[?2004\x18h",
            "\x1b[?2004$p",
            "\x1b=\x1b[!p",
        ] {
            assert_eq!(restored(&[undone]), nothing, "{undone:?}");
        }
    }

    #[test]
    fn rule_19_a_sequence_without_end_costs_nothing() {
        let mut modes = modes(&["\x1b[?"]);
        for _ in 0..10_000 {
            modes.feed("1;99999999");
        }
        assert!(modes.parameters.len() <= PARAMETERS);
        modes.feed("h");
        assert_eq!(modes.state, State::Ground);
    }
}
