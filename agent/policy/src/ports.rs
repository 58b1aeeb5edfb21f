//! Ports, as a policy lists them.

use std::fmt;
use std::str::FromStr;

use serde::de::{self, Deserialize, Deserializer, Visitor};
use thiserror::Error;

/// A port, or all from one to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ports {
    first: u16,
    last: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(crate) enum PortsError {
    #[error("{0:?} is neither a port from 1 to 65535 nor a range like 8000-8099")]
    Malformed(String),
    #[error("the range {0}-{1} is reversed: write {1}-{0}")]
    Reversed(u16, u16),
}

impl Ports {
    pub(crate) fn contains(self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }
}

impl FromStr for Ports {
    type Err = PortsError;

    fn from_str(text: &str) -> Result<Self, PortsError> {
        let port = |text: &str| {
            let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
            text.parse().ok().filter(|port: &u16| digits && *port > 0)
        };
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let (Some(first), Some(last)) = (port(first), port(last)) else {
            return Err(PortsError::Malformed(text.to_owned()));
        };
        if first > last {
            return Err(PortsError::Reversed(first, last));
        }
        Ok(Self { first, last })
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.first == self.last {
            true => write!(f, "{}", self.first),
            false => write!(f, "{}-{}", self.first, self.last),
        }
    }
}

impl<'de> Deserialize<'de> for Ports {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(PortsVisitor)
    }
}

/// `5432` is a number in YAML, and `8000-8099` a text.
struct PortsVisitor;

impl Visitor<'_> for PortsVisitor {
    type Value = Ports;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a port like 5432, or a range like 8000-8099")
    }

    fn visit_u64<E: de::Error>(self, port: u64) -> Result<Ports, E> {
        self.visit_str(&port.to_string())
    }

    fn visit_i64<E: de::Error>(self, port: i64) -> Result<Ports, E> {
        self.visit_str(&port.to_string())
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Ports, E> {
        text.parse().map_err(E::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_or_a_range() {
        let range: Ports = "8000-8099".parse().unwrap();
        let inside = [7999, 8000, 8099, 8100].map(|port| range.contains(port));
        assert_eq!(inside, [false, true, true, false]);
        assert_eq!(range.to_string(), "8000-8099");
        let one: Ports = "22".parse().unwrap();
        assert!(one.contains(22) && !one.contains(23));
        assert_eq!(one.to_string(), "22");
        for bad in [
            "", "0", "65536", "+1", "-1", "1-", "-", "a", "1-2-3", "0-5", "1 - 2",
        ] {
            let error = bad.parse::<Ports>().unwrap_err();
            assert_eq!(error, PortsError::Malformed(bad.to_owned()));
        }
        let reversed = "9-7".parse::<Ports>().unwrap_err().to_string();
        assert!(reversed.contains("write 7-9"), "{reversed}");
    }
}
