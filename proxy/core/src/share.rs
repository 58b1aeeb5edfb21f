//! A bound that one holder never reaches alone.
//!
//! The first greedy holder uses up a fixed bound for all together; a fixed one for each, low enough for many at a time, is too
//! little for one alone. So the last places are kept: a quarter is for holders of few, and half of that for holders of none. It
//! takes many holders, and not one, to keep a newcomer out.

/// A holder of fewer counts as one that holds few.
const FEW: usize = 4;

/// May a holder of `held` of `all` take one more, where all holders together have `taken`?
pub const fn allows(held: usize, taken: usize, all: usize) -> bool {
    let kept = match held {
        0 => 0,
        1..FEW => all / 8,
        _ => all / 4,
    };
    taken.saturating_add(kept) < all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rule_23_it_takes_many_to_keep_a_newcomer_out() {
        let all = 512;
        let mut taken = 0;
        let mut holders = Vec::new();
        while allows(0, taken, all) {
            let mut held = 0;
            while allows(held, taken, all) {
                held += 1;
                taken += 1;
            }
            holders.push(held);
        }
        assert_eq!(holders[..2], [384, 4]);
        assert_eq!(holders.last(), Some(&1));
        assert!(holders.len() > 80, "{holders:?}");
        assert_eq!(taken, all);
    }

    #[test]
    fn a_bound_of_a_few_is_for_whoever_comes() {
        for all in 1..FEW {
            assert!(allows(all - 1, all - 1, all) && !allows(0, all, all));
        }
    }
}
