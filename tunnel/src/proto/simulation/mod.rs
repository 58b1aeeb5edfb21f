//! Two sessions on a simulated network: one virtual clock, and every choice from one source.
//!
//! A test draws the choices from a seed, a fuzzer from its input. Transports come and go, at both
//! ends at different times; what is under way on one when it dies is lost. Control streams and
//! streams travel beside each other with delays of their own, as they do on real transports.

mod end;
mod network;
mod world;

pub(crate) use self::world::World;

/// Where the choices come from.
pub(crate) trait Choices {
    /// A number below `n`, or `None` once the source is exhausted.
    fn pick(&mut self, n: u32) -> Option<u32>;

    /// A number below `n`; 0 once the source is exhausted.
    fn below(&mut self, n: u32) -> u32 {
        self.pick(n).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Names one seed to run, to replay a failure.
    const SEED: &str = "UNDERPASS_SEED";
    const SEEDS: u64 = 3000;

    struct Seeded(u64);

    impl Choices for Seeded {
        fn pick(&mut self, n: u32) -> Option<u32> {
            // SplitMix64: seeds next to each other give unrelated runs.
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut mixed = self.0;
            mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            u32::try_from((mixed ^ (mixed >> 31)) % u64::from(n)).ok()
        }
    }

    /// Says how to run a failed seed again.
    struct Replay(u64);

    impl Drop for Replay {
        fn drop(&mut self) {
            if std::thread::panicking() {
                let seed = self.0;
                eprintln!("replay: {SEED}={seed} cargo test -p underpass-tunnel simulation");
            }
        }
    }

    fn simulate(seed: u64) {
        let _replay = Replay(seed);
        World::new(&mut Seeded(seed)).run(300);
    }

    #[test]
    fn whatever_happens_the_session_keeps_its_promises() {
        match std::env::var(SEED) {
            Ok(seed) => simulate(seed.parse().expect("a number")),
            Err(_) => std::thread::scope(|scope| {
                let threads = std::thread::available_parallelism().map_or(1, usize::from);
                for first in 0..threads as u64 {
                    scope.spawn(move || (first..SEEDS).step_by(threads).for_each(simulate));
                }
            }),
        }
    }
}
