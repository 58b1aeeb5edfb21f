//! Clusters that agents serve, reached with the credential that one of them has registered.
//!
//! The way lasts as long as the agent, the endpoint, the account and the rules stay: a renewed token replaces the one before for new
//! streams, and ends none that is open. Any other change ends all of them (rule 12).

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use time::OffsetDateTime;
use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;
use underpass_core::{
    AgentRole, BoxedIo, ClusterName, ConnectError, Open, RegistrationRules, Target, Through,
};
use underpass_directory::{Cluster, Credential, Directory, Registration, Snapshot, seal::Keyring};
use underpass_upstream::{ApiServer, ApiServerOptions};

use super::{RegisteredPlaces, UnusableError, config, serve};

/// The clusters with a registered credential.
pub struct RegisteredClusters {
    directory: Arc<Directory>,
    keys: Arc<Keyring>,
    ways: Mutex<HashMap<ClusterName, Arc<Way>>>,
}

impl fmt::Debug for RegisteredClusters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegisteredClusters").finish_non_exhaustive()
    }
}

/// A registration under its rules, and its connections.
#[derive(Debug)]
struct Way {
    registration: Registration,
    rules: RegistrationRules,
    /// Made when it is first needed.
    server: OnceCell<Arc<ApiServer>>,
    over: CancellationToken,
}

impl Way {
    fn is(&self, registration: &Registration, rules: &RegistrationRules) -> bool {
        self.registration == *registration && self.rules == *rules
    }

    /// The way that follows it: open streams go on where only the token is another one.
    fn next(&self, registration: &Registration, rules: &RegistrationRules) -> Self {
        let same = self.registration.is_same_way(registration) && self.rules == *rules;
        if !same {
            self.over.cancel();
        }
        let over = match same {
            true => self.over.clone(),
            false => CancellationToken::new(),
        };
        Self::new(registration, rules, over)
    }

    fn new(
        registration: &Registration,
        rules: &RegistrationRules,
        over: CancellationToken,
    ) -> Self {
        Self {
            registration: registration.clone(),
            rules: rules.clone(),
            server: OnceCell::new(),
            over,
        }
    }
}

impl RegisteredClusters {
    /// Opens tokens with `keys`.
    pub fn new(directory: Arc<Directory>, keys: Arc<Keyring>) -> Self {
        Self {
            directory,
            keys,
            ways: Mutex::default(),
        }
    }

    /// The way by which the cluster would be reached now; `None` where there is no credential that counts.
    pub fn through(&self, cluster: &ClusterName) -> Option<Through> {
        let snapshot = self.directory.snapshot();
        let (registration, _) = registered(&snapshot, cluster)?;
        let counts = registration.counts(OffsetDateTime::now_utc());
        counts.then(|| through(registration))
    }

    /// Opens a stream to the cluster's API server; `None` where there is no credential for it, or none for this target.
    ///
    /// # Errors
    /// The credential has expired, or does not open. An API server that cannot be reached is an answer on the stream.
    ///
    /// # Cancel safety
    /// May be dropped.
    pub async fn connect(
        &self,
        cluster: &ClusterName,
        open: &Open,
    ) -> Option<Result<BoxedIo, ConnectError>> {
        if open.target != Target::KubeApi {
            return None;
        }
        let way = self.way(cluster)?;
        if !way.registration.counts(OffsetDateTime::now_utc()) {
            return Some(Err(ConnectError::RegisteredExpired));
        }
        let making = || self.make(cluster, &way);
        let server = match way.server.get_or_try_init(making).await {
            Ok(server) => Arc::clone(server),
            Err(error) => return Some(Err(ConnectError::Unusable(Box::new(error)))),
        };
        open.via.set(through(&way.registration));
        Some(Ok(serve(server, open, way.over.clone())))
    }

    /// Ends streams whose credential was taken back, for as long as the process runs.
    pub async fn enforce(self: Arc<Self>) {
        let mut changes = self.directory.changes();
        // Ways that were made before this task listened.
        changes.mark_changed();
        while changes.changed().await.is_ok() {
            let mut ways = self.lock();
            let snapshot = self.directory.snapshot();
            ways.retain(|cluster, way| match registered(&snapshot, cluster) {
                Some((registration, rules)) => {
                    if !way.is(registration, rules) {
                        *way = Arc::new(way.next(registration, rules));
                    }
                    true
                }
                None => {
                    way.over.cancel();
                    false
                }
            });
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ClusterName, Arc<Way>>> {
        self.ways.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn way(&self, cluster: &ClusterName) -> Option<Arc<Way>> {
        let mut ways = self.lock();
        // Read under the lock: `enforce` takes it after a later change, and finds the entry made here.
        let snapshot = self.directory.snapshot();
        let (registration, rules) = registered(&snapshot, cluster)?;
        let way = match ways.get(cluster) {
            Some(way) if way.is(registration, rules) => return Some(Arc::clone(way)),
            Some(way) => Arc::new(way.next(registration, rules)),
            None => Arc::new(Way::new(registration, rules, CancellationToken::new())),
        };
        ways.insert(cluster.clone(), Arc::clone(&way));
        Some(way)
    }

    async fn make(
        &self,
        cluster: &ClusterName,
        way: &Way,
    ) -> Result<Arc<ApiServer>, UnusableError> {
        let token = way.registration.open(cluster, &self.keys)?;
        let config = config::of(&way.registration.endpoint, &Credential::Token(token))?;
        let options = ApiServerOptions {
            policy: way.registration.impersonation(),
            places: Some(Arc::new(RegisteredPlaces::new(&way.rules))),
            ..ApiServerOptions::default()
        };
        Ok(Arc::new(ApiServer::new(config, options).await?))
    }
}

fn registered<'a>(
    snapshot: &'a Snapshot,
    cluster: &ClusterName,
) -> Option<(&'a Registration, &'a RegistrationRules)> {
    let registration = snapshot.get::<Registration>(cluster.as_str())?;
    let rules = &snapshot.get::<Cluster>(cluster.as_str())?.object;
    Some((&registration.object, rules.registrations.as_ref()?))
}

fn through(registration: &Registration) -> Through {
    Through {
        role: AgentRole::Cluster,
        agent: registration.agent.clone(),
        by_credential: true,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
    use underpass_core::StreamClass;
    use underpass_directory::{
        Agent, ChangeError, Draft, Endpoint, Expect, MemoryStore, RegisteredToken, Registrant,
        seal::SealingKey,
    };

    use super::*;

    struct World {
        directory: Arc<Directory>,
        keys: Arc<Keyring>,
        clusters: Arc<RegisteredClusters>,
    }

    fn edge() -> ClusterName {
        ClusterName::new("edge").unwrap()
    }

    fn open(target: Target) -> Open {
        Open::new(target, Default::default(), StreamClass::Default, "id")
    }

    impl World {
        async fn new() -> Self {
            let directory = Directory::open(Arc::new(MemoryStore::default()))
                .await
                .unwrap();
            let put = |draft: &mut Draft| {
                let mut cluster = Cluster::new(draft.now());
                cluster.registrations = Some(RegistrationRules::default());
                draft.put("edge", cluster, Expect::Absent)?;
                let agent = Agent::new(draft.now(), edge(), "key".to_owned());
                draft.put("agent", agent, Expect::Absent)
            };
            directory.change(put).await.unwrap();
            let text = SealingKey::generate().unwrap();
            let key = SealingKey::from_text(&text).unwrap();
            let keys = Arc::new(Keyring::new(key, vec![]));
            let clusters = RegisteredClusters::new(Arc::clone(&directory), Arc::clone(&keys));
            Self {
                directory,
                keys,
                clusters: Arc::new(clusters),
            }
        }

        /// At a time, for an hour.
        async fn register(&self, server: &str, signature: &str, now: OffsetDateTime) {
            let claims = format!(
                "{{\"sub\":\"system:serviceaccount:a:b\",\"exp\":{}}}",
                now.unix_timestamp() + 3600
            );
            let claims = URL_SAFE_NO_PAD.encode(claims);
            let text = format!("e30.{claims}.{signature}");
            let token = RegisteredToken::new(text.into(), now).unwrap();
            let endpoint = Endpoint::new(server.to_owned(), None, None).unwrap();
            let put = |draft: &mut Draft| {
                let namespaces = BTreeSet::new();
                let registration = Registration::new(
                    &edge(),
                    Registrant {
                        agent: "agent",
                        key: "key",
                    },
                    endpoint.clone(),
                    namespaces,
                    &token,
                    now,
                    &self.keys,
                );
                draft.put("edge", registration.unwrap(), Expect::Anything)
            };
            self.directory.change(put).await.unwrap();
        }
    }

    #[tokio::test]
    async fn rule_9_an_expired_registered_token_is_not_used() {
        let world = World::new().await;
        let server = "https://10.0.0.1:6443";
        world
            .register(server, "c2ln", OffsetDateTime::UNIX_EPOCH)
            .await;
        let way = open(Target::KubeApi);
        let refused = world.clusters.connect(&edge(), &way).await.unwrap();
        assert!(matches!(refused, Err(ConnectError::RegisteredExpired)));
        assert!(way.via.through().is_none());
        assert!(world.clusters.through(&edge()).is_none());
        world
            .register(server, "c2ln", OffsetDateTime::now_utc())
            .await;
        let through = world.clusters.through(&edge()).unwrap();
        assert_eq!(through.to_string(), "registered-credential/agent");
        world
            .clusters
            .connect(&edge(), &way)
            .await
            .unwrap()
            .unwrap();
        assert_eq!(way.via.through(), Some(through));
    }

    #[tokio::test]
    async fn rule_9_a_registered_credential_reaches_the_api_server_alone() {
        let world = World::new().await;
        world
            .register("https://10.0.0.1", "c2ln", OffsetDateTime::now_utc())
            .await;
        let target: Target = "tcp:10.0.0.2:22".parse().unwrap();
        assert!(
            world
                .clusters
                .connect(&edge(), &open(target))
                .await
                .is_none()
        );
        let other = ClusterName::new("far").unwrap();
        let found = world.clusters.connect(&other, &open(Target::KubeApi)).await;
        assert!(found.is_none());
    }

    #[tokio::test]
    async fn rule_12_a_renewal_ends_no_stream_and_a_change_ends_all() {
        let world = World::new().await;
        let now = OffsetDateTime::now_utc();
        world.register("https://10.0.0.1", "c2ln", now).await;
        let enforcing = tokio::spawn(Arc::clone(&world.clusters).enforce());
        let first = world.clusters.way(&edge()).unwrap();
        world.register("https://10.0.0.1", "b3RoZXI", now).await;
        let second = world.clusters.way(&edge()).unwrap();
        assert!(!Arc::ptr_eq(&first, &second));
        assert!(!first.over.is_cancelled());
        // Another address.
        world.register("https://10.0.0.2", "b3RoZXI", now).await;
        first.over.cancelled().await;
        let third = world.clusters.way(&edge()).unwrap();
        assert!(!third.over.is_cancelled());
        // Other rules.
        let narrow = |draft: &mut Draft| {
            let mut cluster = Cluster::clone(&draft.get("edge").unwrap().object);
            let network = "192.0.2.0/24".parse().unwrap();
            cluster.registrations = Some(RegistrationRules {
                addresses: vec![network],
            });
            draft.put("edge", cluster, Expect::Present)
        };
        world.directory.change(narrow).await.unwrap();
        third.over.cancelled().await;
        let fourth = world.clusters.way(&edge()).unwrap();
        let revoke = |draft: &mut Draft| draft.remove::<Agent>("agent", Expect::Present);
        world
            .directory
            .change::<_, ChangeError>(revoke)
            .await
            .unwrap();
        fourth.over.cancelled().await;
        assert!(world.clusters.way(&edge()).is_none());
        enforcing.abort();
    }
}
