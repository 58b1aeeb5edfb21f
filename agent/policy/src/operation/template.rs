//! Arguments of a command, with placeholders.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use crate::limits;

/// One argument: text, and placeholders `{NAME}` in it. `{{` and `}}` stand for braces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Template(Vec<Part>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Parameter(String),
}

impl Template {
    /// The parameters in it.
    pub(crate) fn parameters(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|part| match part {
            Part::Parameter(name) => Some(name.as_str()),
            Part::Text(_) => None,
        })
    }

    /// The parameter that it begins with.
    pub(crate) fn first_parameter(&self) -> Option<&str> {
        match self.0.first() {
            Some(Part::Parameter(name)) => Some(name),
            _ => None,
        }
    }

    /// The argument with these values; `None` where one has no value.
    pub(crate) fn fill(&self, values: &BTreeMap<&str, &str>) -> Option<String> {
        let mut argument = String::new();
        for part in &self.0 {
            argument.push_str(match part {
                Part::Text(text) => text,
                Part::Parameter(name) => values.get(name.as_str())?,
            });
        }
        Some(argument)
    }
}

impl FromStr for Template {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.len() > limits::ARGUMENT_BYTES {
            let most = limits::ARGUMENT_BYTES;
            return Err(format!(
                "the argument has {} bytes, and may have {most}",
                text.len()
            ));
        }
        if text.contains('\0') {
            return Err("the argument has a zero byte, which no argument may have".to_owned());
        }
        let wrong =
            || format!("{text:?}: write {{NAME}} for a parameter, and {{{{ or }}}} for a brace");
        let mut parts = Vec::new();
        let mut plain = String::new();
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            let (before, behind) = rest.split_at(at);
            plain.push_str(before);
            if let Some(behind) = behind.strip_prefix("{{") {
                plain.push('{');
                rest = behind;
            } else if let Some(behind) = behind.strip_prefix("}}") {
                plain.push('}');
                rest = behind;
            } else {
                let behind = behind.strip_prefix('{').ok_or_else(wrong)?;
                let (name, behind) = behind.split_once('}').ok_or_else(wrong)?;
                if name.is_empty() || name.contains('{') {
                    return Err(wrong());
                }
                if !plain.is_empty() {
                    parts.push(Part::Text(std::mem::take(&mut plain)));
                }
                parts.push(Part::Parameter(name.to_owned()));
                rest = behind;
            }
        }
        plain.push_str(rest);
        if !plain.is_empty() || parts.is_empty() {
            parts.push(Part::Text(plain));
        }
        Ok(Self(parts))
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for part in &self.0 {
            match part {
                Part::Text(text) => f.write_str(text)?,
                Part::Parameter(name) => write!(f, "{{{name}}}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(template: &str, values: &[(&str, &str)]) -> Option<String> {
        let template: Template = template.parse().unwrap();
        template.fill(&values.iter().copied().collect())
    }

    #[test]
    fn placeholders_are_filled_and_braces_stay() {
        for (template, values, expected) in [
            ("plain", &[][..], Some("plain")),
            ("", &[], Some("")),
            ("{a}", &[("a", "x y")], Some("x y")),
            (
                "--f={a}/{b}.db",
                &[("a", "1"), ("b", "2")],
                Some("--f=1/2.db"),
            ),
            ("{{a}}", &[], Some("{a}")),
            ("{{{a}}}", &[("a", "1")], Some("{1}")),
            ("{a}", &[], None),
            // A value is a value, also if it looks like a placeholder.
            ("{a}{b}", &[("a", "{b}"), ("b", "2")], Some("{b}2")),
        ] {
            let filled = filled(template, values);
            assert_eq!(filled.as_deref(), expected, "{template}");
        }
        for bad in ["{", "}", "{a", "a}", "{}", "{a{b}}", "{a}}"] {
            assert!(bad.parse::<Template>().is_err(), "{bad}");
        }
    }
}
