//! Variables and files that a caller gives a shell beside its rule.

use std::collections::BTreeMap;
use std::fmt;

use crate::error::OpenError;
use crate::limits;
use crate::processes::MARK;

/// Variables and files for the program. The caller has decided that it may have them.
#[derive(Clone, Debug, Default)]
pub struct Given {
    /// Variables, which come before those of the rule.
    pub environment: BTreeMap<String, String>,
    /// Files in its home, which is removed with the shell.
    pub files: Vec<HomeFile>,
    /// Lines for its viewers, which stand before all output.
    pub notices: Vec<String>,
}

/// A file in the home of a shell, which no other user can read.
#[derive(Clone)]
pub struct HomeFile {
    /// Its name: letters, digits, `.`, `-` and `_`.
    pub name: String,
    /// The variable with its path, as in `KUBECONFIG`.
    pub variable: Option<String>,
    /// Its bytes.
    pub content: Vec<u8>,
}

impl fmt::Debug for HomeFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The content may be a secret.
        f.debug_struct("HomeFile")
            .field("name", &self.name)
            .field("variable", &self.variable)
            .finish_non_exhaustive()
    }
}

impl Given {
    pub(crate) fn check(&self, has_home: bool) -> Result<(), OpenError> {
        let wrong = |what: String| Err(OpenError::Given(what));
        if !has_home && !self.files.is_empty() {
            return wrong("a shell of this kind has no home for files".to_owned());
        }
        let number = self.environment.len().saturating_add(self.files.len());
        let variables = self.environment.iter();
        let bytes = variables.map(|(name, value)| name.len().saturating_add(value.len()));
        let bytes = bytes.chain(self.files.iter().map(|file| file.content.len()));
        let bytes = bytes.chain(self.notices.iter().map(String::len));
        let number = number.saturating_add(self.notices.len());
        if number > limits::GIVEN || bytes.fold(0, usize::saturating_add) > limits::GIVEN_BYTES {
            return wrong(format!(
                "more than {} variables, files and lines, or more than {} bytes of them",
                limits::GIVEN,
                limits::GIVEN_BYTES
            ));
        }
        let named = self.files.iter().filter_map(|file| file.variable.as_ref());
        for variable in self.environment.keys().chain(named) {
            if variable.is_empty() || variable.contains(['=', '\0']) || variable == MARK {
                return wrong(format!("a variable of the name {variable:?}"));
            }
        }
        if let Some((name, _)) = self
            .environment
            .iter()
            .find(|(_, text)| text.contains('\0'))
        {
            return wrong(format!("a NUL in the variable {name}"));
        }
        if self
            .notices
            .iter()
            .any(|line| line.contains(char::is_control))
        {
            return wrong("a control character in a line for its viewers".to_owned());
        }
        for (at, file) in self.files.iter().enumerate() {
            let earlier = self.files.iter().take(at);
            if !is_name(&file.name) || earlier.into_iter().any(|own| own.name == file.name) {
                return wrong(format!(
                    "a file of the name {:?}: each has one of its own, of 1 to {} letters, digits, '.', '-' and '_'",
                    file.name,
                    limits::TERM_BYTES
                ));
            }
        }
        Ok(())
    }

    /// The lines for viewers, as a terminal shows them.
    pub(crate) fn shown(&self) -> String {
        let lines = self.notices.iter();
        lines.map(|line| format!("{line}\r\n")).collect()
    }
}

fn is_name(name: &str) -> bool {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    (1..=limits::TERM_BYTES).contains(&name.len())
        && name.bytes().all(legal)
        && !matches!(name, "." | "..")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str) -> HomeFile {
        HomeFile {
            name: name.to_owned(),
            variable: Some("KUBECONFIG".to_owned()),
            content: b"secret".to_vec(),
        }
    }

    #[test]
    fn rule_17_files_and_variables_are_of_the_shells_own() {
        let of = |files: &[&str], variables: &[(&str, &str)]| {
            let variables = variables.iter();
            Given {
                environment: variables
                    .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                    .collect(),
                files: files.iter().map(|name| file(name)).collect(),
                notices: Vec::new(),
            }
        };
        of(&["kubeconfig", ".profile"], &[("A", "b=c")])
            .check(true)
            .unwrap();
        of(&[], &[("A", "")]).check(false).unwrap();
        for (given, says) in [
            (of(&[""], &[]), "\"\""),
            (of(&["."], &[]), "\".\""),
            (of(&[".."], &[]), "\"..\""),
            (of(&["a/b"], &[]), "a/b"),
            (of(&["../b"], &[]), "../b"),
            (of(&["a\0"], &[]), "letters"),
            (of(&["a", "a"], &[]), "\"a\""),
            (of(&[&"a".repeat(65)], &[]), "64"),
            (of(&[], &[("", "a")]), "\"\""),
            (of(&[], &[("A=B", "a")]), "A=B"),
            (of(&[], &[("A", "a\0")]), "NUL"),
            (of(&[], &[(MARK, "a")]), MARK),
            (of(&[], &[("A", &"a".repeat(limits::GIVEN_BYTES))]), "bytes"),
        ] {
            let error = given.check(true).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
        let notices = vec!["a\u{1b}[31m".to_owned()];
        let coloured = Given {
            notices,
            ..Given::default()
        };
        coloured.check(true).unwrap_err();
        let error = of(&["a"], &[]).check(false).unwrap_err().to_string();
        assert!(error.contains("no home"), "{error}");
        assert!(!format!("{:?}", file("a")).contains("115"));
    }
}
