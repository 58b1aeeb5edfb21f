//! `[ADDRESS:]PORT:TARGET` and `PATH:TARGET`, as people write them.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
    str::FromStr,
    sync::Arc,
};

use underpass_core::Target;

/// A port or a socket of this machine, and the target that its connections go to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Where connections are taken.
    pub listen: Listen,
    /// Where they go.
    pub target: Target,
}

/// Where connections are taken: at an address, or at a Unix socket.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Listen {
    /// A port.
    Address(ListenAddress),
    /// A socket's file, which the listener makes and removes.
    Socket(Arc<Path>),
}

/// `[ADDRESS:]PORT`: an address of this machine. Without ADDRESS it is 127.0.0.1, which others cannot reach; port 0 is any free one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenAddress(pub SocketAddr);

/// Not an address, or not a rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RuleError {
    /// The first part.
    #[error(
        "{0:?} is not [ADDRESS:]PORT: an IP address (of IPv6 in brackets) or localhost, and a port of 0 to 65535"
    )]
    Listen(String),
    /// There is no second part.
    #[error(
        "{0:?} is not [ADDRESS:]PORT:TARGET or PATH:TARGET, as in 8080:web.shop:80 or ./docker.sock:unix:/run/docker.sock"
    )]
    Parts(String),
    /// The second part.
    #[error(
        "{0:?} is no target: HOST:PORT, SERVICE.NAMESPACE:PORT or unix:PATH, with an IPv6 address in brackets"
    )]
    Target(String),
}

impl ListenAddress {
    /// Can only programs of this machine reach it?
    pub fn is_local(&self) -> bool {
        self.0.ip().is_loopback()
    }
}

impl Listen {
    /// Can only programs of this machine reach it?
    pub fn is_local(&self) -> bool {
        match self {
            Self::Address(address) => address.is_local(),
            Self::Socket(_) => true,
        }
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Socket(path) => path.display().fmt(f),
        }
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for ListenAddress {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<Self, RuleError> {
        let read = match text.rsplit_once(':') {
            None => address(None, text),
            Some((host, port)) => address(Some(host), port),
        };
        read.ok_or_else(|| RuleError::Listen(text.to_owned()))
    }
}

impl FromStr for Rule {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<Self, RuleError> {
        let parts = || RuleError::Parts(text.to_owned());
        // No address begins like this.
        if text.starts_with(['/', '.']) {
            let (path, target) = text.split_once(':').ok_or_else(parts)?;
            if path.ends_with('/') {
                return Err(parts());
            }
            return Ok(Self {
                listen: Listen::Socket(Path::new(path).into()),
                target: read_target(target)?,
            });
        }
        let (host, rest) = match text.strip_prefix('[') {
            Some(bracketed) => {
                let end = bracketed.find("]:").ok_or_else(parts)?;
                // The brackets, and what is between them.
                let (host, rest) = text.split_at_checked(end + 2).ok_or_else(parts)?;
                (Some(host), rest.strip_prefix(':').ok_or_else(parts)?)
            }
            None => {
                let (first, rest) = text.split_once(':').ok_or_else(parts)?;
                match is_number(first) {
                    true => (None, text),
                    false => (Some(first), rest),
                }
            }
        };
        let (port, target) = rest.split_once(':').ok_or_else(parts)?;
        let listen = address(host, port);
        let listen = listen.ok_or_else(|| {
            let host = host.map(|host| format!("{host}:")).unwrap_or_default();
            RuleError::Listen(format!("{host}{port}"))
        })?;
        Ok(Self {
            listen: Listen::Address(listen),
            target: read_target(target)?,
        })
    }
}

fn read_target(text: &str) -> Result<Target, RuleError> {
    let named = match text.starts_with("unix:") {
        true => text.parse(),
        false => format!("tcp:{text}").parse(),
    };
    named.map_err(|_| RuleError::Target(text.to_owned()))
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn address(host: Option<&str>, port: &str) -> Option<ListenAddress> {
    let port = port.parse().ok().filter(|_| is_number(port))?;
    let host = match host {
        None | Some("localhost") => IpAddr::V4(Ipv4Addr::LOCALHOST),
        Some(host) => match host.strip_prefix('[').and_then(|v6| v6.strip_suffix(']')) {
            Some(v6) => IpAddr::V6(v6.parse().ok()?),
            None => IpAddr::V4(host.parse().ok()?),
        },
    };
    Some(ListenAddress(SocketAddr::new(host, port)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_is_read_as_people_write_it() {
        for (text, listen, target) in [
            ("8080:web.shop:80", "127.0.0.1:8080", "tcp:web.shop:80"),
            ("0:10.0.0.1:5432", "127.0.0.1:0", "tcp:10.0.0.1:5432"),
            ("0.0.0.0:80:web.shop:80", "0.0.0.0:80", "tcp:web.shop:80"),
            (
                "localhost:80:web.shop:80",
                "127.0.0.1:80",
                "tcp:web.shop:80",
            ),
            ("[::1]:80:web.shop:80", "[::1]:80", "tcp:web.shop:80"),
            (
                "80:[2001:db8::1]:443",
                "127.0.0.1:80",
                "tcp:[2001:db8::1]:443",
            ),
            ("[::1]:80:[::2]:443", "[::1]:80", "tcp:[::2]:443"),
            (
                "9000:unix:/run/x.sock",
                "127.0.0.1:9000",
                "unix:/run/x.sock",
            ),
            ("[::1]:9:unix:/a:b", "[::1]:9", "unix:/a:b"),
            (
                "./docker.sock:unix:/run/docker.sock",
                "./docker.sock",
                "unix:/run/docker.sock",
            ),
            ("/tmp/x:web.shop:80", "/tmp/x", "tcp:web.shop:80"),
            ("../x:unix:/a:b", "../x", "unix:/a:b"),
        ] {
            let rule: Rule = text
                .parse()
                .unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(rule.listen.to_string(), listen, "{text}");
            assert_eq!(rule.target.to_string(), target, "{text}");
        }
        for text in [
            "",
            "8080",
            "8080:",
            "8080:web.shop",
            "8080:80",
            "web.shop:80",
            "65536:web.shop:80",
            "+80:web.shop:80",
            "host:80:web.shop:80",
            "::1:80:web.shop:80",
            "[::1]80:web.shop:80",
            "[::1:80:web.shop:80",
            "8080:unix:relative",
            "8080:shell",
            "8080:kube-api:80:",
            "docker.sock:unix:/run/docker.sock",
            "./docker.sock",
            "./docker.sock:",
            "./docker.sock:80",
            "./folder/:web.shop:80",
        ] {
            assert!(text.parse::<Rule>().is_err(), "{text}");
        }
    }

    #[test]
    fn an_address_says_whether_others_reach_it() {
        for (text, written, local) in [
            ("1080", "127.0.0.1:1080", true),
            ("127.0.0.2:1080", "127.0.0.2:1080", true),
            ("[::1]:0", "[::1]:0", true),
            ("0.0.0.0:1080", "0.0.0.0:1080", false),
            ("[::]:1080", "[::]:1080", false),
        ] {
            let address: ListenAddress = text.parse().unwrap();
            assert_eq!(
                (address.to_string().as_str(), address.is_local()),
                (written, local)
            );
        }
        for text in ["", ":1", "x:1", "::1", "1:2:3", "127.0.0.1", "70000"] {
            assert!(text.parse::<ListenAddress>().is_err(), "{text}");
        }
    }
}
