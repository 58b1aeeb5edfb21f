//! The audit log: what every call was, whose, and how it ended, as Kubernetes' own events
//! (`audit.k8s.io/v1`), so that what reads one reads the other. Both have the same `auditID`.
//!
//! A [`AuditLog`] has a [`Policy`], which says what is worth an event, and [`Backend`]s, which each have a bounded
//! queue in front of a [`Sink`]. A sink that is stuck is the business of its backend alone: see [`Full`]. Callers without an
//! identity have a backend of their own ([`AuditLog::strangers`]).

mod backend;
mod cut;
mod event;
mod log;
mod own;
mod policy;
mod shares;
mod strangers;
#[cfg(test)]
mod tests;
mod webhook;

pub use self::{
    backend::{Backend, BackendConfig, Full, Sink},
    cut::cut,
    event::{Event, Stage, User},
    log::{AuditLog, Kind, Stuck, Told},
    own::{OwnCall, OwnCaller},
    policy::{Call, Level, Policy, PolicyError},
    webhook::{Webhook, WebhookError},
};
