//! Random picks that cost nothing: which topic, which kind of request, which place. Lives here: shares and
//! draws. Not here: what is picked.

/// Picks indices by shares. Equal runs pick the same: what is compared shall have the same load.
pub(crate) struct Picker {
    /// Upper bounds of each index's share, of 2^32.
    bounds: Vec<u64>,
    state: u64,
}

impl Picker {
    /// Picks of `count` evenly (skew 0), or with the skew of many real loads: a Zipf distribution, in which
    /// the share of the n-th is proportional to 1 / n^skew.
    pub(crate) fn zipf(count: usize, skew: f64) -> Picker {
        let weights: Vec<f64> = (0..count).map(|index| 1.0 / (index as f64 + 1.0).powf(skew)).collect();
        Picker::weighted(&weights)
    }

    /// Picks in proportion to weights, of which at least one is above zero.
    pub(crate) fn weighted(weights: &[f64]) -> Picker {
        let total: f64 = weights.iter().sum();
        assert!(total > 0.0, "nothing to pick");
        let mut sum = 0.0;
        let bounds = weights.iter().map(|weight| {
            sum += weight;
            (sum / total * 4_294_967_296.0) as u64
        });
        Picker { bounds: bounds.collect(), state: 0x9e37_79b9_7f4a_7c15 }
    }

    /// The next index.
    pub(crate) fn pick(&mut self) -> usize {
        let draw = self.draw() >> 32;
        self.bounds.partition_point(|bound| *bound <= draw).min(self.bounds.len() - 1)
    }

    /// A number below `bound`, which is at least 1.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.draw() % bound
    }

    fn draw(&mut self) -> u64 {
        // xorshift, and a multiplication so that its upper bits are as good as its lower ones.
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        self.state.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Draws and compares with the shares that they should have, within five standard deviations.
    fn assert_shares(mut picker: Picker, shares: &[f64]) {
        const DRAWS: u64 = 200_000;
        let mut counts = vec![0_u64; shares.len()];
        (0..DRAWS).for_each(|_| counts[picker.pick()] += 1);
        for (count, share) in counts.iter().zip(shares) {
            let expected = DRAWS as f64 * share;
            let deviation = (expected * (1.0 - share)).sqrt();
            assert!((*count as f64 - expected).abs() <= 5.0 * deviation, "{counts:?} for {shares:?}");
        }
    }

    #[test]
    fn skew_zero_is_even() {
        assert_shares(Picker::zipf(4, 0.0), &[0.25; 4]);
    }

    #[test]
    fn shares_follow_zipf() {
        // 1/1 + 1/2 + 1/3 + 1/4 = 25/12
        assert_shares(Picker::zipf(4, 1.0), &[12.0 / 25.0, 6.0 / 25.0, 4.0 / 25.0, 3.0 / 25.0]);
        // 1/1 + 1/4 + 1/9 = 49/36
        assert_shares(Picker::zipf(3, 2.0), &[36.0 / 49.0, 9.0 / 49.0, 4.0 / 49.0]);
        assert_shares(Picker::zipf(1, 1.0), &[1.0]);
    }

    #[test]
    fn weights_are_shares_and_zero_is_never_picked() {
        assert_shares(Picker::weighted(&[7.0, 0.0, 2.0, 1.0]), &[0.7, 0.0, 0.2, 0.1]);
    }

    #[test]
    fn numbers_stay_below_their_bound_and_reach_it() {
        let mut picker = Picker::zipf(1, 0.0);
        let mut seen = [false; 10];
        (0..1000).for_each(|_| seen[picker.below(10) as usize] = true);
        assert_eq!(seen, [true; 10]);
    }
}
