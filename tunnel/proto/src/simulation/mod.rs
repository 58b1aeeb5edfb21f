//! Two sessions on a simulated network: one virtual clock, and every choice from one source.
//!
//! A test draws the choices from a seed, a fuzzer from its input. Transports come and go, at both
//! ends at different times; a dead one loses the bytes in flight on it. Control streams and
//! streams travel beside each other with delays of their own, as they do on real transports.

mod end;
mod network;
mod world;

pub(crate) use self::world::World;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::choices::for_each_seed;

    #[test]
    fn whatever_happens_the_session_keeps_its_promises() {
        for_each_seed("session_keeps_its_promises", 3000, |choices| {
            World::new(choices).run(300);
        });
    }
}
