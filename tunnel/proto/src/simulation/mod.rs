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
    use std::time::Duration;

    use super::world::{Dies, Waits};
    use super::*;
    use crate::choices::for_each_seed;

    #[test]
    fn whatever_happens_the_session_keeps_its_promises() {
        for_each_seed("session_keeps_its_promises", 3000, |choices| {
            World::new(choices).run(300);
        });
    }

    const DEATHS: [Dies; 3] = [Dies::BothWays, Dies::ToTheConnector, Dies::ToTheAcceptor];
    const WAITS: [Waits; 3] = [Waits::Keystroke, Waits::Request, Waits::Event];

    fn each_dead_path(test: &'static str, links: usize, bound: Duration) {
        for_each_seed(test, 200, |choices| {
            for dies in DEATHS {
                for waits in WAITS {
                    let took = World::dead_path(choices, links, dies, waits);
                    assert!(
                        took <= bound,
                        "{waits:?} took {took:?} when a path died {dies:?}"
                    );
                }
            }
        });
    }

    #[test]
    fn a_dead_path_costs_a_blink() {
        each_dead_path("a_dead_path_costs", 2, Duration::from_millis(300));
    }

    /// Each time anew: neither a measure nor an alarm of the last time makes the next one slower.
    #[test]
    fn a_path_that_dies_again_and_again_costs_a_blink_each_time() {
        for_each_seed("a_path_that_dies_again", 50, |choices| {
            for dies in DEATHS {
                for waits in WAITS {
                    let took = World::failing_path(choices, dies, waits, 6);
                    let bound = Duration::from_millis(300);
                    assert!(took <= bound, "{waits:?} took {took:?} ({dies:?})");
                }
            }
        });
    }

    /// The acceptor cannot dial, and has no link left to say so.
    #[test]
    fn two_paths_that_die_together_cost_little() {
        for_each_seed("two_paths_that_die_together", 100, |choices| {
            for waits in WAITS {
                let took = World::dead_paths(choices, waits);
                assert!(took <= Duration::from_secs(2), "{waits:?} took {took:?}");
            }
        });
    }

    #[test]
    fn a_dead_path_costs_little_without_a_second_link() {
        each_dead_path("a_dead_path_costs_little", 1, Duration::from_secs(2));
    }
}
