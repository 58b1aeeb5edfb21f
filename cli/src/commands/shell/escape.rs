//! The keys that are this program's own: `~` at the beginning of a line, as ssh(1) has them.

/// Tells this program's keys from those of the shell.
#[derive(Debug)]
pub(super) struct Escapes {
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nothing was typed, or the last key was Enter.
    LineBegins,
    /// `~` at the beginning of a line.
    Escaped,
    InLine,
}

/// The meaning of some keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Typed {
    /// They are the shell's.
    Keys(Vec<u8>),
    /// Detach.
    Detach,
    /// Take the keyboard over.
    TakeOver,
    /// Show the keys.
    Help,
}

impl Default for Escapes {
    fn default() -> Self {
        Self {
            state: State::LineBegins,
        }
    }
}

impl Escapes {
    /// Reads some keys, and gives their meanings in order.
    pub(super) fn read(&mut self, keys: &[u8]) -> Vec<Typed> {
        let (mut typed, mut own) = (Vec::new(), Vec::new());
        for key in keys.iter().copied() {
            let was = self.state;
            self.state = match (was, key) {
                (State::LineBegins, b'~') => State::Escaped,
                (_, b'\r' | b'\n') => State::LineBegins,
                _ => State::InLine,
            };
            let command = match (was, key) {
                (State::Escaped, b'.') => Some(Typed::Detach),
                (State::Escaped, b't') => Some(Typed::TakeOver),
                (State::Escaped, b'?') => Some(Typed::Help),
                _ => None,
            };
            match (was, command) {
                (_, Some(command)) => {
                    if !own.is_empty() {
                        typed.push(Typed::Keys(std::mem::take(&mut own)));
                    }
                    typed.push(command);
                    self.state = State::LineBegins;
                }
                (State::Escaped, None) if key != b'~' => own.extend([b'~', key]),
                (State::Escaped, None) => own.push(key),
                _ if self.state == State::Escaped => {}
                _ => own.push(key),
            }
        }
        if !own.is_empty() {
            typed.push(Typed::Keys(own));
        }
        typed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(pieces: &[&str]) -> String {
        let mut escapes = Escapes::default();
        let read = pieces.iter().flat_map(|keys| escapes.read(keys.as_bytes()));
        let shown = read.map(|typed| match typed {
            Typed::Keys(keys) => String::from_utf8(keys).unwrap(),
            Typed::Detach => "<detach>".to_owned(),
            Typed::TakeOver => "<take over>".to_owned(),
            Typed::Help => "<help>".to_owned(),
        });
        shown.collect()
    }

    #[test]
    fn a_tilde_at_the_beginning_of_a_line_leads_to_the_programs_keys() {
        for (pieces, expected) in [
            (&["ls ~/x\r"][..], "ls ~/x\r"),
            (&["~."][..], "<detach>"),
            (&["ls\r~."][..], "ls\r<detach>"),
            (&["ls\r", "~", "."][..], "ls\r<detach>"),
            (&["~~.\r"][..], "~.\r"),
            (&["~/bin\r"][..], "~/bin\r"),
            (&["~", "/bin\r"][..], "~/bin\r"),
            (&["a~.\r"][..], "a~.\r"),
            (&["~?~t"][..], "<help><take over>"),
            (&["~\r~."][..], "~\r<detach>"),
        ] {
            assert_eq!(typed(pieces), expected, "{pieces:?}");
        }
    }
}
