//! Parameters of operations, and the values that they take.

use std::fmt;
use std::ops::RangeInclusive;

use regex::Regex;
use thiserror::Error;

use crate::limits;

/// A parameter of an operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Parameter {
    pub(crate) name: String,
    pub(crate) schema: Schema,
    pub(crate) is_optional: bool,
    /// Its value where the caller gives none.
    pub(crate) default: Option<String>,
}

/// The values of a parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Schema {
    /// Those that the pattern matches from their beginning to their end.
    Pattern { pattern: Pattern, longest: usize },
    /// Texts without control characters.
    Text { longest: usize },
    /// These.
    OneOf(Vec<String>),
    /// Decimal numbers of a range.
    Integer(RangeInclusive<i64>),
}

/// A pattern that is the same as another one of the same text.
#[derive(Clone, Debug)]
pub(crate) struct Pattern(Regex);

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_str() == other.0.as_str()
    }
}

impl Eq for Pattern {}

impl Pattern {
    pub(crate) fn new(text: &str) -> Result<Self, regex::Error> {
        // Of the pattern alone first: `a)|(b` must not close the group around it.
        Regex::new(text)?;
        let whole = regex::RegexBuilder::new(&format!(r"\A(?:{text})\z"))
            .size_limit(limits::PATTERN_BYTES)
            .build()?;
        Ok(Self(whole))
    }

    fn matches(&self, text: &str) -> bool {
        self.0.is_match(text)
    }

    /// As the file has it.
    fn text(&self) -> &str {
        let whole = self.0.as_str();
        let inner = whole.strip_prefix(r"\A(?:");
        inner
            .and_then(|inner| inner.strip_suffix(r")\z"))
            .unwrap_or(whole)
    }
}

/// Why a value is none of its parameter's. It follows the parameter's name in a sentence.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ValueError {
    /// It is empty.
    #[error("is empty")]
    Empty,
    /// It has too many bytes.
    #[error("has {0} bytes, and may have {1}")]
    TooLong(usize, usize),
    /// It has a character that no argument may have.
    #[error("has a control character")]
    Control,
    /// The pattern does not match all of it.
    #[error("does not match {0}")]
    NoMatch(String),
    /// It is none of those that there are.
    #[error("is none of {0}")]
    NoneOf(String),
    /// It is no number in the range.
    #[error("is no whole number from {0} to {1}")]
    NoInteger(i64, i64),
}

impl Parameter {
    pub(crate) fn check(&self, value: &str) -> Result<(), ValueError> {
        self.schema.check(value)
    }

    /// Can a caller write into it what the policy's owner has not seen?
    pub(crate) fn is_free_text(&self) -> bool {
        matches!(self.schema, Schema::Pattern { .. } | Schema::Text { .. })
    }
}

impl Schema {
    pub(crate) fn check(&self, value: &str) -> Result<(), ValueError> {
        if value.is_empty() {
            return Err(ValueError::Empty);
        }
        let longest = match self {
            Self::Pattern { longest, .. } | Self::Text { longest } => *longest,
            Self::OneOf(_) | Self::Integer(_) => limits::VALUE_BYTES,
        };
        if value.len() > longest {
            return Err(ValueError::TooLong(value.len(), longest));
        }
        if value.chars().any(char::is_control) {
            return Err(ValueError::Control);
        }
        match self {
            Self::Text { .. } => Ok(()),
            Self::Pattern { pattern, .. } if pattern.matches(value) => Ok(()),
            Self::Pattern { pattern, .. } => Err(ValueError::NoMatch(pattern.text().to_owned())),
            Self::OneOf(values) if values.iter().any(|own| own == value) => Ok(()),
            Self::OneOf(values) => Err(ValueError::NoneOf(values.join(", "))),
            Self::Integer(range) => {
                // One spelling a number: no sign but '-', no leading zero.
                let number = value.parse::<i64>().ok();
                let number = number.filter(|number| number.to_string() == value);
                match number.filter(|number| range.contains(number)) {
                    Some(_) => Ok(()),
                    None => Err(ValueError::NoInteger(*range.start(), *range.end())),
                }
            }
        }
    }
}

impl fmt::Display for Parameter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = &self.name;
        match &self.schema {
            Schema::Pattern { pattern, .. } => write!(f, "{name} matches {}", pattern.text()),
            Schema::Text { longest } => write!(f, "{name} has {longest} bytes at the most"),
            Schema::OneOf(values) => write!(f, "{name} is one of {}", values.join(", ")),
            Schema::Integer(range) => {
                write!(f, "{name} is {} to {}", range.start(), range.end())
            }
        }?;
        match (&self.default, self.is_optional) {
            (Some(default), _) => write!(f, ", or {default}"),
            (None, true) => f.write_str(", or left out"),
            (None, false) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rule_17_a_pattern_matches_from_the_beginning_to_the_end() {
        let pattern = Pattern::new("[a-z]+|b").unwrap();
        for (value, matches) in [
            ("abc", true),
            ("b", true),
            ("abc ", false),
            ("1b", false),
            ("abc\nx", false),
            ("abc\n", false),
        ] {
            assert_eq!(pattern.matches(value), matches, "{value:?}");
        }
        assert_eq!(pattern.text(), "[a-z]+|b");
        assert!(
            Pattern::new("a)|(b").is_err(),
            "it does not leave its group"
        );
        assert!(Pattern::new("(a{1000}){1000}").is_err(), "too large");
    }

    #[test]
    fn rule_17_a_value_is_what_its_schema_says() {
        let check = |schema: &Schema, value: &str| schema.check(value);
        let integer = Schema::Integer(-5..=10);
        for good in ["-5", "0", "10"] {
            check(&integer, good).unwrap();
        }
        for bad in [
            "-6",
            "11",
            "+1",
            "01",
            "1.0",
            "0x1",
            " 1",
            "-0",
            "99999999999999999999",
        ] {
            assert_eq!(
                check(&integer, bad),
                Err(ValueError::NoInteger(-5, 10)),
                "{bad}"
            );
        }
        let one_of = Schema::OneOf(vec!["a".to_owned(), "b".to_owned()]);
        check(&one_of, "a").unwrap();
        assert_eq!(
            check(&one_of, "A"),
            Err(ValueError::NoneOf("a, b".to_owned()))
        );
        let text = Schema::Text { longest: 3 };
        check(&text, "a b").unwrap();
        assert_eq!(check(&text, "abcd"), Err(ValueError::TooLong(4, 3)));
        assert_eq!(check(&text, ""), Err(ValueError::Empty));
        assert_eq!(check(&text, "a\0"), Err(ValueError::Control));
    }
}
