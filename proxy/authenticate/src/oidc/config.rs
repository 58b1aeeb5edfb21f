//! An issuer's configuration.

use std::{fmt, str::FromStr, time::Duration};

use http::Uri;

use super::keys::Issuer;
use crate::config::{ConfigError, Misconfigured, https_url, not_empty};
use crate::{Proxy, Roots};
use underpass_https::Https;

/// An issuer, and the mapping of its tokens to identities.
#[derive(Clone, Debug)]
pub struct OidcConfig {
    /// The issuer, exactly as tokens say it in `iss`.
    pub issuer_url: String,
    /// Where its discovery document is, if not at the issuer's URL with `/.well-known/openid-configuration`.
    pub discovery_url: Option<String>,
    /// A token's audience must be one of these.
    pub audiences: Vec<String>,
    /// The roots of the issuer's certificate.
    pub roots: Roots,
    /// The proxy that the issuer is asked through, where the proxy does not except it.
    pub proxy: Option<Proxy>,
    /// How tokens may be signed. Only algorithms with a public key exist here, so that published keys cannot sign.
    pub algorithms: Vec<Algorithm>,
    /// How far the issuer's clock may be from ours.
    pub clock_skew: Duration,
    /// How long a login with a token counts, from the token's `iat` on, where the token itself ends sooner; `None` where a
    /// login ends with its token.
    pub login_lifetime: Option<Duration>,
    /// The mapping of claims to an identity.
    pub claims: Claims,
    /// Claims that must have a certain value.
    pub required: Vec<RequiredClaim>,
}

/// The claims of each part of an identity. A name that begins with `/` is a JSON Pointer (RFC 6901): `/realm_access/roles`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claims {
    /// The user's name. Where it is an e-mail address, the provider must not say that it is unverified.
    pub username: String,
    /// The prefix of the name, so that two issuers cannot mean the same user.
    pub username_prefix: String,
    /// The groups: a text or a list of texts.
    pub groups: Option<PrefixedClaim>,
    /// The user's uid.
    pub uid: Option<String>,
    /// Extras: a lower-case key, and the claim, a text or a list of texts.
    pub extra: Vec<(String, String)>,
}

impl Claims {
    /// The name is the claim `sub` behind this prefix, and there is nothing else.
    pub fn subject(username_prefix: impl Into<String>) -> Self {
        Self {
            username: "sub".to_owned(),
            username_prefix: username_prefix.into(),
            groups: None,
            uid: None,
            extra: Vec::new(),
        }
    }
}

/// A claim, and the prefix of its values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrefixedClaim {
    /// The claim's name.
    pub claim: String,
    /// The prefix of each value.
    pub prefix: String,
}

/// A claim that must be exactly this text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequiredClaim {
    /// The claim's name.
    pub claim: String,
    /// Its value.
    pub value: String,
}

/// A signature algorithm with a public key (RFC 7518, section 3.1; RFC 8037).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Algorithm(pub(super) jsonwebtoken::Algorithm);

impl Algorithm {
    /// kube-apiserver's default.
    pub const RS256: Self = Self(jsonwebtoken::Algorithm::RS256);
}

/// The name is none of a signature with a public key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not one of {}", Algorithm::NAMES)]
pub struct UnknownAlgorithm;

impl Algorithm {
    /// All of them.
    pub const NAMES: &str = "RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, EdDSA";
}

impl FromStr for Algorithm {
    type Err = UnknownAlgorithm;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        use jsonwebtoken::Algorithm as A;
        Ok(Self(match name {
            "RS256" => A::RS256,
            "RS384" => A::RS384,
            "RS512" => A::RS512,
            "PS256" => A::PS256,
            "PS384" => A::PS384,
            "PS512" => A::PS512,
            "ES256" => A::ES256,
            "ES384" => A::ES384,
            "EdDSA" => A::EdDSA,
            _ => return Err(UnknownAlgorithm),
        }))
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

impl OidcConfig {
    pub(super) fn issuer(&self) -> Result<Issuer, ConfigError> {
        https_url("issuer.url", &self.issuer_url)?;
        let discovery = match &self.discovery_url {
            Some(url) if *url == self.issuer_url => {
                let why = Misconfigured::Invalid("must differ from issuer.url, or be left out");
                return Err(ConfigError::new("issuer.discoveryURL", why));
            }
            Some(url) => https_url("issuer.discoveryURL", url)?,
            None => well_known(&self.issuer_url)?,
        };
        self.check()?;
        let https = Https::new(&self.roots, self.proxy.as_ref())
            .map_err(|e| ConfigError::unusable("issuer", e))?;
        Ok(Issuer::new(self.issuer_url.clone(), discovery, https))
    }

    fn check(&self) -> Result<(), ConfigError> {
        if self.audiences.is_empty() {
            return Err(ConfigError::new("issuer.audiences", Misconfigured::Empty));
        }
        for (position, audience) in self.audiences.iter().enumerate() {
            not_empty(&format!("issuer.audiences[{position}]"), audience)?;
        }
        if self.algorithms.is_empty() {
            return Err(ConfigError::new("signingAlgorithms", Misconfigured::Empty));
        }
        if self.clock_skew > Duration::from_secs(300) {
            let why = Misconfigured::Range("at most 5m");
            return Err(ConfigError::new("clockSkew", why));
        }
        let claims = &self.claims;
        for (position, (key, _)) in claims.extra.iter().enumerate() {
            let field = |name| format!("claimMappings.extra[{position}].{name}");
            not_empty(&field("key"), key)?;
            if key.chars().any(|c| c.is_ascii_uppercase()) {
                let why = Misconfigured::Invalid("must be lower-case");
                return Err(ConfigError::new(field("key"), why));
            }
            if claims
                .extra
                .iter()
                .take(position)
                .any(|(other, _)| other == key)
            {
                return Err(ConfigError::new(
                    field("key"),
                    Misconfigured::Twice(key.clone()),
                ));
            }
        }
        Ok(())
    }
}

/// OpenID Connect Discovery 1.0, section 4: a slash at the issuer's end is not doubled.
fn well_known(issuer: &str) -> Result<Uri, ConfigError> {
    let issuer = issuer.trim_end_matches('/');
    https_url(
        "issuer.url",
        &format!("{issuer}/.well-known/openid-configuration"),
    )
}

#[cfg(test)]
pub(super) mod tests {
    use super::{super::claims::Meaning, *};

    pub(in super::super) fn config() -> OidcConfig {
        let ca = rcgen::generate_simple_self_signed(["x".to_owned()]).unwrap();
        OidcConfig {
            issuer_url: "https://issuer.example/a/".to_owned(),
            discovery_url: None,
            audiences: vec!["underpass".to_owned()],
            roots: Roots::from_pem(ca.cert.pem().as_bytes()).unwrap(),
            proxy: None,
            algorithms: vec![Algorithm::RS256, "ES256".parse().unwrap()],
            clock_skew: Duration::from_secs(10),
            login_lifetime: None,
            claims: Claims::subject(""),
            required: Vec::new(),
        }
    }

    #[test]
    fn mistakes_name_their_field() {
        let field = |change: fn(&mut OidcConfig)| {
            let mut config = config();
            change(&mut config);
            let read = config.issuer().and_then(|_| Meaning::of(&config));
            read.err().map(|error| error.field)
        };
        assert_eq!(field(|_| {}), None);
        for (wrong, change) in [
            (
                "issuer.url",
                (|c| c.issuer_url = "http://a".to_owned()) as fn(&mut OidcConfig),
            ),
            ("issuer.discoveryURL", |c| {
                c.discovery_url = Some(c.issuer_url.clone())
            }),
            ("issuer.discoveryURL", |c| {
                c.discovery_url = Some("x".to_owned())
            }),
            ("issuer.audiences", |c| c.audiences.clear()),
            ("issuer.audiences[1]", |c| c.audiences.push(String::new())),
            ("signingAlgorithms", |c| c.algorithms.clear()),
            ("clockSkew", |c| c.clock_skew = Duration::from_secs(3600)),
            ("claimMappings.username.claim", |c| {
                c.claims.username.clear()
            }),
            ("claimMappings.username.claim", |c| {
                c.claims.username = "/a~2".to_owned();
            }),
            ("claimMappings.extra[0].key", |c| {
                c.claims.extra.push(("A".to_owned(), "a".to_owned()));
            }),
            ("claimMappings.extra[1].key", |c| {
                c.claims.extra = vec![("a".to_owned(), "a".to_owned()); 2];
            }),
        ] {
            assert_eq!(field(change).as_deref(), Some(wrong));
        }
    }

    #[test]
    fn only_public_key_algorithms_have_a_name() {
        for bad in ["none", "None", "HS256", "HS512", "rs256", "", "RSA-OAEP"] {
            assert_eq!(bad.parse::<Algorithm>(), Err(UnknownAlgorithm));
        }
        for good in Algorithm::NAMES.split(", ") {
            assert_eq!(good.parse::<Algorithm>().unwrap().to_string(), good);
        }
    }
}
