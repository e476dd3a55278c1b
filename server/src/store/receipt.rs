//! What was received of one epoch of one host: a set of sequence numbers, kept as ranges.

use forewarn_common::block::{DecodeError, Reader, Writer};

/// Ranges of one epoch; an agent that sends in order has one, each block lost from its spool adds one.
pub(super) const RANGES_MAX: usize = 65_536;

/// See [`Ranges::is_short`].
const SHORT_RANGES: usize = 16;

/// Ascending, disjoint, not touching; both ends inclusive.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Ranges(Vec<(u64, u64)>);

impl Ranges {
    pub(super) fn contains(&self, seq: u64) -> bool {
        let after = self.0.partition_point(|(low, _)| *low <= seq);
        after > 0 && self.0[after - 1].1 >= seq
    }

    /// Adds a number; false when it was there already.
    pub(super) fn insert(&mut self, seq: u64) -> bool {
        let after = self.0.partition_point(|(low, _)| *low <= seq);
        if after > 0 && self.0[after - 1].1 >= seq {
            return false;
        }
        let touches_left = after > 0 && self.0[after - 1].1.checked_add(1) == Some(seq);
        let touches_right = self.0.get(after).is_some_and(|(low, _)| seq.checked_add(1) == Some(*low));
        match (touches_left, touches_right) {
            (true, true) => {
                self.0[after - 1].1 = self.0[after].1;
                self.0.remove(after);
            }
            (true, false) => self.0[after - 1].1 = seq,
            (false, true) => self.0[after].0 = seq,
            (false, false) => self.0.insert(after, (seq, seq)),
        }
        true
    }

    /// Whether another number that touches no range still fits.
    pub(super) fn has_room(&self) -> bool {
        self.0.len() < RANGES_MAX
    }

    /// Whether it is worth keeping in memory: an agent that lost little.
    pub(super) fn is_short(&self) -> bool {
        self.0.len() <= SHORT_RANGES
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::default();
        writer.varint(self.0.len() as u64);
        let mut from = 0;
        for (low, high) in &self.0 {
            writer.varint(low - from);
            writer.varint(high - low);
            from = *high;
        }
        writer.into_bytes()
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let count = reader.count("receipt", RANGES_MAX)?;
        let (mut ranges, mut from) = (Vec::new(), 0_u64);
        for _ in 0..count {
            let low = from.checked_add(reader.varint("receipt")?).ok_or(DecodeError::Malformed("receipt"))?;
            let high = low.checked_add(reader.varint("receipt")?).ok_or(DecodeError::Malformed("receipt"))?;
            ranges.push((low, high));
            from = high;
        }
        if reader.is_empty() { Ok(Self(ranges)) } else { Err(DecodeError::Malformed("receipt")) }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn any_order_gives_the_set_and_its_fewest_ranges(seqs in proptest::collection::vec(0_u64..60, 0..80)) {
            let (mut ranges, mut set) = (Ranges::default(), BTreeSet::new());
            for seq in seqs {
                prop_assert_eq!(ranges.insert(seq), set.insert(seq));
            }
            for seq in 0..62 {
                prop_assert_eq!(ranges.contains(seq), set.contains(&seq));
            }
            let gaps = set.iter().filter(|seq| !set.contains(&seq.wrapping_sub(1))).count();
            prop_assert_eq!(ranges.0.len(), gaps);
            prop_assert_eq!(Ranges::decode(&ranges.encode()).unwrap(), ranges);
        }

        #[test]
        fn damaged_receipts_are_refused_and_never_loop(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let _ = Ranges::decode(&bytes);
        }
    }

    #[test]
    fn the_ends_of_the_number_range_are_numbers_too() {
        let mut ranges = Ranges::default();
        assert!(ranges.insert(u64::MAX) && ranges.insert(0) && !ranges.insert(u64::MAX));
        assert_eq!(Ranges::decode(&ranges.encode()).unwrap(), ranges);
    }
}
