//! Types that both ends of Underpass share.
//!
//! - [`Identity`]: the caller, and [`Provenance`]: its proof. [`Scope`] and [`Revocation`] bound it.
//! - [`ClusterName`], [`ClusterDomains`], [`Target`], [`RequestInfo`], [`Access`]: the call. [`Authorizer`] and [`ImpersonationAuthorizer`] decide.
//! - [`Name`], [`Labels`], [`Role`], [`Subject`], [`Selector`], [`Revision`]: the values of a directory and of its API.
//! - [`Clusters`] opens a stream to a cluster. [`ConnectionInfo`] and [`Peer`] tell of the connection that a call came on.
//! - [`Rejection`]: every answer that is Underpass's own.
//! - `process` (feature `process`): signals and open files of a program of ours.
//! - `yaml` (feature `yaml`): faults of files that hold secrets.
//! - [`limits`]: the bounds on peers and users, in one place.

pub mod body;
pub mod files;
pub mod limits;
pub mod list;
pub mod names;
pub mod policy;
#[cfg(feature = "process")]
pub mod process;
pub mod rate;
pub mod service_account;
pub mod share;
#[cfg(feature = "yaml")]
pub mod yaml;

mod agent_role;
mod audit_id;
mod authority;
mod authorize;
mod brief;
mod by_connect;
mod cluster;
mod cluster_domain;
mod cluster_policy;
mod connect;
mod connection;
mod exec;
mod identity;
mod impersonated;
mod io;
mod log_share;
mod memory_stream;
mod name;
mod network;
mod node_name;
mod pass_on;
mod peer;
mod provenance;
mod registration;
mod rejection;
pub mod request_info;
mod revision;
mod revocation;
mod role;
mod scope;
mod selector;
mod shell;
mod status;
mod subject;
mod target;
mod via;

pub use self::{
    agent_role::{AgentRole, UnknownAgentRole},
    audit_id::new_audit_id,
    authority::{Authority, AuthorityError, Provider},
    authorize::{
        Access, AuthorizeError, Authorizer, ImpersonationAuthorizer, Nobody, api_permissions,
    },
    body::{Body, BoxError, boxed, empty, full},
    brief::{Brief, brief},
    by_connect::{UNDERPASS_CLUSTER, UNDERPASS_NODE, UNDERPASS_TARGET, UNIX_AUTHORITY},
    cluster::{ClusterName, ClusterNameError},
    cluster_domain::{
        ClusterDomain, ClusterDomainError, ClusterDomains, HostName, NestedDomains, TargetName,
    },
    cluster_policy::ClusterPolicy,
    connect::{Clusters, ConnectError, Decline, Open},
    connection::{ConnectionInfo, Protocol, UnusableCertificate},
    exec::Exec,
    identity::{Identity, IdentityError},
    impersonated::Impersonated,
    io::{BoxedIo, Io},
    log_share::{ClusterLogShare, NetworkLogShare},
    memory_stream::{MemoryStream, memory_stream},
    name::{Labels, LabelsError, Name, NameError},
    network::{BLOCK_SIZES, Block, Network, NetworkError, Networks, blocks_of, network_of},
    node_name::{NodeName, NodeNameError},
    peer::{Peer, X_FORWARDED_FOR, forwarded_for},
    policy::{ImpersonationPolicy, NeverImpersonated},
    provenance::{AuthenticationMethod, Provenance},
    registration::RegistrationRules,
    rejection::Rejection,
    request_info::{RequestInfo, StreamClass},
    revision::Revision,
    revocation::Revocation,
    role::{Permission, Role, UnknownRole},
    scope::{OutOfScope, Scope},
    selector::Selector,
    shell::{BadShellId, ShellId, ShellKind, UnknownShellKind},
    status::status_response,
    subject::{Subject, SubjectKind},
    target::{Target, TargetError, TcpTarget, UnixTarget},
    via::{REGISTERED_CREDENTIAL, Through, Via},
};
