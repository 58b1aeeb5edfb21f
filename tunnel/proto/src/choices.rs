//! Where simulations take their choices from: a seed in tests, the input in fuzzing.

/// A source of choices.
pub(crate) trait Choices {
    /// A number below `n`, or `None` once the source is exhausted.
    fn pick(&mut self, n: u32) -> Option<u32>;

    /// A number below `n`; 0 once the source is exhausted.
    fn below(&mut self, n: u32) -> u32 {
        self.pick(n).unwrap_or(0)
    }
}

#[cfg(test)]
pub(crate) use self::seeds::for_each_seed;

#[cfg(test)]
mod seeds {
    use super::Choices;

    /// Names one seed to run, to replay a failure.
    const SEED: &str = "UNDERPASS_SEED";

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
    struct Replay {
        seed: u64,
        test: &'static str,
    }

    impl Drop for Replay {
        fn drop(&mut self) {
            if std::thread::panicking() {
                let Self { seed, test } = self;
                eprintln!("replay: {SEED}={seed} cargo test -p underpass-tunnel --lib {test}");
            }
        }
    }

    /// Simulates with each of so many seeds, on every processor. `test` is the calling test's name.
    pub(crate) fn for_each_seed(
        test: &'static str,
        seeds: u64,
        simulate: impl Fn(&mut dyn Choices) + Sync,
    ) {
        let simulate = |seed| {
            let _replay = Replay { seed, test };
            simulate(&mut Seeded(seed));
        };
        if let Ok(seed) = std::env::var(SEED) {
            return simulate(seed.parse().expect("a number"));
        }
        std::thread::scope(|scope| {
            let threads = std::thread::available_parallelism().map_or(1, usize::from);
            for first in 0..threads as u64 {
                let simulate = &simulate;
                scope.spawn(move || (first..seeds).step_by(threads).for_each(simulate));
            }
        });
    }
}
