//! Which of the site's servers does what: hosts and single jobs are dealt out over the servers that live, so that each
//! has one owner and the loss of a server moves only what it owned. Pure memory: `vigil` tells it what the database says.
//!
//! Owning is a division of work, not a lock: for some seconds two servers may think that they own the same host. What
//! they then do twice is decided by compare-and-set in the store.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};

use forewarn_common::id::HostId;
use sha2::{Digest, Sha256};

use crate::model::server::Peer;

/// A server whose beat stood still for this long is gone.
pub const GONE_AFTER_MS: i64 = 10_000;

/// The servers that live, as one of them knows it.
#[derive(Debug)]
pub struct Share {
    own: String,
    live: RwLock<Live>,
}

#[derive(Debug, Default)]
struct Live {
    /// Nobody shares this database: everything is owned.
    alone: bool,
    /// Those that live, the longest running first; empty while the database is gone.
    peers: Vec<Peer>,
    /// The last that were known, kept while the database is gone.
    last: Vec<Peer>,
    /// The beat of each and since when it stands.
    beats: HashMap<String, (i64, i64)>,
    /// Counts how often it changed who lives.
    changes: u64,
}

impl Share {
    /// Of a server that nobody shares its database with.
    #[must_use]
    pub fn alone(own: String) -> Self {
        Self { own, live: RwLock::new(Live { alone: true, ..Live::default() }) }
    }

    /// Of one of several. It owns nothing before it was told who lives.
    #[must_use]
    pub fn among(own: String) -> Self {
        Self { own, live: RwLock::default() }
    }

    /// Takes in what the database says of the servers; `boot_ms` is a clock that does not jump. Returns those that are
    /// gone by now and are to be struck off.
    pub fn observe(&self, peers: Vec<Peer>, boot_ms: i64) -> Vec<String> {
        let mut live = self.live.write().unwrap_or_else(PoisonError::into_inner);
        let mut beats = HashMap::new();
        for peer in &peers {
            let since_ms = match live.beats.get(&peer.id) {
                Some((beat, since_ms)) if *beat == peer.beat => *since_ms,
                _ => boot_ms,
            };
            beats.insert(peer.id.clone(), (peer.beat, since_ms));
        }
        let stands = |peer: &Peer| peer.id != self.own && boot_ms - beats[&peer.id].1 >= GONE_AFTER_MS;
        let (gone, here): (Vec<Peer>, Vec<Peer>) = peers.into_iter().partition(stands);
        live.beats = beats;
        if !live.peers.iter().map(|peer| &peer.id).eq(here.iter().map(|peer| &peer.id)) {
            live.changes += 1;
        }
        live.peers.clone_from(&here);
        live.last = here;
        gone.into_iter().map(|peer| peer.id).collect()
    }

    /// The database is gone: nothing is owned until it is back. How long the others have stood still is not known
    /// then either.
    pub fn lose(&self) {
        let mut live = self.live.write().unwrap_or_else(PoisonError::into_inner);
        live.peers.clear();
        live.beats.clear();
        live.changes += 1;
    }

    /// Whether this server is the one that forecasts, compacts and looks after the silence of a host.
    #[must_use]
    pub fn owns(&self, host: HostId) -> bool {
        self.owns_bytes(&host.0)
    }

    /// Whether this server is the one for a job of the whole site.
    #[must_use]
    pub fn owns_job(&self, name: &str) -> bool {
        self.owns_bytes(name.as_bytes())
    }

    /// A number while nobody else changes the database; another one after somebody else might have. What was read in
    /// one solitude may be remembered until it ends.
    #[must_use]
    pub fn solitude(&self) -> Option<u64> {
        let live = self.live.read().unwrap_or_else(PoisonError::into_inner);
        (live.alone || live.peers.len() == 1).then_some(live.changes)
    }

    /// The servers that ran longer than this one when the database was last seen.
    #[must_use]
    pub fn elders(&self) -> Vec<Peer> {
        let live = self.live.read().unwrap_or_else(PoisonError::into_inner);
        live.last.iter().take_while(|peer| peer.id != self.own).cloned().collect()
    }

    /// Rendezvous: of all servers the one with the highest hash of itself and the thing. Others keep what they own when
    /// one comes or goes.
    fn owns_bytes(&self, thing: &[u8]) -> bool {
        let live = self.live.read().unwrap_or_else(PoisonError::into_inner);
        let best = live.peers.iter().max_by_key(|peer| (weight(&peer.id, thing), peer.id.as_str()));
        live.alone || best.is_some_and(|peer| peer.id == self.own)
    }
}

fn weight(server: &str, thing: &[u8]) -> [u8; 32] {
    Sha256::new().chain_update(server.as_bytes()).chain_update([0]).chain_update(thing).finalize().into()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn peer(id: &str, beat: i64) -> Peer {
        Peer { id: id.into(), started_ms: 0, beat, address: String::new() }
    }

    fn hosts() -> impl Iterator<Item = HostId> {
        (0..1000_u16).map(|number| {
            let mut id = [0; 16];
            id[..2].copy_from_slice(&number.to_le_bytes());
            HostId(id)
        })
    }

    #[test]
    fn every_host_has_one_owner_and_the_loss_of_a_server_moves_only_its_own() {
        let names = ["a", "b", "c"];
        let shares: Vec<Share> = names.iter().map(|name| Share::among((*name).into())).collect();
        let told = |names: &[&str]| names.iter().map(|name| peer(name, 1)).collect::<Vec<_>>();
        for share in &shares {
            assert!(hosts().all(|host| !share.owns(host)), "nothing is owned before the first look");
            share.observe(told(&names), 0);
        }
        let owner = |host| names.iter().zip(&shares).filter(|(_, share)| share.owns(host)).map(|(n, _)| *n).collect();
        let before: Vec<Vec<&str>> = hosts().map(owner).collect();
        assert!(before.iter().all(|owners| owners.len() == 1));
        for name in names {
            let count = before.iter().filter(|owners| owners[0] == name).count();
            assert!((250..=420).contains(&count), "{name} owns {count} of 1000");
        }
        shares[0].observe(told(&["a", "b"]), 1);
        shares[1].observe(told(&["a", "b"]), 1);
        shares[2].lose();
        let after: Vec<Vec<&str>> = hosts().map(owner).collect();
        for (before, after) in before.iter().zip(&after) {
            assert_eq!(after.len(), 1);
            assert!(before == after || before[0] == "c", "{before:?} → {after:?}");
        }
    }

    #[test]
    fn a_server_is_gone_when_its_beat_stood_still_whatever_the_clocks_say() {
        let share = Share::among("a".into());
        assert!(share.observe(vec![peer("a", 1), peer("b", 7)], 1_000).is_empty());
        assert_eq!(share.solitude(), None);
        assert!(share.observe(vec![peer("a", 1), peer("b", 8)], 9_000).is_empty(), "its own beat is never judged");
        assert!(share.observe(vec![peer("a", 3), peer("b", 8)], 18_900).is_empty());
        assert_eq!(share.observe(vec![peer("a", 4), peer("b", 8)], 19_000), ["b"]);
        assert!(share.solitude().is_some() && hosts().all(|host| share.owns(host)));
        let first = share.solitude();
        share.observe(vec![peer("a", 5)], 20_000);
        assert_eq!(share.solitude(), first);
        share.observe(vec![peer("a", 6), peer("c", 1)], 21_000);
        share.observe(vec![peer("a", 7)], 22_000);
        assert!(share.solitude().is_some() && share.solitude() != first, "another solitude than the first");
    }

    #[test]
    fn without_the_database_nothing_is_owned_and_the_elders_are_remembered() {
        let share = Share::among("b".into());
        share.observe(vec![peer("a", 1), peer("b", 1), peer("c", 1)], 0);
        share.lose();
        assert!(hosts().all(|host| !share.owns(host)) && share.solitude().is_none());
        assert_eq!(share.elders(), [peer("a", 1)]);
        // After an outage of an hour nobody is gone at first sight.
        assert!(share.observe(vec![peer("a", 1), peer("b", 2), peer("c", 1)], 3_600_000).is_empty());
        let alone = Share::alone("x".into());
        assert!(hosts().all(|host| alone.owns(host)) && alone.owns_job("outbox") && alone.solitude().is_some());
    }
}
