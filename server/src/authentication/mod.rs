//! Authentication of callers: the chain of authenticators that the authentication file describes.
//!
//! The file, and every file that it names, is read again when it changes. Authenticators whose part has not changed
//! stay as they are, with their caches. Removing or changing one ends the logins and streams that rest on it.

mod certificates;
mod entry;
mod file;
mod fingerprints;
mod github;
mod jwt;
mod ldap;
mod prefixes;
mod token_review;

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use underpass_authenticate::{
    Authenticator, CertificateRequest, Chain, Misconfigured, Step, TokenAuthenticator,
};
use underpass_core::files::Readings;
use underpass_core::{BoxError, Clusters};
use underpass_directory::Directory;
use underpass_https::Proxy;
use underpass_tunnel::chain;

use self::entry::{Entry, EntryKind, Made};
pub(crate) use self::file::AuthenticationError;
use self::file::{Contents, Wanted};
pub(crate) use self::fingerprints::Fingerprints;
use self::fingerprints::Known;
use crate::limits;
use underpass_api::DeviceLoginWay;

/// How often the files are looked at: a change takes effect within this time.
const INTERVAL: Duration = Duration::from_secs(1);

/// The dependencies of authenticators.
#[derive(Clone)]
pub(crate) struct Surroundings {
    pub(crate) directory: Arc<Directory>,
    pub(crate) clusters: Arc<dyn Clusters>,
    /// The proxy on the way to identity providers.
    pub(crate) proxy: Option<Proxy>,
    /// The embedder's authenticators, which are asked last and never change.
    pub(crate) own: Vec<Step>,
    pub(crate) fingerprints: Fingerprints,
}

/// The chain, and what it was made of.
pub(crate) struct Authentication {
    path: Option<PathBuf>,
    surroundings: Surroundings,
    chain: Arc<Chain>,
    certificates: Arc<CertificateRequest>,
    built: Mutex<Vec<Built>>,
    /// Authenticators whose logins are still to be ended, since the chain has changed.
    retired: Mutex<Option<HashSet<String>>>,
    /// The files are to be looked at now.
    asked: Notify,
}

/// An authenticator, and everything that it depends on.
struct Built {
    entry: Entry,
    contents: Contents,
    authenticator: Arc<dyn Authenticator>,
    retired: CancellationToken,
    /// Its first questions to its provider: once it is part of the chain.
    warming: Option<BoxFuture<'static, ()>>,
}

impl Authentication {
    /// Reads the file. Without one there are Underpass's own tokens.
    pub(crate) fn open(
        path: Option<PathBuf>,
        surroundings: Surroundings,
    ) -> Result<Arc<Self>, AuthenticationError> {
        let authentication = Self {
            path,
            chain: Arc::new(Chain::new(Vec::new(), surroundings.directory.clone())),
            surroundings,
            certificates: CertificateRequest::new(),
            asked: Notify::new(),
            built: Mutex::default(),
            retired: Mutex::default(),
        };
        authentication.own_names_must_differ()?;
        authentication.refresh()?;
        Ok(Arc::new(authentication))
    }

    /// The authenticators, now and after each change.
    pub(crate) fn chain(&self) -> Arc<Chain> {
        Arc::clone(&self.chain)
    }

    /// The identity provider at which people may log in with a code: at most one, as the file is checked.
    pub(crate) fn device_login(&self) -> Option<DeviceLoginWay> {
        let built = self.built.lock().unwrap_or_else(PoisonError::into_inner);
        let mut ways = built
            .iter()
            .filter_map(|built| built.entry.device_login(&built.contents));
        ways.next()
    }

    /// How TLS asks clients for certificates: only while an authenticator reads them.
    pub(crate) fn certificates(&self) -> Arc<CertificateRequest> {
        Arc::clone(&self.certificates)
    }

    /// Has the files looked at now, and an error of theirs be logged again.
    pub(crate) fn look_again(&self) {
        self.asked.notify_one();
    }

    /// Looks at the files from time to time, for as long as the server runs. An unusable file changes nothing.
    pub(crate) async fn watch(self: Arc<Self>) {
        let mut interval = tokio::time::interval(INTERVAL);
        // Off the runtime: a file system that hangs would stop its tasks, and those of TLS handshakes with them.
        let mut readings = Readings::default();
        let mut last = None;
        loop {
            tokio::select! {
                _ = interval.tick() => {}
                () = self.asked.notified() => last = None,
            }
            let path = self.path.clone();
            let read = readings.next(move || file::read_all(path.as_deref()));
            let read = read.await.map_err(AuthenticationError::Stuck).flatten();
            let error = read.and_then(|wanted| self.follow(wanted));
            let error = error.err().map(|error| chain(&error));
            // Once, not every second until somebody mends it.
            if error != last
                && let Some(error) = &error
            {
                tracing::error!("keeping the last good authentication file: {error}");
            }
            last = error;
            self.end_logins().await;
        }
    }

    /// Reads the files, and makes what has changed. Blocks.
    fn refresh(&self) -> Result<(), AuthenticationError> {
        self.follow(file::read_all(self.path.as_deref())?)
    }

    /// Makes what has changed.
    fn follow(&self, wanted: Wanted) -> Result<(), AuthenticationError> {
        self.names_must_differ(&wanted)?;
        let mut built = self.built.lock().unwrap_or_else(PoisonError::into_inner);
        let same = |(entry, contents): &(Entry, Contents), built: &Built| {
            built.entry == *entry && built.contents == *contents
        };
        if wanted.len() == built.len() && wanted.iter().zip(&*built).all(|(w, b)| same(w, b)) {
            return Ok(());
        }
        // All of them, before any of them counts: half of a new file would be worse than the old one.
        let mut next = Vec::with_capacity(wanted.len());
        for (position, wanted) in wanted.into_iter().enumerate() {
            let kept = built.iter().find(|built| same(&wanted, built));
            next.push(match kept {
                Some(kept) => kept.share(),
                None => self.build(position, wanted)?,
            });
        }
        let names: Vec<_> = next.iter().map(|built| built.entry.name.as_str()).collect();
        prefixes::warn_of_none(next.iter().map(|built| &built.entry));
        tracing::info!(authenticators = names.join(","), "authentication is set up");
        let own = self.surroundings.own.iter().cloned();
        self.chain
            .replace(next.iter().map(Built::step).chain(own).collect());
        let certificates =
            |built: &Built| matches!(built.entry.kind(), Ok(EntryKind::Certificates(_)));
        self.certificates.want(next.iter().any(certificates));
        // Not before: a file that is refused is made again each second, and no provider is to be asked that often.
        for warming in next.iter_mut().filter_map(|built| built.warming.take()) {
            tokio::spawn(warming);
        }
        let before = std::mem::replace(&mut *built, next);
        let is_there = |old: &Built| {
            let mut now = built.iter();
            now.any(|built| Arc::ptr_eq(&built.authenticator, &old.authenticator))
        };
        let mut gone = HashSet::new();
        for old in before.iter().filter(|old| !is_there(old)) {
            old.retired.cancel();
            gone.insert(old.entry.name.clone());
        }
        drop(built);
        let mut retired = self.retired.lock().unwrap_or_else(PoisonError::into_inner);
        retired.get_or_insert_default().extend(gone);
        Ok(())
    }

    /// Ends logins by authenticators that are gone or different, since the file changed or since a server ran last.
    async fn end_logins(&self) {
        let retired = {
            let mut retired = self.retired.lock().unwrap_or_else(PoisonError::into_inner);
            retired.take()
        };
        let Some(retired) = retired else {
            return;
        };
        if let Err(error) = self.end_logins_of(&retired).await {
            tracing::error!("logins are not ended yet: {}", chain(&*error));
            let mut again = self.retired.lock().unwrap_or_else(PoisonError::into_inner);
            again.get_or_insert_default().extend(retired);
        }
    }

    async fn end_logins_of(&self, retired: &HashSet<String>) -> Result<(), BoxError> {
        let now = self.known();
        let fingerprints = self.surroundings.fingerprints.clone();
        let last = tokio::task::spawn_blocking(move || fingerprints.read());
        let last = last.await??;
        // The first server that writes them has nothing to compare with.
        let differs = |by: &str| {
            let last = last.as_ref();
            last.is_some_and(|last| last.get(by) != now.get(by))
        };
        let is_gone = |by: &str| retired.contains(by) || !now.contains_key(by) || differs(by);
        let directory = &self.surroundings.directory;
        directory.forget_logins(is_gone).await?;
        if last.as_ref() == Some(&now) {
            return Ok(());
        }
        // Last: a server that ends in between leaves it to the next one.
        let fingerprints = self.surroundings.fingerprints.clone();
        let writing = tokio::task::spawn_blocking(move || fingerprints.write(&now));
        Ok(writing.await??)
    }

    /// The authenticators in force.
    fn known(&self) -> Known {
        let fingerprints = &self.surroundings.fingerprints;
        let built = self.built.lock().unwrap_or_else(PoisonError::into_inner);
        let built = built.iter().map(|built| {
            let fingerprint = fingerprints.of(&built.entry, &built.contents);
            (built.entry.name.clone(), fingerprint)
        });
        let own = self.surroundings.own.iter();
        let own = own.map(|step| (step.name().to_owned(), fingerprints.of_own()));
        built.chain(own).collect()
    }

    /// Refuses two of the embedder's authenticators with one name: users of both would be users of one authority (rule 22).
    fn own_names_must_differ(&self) -> Result<(), AuthenticationError> {
        let mut names = HashSet::new();
        let mut own = self.surroundings.own.iter().map(Step::name);
        match own.find(|name| !names.insert(*name)) {
            Some(name) => Err(AuthenticationError::OwnTwice(name.to_owned())),
            None => Ok(()),
        }
    }

    /// The same of an entry that has the name of one of them.
    fn names_must_differ(&self, wanted: &Wanted) -> Result<(), AuthenticationError> {
        let own = &self.surroundings.own;
        for (position, (entry, _)) in wanted.iter().enumerate() {
            if own.iter().any(|own| own.name() == entry.name) {
                let why = Misconfigured::Twice(entry.name.clone());
                let at = format!("authenticators[{position}]");
                return Err(AuthenticationError::entry(at, "name", why));
            }
        }
        Ok(())
    }

    fn build(
        &self,
        position: usize,
        (entry, contents): (Entry, Contents),
    ) -> Result<Built, AuthenticationError> {
        let retired = CancellationToken::new();
        let Made {
            authenticator,
            warming,
        } = entry
            .build(&contents, &self.surroundings, &retired)
            .map_err(|source| AuthenticationError::Entry {
                at: format!("authenticators[{position}]"),
                source,
            })?;
        Ok(Built {
            entry,
            contents,
            authenticator,
            retired,
            warming,
        })
    }
}

impl Surroundings {
    fn token_authenticator(&self, name: &str) -> Arc<dyn Authenticator> {
        let tokens = Arc::clone(&self.directory);
        Arc::new(TokenAuthenticator::new(name, tokens))
    }
}

impl Built {
    fn share(&self) -> Self {
        Self {
            entry: self.entry.clone(),
            contents: self.contents.clone(),
            authenticator: Arc::clone(&self.authenticator),
            retired: self.retired.clone(),
            warming: None,
        }
    }

    fn step(&self) -> Step {
        let limit = self.entry.timeout.unwrap_or(limits::AUTHENTICATION);
        Step::new(
            self.entry.name.as_str(),
            Arc::clone(&self.authenticator),
            limit,
        )
    }
}

#[cfg(test)]
mod tests;
