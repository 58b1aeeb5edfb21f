//! Connections to a directory.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
};

use http::uri::Authority;
use ldap3::{
    Ldap, LdapConnAsync, LdapConnSettings, LdapError, Scope, SearchEntry, SearchOptions, StdStream,
    adapters::{Adapter, EntriesOnly, PagedResults},
};
use rustls::ClientConfig;

use super::{config::Bind, search::Found};
use underpass_core::limits;
use underpass_dial::{Resolve, SystemResolver};

/// Connections of the account that searches are kept; each attempt of a user is on one of its own.
pub(super) struct Connections {
    url: String,
    host: String,
    port: u16,
    resolver: Arc<dyn Resolve>,
    start_tls: bool,
    tls: Arc<ClientConfig>,
    bind: Bind,
    idle: Mutex<Vec<Ldap>>,
}

/// Whether a password is right.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Bound {
    Yes,
    No,
}

/// Why the directory has said nothing of use.
#[derive(Debug, thiserror::Error)]
pub(super) enum LdapFailure {
    #[error("the directory cannot be reached")]
    Unreachable(#[source] LdapError),
    #[error("the account that searches is not let in (LDAP result {0})")]
    Account(u32),
    #[error("a login cannot be decided (LDAP result {0})")]
    Login(u32),
    #[error("a search failed")]
    Search(#[source] LdapError),
    #[error("the user is in more than {} groups", limits::GROUPS)]
    TooManyGroups,
}

/// RFC 4511, appendix A: results that say that this credential is not accepted, rather than that something is broken.
/// Active Directory answers 49 for accounts that are locked or disabled, too.
const NOT_ACCEPTED: [u32; 5] = [19, 48, 49, 50, 53];

impl Connections {
    /// `at` is what `url` names.
    pub(super) fn new(
        url: String,
        at: &Authority,
        start_tls: bool,
        tls: Arc<ClientConfig>,
        bind: Bind,
    ) -> Self {
        let usual = if start_tls { 389 } else { 636 };
        Self {
            url,
            host: at.host().to_owned(),
            port: at.port_u16().unwrap_or(usual),
            resolver: Arc::new(SystemResolver),
            start_tls,
            tls,
            bind,
            idle: Mutex::default(),
        }
    }

    /// At most `most` entries below `base`.
    pub(super) async fn search(
        &self,
        base: &str,
        filter: &str,
        attributes: &[&str],
        most: usize,
    ) -> Result<Vec<Found>, LdapFailure> {
        self.ask(base, Scope::Subtree, filter, attributes, most)
            .await
    }

    /// The entry itself, if it fits the filter.
    pub(super) async fn read(
        &self,
        dn: &str,
        filter: &str,
        attributes: &[&str],
    ) -> Result<Vec<Found>, LdapFailure> {
        self.ask(dn, Scope::Base, filter, attributes, 1).await
    }

    /// A connection that was kept may have ended meanwhile: then another one is asked, once.
    async fn ask(
        &self,
        base: &str,
        scope: Scope,
        filter: &str,
        attributes: &[&str],
        most: usize,
    ) -> Result<Vec<Found>, LdapFailure> {
        if let Some(mut ldap) = self.kept() {
            match entries(&mut ldap, base, scope, filter, attributes, most).await {
                Ok(found) => {
                    self.keep(ldap);
                    return Ok(found);
                }
                Err(LdapError::LdapResult { result }) => {
                    return Err(LdapFailure::Search(LdapError::LdapResult { result }));
                }
                Err(error) => tracing::debug!(%error, "a connection to the directory has ended"),
            }
        }
        let mut ldap = self.connect().await?;
        let bound = ldap.simple_bind(&self.bind.dn, &self.bind.password).await;
        let code = bound.map_err(LdapFailure::Unreachable)?.rc;
        if code != 0 {
            return Err(LdapFailure::Account(code));
        }
        let found = entries(&mut ldap, base, scope, filter, attributes, most).await;
        let found = found.map_err(LdapFailure::Search)?;
        self.keep(ldap);
        Ok(found)
    }

    fn kept(&self) -> Option<Ldap> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(mut ldap) = idle.pop() {
            if !ldap.is_closed() {
                return Some(ldap);
            }
        }
        None
    }

    fn keep(&self, ldap: Ldap) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < limits::LDAP_IDLE {
            idle.push(ldap);
        }
    }

    /// A connection on which nothing has been said but TLS.
    pub(super) async fn connect(&self) -> Result<Ldap, LdapFailure> {
        let connecting = tokio::time::timeout(limits::PROVIDER_CONNECT_TIME, self.open());
        let connected = connecting.await.unwrap_or_else(|late| Err(late.into()));
        let (connection, ldap) = connected.map_err(LdapFailure::Unreachable)?;
        // It ends with the last handle.
        tokio::spawn(async move {
            if let Err(error) = connection.drive().await {
                tracing::debug!(%error, "a connection to the directory ended early");
            }
        });
        Ok(ldap)
    }

    /// ldap3 itself would try a name's addresses one after the other.
    async fn open(&self) -> Result<(LdapConnAsync, Ldap), LdapError> {
        let tcp = underpass_dial::connect(&*self.resolver, &self.host, self.port).await?;
        let settings = LdapConnSettings::new()
            .set_std_stream(StdStream::Tcp(tcp.into_std()?))
            .set_config(Arc::clone(&self.tls))
            .set_starttls(self.start_tls);
        LdapConnAsync::with_settings(settings, &self.url).await
    }
}

/// Binds as an entry, on a connection that nothing else is done on.
pub(super) async fn try_password(
    mut connection: Ldap,
    dn: &str,
    password: &str,
) -> Result<Bound, LdapFailure> {
    let bound = connection.simple_bind(dn, password).await;
    let code = bound.map_err(LdapFailure::Unreachable)?.rc;
    // Nothing depends on the farewell.
    let _ = connection.unbind().await;
    match code {
        0 => Ok(Bound::Yes),
        code if NOT_ACCEPTED.contains(&code) => Ok(Bound::No),
        code => Err(LdapFailure::Login(code)),
    }
}

/// A search's entries, in pages: Active Directory gives no more than a thousand entries at once. Referrals are left out: they
/// lead to servers that nobody has configured.
async fn entries(
    ldap: &mut Ldap,
    base: &str,
    scope: Scope,
    filter: &str,
    attributes: &[&str],
    most: usize,
) -> Result<Vec<Found>, LdapError> {
    let wanted: HashSet<&str> = attributes.iter().copied().collect();
    let wanted: Vec<&str> = wanted.into_iter().collect();
    let page = i32::try_from(most.min(limits::LDAP_PAGE)).unwrap_or(i32::MAX);
    let adapters: Vec<Box<dyn Adapter<'_, &str, Vec<&str>>>> = vec![
        Box::new(EntriesOnly::new()),
        Box::new(PagedResults::new(page)),
    ];
    ldap.with_search_options(SearchOptions::new())
        .with_timeout(limits::PROVIDER_TIME);
    let searching = ldap.streaming_search_with(adapters, base, scope, filter, wanted);
    let mut searching = searching.await?;
    let mut found = Vec::new();
    while found.len() < most {
        match searching.next().await {
            Ok(Some(entry)) => found.push(Found::from(SearchEntry::construct(entry))),
            Ok(None) => break,
            Err(error) => return Err(error),
        }
    }
    let enough = found.len() >= most;
    let result = searching.finish().await;
    // The result of a search that was cut short does not matter; an entry that does not exist (32) holds nothing.
    if !enough && result.rc != 32 {
        result.success()?;
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::net::TcpListener;
    use underpass_dial::testing::{Addresses, SilentAddress};
    use zeroize::Zeroizing;

    use super::*;
    use crate::Roots;

    #[tokio::test]
    async fn a_silent_address_does_not_hide_the_directorys_next() {
        let silent = SilentAddress::new().await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let ca = rcgen::generate_simple_self_signed(["dc".to_owned()]).unwrap();
        let roots = Roots::from_pem(ca.cert.pem().as_bytes()).unwrap();
        let bind = Bind {
            dn: "cn=x".to_owned(),
            password: Zeroizing::new("x".to_owned()),
        };
        let (url, at) = ("ldaps://dc".to_owned(), "dc".parse().unwrap());
        let tls = Arc::new(roots.client().unwrap());
        let mut directory = Connections::new(url, &at, false, tls, bind);
        assert_eq!(directory.port, 636);
        let addresses = vec![silent.address(), listener.local_addr().unwrap()];
        directory.resolver = Arc::new(Addresses(addresses));
        tokio::select! {
            _ = directory.connect() => panic!("nobody has answered"),
            accepted = listener.accept() => drop(accepted.unwrap()),
            () = tokio::time::sleep(Duration::from_secs(20)) => panic!("the second was not tried"),
        }
    }
}
