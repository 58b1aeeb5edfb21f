//! The audit log: what every call was, whose, and how it ended, as Kubernetes' own events
//! (`audit.k8s.io/v1`), so that what reads one reads the other. Both have the same `auditID`.
//!
//! A [`Trail`] has a [`Policy`], which says what is worth an event, and [`Outlet`]s, which each have a bounded
//! queue in front of a [`Sink`]. A sink that is stuck is the business of its outlet alone: see [`Full`]. Callers without an
//! identity have an outlet of their own ([`Trail::strangers`]).

mod cut;
mod event;
mod outlet;
mod own;
mod policy;
mod shares;
mod strangers;
#[cfg(test)]
mod tests;
mod trail;
mod webhook;

pub use self::{
    cut::cut,
    event::{Event, Stage, User},
    outlet::{Full, Outlet, OutletConfig, Sink},
    own::{OwnCall, OwnCaller},
    policy::{Call, Level, Policy, PolicyError},
    trail::{Kind, Stuck, Told, Trail},
    webhook::{Webhook, WebhookError},
};
