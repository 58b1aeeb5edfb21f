//! The output of another user's shell, for a terminal. It draws in the terminal's window and does nothing else: no question passes, since its
//! answer would be typed into the viewer's shell, and nothing that reaches beyond the window, such as the clipboard, the title, colours of
//! later output, files and printers.
//!
//! Sequences pass by a list of those that draw. Each is written anew once all of it was read, so that no terminal sees another beginning
//! or end in it. Controls of eight bits (C1) are read like those of seven, and bytes that are no UTF-8 become U+FFFD.

use std::mem::take;
use std::str::from_utf8;

const ESC: char = '\u{1b}';

/// Bytes of a sequence: colours come with some twenty parameters. A longer one is left out.
const SEQUENCE: usize = 256;

/// Modes (SM) that change how text is drawn: insertion, and line feeds as new lines.
const MODES: &[u16] = &[4, 20];

/// Private modes (DECSET) of drawing, of the cursor, of keys that no program reports, and of pasted text.
const PRIVATE: &[u16] = &[
    1, 4, 5, 6, 7, 8, 12, 25, 45, 47, 66, 69, 1047, 1048, 1049, 2004, 2026,
];

/// Private modes that have the terminal report something. They can be left.
const REPORTS: &[u16] = &[
    9, 1000, 1001, 1002, 1003, 1004, 1005, 1006, 1007, 1015, 1016, 2031, 2048,
];

/// RIS clears the scrollback of some terminals as well: this resets the window.
const RESET: &str = "\u{1b}[?1047l\u{1b}[!p\u{1b}[H\u{1b}[2J";

/// Lets output through as far as it draws. The pieces that it comes in make no difference.
#[derive(Debug, Default)]
pub struct Tame {
    state: State,
    /// A character whose end is not there yet.
    character: Vec<u8>,
    /// A sequence whose end is not there yet, behind its introducer.
    sequence: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Text,
    /// Behind ESC.
    Escape,
    /// In a control sequence (CSI).
    Control,
    /// In one that is too long.
    Ignored,
    /// In a string that an operating system command (OSC) has, which BEL ends as well.
    Command,
    /// In a string of another kind: DCS, SOS, PM or APC.
    String,
}

impl Tame {
    /// Gives the part of the next bytes that passes.
    pub fn pass(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut passed = String::with_capacity(bytes.len());
        for byte in bytes {
            self.character.push(*byte);
            self.read(&mut passed);
        }
        passed.into_bytes()
    }

    /// Reads the characters that are whole.
    fn read(&mut self, passed: &mut String) {
        while !self.character.is_empty() {
            let invalid = match from_utf8(&self.character) {
                Ok(text) => {
                    // A byte more makes it one character at the most.
                    let character = text.chars().next();
                    self.character.clear();
                    character.into_iter().for_each(|c| self.take(c, passed));
                    return;
                }
                Err(error) => error.error_len(),
            };
            let Some(invalid) = invalid else {
                return;
            };
            self.character.drain(..invalid);
            self.take(char::REPLACEMENT_CHARACTER, passed);
        }
    }

    fn take(&mut self, c: char, passed: &mut String) {
        match (self.state, c) {
            (_, ESC) => self.enter(State::Escape),
            // CAN and SUB give a sequence up.
            (_, '\u{18}' | '\u{1a}') => self.enter(State::Text),
            (_, '\u{80}'..='\u{9f}') => {
                self.enter(State::Escape);
                // As ESC and the character 64 places before it.
                let seven = u32::from(c).checked_sub(0x40).and_then(char::from_u32);
                seven.into_iter().for_each(|c| self.escaped(c, passed));
            }
            (State::Command, '\u{7}') => self.enter(State::Text),
            (State::Command | State::String, _) => {}
            // Terminals obey these in the midst of a sequence.
            (_, '\u{7}'..='\u{f}') => passed.push(c),
            (_, '\u{0}'..='\u{1f}' | '\u{7f}') => {}
            (State::Text, _) => passed.push(c),
            (State::Escape, _) => self.escaped(c, passed),
            (State::Control | State::Ignored, _) => self.controlled(c, passed),
        }
    }

    fn enter(&mut self, state: State) {
        self.state = state;
        self.sequence.clear();
    }

    fn escaped(&mut self, c: char, passed: &mut String) {
        match (c, self.sequence.is_empty()) {
            ('[', true) => return self.enter(State::Control),
            (']', true) => return self.enter(State::Command),
            ('P' | 'X' | '^' | '_', true) => return self.enter(State::String),
            (' '..='/', _) => return self.more(c),
            _ => {}
        }
        let intermediates = take(&mut self.sequence);
        self.enter(State::Text);
        match (&*intermediates, c) {
            // Saved cursors, lines up and down, a tab stop, and the keypad.
            ("", '7' | '8' | 'D' | 'E' | 'H' | 'M' | '=' | '>') => {}
            ("", 'c') => return passed.push_str(RESET),
            // Character sets, lines of double size, and a screen of E.
            ("(" | ")", '0'..='~') | ("#", '3'..='6' | '8') => {}
            (_, '0'..='~') => return,
            _ => return passed.push(c),
        }
        passed.extend([ESC]);
        passed.push_str(&intermediates);
        passed.push(c);
    }

    fn controlled(&mut self, c: char, passed: &mut String) {
        match c {
            ' '..='?' => self.more(c),
            '@'..='~' => {
                let sequence = take(&mut self.sequence);
                if self.state == State::Control
                    && let Some(drawn) = drawn(&sequence, c)
                {
                    passed.push_str("\u{1b}[");
                    passed.push_str(&drawn);
                    passed.push(c);
                }
                self.enter(State::Text);
            }
            _ => {
                self.enter(State::Text);
                passed.push(c);
            }
        }
    }

    /// One more character of a sequence.
    fn more(&mut self, c: char) {
        match self.sequence.len() < SEQUENCE {
            true => self.sequence.push(c),
            // It fits nothing that passes.
            false => self.state = State::Ignored,
        }
    }
}

/// As much of a control sequence as draws, without its introducer and its last character; `None` where nothing of it does.
fn drawn(sequence: &str, last: char) -> Option<String> {
    let behind = sequence.find(|c: char| matches!(c, ' '..='/'));
    let (front, intermediates) = sequence.split_at(behind.unwrap_or(sequence.len()));
    let private = front
        .starts_with(['<', '=', '>', '?'])
        .then(|| front.split_at(1));
    let (mark, parameters) = private.unwrap_or(("", front));
    if parameters.contains(['<', '=', '>', '?'])
        || intermediates.contains(|c| ('0'..='?').contains(&c))
    {
        return None;
    }
    match (mark, intermediates, last) {
        // Places of the cursor, text that moves or goes, attributes, tab stops, and the scroll region.
        ("", "", '@'..='I' | 'K'..='M' | 'P' | 'S' | 'X' | 'Z'..='b' | 'd'..='g')
        | ("", "", 'm' | 'r' | 's' | 'u') => {}
        // With more parameters it tracks the mouse.
        ("", "", 'T') if !parameters.contains(';') => {}
        // 3 clears the scrollback.
        ("", "", 'J') => return only(mark, parameters, |number| number != 3),
        ("?", "", 'J' | 'K') => {}
        ("", "", 'h' | 'l') => return only(mark, parameters, |number| MODES.contains(&number)),
        ("?", "", 'h') => return only(mark, parameters, |number| PRIVATE.contains(&number)),
        ("?", "", 'l') => {
            let leaves = |number| PRIVATE.contains(&number) || REPORTS.contains(&number);
            return only(mark, parameters, leaves);
        }
        // A soft reset, the cursor's form, columns that move, protected text, and rectangles.
        ("", "!", 'p') | ("", " ", '@' | 'A' | 'q') | ("", "'", '}' | '~') | ("", "\"", 'q') => {}
        ("", "$", 'r' | 'v' | 'x' | 'z' | '{') => {}
        _ => return None,
    }
    Some(sequence.to_owned())
}

/// The sequence with those of its parameters that fit; `None` where none does.
fn only(mark: &str, parameters: &str, fits: impl Fn(u16) -> bool) -> Option<String> {
    let fitting = parameters
        .split(';')
        .filter(|parameter| match parameter.is_empty() {
            true => fits(0),
            false => parameter.parse().is_ok_and(&fits),
        });
    let fitting: Vec<_> = fitting.collect();
    (!fitting.is_empty()).then(|| format!("{mark}{}", fitting.join(";")))
}

#[cfg(test)]
mod tests;
