//! Merged rows that were read lately, in bytes bounded by a setting. Rows never change, so nothing here can be wrong;
//! which rows there are is asked of the database each time.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use forewarn_common::id::HostId;

/// Names a row of the block table: tier, start, host, part.
pub(super) type Key = (i16, i64, HostId, i64);

/// What an entry costs beside its bytes.
const ENTRY_BYTES: usize = 160;

/// The rows, the least lately used leave first.
pub(super) struct Rows {
    bytes_max: usize,
    bytes: usize,
    uses: u64,
    rows: HashMap<Key, (Arc<Vec<u8>>, u64)>,
    by_use: BTreeMap<u64, Key>,
}

impl Rows {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self { bytes_max, bytes: 0, uses: 0, rows: HashMap::new(), by_use: BTreeMap::new() }
    }

    pub(super) fn get(&mut self, key: &Key) -> Option<Arc<Vec<u8>>> {
        let (bytes, used) = self.rows.get_mut(key)?;
        self.uses += 1;
        self.by_use.remove(used);
        self.by_use.insert(self.uses, *key);
        *used = self.uses;
        Some(Arc::clone(bytes))
    }

    pub(super) fn put(&mut self, key: Key, bytes: Arc<Vec<u8>>) {
        let cost = bytes.len() + ENTRY_BYTES;
        // One row must not push all others out.
        if cost > self.bytes_max / 2 || self.rows.contains_key(&key) {
            return;
        }
        self.uses += 1;
        self.by_use.insert(self.uses, key);
        self.rows.insert(key, (bytes, self.uses));
        self.bytes += cost;
        while self.bytes > self.bytes_max {
            let Some((_, oldest)) = self.by_use.pop_first() else { return };
            self.bytes -= self.rows.remove(&oldest).map_or(0, |(bytes, _)| bytes.len() + ENTRY_BYTES);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: i64) -> Key {
        (1, number, HostId([0; 16]), 0)
    }

    #[test]
    fn what_was_used_last_stays_and_the_bound_holds() {
        let mut rows = Rows::new(10_000);
        for number in 0..100 {
            rows.put(key(number), Arc::new(vec![0; 1000]));
            assert!(rows.get(&key(0)).is_some() && rows.bytes <= 10_000);
        }
        assert!(rows.get(&key(99)).is_some() && rows.get(&key(50)).is_none());
        assert_eq!(rows.rows.len(), rows.by_use.len());
        rows.put(key(200), Arc::new(vec![0; 9000]));
        assert!(rows.get(&key(200)).is_none());
    }
}
