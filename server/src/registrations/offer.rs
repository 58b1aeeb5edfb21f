//! An agent's offer, once it is read: an endpoint and a token of the right forms.

use std::collections::BTreeSet;
use std::net::IpAddr;

use http::Uri;
use time::OffsetDateTime;
use underpass_api::{OfferedCredential, RegistrationAnswer, RegistrationRefusal};
use underpass_core::service_account::is_label;
use underpass_core::{ClusterName, RegistrationRules, limits};
use underpass_direct::RegisteredPlaces;
use underpass_directory::seal::Keyring;
use underpass_directory::{Endpoint, RegisteredToken, Registrant, Registration};
use underpass_tunnel::chain;

use super::refusal;

/// A credential that may be kept, if its place may be.
pub(super) struct Offer {
    endpoint: Endpoint,
    host: String,
    allow_service_accounts: BTreeSet<String>,
    token: RegisteredToken,
}

impl Offer {
    /// Checks the forms of all of it.
    ///
    /// # Errors
    /// The answer for the agent: it names what is wrong, and repeats no token.
    pub(super) fn read(
        offered: OfferedCredential,
        now: OffsetDateTime,
    ) -> Result<Self, RegistrationAnswer> {
        let OfferedCredential {
            server,
            certificate_authority,
            tls_server_name,
            token,
            allow_service_accounts,
        } = offered;
        let endpoint_is = |why: String| refusal(RegistrationRefusal::Endpoint, why);
        if server.len() > limits::REGISTERED_URL_BYTES
            || certificate_authority.len() > limits::REGISTERED_CA_BYTES
        {
            return Err(endpoint_is("the URL or the CA is too long".to_owned()));
        }
        let host = server.parse::<Uri>().ok();
        let host = host
            .and_then(|uri| uri.host().map(plain))
            .unwrap_or_default();
        let endpoint = Endpoint::new(server, Some(certificate_authority), tls_server_name);
        let endpoint = endpoint.map_err(|error| endpoint_is(chain(&error)))?;
        let many = allow_service_accounts.len() > limits::REGISTERED_NAMESPACES;
        if many || !allow_service_accounts.iter().all(|name| is_label(name)) {
            let why = "the namespaces of ServiceAccounts are too many, or none";
            return Err(refusal(RegistrationRefusal::Malformed, why));
        }
        let token = RegisteredToken::new(token.0, now);
        let token =
            token.map_err(|error| refusal(RegistrationRefusal::Token, error.to_string()))?;
        Ok(Self {
            endpoint,
            host,
            allow_service_accounts,
            token,
        })
    }

    /// Does the server connect there? A name is looked at again at each connection, once it has addresses.
    ///
    /// # Errors
    /// The answer for the agent.
    pub(super) fn check_place(
        &self,
        rules: &RegistrationRules,
        own: &[String],
    ) -> Result<(), RegistrationAnswer> {
        let allowed = match self.host.parse::<IpAddr>() {
            Ok(address) => RegisteredPlaces::new(rules).allow(address),
            Err(_) => true,
        };
        // Networks that an administrator names decide, once the name is looked up.
        let is_own = || own.iter().any(|name| plain(name) == self.host);
        if !allowed || rules.addresses.is_empty() && is_own() {
            let why = "the server does not connect to that address: it is its own, of its machine, of a cloud's metadata, or outside \
                       of the networks that its administrator allows; name the API server's with --api-server-address";
            return Err(refusal(RegistrationRefusal::Address, why));
        }
        Ok(())
    }

    pub(super) fn seal(
        &self,
        cluster: &ClusterName,
        by: Registrant<'_>,
        now: OffsetDateTime,
        keys: &Keyring,
    ) -> Result<Registration, RegistrationAnswer> {
        let (endpoint, accounts) = (self.endpoint.clone(), self.allow_service_accounts.clone());
        let sealed = Registration::new(cluster, by, endpoint, accounts, &self.token, now, keys);
        sealed.map_err(|error| {
            tracing::error!(%cluster, "not sealed: {}", chain(&error));
            let why = "the credential cannot be encrypted";
            refusal(RegistrationRefusal::Unavailable, why)
        })
    }

    pub(super) fn expires(&self) -> OffsetDateTime {
        self.token.expires()
    }
}

/// A host as it is compared: without brackets, a dot at the end, and capital letters.
fn plain(host: &str) -> String {
    let host = host.strip_prefix('[').unwrap_or(host);
    let host = host.strip_suffix(']').unwrap_or(host);
    host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::prelude::BASE64_URL_SAFE_NO_PAD;
    use serde_json::{Value, json};

    use super::*;

    fn jwt(sub: &str) -> String {
        let part = |value: Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
        let claims = json!({ "sub": sub, "exp": 3600 });
        format!("{}.{}.c2ln", part(json!({})), part(claims))
    }

    fn read(change: Value) -> Result<Offer, RegistrationAnswer> {
        let ca = rcgen::generate_simple_self_signed(["x".to_owned()]).unwrap();
        let mut offered = json!({
            "server": "https://10.255.0.1:6443", "certificateAuthority": ca.cert.pem(),
            "token": jwt("system:serviceaccount:a:b"),
        });
        let fields = change.as_object().unwrap().clone();
        offered.as_object_mut().unwrap().extend(fields);
        let offered = serde_json::from_value(offered).unwrap();
        Offer::read(offered, OffsetDateTime::UNIX_EPOCH)
    }

    fn reason(answer: RegistrationAnswer) -> RegistrationRefusal {
        match answer {
            RegistrationAnswer::Refused { reason, detail } => {
                assert!(!detail.contains("c2ln"), "{detail}");
                reason
            }
            answer => panic!("{answer:?}"),
        }
    }

    #[test]
    fn rule_9_an_offer_has_an_endpoint_with_a_ca_and_a_token_that_ends() {
        assert!(read(json!({})).is_ok());
        for (change, expected) in [
            (
                json!({ "server": "http://h" }),
                RegistrationRefusal::Endpoint,
            ),
            (
                json!({ "server": "https://u:p@h" }),
                RegistrationRefusal::Endpoint,
            ),
            (
                json!({ "server": "https://h/?x" }),
                RegistrationRefusal::Endpoint,
            ),
            (
                json!({ "server": format!("https://{}", "h".repeat(2000)) }),
                RegistrationRefusal::Endpoint,
            ),
            (
                json!({ "certificateAuthority": "" }),
                RegistrationRefusal::Endpoint,
            ),
            (
                json!({ "certificateAuthority": "x" }),
                RegistrationRefusal::Endpoint,
            ),
            (
                json!({ "tlsServerName": "a b" }),
                RegistrationRefusal::Endpoint,
            ),
            (json!({ "token": "upu_x" }), RegistrationRefusal::Token),
            (json!({ "token": jwt("alice") }), RegistrationRefusal::Token),
            (
                json!({ "allowServiceAccounts": ["A/b"] }),
                RegistrationRefusal::Malformed,
            ),
        ] {
            let refused = read(change.clone())
                .err()
                .unwrap_or_else(|| panic!("{change}"));
            assert_eq!(reason(refused), expected, "{change}");
        }
    }

    #[test]
    fn rule_2_an_offer_leads_neither_here_nor_elsewhere_than_an_administrator_says() {
        let own = [
            "underpass.example".to_owned(),
            "192.0.2.1".to_owned(),
            "localhost".to_owned(),
        ];
        let place = |server: &str, networks: &[&str]| {
            let rules = RegistrationRules {
                addresses: networks.iter().map(|text| text.parse().unwrap()).collect(),
            };
            let offer = read(json!({ "server": server })).unwrap_or_else(|_| panic!("{server}"));
            offer.check_place(&rules, &own).map_err(reason)
        };
        for server in [
            "https://10.255.0.1:6443",
            "https://api.example",
            "https://[2001:db8::1]:6443",
        ] {
            assert_eq!(place(server, &[]), Ok(()), "{server}");
        }
        for server in [
            "https://127.0.0.1:6443",
            "https://[::1]:6443",
            "https://169.254.169.254",
            "https://[::ffff:127.0.0.1]",
            "https://underpass.example",
            "https://Underpass.Example.",
            "https://192.0.2.1:9",
            "https://localhost:6443",
        ] {
            assert_eq!(
                place(server, &[]),
                Err(RegistrationRefusal::Address),
                "{server}"
            );
        }
        assert_eq!(place("https://127.0.0.1:6443", &["127.0.0.1"]), Ok(()));
        let elsewhere = place("https://10.255.0.1", &["127.0.0.1"]);
        assert_eq!(elsewhere, Err(RegistrationRefusal::Address));
    }
}
