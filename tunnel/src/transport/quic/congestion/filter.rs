//! The largest of the last measurements.

/// Rounds that a measurement counts for: a whole cycle of [`super::model`], so that the rate measured when more was
/// tried is known until more is tried again.
const ROUNDS: usize = 10;

/// The largest value of the last [`ROUNDS`] rounds.
#[derive(Debug, Clone, Default)]
pub(super) struct Largest {
    /// The latest first.
    rounds: [u64; ROUNDS],
}

impl Largest {
    /// A measurement of this round.
    pub(super) fn add(&mut self, value: u64) {
        self.rounds[0] = value.max(self.rounds[0]);
    }

    /// Forgets the oldest round.
    pub(super) fn next_round(&mut self) {
        self.rounds.rotate_right(1);
        self.rounds[0] = 0;
    }

    pub(super) fn get(&self) -> u64 {
        self.rounds.iter().copied().max().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_counts_for_ten_rounds() {
        let mut largest = Largest::default();
        assert_eq!(largest.get(), 0);
        largest.add(7);
        largest.add(3);
        for _ in 1..ROUNDS {
            largest.next_round();
            largest.add(5);
            assert_eq!(largest.get(), 7);
        }
        largest.next_round();
        assert_eq!(largest.get(), 5, "the seven is forgotten");
    }
}
