//! The parts of a server between its files and its listeners, and the tasks that watch over them.

use std::sync::Arc;

use anyhow::Result;
use underpass_api::ServerInfo;
use underpass_authenticate::Passwords;
use underpass_core::ImpersonationPolicy;
use underpass_direct::DirectClusters;
use underpass_directory::Directory;
use underpass_gateway::{AccessReviews, Budgets, Front, FrontConfig, NoServiceRoots, Strangers};
use underpass_tunnel::{Acceptor, AcceptorConfig, ResumeWindow};

use super::ServerConfig;
use crate::api::{Api, Logins, Sessions};
use crate::authentication::{Authentication, Fingerprints, Surroundings};
use crate::http::Http;
use crate::metrics::Metrics;
use crate::readiness::Readiness;
use crate::recordings::Recordings;
use crate::registrations::Registrations;
use crate::router::Ways;
use crate::service_roots::RootsFolder;
use crate::sessions::{Streams, UserSessions};
use crate::supervise::Supervisor;
use crate::tunnel::{Keys, Tunnel};

/// Parts that exist before the assembly.
pub(super) struct Given {
    pub(super) directory: Arc<Directory>,
    pub(super) direct: Arc<DirectClusters>,
    pub(super) strangers: Strangers,
    pub(super) info: ServerInfo,
    pub(super) fingerprints: Fingerprints,
    pub(super) recordings: Recordings,
}

/// The parts behind the listeners.
pub(super) struct Parts {
    pub(super) tunnel: Tunnel,
    pub(super) acceptor: Arc<Acceptor>,
    pub(super) users: UserSessions,
    pub(super) streams: Streams,
    pub(super) readiness: Readiness,
    pub(super) front: Arc<Front>,
    pub(super) authentication: Arc<Authentication>,
    pub(super) api: Api,
    pub(super) metrics: Metrics,
}

/// Puts the parts together, and starts their tasks.
pub(super) fn assemble(
    config: &ServerConfig,
    given: Given,
    tasks: &mut Supervisor,
) -> Result<Parts> {
    let Given {
        directory,
        direct,
        strangers,
        info,
        fingerprints,
        recordings,
    } = given;
    let registrations = Arc::new(Registrations::new(
        Arc::clone(&directory),
        Arc::clone(direct.keys()),
        config.names.clone(),
        config.audit.clone(),
    ));
    let enforcing = Arc::clone(&registrations.clusters).enforce();
    tasks.start("enforces changes of registered credentials", enforcing);
    let tunnel = Tunnel::new(Arc::clone(&directory), config.audit.clone())
        .with_registrations(registrations)
        .with_recordings(recordings.clone());
    let sessions: Sessions = Arc::new(tunnel.clone());
    recordings.resume(&sessions);
    let keeping = recordings.clone().keep();
    tasks.start("looks after recordings", keeping);
    watch_directory(&directory, &tunnel, &direct, tasks);
    let ways = Ways::new(&directory, &direct, &tunnel);
    let surroundings = Surroundings {
        directory: Arc::clone(&directory),
        clusters: ways.vouching,
        proxy: config.proxy.clone(),
        own: config.authenticators.clone(),
        fingerprints,
    };
    let authentication = Authentication::open(config.authentication.clone(), surroundings)?;
    let watching = Arc::clone(&authentication).watch();
    tasks.start("watches the authentication file", watching);

    let api = Api::new(
        Arc::clone(&directory),
        sessions,
        direct,
        Arc::new(logins(&authentication)?),
        info,
        config.audit.clone(),
        ways.joining,
    );
    let acceptor = Arc::new(Acceptor::new(
        acceptor_config(config.resume_window),
        Arc::new(Keys(Arc::clone(&directory))),
    ));
    let (users, streams) = UserSessions::new(&acceptor, api.grants(), config.user_resume_window);
    let readiness = Readiness::new(Arc::clone(&directory), config.audit.clone(), recordings);
    let http = Http {
        tunnel: tunnel.clone(),
        acceptor: Arc::clone(&acceptor),
        users: users.clone(),
        readiness: readiness.clone(),
        authenticator: authentication.chain(),
        api: api.clone(),
    };
    let budgets = Budgets::new(config.budgets.clone());
    let metrics = Metrics {
        strangers,
        tunnel: tunnel.clone(),
        users: users.clone(),
        budgets: budgets.clone(),
        readiness: readiness.clone(),
        recorder: config.recorder.clone(),
    };
    let front = Arc::new(Front::new(FrontConfig {
        authenticator: authentication.chain(),
        authorizer: directory,
        impersonation: Arc::new(AccessReviews::new(ways.reviews)),
        clusters: ways.calls,
        domains: config.domains()?,
        fallback: Arc::new(http),
        policy: ImpersonationPolicy::default(),
        audit: config.audit.clone(),
        budgets,
        service_roots: match &config.service_ca_dir {
            Some(folder) => Arc::new(RootsFolder::new(folder.clone())),
            None => Arc::new(NoServiceRoots),
        },
        idle_timeout: config.idle_timeout,
    }));
    Ok(Parts {
        tunnel,
        acceptor,
        users,
        streams,
        readiness,
        front,
        authentication,
        api,
        metrics,
    })
}

/// Keeps the directory, and ends what its changes end: sessions of agents, connections to direct clusters.
fn watch_directory(
    directory: &Arc<Directory>,
    tunnel: &Tunnel,
    direct: &Arc<DirectClusters>,
    tasks: &mut Supervisor,
) {
    tasks.start("follows the directory", Arc::clone(directory).follow());
    let keeping = Arc::clone(directory).keep_store();
    tasks.start("looks after the directory's store", keeping);
    let keeping = Arc::clone(directory).keep_tokens();
    tasks.start("removes expired tokens", keeping);
    let enforcing = tunnel.clone().enforce_access();
    tasks.start("enforces revocations of agents", enforcing);
    let enforcing = Arc::clone(direct).enforce(Arc::clone(directory));
    tasks.start("enforces changes of direct clusters", enforcing);
}

fn logins(authentication: &Arc<Authentication>) -> Result<Logins> {
    let device_logins = Arc::clone(authentication);
    Ok(Logins {
        chain: authentication.chain(),
        passwords: Passwords::new()?,
        device_login: Arc::new(move || device_logins.device_login()),
    })
}

fn acceptor_config(resume_window: ResumeWindow) -> AcceptorConfig {
    AcceptorConfig {
        resume_window,
        software: concat!("underpass-server/", env!("CARGO_PKG_VERSION")).to_owned(),
        ..AcceptorConfig::default()
    }
}
