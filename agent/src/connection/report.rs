//! The connector's progress in the log, with advice for what does not go away by itself.

use underpass_tunnel::{
    AttemptError, CertificateError, ConnectError, DialError, ProxyError, Route, RouteError, Status,
    chain,
};

/// Logs what the connector does.
pub(crate) fn report(status: Status<'_>) {
    match status {
        Status::Connected(info) => tracing::info!(
            cluster = info.agent.as_str(), session = %info.id, transport = %info.transport,
            server = info.remote.map(tracing::field::display), software = info.software,
            "connected"
        ),
        Status::Detached(session, wait) => tracing::warn!(
            session = %session.info().id, streams = session.open_streams(),
            "connection lost, streams wait (connecting again in {wait:.1?})"
        ),
        Status::Resumed(session) => tracing::info!(
            session = %session.info().id, transport = session.transport().map(tracing::field::display),
            streams = session.open_streams(), "connected again, streams go on"
        ),
        Status::Moved(session, from) => tracing::info!(
            session = %session.info().id, %from,
            transport = session.transport().map(tracing::field::display),
            streams = session.open_streams(), "moved to another connection"
        ),
        Status::Failed(error, wait) if error.needs_attention() => {
            let advice = advice(error);
            tracing::error!("{}; {advice} (trying again in {wait:.1?})", chain(error));
        }
        Status::Failed(error, wait) => {
            tracing::warn!("{} (trying again in {wait:.1?})", chain(error));
        }
        Status::Ended(error, wait) => {
            tracing::warn!("{} (connecting again in {wait:.1?})", chain(error));
        }
    }
}

/// Advice for an error that does not go away by itself.
fn advice(error: &ConnectError) -> &'static str {
    match error {
        ConnectError::Dial(error) => dial_advice(error),
        error if error.is_replaced_key() => {
            "if another process of the agent has rotated the key, give both the same key file or Secret; else give the agent a new \
             key, join again, and revoke the old agent"
        }
        _ => {
            "give --join-token-file a join token that `underpass cluster add` has printed on this server (or \
             --token-file a static token), or bring agent and server to versions that know each other"
        }
    }
}

fn dial_advice(error: &DialError) -> &'static str {
    const CA: &str = "give --ca-file the `ca.pem` of this server's data directory, or --ca-pin what \
                      `underpass-server ca-pin` prints there";
    let advice = error.attempts.iter().find_map(|attempt| match attempt {
        AttemptError::Failed { route, error } => route_advice(route, error),
        AttemptError::Proxy(_) => {
            Some("name an http://, https:// or socks5:// proxy in HTTPS_PROXY or with --proxy")
        }
        _ => None,
    });
    advice.unwrap_or(CA)
}

fn route_advice(route: &Route, error: &RouteError) -> Option<&'static str> {
    Some(match error {
        RouteError::Untrusted { certificate, .. } => match (certificate, route) {
            (CertificateError::WrongName, _) => {
                "give --server a name that the server has: `underpass-server serve --name`"
            }
            (CertificateError::Expired | CertificateError::NotYetValid, _) => {
                "see whether the clocks here and at the server are right"
            }
            (_, Route::Proxied { .. }) => {
                "if the proxy opens TLS to look inside, have it leave out the server; if not, give \
                 --ca-pin what `underpass-server ca-pin` prints there"
            }
            _ => return None,
        },
        RouteError::Proxy(ProxyError::Credentials { .. } | ProxyError::SocksCredentials { .. }) => {
            "put user and password into the proxy's URL, in HTTPS_PROXY or UNDERPASS_PROXY: \
             http://USER:PASSWORD@HOST:PORT, or socks5://…"
        }
        RouteError::Proxy(ProxyError::Forbidden) => {
            "have the proxy allow CONNECT to the server, or name the server in NO_PROXY if it can be \
             reached without the proxy"
        }
        RouteError::Proxy(ProxyError::Untrusted(_)) => {
            "give --proxy-ca-file the CA of the proxy's certificate"
        }
        _ => return None,
    })
}
