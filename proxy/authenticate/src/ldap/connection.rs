//! Connections to a directory.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
};

use http::uri::Authority;
use ldap3::{
    Ldap, LdapConnAsync, LdapConnSettings, LdapError, Scope, SearchOptions, StdStream,
    adapters::{Adapter, EntriesOnly, PagedResults},
};
use rustls::ClientConfig;

use super::{
    config::Bind,
    search::{Found, NoText},
};
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
    #[error(
        "there is no entry {0:?} to search below (as far as the account that searches can see); set base to one that there is"
    )]
    NoBase(String),
    #[error(
        "the directory refers to another one for what is below {0:?}, and referrals are not followed; set url to that one"
    )]
    BaseElsewhere(String),
    #[error("the directory's answer is no entry")]
    Malformed,
    #[error(
        "the directory gave a part of the attribute {attribute:?}, and not the values from number {from} on"
    )]
    Incomplete { attribute: String, from: usize },
    #[error("the attribute {0:?} has more than {max} values", max = limits::LDAP_VALUES)]
    TooManyValues(String),
    #[error(transparent)]
    NoText(#[from] NoText),
    #[error("the user is in more than {} groups", limits::GROUPS)]
    TooManyGroups,
}

/// The outcome of a search for one entry by its distinguished name.
#[derive(Debug)]
pub(super) enum Entry {
    Found(Found),
    /// It does not fit the filter.
    Other,
    /// There is none, as far as the account that searches can see.
    Missing,
    /// Another directory has it.
    Elsewhere,
}

/// The entries that a search found.
struct Entries {
    found: Vec<Found>,
    end: End,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// All that was asked for is here.
    Complete,
    NoSuchObject,
    Referral,
}

/// A search.
#[derive(Clone, Copy)]
struct Question<'a> {
    base: &'a str,
    scope: Scope,
    filter: &'a str,
    attributes: &'a [&'a str],
    most: usize,
}

const NO_SUCH_OBJECT: u32 = 32;
const REFERRAL: u32 = 10;

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

    /// At most `most` entries below `base`, each with all values of its attributes.
    pub(super) async fn search(
        &self,
        base: &str,
        filter: &str,
        attributes: &[&str],
        most: usize,
    ) -> Result<Vec<Found>, LdapFailure> {
        let scope = Scope::Subtree;
        let question = Question {
            base,
            scope,
            filter,
            attributes,
            most,
        };
        let Entries { mut found, end } = self.ask(question).await?;
        match end {
            End::Complete => {}
            End::NoSuchObject => return Err(LdapFailure::NoBase(base.to_owned())),
            End::Referral => return Err(LdapFailure::BaseElsewhere(base.to_owned())),
        }
        for found in &mut found {
            self.complete(found).await?;
        }
        Ok(found)
    }

    /// The entry itself, with all values of its attributes, if it fits the filter.
    pub(super) async fn read(
        &self,
        dn: &str,
        filter: &str,
        attributes: &[&str],
    ) -> Result<Entry, LdapFailure> {
        let Entries { mut found, end } = self.ask(Question::of(dn, filter, attributes)).await?;
        Ok(match (found.pop(), end) {
            (Some(mut found), _) => {
                self.complete(&mut found).await?;
                Entry::Found(found)
            }
            (None, End::Complete) => Entry::Other,
            (None, End::NoSuchObject) => Entry::Missing,
            (None, End::Referral) => Entry::Elsewhere,
        })
    }

    /// Asks for the values that Active Directory has left out of an attribute with many.
    async fn complete(&self, found: &mut Found) -> Result<(), LdapFailure> {
        if !found.begins_at_the_first() {
            return Err(LdapFailure::Malformed);
        }
        while let Some((attribute, from)) = found.incomplete() {
            let rest = format!("{attribute};range={from}-*");
            let attributes = [rest.as_str()];
            let question = Question::of(&found.dn, "(objectClass=*)", &attributes);
            let part = self.ask(question).await?.found.pop();
            let extended = part.and_then(|part| found.extend(&attribute, from, part));
            match extended {
                None => return Err(LdapFailure::Incomplete { attribute, from }),
                Some(count) if count > limits::LDAP_VALUES => {
                    return Err(LdapFailure::TooManyValues(attribute));
                }
                Some(_) => {}
            }
        }
        Ok(())
    }

    /// A connection that was kept may have ended meanwhile: then another one is asked, once.
    async fn ask(&self, question: Question<'_>) -> Result<Entries, LdapFailure> {
        if let Some(mut ldap) = self.kept() {
            match entries(&mut ldap, question).await {
                Err(LdapFailure::Search(error)) if !is_result(&error) => {
                    tracing::debug!(%error, "a connection to the directory has ended");
                }
                Ok(found) => {
                    self.keep(ldap);
                    return Ok(found);
                }
                Err(failure) => return Err(failure),
            }
        }
        let mut ldap = self.connect().await?;
        let bound = ldap.simple_bind(&self.bind.dn, &self.bind.password).await;
        let code = bound.map_err(LdapFailure::Unreachable)?.rc;
        if code != 0 {
            return Err(LdapFailure::Account(code));
        }
        let found = entries(&mut ldap, question).await?;
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

impl<'a> Question<'a> {
    /// About one entry.
    fn of(dn: &'a str, filter: &'a str, attributes: &'a [&'a str]) -> Self {
        Self {
            base: dn,
            scope: Scope::Base,
            filter,
            attributes,
            most: 1,
        }
    }
}

/// Does the directory itself say so?
fn is_result(error: &LdapError) -> bool {
    matches!(error, LdapError::LdapResult { .. })
}

/// A search's entries, in pages: Active Directory gives no more than a thousand entries at once. Referrals are left out: they
/// lead to servers that nobody has configured.
async fn entries(ldap: &mut Ldap, question: Question<'_>) -> Result<Entries, LdapFailure> {
    let Question {
        base,
        scope,
        filter,
        attributes,
        most,
    } = question;
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
    let mut searching = searching.await.map_err(LdapFailure::Search)?;
    let mut found = Vec::new();
    while found.len() < most {
        match searching.next().await.map_err(LdapFailure::Search)? {
            Some(entry) => found.push(Found::read(entry).ok_or(LdapFailure::Malformed)?),
            None => break,
        }
    }
    let enough = found.len() >= most;
    let result = searching.finish().await;
    let end = match result.rc {
        // The result of a search that was cut short does not matter.
        _ if enough => End::Complete,
        NO_SUCH_OBJECT => End::NoSuchObject,
        REFERRAL => End::Referral,
        _ => {
            result.success().map_err(LdapFailure::Search)?;
            End::Complete
        }
    };
    Ok(Entries { found, end })
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
