//! The load of a user, the same through every system.

mod bulk;
mod door;
mod echo;
mod order;
mod requests;

pub(crate) use self::bulk::{Bulk, Direction};
pub(crate) use self::door::{Connection, Door};
pub(crate) use self::echo::{Echo, ping_pong, type_keys};
pub(crate) use self::order::Order;
pub(crate) use self::requests::requests;

/// Bytes of a request, and of its answer.
pub(crate) const REQUEST: usize = 1024;
