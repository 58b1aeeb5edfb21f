//! Any bytes of a client: the front's decisions, held against the requests that an agent receives. A property test and a fuzz
//! target ask the same (security rules 3, 4, 5, 8, 26).

mod check;
#[cfg(test)]
mod tests;
mod world;

use self::world::World;

/// One connection of HTTP/1.1: the first byte chooses the sender, the rest is a request line and headers. A credential is
/// put behind the first line, where the sender has one.
///
/// # Panics
/// Something got through that must not.
pub fn front(data: &[u8]) {
    let Some((sender, head)) = data.split_first() else {
        return;
    };
    let sender = world::Sender::ALL[usize::from(*sender) % world::Sender::ALL.len()];
    World::with(|world, runtime| {
        let outcome = runtime.block_on(world.send(sender, head));
        check::outcome(sender, &outcome);
    });
}
