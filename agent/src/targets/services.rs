//! Services of the cluster: from a service's port to the addresses of its ready endpoints, as the API server knows them.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use k8s_openapi::List;
use k8s_openapi::api::core::v1::Service as ServiceObject;
use k8s_openapi::api::discovery::v1::{EndpointPort, EndpointSlice};
use lru::LruCache;
use thiserror::Error;
use tokio::sync::{OnceCell, Semaphore};
use tokio::time::Instant;
use underpass_agent_policy::Service;
use underpass_upstream::{ApiServer, GetError};

use crate::limits;

/// Why a service's port leads nowhere: a sentence for the caller, behind the target's name.
#[derive(Clone, Debug, Error)]
pub(crate) enum ServiceError {
    #[error("there is no such service")]
    Missing,
    #[error("the agent has no way to the API server, which knows the services")]
    NoApiServer,
    #[error(
        "the agent may not read the services of this namespace (`underpass-agent rbac --read-services NAMESPACE` lets it)"
    )]
    Forbidden,
    #[error("the agent could not look the service up")]
    Unanswered(#[source] Arc<GetError>),
    #[error(
        "the service only stands for the name {0:?}, and leads to no endpoint: ask for that name"
    )]
    ExternalName(String),
    #[error("the service has no TCP port of this number")]
    NoPort,
    #[error("the service has no ready endpoint")]
    NoEndpoint,
}

/// Services that were looked up, and how.
#[derive(Debug)]
pub(crate) struct Services {
    known: Mutex<LruCache<Service, Arc<Entry>>>,
    questions: Semaphore,
    /// Which endpoint is the next one's first.
    turn: AtomicUsize,
}

/// A lookup, which all who ask for the same service wait for.
#[derive(Debug)]
struct Entry {
    since: Instant,
    found: OnceCell<Result<Endpoints, ServiceError>>,
}

impl Entry {
    fn is_fresh(&self) -> bool {
        let age = match self.found.get() {
            Some(Err(_)) => limits::SERVICE_FAILURE_AGE,
            Some(Ok(_)) | None => limits::SERVICE_AGE,
        };
        self.since.elapsed() < age
    }
}

/// The TCP ports of a service, and the ready endpoints behind it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Endpoints {
    /// Number and name.
    ports: Vec<(i32, String)>,
    slices: Vec<Slice>,
}

/// Endpoints that have the same ports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Slice {
    /// Name, and number where there is one.
    ports: Vec<(String, Option<i32>)>,
    addresses: Vec<IpAddr>,
}

impl Default for Services {
    fn default() -> Self {
        let most = NonZeroUsize::new(limits::SERVICES).unwrap_or(NonZeroUsize::MIN);
        Self {
            known: Mutex::new(LruCache::new(most)),
            questions: Semaphore::new(limits::SERVICE_QUESTIONS),
            turn: AtomicUsize::default(),
        }
    }
}

impl Services {
    /// The addresses behind a port of a service, at least one. Each time another one is the first.
    ///
    /// # Cancel safety
    /// May be dropped: others who wait for the same go on.
    pub(crate) async fn find(
        &self,
        api_server: Option<&ApiServer>,
        service: &Service,
        port: u16,
    ) -> Result<Vec<SocketAddr>, ServiceError> {
        let api_server = api_server.ok_or(ServiceError::NoApiServer)?;
        let entry = self.entry(service);
        let found = entry.found.get_or_init(|| self.ask(api_server, service));
        let mut addresses = found.await.as_ref().map_err(Clone::clone)?.of_port(port)?;
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let turn = turn.checked_rem(addresses.len()).unwrap_or_default();
        addresses.rotate_left(turn);
        Ok(addresses)
    }

    /// Has the service looked up anew the next time.
    pub(crate) fn forget(&self, service: &Service) {
        self.lock().pop(service);
    }

    /// The same for all services: another API server is another cluster's.
    pub(crate) fn forget_all(&self) {
        self.lock().clear();
    }

    fn entry(&self, service: &Service) -> Arc<Entry> {
        let mut known = self.lock();
        if let Some(entry) = known.get(service).filter(|entry| entry.is_fresh()) {
            return Arc::clone(entry);
        }
        let entry = Arc::new(Entry {
            since: Instant::now(),
            found: OnceCell::new(),
        });
        known.put(service.clone(), Arc::clone(&entry));
        entry
    }

    fn lock(&self) -> MutexGuard<'_, LruCache<Service, Arc<Entry>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn ask(
        &self,
        api_server: &ApiServer,
        service: &Service,
    ) -> Result<Endpoints, ServiceError> {
        // It is never closed.
        let _place = self.questions.acquire().await.ok();
        // Both are DNS labels, which need no escape in a path.
        let Service { namespace, name } = service;
        let path = format!("/api/v1/namespaces/{namespace}/services/{name}");
        let object = api_server.get(&path, limits::SERVICE_BYTES).await;
        let ports = ports(object.map_err(ServiceError::asking)?)?;
        let path = format!(
            "/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices\
             ?labelSelector=kubernetes.io%2Fservice-name%3D{name}&limit={}",
            limits::SLICES
        );
        let list = api_server.get(&path, limits::SERVICE_BYTES).await;
        let list: List<EndpointSlice> = list.map_err(ServiceError::asking)?;
        let slices = list.items.into_iter().map(slice).collect();
        Ok(Endpoints { ports, slices })
    }
}

impl ServiceError {
    fn asking(error: GetError) -> Self {
        match error {
            GetError::NotFound => Self::Missing,
            GetError::Forbidden => Self::Forbidden,
            error => Self::Unanswered(Arc::new(error)),
        }
    }
}

fn ports(service: ServiceObject) -> Result<Vec<(i32, String)>, ServiceError> {
    let spec = service.spec.unwrap_or_default();
    if spec.type_.as_deref() == Some("ExternalName") {
        let name = spec.external_name.unwrap_or_default();
        return Err(ServiceError::ExternalName(name));
    }
    let ports = spec.ports.unwrap_or_default().into_iter();
    let tcp = ports.filter(|port| is_tcp(port.protocol.as_deref()));
    Ok(tcp
        .map(|port| (port.port, port.name.unwrap_or_default()))
        .collect())
}

fn is_tcp(protocol: Option<&str>) -> bool {
    protocol.is_none_or(|protocol| protocol == "TCP")
}

fn slice(slice: EndpointSlice) -> Slice {
    let tcp = |port: &EndpointPort| is_tcp(port.protocol.as_deref());
    let ports = slice.ports.unwrap_or_default().into_iter().filter(tcp);
    // An endpoint that says nothing is ready (discovery/v1, EndpointConditions); its further addresses are the same endpoint's.
    let ready = slice.endpoints.into_iter().filter(|endpoint| {
        let conditions = endpoint.conditions.as_ref();
        conditions.and_then(|conditions| conditions.ready) != Some(false)
    });
    let addresses = ready.filter_map(|endpoint| endpoint.addresses.first()?.parse().ok());
    Slice {
        ports: ports
            .map(|port| (port.name.unwrap_or_default(), port.port))
            .collect(),
        addresses: addresses.collect(),
    }
}

impl Endpoints {
    fn of_port(&self, port: u16) -> Result<Vec<SocketAddr>, ServiceError> {
        let own = |(number, _): &&(i32, String)| *number == i32::from(port);
        let (_, name) = self.ports.iter().find(own).ok_or(ServiceError::NoPort)?;
        let mut found = Vec::new();
        for slice in &self.slices {
            let target = slice.ports.iter().find(|(own, _)| own == name);
            // Ports of a slice have numbers, unless they are as the service's (discovery/v1, EndpointPort).
            let target = target.map(|(_, target)| target.map_or(Ok(port), u16::try_from));
            if let Some(Ok(target)) = target {
                let addresses = slice.addresses.iter();
                found.extend(addresses.map(|address| SocketAddr::new(*address, target)));
            }
        }
        match found.is_empty() {
            true => Err(ServiceError::NoEndpoint),
            false => Ok(found),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse<T: k8s_openapi::serde::de::DeserializeOwned>(yaml: &str) -> T {
        serde_saphyr::from_str(yaml).unwrap()
    }

    fn endpoints() -> Endpoints {
        let service = "
            spec:
              ports:
              - {port: 80, name: web, protocol: TCP}
              - {port: 443, name: tls}
              - {port: 53, name: dns, protocol: UDP}
              - {port: 9, name: nowhere}";
        let slices = [
            "
            addressType: IPv4
            ports: [{name: web, port: 8080}, {name: tls, port: 8443, protocol: TCP}, {name: nowhere, port: 1, protocol: UDP}]
            endpoints:
            - {addresses: [10.0.0.1, 10.9.9.9], conditions: {ready: true}}
            - {addresses: [10.0.0.2], conditions: {ready: false, serving: true, terminating: true}}
            - {addresses: [10.0.0.3], conditions: {}}
            - {addresses: []}",
            // Pods of another version of a rollout have another number behind a port's name.
            "
            addressType: IPv4
            ports: [{name: web, port: 9090}]
            endpoints: [{addresses: [10.0.0.4]}]",
            "
            addressType: IPv6
            ports: [{name: web}]
            endpoints: [{addresses: ['2001:db8::1']}]",
            "
            addressType: FQDN
            ports: [{name: web, port: 8080}]
            endpoints: [{addresses: [pod.example.org]}]",
        ];
        Endpoints {
            ports: ports(parse(service)).unwrap(),
            slices: slices.map(parse).map(slice).into(),
        }
    }

    fn at(port: u16) -> Result<Vec<String>, String> {
        let found = endpoints().of_port(port);
        let found = found.map_err(|error| error.to_string())?;
        Ok(found.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn a_port_leads_to_ready_endpoints_by_its_name() {
        let web = [
            "10.0.0.1:8080",
            "10.0.0.3:8080",
            "10.0.0.4:9090",
            "[2001:db8::1]:80",
        ];
        assert_eq!(at(80).unwrap(), web);
        assert_eq!(at(443).unwrap(), ["10.0.0.1:8443", "10.0.0.3:8443"]);
        assert!(at(53).unwrap_err().contains("no TCP port"), "UDP");
        assert!(
            at(8080).unwrap_err().contains("no TCP port"),
            "the pods' port"
        );
        assert!(at(9).unwrap_err().contains("no ready endpoint"));
    }

    #[test]
    fn a_service_with_one_port_needs_no_name() {
        let service = parse("{spec: {clusterIP: None, ports: [{port: 5432}]}}");
        let one = parse(
            "{addressType: IPv4, ports: [{name: '', port: 6432}], endpoints: [{addresses: [10.0.0.1]}]}",
        );
        let endpoints = Endpoints {
            ports: ports(service).unwrap(),
            slices: vec![slice(one)],
        };
        let found = endpoints.of_port(5432).unwrap();
        assert_eq!(found, ["10.0.0.1:6432".parse().unwrap()]);
    }

    #[test]
    fn a_service_that_stands_for_a_name_says_so() {
        let service = parse("{spec: {type: ExternalName, externalName: db.example.org}}");
        let error = ports(service).unwrap_err().to_string();
        assert!(error.contains("db.example.org"), "{error}");
    }
}
