//! A set of seqs as disjoint inclusive ranges: what was deleted, what was never used.

use std::collections::BTreeMap;

/// See the module's text. Neighbouring ranges are merged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangeSet {
    /// First seq → last seq.
    ranges: BTreeMap<u64, u64>,
}

impl RangeSet {
    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Number of ranges.
    pub fn len(&self) -> usize {
        self.ranges.len()
    }

    /// Adds `first..=last`.
    pub fn insert(&mut self, mut first: u64, mut last: u64) {
        assert!(first <= last);
        if let Some((start, end)) = self.ranges.range(..first).next_back().map(|(s, e)| (*s, *e))
            && end >= first.saturating_sub(1)
        {
            first = start;
            last = last.max(end);
        }
        while let Some((start, end)) = self.ranges.range(first..).next().map(|(s, e)| (*s, *e)) {
            if start > last.saturating_add(1) {
                break;
            }
            last = last.max(end);
            self.ranges.remove(&start);
        }
        self.ranges.insert(first, last);
    }

    /// The range that holds `seq`.
    pub fn covering(&self, seq: u64) -> Option<(u64, u64)> {
        if self.ranges.is_empty() {
            return None;
        }
        let (start, end) = self.ranges.range(..=seq).next_back()?;
        (*end >= seq).then_some((*start, *end))
    }

    /// The first range that ends at or above `seq`.
    pub fn at_or_after(&self, seq: u64) -> Option<(u64, u64)> {
        let next = || self.ranges.range(seq..).next().map(|(start, end)| (*start, *end));
        self.covering(seq).or_else(next)
    }

    /// The ranges, cut off above `seq`.
    pub fn iter_through(&self, seq: u64) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.ranges.range(..=seq).map(move |(start, end)| (*start, *end.min(&seq)))
    }

    /// Whether `seq` is in the set.
    pub fn contains(&self, seq: u64) -> bool {
        self.covering(seq).is_some()
    }

    /// Whether any of `first..=last` is in the set.
    pub fn intersects(&self, first: u64, last: u64) -> bool {
        !self.ranges.is_empty() && (self.ranges.range(first..=last).next().is_some() || self.contains(first))
    }

    /// Seqs of `first..=last` that are in the set.
    pub fn count_within(&self, first: u64, last: u64) -> u64 {
        if first > last {
            return 0;
        }
        let before = self
            .covering(first)
            .map_or(0, |(start, end)| if start < first { end.min(last) - first + 1 } else { 0 });
        before + self.ranges.range(first..=last).map(|(start, end)| end.min(&last) - start + 1).sum::<u64>()
    }

    /// Forgets ranges that end at or below `seq`.
    pub fn prune_through(&mut self, seq: u64) {
        while let Some((start, end)) = self.ranges.first_key_value().map(|(s, e)| (*s, *e)) {
            if end > seq {
                break;
            }
            self.ranges.remove(&start);
        }
    }

    /// The ranges, lowest first.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (u64, u64)> + '_ {
        self.ranges.iter().map(|(start, end)| (*start, *end))
    }
}

impl FromIterator<(u64, u64)> for RangeSet {
    fn from_iter<I: IntoIterator<Item = (u64, u64)>>(ranges: I) -> Self {
        let mut set = RangeSet::default();
        for (first, last) in ranges {
            set.insert(first, last);
        }
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn a_range_set_is_a_set_of_numbers() {
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        let mut random = move |below: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state % below
        };
        for _ in 0..200 {
            let (mut set, mut model) = (RangeSet::default(), BTreeSet::new());
            for _ in 0..30 {
                let first = random(100);
                let last = first + random(8);
                set.insert(first, last);
                model.extend(first..=last);
                if random(5) == 0 {
                    let through = random(60);
                    set.prune_through(through);
                    // Only whole ranges go.
                    model = set.iter().flat_map(|(a, b)| a..=b).collect();
                }
                for seq in 0..120 {
                    assert_eq!(set.contains(seq), model.contains(&seq));
                    let end = seq + random(20);
                    assert_eq!(set.count_within(seq, end), model.range(seq..=end).count() as u64);
                    assert_eq!(set.intersects(seq, end), model.range(seq..=end).next().is_some());
                }
                let ranges: Vec<_> = set.iter().collect();
                assert!(ranges.windows(2).all(|pair| pair[0].1 + 1 < pair[1].0), "merged: {ranges:?}");
            }
        }
    }
}
