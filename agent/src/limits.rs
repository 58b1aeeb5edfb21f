//! Every bound of the agent, each with its reason.

use std::time::Duration;

/// Streams to targets beside the API server, at once. Each holds a socket and, while it is busy, some windows of 256 KiB; half of
/// the streams that a session may have, so that calls of the API find room. No more than half of the open files that the system
/// allows, either.
pub(crate) const TARGET_STREAMS: usize = 2048;

/// From a stream's beginning to the connection to its target, lookups included. The peer waits three seconds for the answer, of
/// which the path takes a part, and a refusal that comes in time has a reason. A lost SYN is sent again after one second.
pub(crate) const TARGET_TIME: Duration = Duration::from_secs(2);

/// Lookups of names and paths that block a thread, at once: the system's resolver asks for 10 s and more, and the threads that are
/// left (of 512) read the files of the API server's credential.
pub(crate) const LOOKUPS: usize = 32;

/// Services that are asked for at once. Their answers have [`SERVICE_BYTES`] each at the most.
pub(crate) const SERVICE_QUESTIONS: usize = 8;

/// The list of a service's endpoints. [`SLICES`] slices of a hundred endpoints take some 2 MiB.
pub(crate) const SERVICE_BYTES: usize = 4 * 1024 * 1024;

/// EndpointSlices of one service that are read: 3,200 endpoints, of which a stream needs one.
pub(crate) const SLICES: usize = 32;

/// How long a service's endpoints count. Pods that are deleted stay ready for a moment in kube-proxy's rules as well, and a
/// connection that fails has them read again.
pub(crate) const SERVICE_AGE: Duration = Duration::from_secs(5);

/// How long it counts that a service could not be looked up: clients that try again must not ask the API server each time, and
/// their users must not wait for what they have just repaired.
pub(crate) const SERVICE_FAILURE_AGE: Duration = Duration::from_secs(1);

/// Services whose endpoints are remembered: some hundred bytes for each endpoint.
pub(crate) const SERVICES: usize = 256;

/// How old the policy may be: its file is looked at so often.
pub(crate) const POLICY_AGE: Duration = Duration::from_secs(2);
