//! The pods of an object, as its selector says.

use std::collections::BTreeMap;

use serde::Deserialize;

/// A `LabelSelector`, or the labels alone, as services and replication controllers have them.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Selector {
    Full(Full),
    Labels(BTreeMap<String, String>),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Full {
    #[serde(default)]
    match_labels: BTreeMap<String, String>,
    #[serde(default)]
    match_expressions: Vec<Expression>,
}

#[derive(Debug, Deserialize)]
struct Expression {
    key: String,
    operator: String,
    #[serde(default)]
    values: Vec<String>,
}

impl Selector {
    /// As the query `labelSelector` has it. `None` where it selects nothing, or cannot be written.
    pub(super) fn text(&self) -> Option<String> {
        let (labels, expressions) = match self {
            Self::Full(full) => (&full.match_labels, full.match_expressions.as_slice()),
            Self::Labels(labels) => (labels, &[][..]),
        };
        let labels = labels.iter().map(|(key, value)| format!("{key}={value}"));
        let mut parts: Vec<_> = labels.collect();
        for expression in expressions {
            parts.push(expression.text()?);
        }
        (!parts.is_empty()).then(|| parts.join(","))
    }
}

impl Expression {
    fn text(&self) -> Option<String> {
        let (key, values) = (&self.key, self.values.join(","));
        Some(match self.operator.as_str() {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "Exists" => key.clone(),
            "DoesNotExist" => format!("!{key}"),
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_selector_is_written_as_a_query_has_it() {
        let text = |json: &str| serde_json::from_str::<Selector>(json).unwrap().text();
        for (json, expected) in [
            (
                r#"{"app":"web","tier":"front"}"#,
                Some("app=web,tier=front"),
            ),
            (
                r#"{"matchLabels":{"app":"web"},"matchExpressions":[
                    {"key":"a","operator":"In","values":["x","y"]},{"key":"b","operator":"NotIn","values":["z"]},
                    {"key":"c","operator":"Exists"},{"key":"d","operator":"DoesNotExist"}]}"#,
                Some("app=web,a in (x,y),b notin (z),c,!d"),
            ),
            ("{}", None),
            (
                r#"{"matchExpressions":[{"key":"a","operator":"Near"}]}"#,
                None,
            ),
        ] {
            assert_eq!(text(json).as_deref(), expected, "{json}");
        }
    }
}
