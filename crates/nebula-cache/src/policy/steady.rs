//! The default: S3-FIFO, made steady.
//!
//! It derives from S3-FIFO (Yang, Zhang, Qiu, Yue and Vigfusson, "FIFO queues are all you need for
//! cache eviction", SOSP 2023), and shares with it the small queue in which fresh entries prove
//! themselves, the main queue with its second chances, and the memory of those that failed. What it
//! does otherwise:
//! - The small queue has more of the weight, 18 %: who comes back a little late still finds itself
//!   there, which matters where use is a question of recency.
//! - As long as the store is not full, there is nobody to protect the main queue from, and what
//!   overflows the small queue moves there without having been hit. So of a loop that is larger
//!   than the store, a part comes to the main queue and stays, and has its hits, where everything
//!   would chase everything else through the small queue.
//! - Who came to the main queue once would stay there for good, hit or not, if nobody else proved
//!   himself. So now and then an entry that failed is exchanged for the one at the main queue's
//!   end, if that wasn't hit lately: the bimodal insertion of Qureshi, Jaleel, Patt, Steely and Emer,
//!   "Adaptive insertion policies for high performance caching", ISCA 2007, applied to a queue.
//! - As many are remembered as there are entries, and not more where slots would allow it.
//! - An eviction passes over a bounded number of entries, then takes the next, hit or not.
//!
//! A hit is one relaxed store to the entry, and none once it counts three.
//!
//! As everywhere here, shares are of what the store holds now, because its share of the cache's
//! capacity is not fixed; "full" is a store that had to evict for the newcomer.

use std::collections::TryReserveError;

use super::{
    Newcomer, Nodes, Place, Queue, drive,
    ghosts::{Ghosts, Ring},
    links::tally,
    shape::{memory_in, queues_by_place},
};
use crate::{PolicyKind, slab::NONE};

/// Hits in the small queue that earn a place in the main one.
const HITS_TO_STAY: u8 = 2;

/// The small queue's share of the weight, in 1024ths.
const SMALL_SHARE: usize = 184;

/// One in so many of those that failed is exchanged for the end of the main queue...
const FAILURES: u32 = 128;

/// ...and in a small store, one in so many divided by the entries: it should not lose all of its
/// main queue within one round of a loop.
const FAILURES_BY_ENTRIES: usize = 4096;

/// Entries that an eviction passes over, at most.
const MOST_PASSES: usize = 64;

/// Entries that an insertion moves out of the small queue while the store is not full, at most.
const MOST_MOVES: usize = 8;

/// The default: S3-FIFO (Yang et al., SOSP 2023) with a larger small queue, which fills the main
/// queue before it guards it, and exchanges what has gone stale there (Qureshi et al., ISCA 2007). A
/// hit is one relaxed store to the entry.
#[derive(Debug, Default)]
pub struct Steady {
    small: Queue,
    main: Queue,
    ghosts: Ghosts,
    /// Entries that failed since the last exchange, or attempt.
    failures: u32,
    /// Whether there were evictions for the entry that is about to come in.
    full: bool,
    /// What the store weighed when it was full last; zero while it is being filled.
    level: usize,
}

const SMALL: Place = Place::First;
const MAIN: Place = Place::Second;

impl Steady {
    const fn queue(&mut self, place: Place) -> &mut Queue {
        match place {
            SMALL => &mut self.small,
            _ => &mut self.main,
        }
    }

    const fn weight(&self) -> usize {
        self.small.weight() + self.main.weight()
    }

    const fn len(&self) -> usize {
        self.small.len() + self.main.len()
    }

    /// Counts an entry that failed. Whether it may be exchanged, should the main queue's end be
    /// stale.
    #[inline]
    const fn fail(&mut self) -> bool {
        self.failures = self.failures.saturating_add(1);
        let due = self.failures >= FAILURES
            && self.len().saturating_mul(self.failures as usize) >= FAILURES_BY_ENTRIES;
        let exchanges = due && !self.main.is_empty();
        if exchanges {
            self.failures = 0;
        }
        exchanges
    }

    /// Whether a store that is to weigh `weight`, without an eviction, is being filled.
    ///
    /// A little less than it weighed when it was full, or a little more, is no sign of that: it is
    /// what a heavy entry left over when it went, here or in another shard.
    #[inline]
    const fn is_filling(&mut self, weight: usize) -> bool {
        if weight.abs_diff(self.level) > self.level / 4 {
            self.level = 0;
        }
        self.level == 0
    }

    /// Moves the oldest of the small queue on until there is room for `weight` more in its share.
    #[inline]
    fn fill_main<N: Nodes>(&mut self, nodes: &mut N, weight: usize) {
        let most = small_share(self.weight().saturating_add(weight));
        for _ in 0..MOST_MOVES {
            let token = self.small.tail();
            if token == NONE || self.small.weight().saturating_add(weight) <= most {
                break;
            }
            let node = nodes.node_mut(token);
            let newer = node.links.newer;
            node.set_hits(0);
            self.small.pop(nodes, newer);
            self.main.push_to(nodes, token, MAIN);
        }
    }
}

/// What the small queue may weigh of `weight`: an entry at least.
#[inline]
const fn small_share(weight: usize) -> usize {
    // In two parts, so that no product overflows.
    let share = weight / 1024 * SMALL_SHARE + weight % 1024 * SMALL_SHARE / 1024;
    if share == 0 { 1 } else { share }
}

impl drive::Policy for Steady {
    memory_in!(ghosts: Ghosts of Ring);
    queues_by_place!();

    fn new(_kind: PolicyKind) -> Self {
        Self::default()
    }

    fn kind(&self) -> PolicyKind {
        PolicyKind::Steady
    }

    #[inline]
    fn admit(&mut self, hash: u32) -> Newcomer {
        self.full = false;
        Newcomer { kind: u8::from(self.ghosts.recall(hash)) }
    }

    #[inline]
    fn insert<N: Nodes>(&mut self, nodes: &mut N, token: u32, newcomer: Newcomer) {
        let full = std::mem::take(&mut self.full);
        if newcomer.kind != 0 {
            self.main.push_to(nodes, token, MAIN);
            return;
        }
        if !full {
            let weight = nodes.weight(token);
            if self.is_filling(self.weight().saturating_add(weight)) {
                self.fill_main(nodes, weight);
            }
        }
        self.small.push_to(nodes, token, SMALL);
    }

    fn restore<N: Nodes>(&mut self, nodes: &mut N, token: u32) {
        self.main.push_to(nodes, token, MAIN);
    }

    /// O(1): passes over [`MOST_PASSES`] entries at most.
    fn evict<N: Nodes>(&mut self, nodes: &mut N, newcomer: Option<&Newcomer>) -> Option<u32> {
        let weight = self.weight();
        if newcomer.is_some() && !self.full {
            self.full = true;
            self.level = weight;
        }
        let most = small_share(weight);
        let mut passes = 0;
        while self.main.is_empty() || self.small.weight() >= most {
            let token = self.small.tail();
            if token == NONE {
                return None;
            }
            let (node, hash) = nodes.node_and_hash(token);
            let (hits, newer) = (node.hits(), node.links.newer);
            node.set_hits(0);
            self.small.pop(nodes, newer);
            if hits >= HITS_TO_STAY && passes < MOST_PASSES {
                passes += 1;
                self.main.push_to(nodes, token, MAIN);
                continue;
            }
            if self.fail() {
                let stale = self.main.tail();
                let node = nodes.node_mut(stale);
                let (hits, newer) = (node.hits(), node.links.newer);
                if hits == 0 {
                    self.main.pop(nodes, newer);
                    self.main.push_to(nodes, token, MAIN);
                    return Some(stale);
                }
                node.set_hits(hits - 1);
                self.main.turn(nodes);
            }
            self.ghosts.remember_among(hash, self.len());
            return Some(token);
        }
        loop {
            let token = self.main.tail();
            let node = nodes.node_mut(token);
            let (hits, newer) = (node.hits(), node.links.newer);
            if hits == 0 || passes == MOST_PASSES {
                self.main.pop(nodes, newer);
                return Some(token);
            }
            passes += 1;
            node.set_hits(hits - 1);
            self.main.turn(nodes);
        }
    }

    fn coldest_first<N: Nodes>(&self, nodes: &N, mut each: impl FnMut(u32)) {
        self.small.oldest_first(nodes, &mut each);
        self.main.oldest_first(nodes, each);
    }

    fn validate<N: Nodes>(&self, nodes: &N, len: usize, weight: usize) -> Result<(), String> {
        self.small.validate(nodes, |node| node.place == SMALL)?;
        self.main.validate(nodes, |node| node.place == MAIN)?;
        self.ghosts.validate()?;
        tally(&[&self.small, &self.main], len, weight)
    }
}
