//! Presenting credentials.

use std::{
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use http::{HeaderMap, header};
use rustls_pki_types::CertificateDer;
use tokio_util::sync::CancellationToken;
use underpass_authenticate::{
    AuthenticateError, Authenticator, Caller, CredentialError, Reserved, Source,
};
use underpass_core::{AuthenticationMethod, ConnectionInfo, Identity, Protocol};

pub(crate) type Answer = Result<Option<Identity>, AuthenticateError>;

/// Everything must happen within this.
pub(crate) async fn soon<F: Future>(what: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(30), what)
        .await
        .expect("did not happen in time")
}

pub(crate) fn source(name: &str, method: AuthenticationMethod) -> Source {
    Source::new(name, method, Reserved::default(), CancellationToken::new())
}

/// An authenticator's answer to an `Authorization` header, and a client's certificates.
pub(crate) async fn present(
    authenticator: &dyn Authenticator,
    authorization: Option<&str>,
    certificates: &[CertificateDer<'static>],
) -> Answer {
    let mut headers = HeaderMap::new();
    if let Some(line) = authorization {
        headers.insert(header::AUTHORIZATION, line.parse().unwrap());
    }
    let info = ConnectionInfo {
        peer: IpAddr::V4(Ipv4Addr::LOCALHOST).into(),
        protocol: Protocol::Http1,
        server_name: None,
        certificates: certificates.to_vec(),
        unusable_certificate: None,
    };
    let caller = Caller::read(&headers, &info).expect("a header that can be read");
    let found = soon(authenticator.authenticate(&caller)).await?;
    Ok(found.map(|found| found.identity().clone()))
}

pub(crate) async fn bearer(authenticator: &dyn Authenticator, token: &str) -> Answer {
    present(authenticator, Some(&format!("Bearer {token}")), &[]).await
}

#[track_caller]
pub(crate) fn rejection(answer: Answer) -> CredentialError {
    match answer {
        Err(
            AuthenticateError::Rejected(rejection)
            | AuthenticateError::Certificate { why: rejection, .. },
        ) => rejection,
        other => panic!("not rejected: {other:?}"),
    }
}

#[track_caller]
pub(crate) fn identity(answer: Answer) -> Identity {
    answer.expect("vouched for").expect("mine")
}

#[track_caller]
pub(crate) fn unavailable(answer: Answer) -> String {
    match answer {
        Err(AuthenticateError::Unavailable(error)) => {
            let error: &dyn std::error::Error = &*error;
            let sources = std::iter::successors(Some(error), |error| error.source());
            let texts: Vec<_> = sources.map(ToString::to_string).collect();
            texts.join(": ")
        }
        other => panic!("not unavailable: {other:?}"),
    }
}
