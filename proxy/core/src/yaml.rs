//! Faults of YAML files that hold secrets.

use std::fmt;

use serde_saphyr::Error;

/// Where a file of YAML is wrong, and how. It has no text of the file: the parser's own error shows the lines around the place and
/// quotes the value, either of which may be a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Line and column, from 1.
    place: Option<(u64, u64)>,
    what: What,
}

/// All of it is text of our own types.
#[derive(Clone, Debug, PartialEq, Eq)]
enum What {
    Unreadable,
    EndsEarly,
    SeveralDocuments,
    TooLarge,
    Twice,
    UnknownAnchor,
    Expected(String),
    MissingField(&'static str),
    UnknownField(Vec<&'static str>),
    UnknownValue(Vec<&'static str>),
}

impl Fault {
    /// Takes from the parser's error what it says of the file's form.
    pub fn of(error: &Error) -> Self {
        let place = error.location();
        let place = place.map(|at| (at.line(), at.column()));
        Self {
            place: place.filter(|(line, _)| *line > 0),
            what: What::of(error.without_snippet()),
        }
    }
}

impl What {
    fn of(error: &Error) -> Self {
        match error {
            Error::Eof { .. } => Self::EndsEarly,
            Error::MultipleDocuments { .. } => Self::SeveralDocuments,
            Error::Budget { .. } => Self::TooLarge,
            Error::DuplicateMappingKey { .. } => Self::Twice,
            Error::UnknownAnchor { .. } => Self::UnknownAnchor,
            // The parser's word for a token of YAML.
            Error::Unexpected { expected, .. } => {
                Self::Expected(match expected.strip_suffix(" start") {
                    Some(kind) => format!("a {kind}"),
                    None => (*expected).to_owned(),
                })
            }
            Error::InvalidScalar { ty, .. } => Self::Expected((*ty).to_owned()),
            Error::SerdeInvalidType { expected, .. }
            | Error::SerdeInvalidValue { expected, .. }
            | Error::SerdeInvalidLength { expected, .. } => Self::Expected(expected.clone()),
            Error::SerdeMissingField { field, .. } => Self::MissingField(field),
            Error::SerdeUnknownField { expected, .. } => Self::UnknownField(expected.clone()),
            Error::SerdeUnknownVariant { expected, .. } => Self::UnknownValue(expected.clone()),
            // Their messages may quote the file.
            _ => Self::Unreadable,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((line, column)) = self.place {
            write!(f, "line {line}, column {column}: ")?;
        }
        match &self.what {
            What::Unreadable => f.write_str("this is no valid YAML, or a value cannot be read"),
            What::EndsEarly => f.write_str("the file ends too early"),
            What::SeveralDocuments => f.write_str("the file has several documents"),
            What::TooLarge => f.write_str("the file is too large or too deep"),
            What::Twice => f.write_str("a field is there twice"),
            What::UnknownAnchor => f.write_str("an alias (`*NAME`) has no anchor"),
            What::Expected(what) => write!(f, "expected {what}"),
            What::MissingField(field) => write!(f, "the field `{field}` is missing"),
            What::UnknownField(fields) => {
                f.write_str("a field has an unknown name; known are ")?;
                list(f, fields)
            }
            What::UnknownValue(values) => {
                f.write_str("a value is unknown; known are ")?;
                list(f, values)
            }
        }
    }
}

impl std::error::Error for Fault {}

fn list(f: &mut fmt::Formatter<'_>, names: &[&str]) -> fmt::Result {
    for (position, name) in names.iter().enumerate() {
        let comma = if position == 0 { "" } else { ", " };
        write!(f, "{comma}`{name}`")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code, reason = "only whether it can be read matters")]
    struct User {
        name: String,
        groups: Option<Vec<String>>,
        level: Option<Level>,
    }

    #[derive(Debug, Deserialize)]
    enum Level {
        Low,
        High,
    }

    fn fault(text: &str) -> String {
        let error = serde_saphyr::from_str::<User>(text).unwrap_err();
        let fault = Fault::of(&error);
        let told = format!("{fault} {fault:?}");
        assert!(!told.contains("hunter2"), "{told}");
        fault.to_string()
    }

    #[test]
    fn rule_11_a_fault_of_a_file_is_named_without_its_text() {
        assert_eq!(
            fault("name: hunter2\ngroups: hunter2\n"),
            "line 2, column 9: expected a sequence"
        );
        assert_eq!(
            fault("name: x\nhunter2: y\n"),
            "line 2, column 1: a field has an unknown name; known are `name`, `groups`, `level`"
        );
        assert_eq!(
            fault("name: x\nlevel: hunter2\n"),
            "line 2, column 8: a value is unknown; known are `Low`, `High`"
        );
        for (text, line) in [
            ("groups: [hunter2]\n", "the field `name` is missing"),
            ("name: \"hunter2", "line 1"),
            ("name: hunter2\n\thunter2: x\n", "line 1"),
            ("name: x\nname: hunter2\n", "a field is there twice"),
            ("name: *hunter2\n", "line 1"),
            ("hunter2", "line 1"),
            ("{name: {hunter2: hunter2}}", "line 1"),
        ] {
            let told = fault(text);
            assert!(told.contains(line), "{text}: {told}");
        }
    }
}
