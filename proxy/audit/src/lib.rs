//! The audit log: each call, its user and its end, as Kubernetes' own events (`audit.k8s.io/v1`), so that the same tools read
//! both. Both have the same `auditID`.
//!
//! A [`AuditLog`] has a [`Policy`], which selects the calls that get an event, and [`Backend`]s, which each have a bounded
//! queue in front of a [`Sink`]. A stuck sink affects its own backend only: see [`Full`]. Callers without an identity have a
//! backend of their own ([`AuditLog::strangers`]).

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
    log::{AuditLog, EventKind, Stuck, Told},
    own::{OwnCall, OwnCaller, RECORDED_USER},
    policy::{Call, Level, Policy, PolicyError},
    webhook::{Webhook, WebhookError},
};
