//! Questions to a directory.

use std::{
    pin::{Pin, pin},
    sync::OnceLock,
};

use futures_util::future::{Either, select};
use tokio::time::timeout;

use super::{
    budget::Budget,
    config::Bind,
    exchange::{End, Entries, ExchangeError},
    idle::Idle,
    message::{Filter, NoFilter, Outcome, Scope, Search},
    open::{Address, Connection, Stream},
    search::{Found, NoText},
};
use underpass_core::limits;

/// Connections of the account that searches are kept; each attempt of a user is on one of its own.
pub(super) struct Connections {
    address: Address,
    bind: Bind,
    idle: Idle<Stream>,
    /// Of the directory, once it has been asked.
    name_of_entries: OnceLock<&'static str>,
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
    Unreachable(#[source] ExchangeError),
    #[error("the directory has not answered a bind")]
    Bind(#[source] ExchangeError),
    #[error("the account that searches is not let in ({0})")]
    Account(Outcome),
    #[error("a login cannot be decided ({0})")]
    Login(Outcome),
    #[error("a search failed")]
    Search(#[source] ExchangeError),
    #[error(transparent)]
    NoFilter(#[from] NoFilter),
    #[error(
        "there is no entry {0:?} to search below (as far as the account that searches can see); set base to one that there is"
    )]
    NoBase(String),
    #[error(
        "the directory refers to another one for what is below {0:?}, and referrals are not followed; set url to that one"
    )]
    BaseElsewhere(String),
    #[error("the directory gave an attribute without its first values")]
    WithoutFirst,
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

impl LdapFailure {
    /// The failure in words, where there is too much about one user: another attempt finds as much.
    pub(super) fn too_much(&self) -> Option<String> {
        match self {
            Self::TooManyValues(_) | Self::TooManyGroups => Some(self.to_string()),
            Self::Search(ExchangeError::TooMuch(why)) => Some(why.to_string()),
            _ => None,
        }
    }
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

/// A search.
#[derive(Clone, Copy)]
struct Question<'a> {
    base: &'a str,
    scope: Scope,
    filter: &'a str,
    attributes: &'a [&'a str],
    most: usize,
    budget: &'a Budget,
}

/// The entries, and the connection that gave them.
type Answered = Result<(Entries, Connection), LdapFailure>;

/// RFC 4511, appendix A: results that say that this credential is not accepted, rather than that something is broken.
/// Active Directory answers 49 for accounts that are locked or disabled, too.
const NOT_ACCEPTED: [u32; 5] = [19, 48, 49, 50, 53];

/// [MS-ADTS], section 3.1.1.3.4.3: it searches by `distinguishedName`, which elsewhere is what every attribute of that kind is called.
const CAPABILITIES: &str = "supportedCapabilities";
const ACTIVE_DIRECTORY: &str = "1.2.840.113556.1.4.800";

impl Connections {
    pub(super) fn new(address: Address, bind: Bind) -> Self {
        Self {
            address,
            bind,
            idle: Idle::new(),
            name_of_entries: OnceLock::new(),
        }
    }

    /// At most `most` entries below `base`, for a login with this budget, each with all values of its attributes.
    pub(super) async fn search(
        &self,
        base: &str,
        filter: &str,
        attributes: &[&str],
        most: usize,
        budget: &Budget,
    ) -> Result<Vec<Found>, LdapFailure> {
        let scope = Scope::Subtree;
        let question = Question {
            base,
            scope,
            filter,
            attributes,
            most,
            budget,
        };
        let Entries { mut found, end, .. } = self.ask(question).await?;
        match end {
            End::Complete => {}
            End::NoSuchObject => return Err(LdapFailure::NoBase(base.to_owned())),
            End::Referral => return Err(LdapFailure::BaseElsewhere(base.to_owned())),
        }
        for found in &mut found {
            self.complete(found, budget).await?;
        }
        Ok(found)
    }

    /// The entry itself, with all values of its attributes, if it fits the filter.
    pub(super) async fn read(
        &self,
        dn: &str,
        filter: &str,
        attributes: &[&str],
        budget: &Budget,
    ) -> Result<Entry, LdapFailure> {
        let question = Question::of(dn, filter, attributes, budget);
        let Entries { mut found, end, .. } = self.ask(question).await?;
        Ok(match (found.pop(), end) {
            (Some(mut found), _) => {
                self.complete(&mut found, budget).await?;
                Entry::Found(found)
            }
            (None, End::Complete) => Entry::Other,
            (None, End::NoSuchObject) => Entry::Missing,
            (None, End::Referral) => Entry::Elsewhere,
        })
    }

    /// The attribute by which the directory finds an entry of a distinguished name.
    pub(super) async fn name_of_entries(
        &self,
        budget: &Budget,
    ) -> Result<&'static str, LdapFailure> {
        if let Some(known) = self.name_of_entries.get() {
            return Ok(known);
        }
        // The root's own entry (RFC 4512, section 5.1).
        let root = self.read("", "(objectClass=*)", &[CAPABILITIES], budget);
        let name = match root.await? {
            Entry::Found(root) if root.has(CAPABILITIES, ACTIVE_DIRECTORY) => "distinguishedName",
            // RFC 5020.
            _ => "entryDN",
        };
        Ok(self.name_of_entries.get_or_init(|| name))
    }

    /// Asks for the values that Active Directory has left out of an attribute with many.
    async fn complete(&self, found: &mut Found, budget: &Budget) -> Result<(), LdapFailure> {
        if !found.begins_at_the_first() {
            return Err(LdapFailure::WithoutFirst);
        }
        while let Some((attribute, from)) = found.incomplete() {
            let rest = format!("{attribute};range={from}-*");
            let attributes = [rest.as_str()];
            let question = Question::of(&found.dn, "(objectClass=*)", &attributes, budget);
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

    async fn ask(&self, question: Question<'_>) -> Result<Entries, LdapFailure> {
        let (entries, connection) = match self.idle.take().await {
            Some(kept) => self.ask_kept(kept, question).await?,
            None => self.ask_anew(question).await?,
        };
        if entries.all_read {
            self.idle.keep(connection);
        }
        Ok(entries)
    }

    /// A connection that was kept may have ended meanwhile, and not every end says so: then another one is asked, once.
    async fn ask_kept(&self, kept: Connection, question: Question<'_>) -> Answered {
        let mut asking = pin!(question.ask(kept));
        let answered = match timeout(limits::LDAP_KEPT_ANSWER, &mut asking).await {
            Ok(answered) => answered,
            Err(_) => return self.ask_beside(asking, question).await,
        };
        match answered {
            Err(LdapFailure::Search(error)) if error.has_ended() => {
                tracing::debug!(%error, "a kept connection to the directory has ended");
                self.ask_anew(question).await
            }
            answered => answered,
        }
    }

    /// Asks on a new connection beside one that is silent.
    async fn ask_beside(
        &self,
        silent: Pin<&mut impl Future<Output = Answered>>,
        question: Question<'_>,
    ) -> Answered {
        match select(silent, pin!(self.ask_anew(question))).await {
            Either::Left((Err(LdapFailure::Search(error)), anew)) if error.has_ended() => {
                anew.await
            }
            Either::Left((answered, _)) => answered,
            // A directory may refuse new connections, and answer on those that it has.
            Either::Right((Err(failure), silent)) => match silent.await {
                Err(LdapFailure::Search(error)) if error.has_ended() => Err(failure),
                answered => answered,
            },
            Either::Right((answered, _)) => {
                tracing::debug!("a kept connection to the directory is silent");
                // The others have been silent for longer.
                self.idle.clear();
                answered
            }
        }
    }

    async fn ask_anew(&self, question: Question<'_>) -> Answered {
        let mut connection = self.connect().await?;
        let bound = connection.bind(&self.bind.dn, &self.bind.password).await;
        let outcome = bound.map_err(LdapFailure::Bind)?;
        match outcome.code {
            0 => question.ask(connection).await,
            _ => Err(LdapFailure::Account(outcome)),
        }
    }

    /// A connection on which nothing has been said but TLS.
    pub(super) async fn connect(&self) -> Result<Connection, LdapFailure> {
        let opened = self.address.open().await;
        opened.map_err(LdapFailure::Unreachable)
    }
}

/// Binds as an entry, on a connection that nothing else is done on.
pub(super) async fn try_password(
    mut connection: Connection,
    dn: &str,
    password: &str,
) -> Result<Bound, LdapFailure> {
    let bound = connection.bind(dn, password).await;
    let outcome = bound.map_err(LdapFailure::Bind)?;
    // Nothing depends on the farewell.
    let _ = connection.unbind().await;
    match outcome.code {
        0 => Ok(Bound::Yes),
        code if NOT_ACCEPTED.contains(&code) => Ok(Bound::No),
        _ => Err(LdapFailure::Login(outcome)),
    }
}

impl<'a> Question<'a> {
    /// About one entry.
    fn of(dn: &'a str, filter: &'a str, attributes: &'a [&'a str], budget: &'a Budget) -> Self {
        Self {
            base: dn,
            scope: Scope::Base,
            filter,
            attributes,
            most: 1,
            budget,
        }
    }
    async fn ask(self, mut connection: Connection) -> Answered {
        // RFC 4511, section 4.5.1.8: none twice.
        let mut attributes = self.attributes.to_vec();
        attributes.sort_unstable();
        attributes.dedup();
        let search = Search {
            base: self.base,
            scope: self.scope,
            filter: Filter::parse(self.filter)?,
            attributes: &attributes,
            page: u32::try_from(self.most.min(limits::LDAP_PAGE)).unwrap_or(u32::MAX),
        };
        let entries = connection.search(&search, self.most, self.budget).await;
        Ok((entries.map_err(LdapFailure::Search)?, connection))
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

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
        let addresses = vec![silent.address(), listener.local_addr().unwrap()];
        let address = Address {
            host: "dc".to_owned(),
            port: 636,
            name: "dc".try_into().unwrap(),
            start_tls: false,
            resolver: Arc::new(Addresses(addresses)),
            tls: Arc::new(roots.client().unwrap()),
        };
        let directory = Connections::new(address, bind);
        tokio::select! {
            _ = directory.connect() => panic!("nobody has answered"),
            accepted = listener.accept() => drop(accepted.unwrap()),
            () = tokio::time::sleep(Duration::from_secs(20)) => panic!("the second was not tried"),
        }
    }
}
