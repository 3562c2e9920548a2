//! S3-FIFO: Yang, Zhang, Qiu, Yue and Vigfusson, "FIFO queues are all you need for cache
//! eviction", SOSP 2023.
//!
//! Fresh entries enter a small queue of about a tenth of the weight. Those that were hit twice by
//! the time they reach its end move on to the main queue, where an entry goes round as long as it
//! is hit; the others leave, and are remembered for a while: who comes back meanwhile goes to the
//! main queue at once. A hit is one relaxed store to the entry, and none once it counts three.
//!
//! As everywhere here, "a tenth" is of what the store holds now, because its share of the cache's
//! capacity is not fixed.

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

/// The small queue's share of the weight is one in this many.
const SMALL_SHARE: usize = 10;

/// S3-FIFO (Yang et al., SOSP 2023): a small queue filters what is used once, the main queue gives
/// second chances. A hit is one relaxed store to the entry.
#[derive(Debug, Default)]
pub struct S3Fifo {
    small: Queue,
    main: Queue,
    ghosts: Ghosts,
}

const SMALL: Place = Place::First;
const MAIN: Place = Place::Second;

impl S3Fifo {
    const fn queue(&mut self, place: Place) -> &mut Queue {
        match place {
            SMALL => &mut self.small,
            _ => &mut self.main,
        }
    }
}

impl drive::Policy for S3Fifo {
    memory_in!(ghosts: Ghosts of Ring);
    queues_by_place!();

    fn new(_kind: PolicyKind) -> Self {
        Self::default()
    }

    fn kind(&self) -> PolicyKind {
        PolicyKind::S3Fifo
    }

    #[inline]
    fn admit(&mut self, hash: u32) -> Newcomer {
        Newcomer { kind: u8::from(self.ghosts.recall(hash)) }
    }

    #[inline(always)]
    fn insert<N: Nodes>(&mut self, nodes: &mut N, token: u32, newcomer: Newcomer) {
        if newcomer.kind == 0 {
            self.small.push_to(nodes, token, SMALL);
        } else {
            self.main.push_to(nodes, token, MAIN);
        }
    }

    fn restore<N: Nodes>(&mut self, nodes: &mut N, token: u32) {
        self.main.push_to(nodes, token, MAIN);
    }

    /// Amortised O(1): an entry that is passed over has lost one of its at most three hits, or has
    /// left the small queue for good.
    #[inline(always)]
    fn evict<N: Nodes>(&mut self, nodes: &mut N, _newcomer: Option<&Newcomer>) -> Option<u32> {
        loop {
            let weight = self.small.weight() + self.main.weight();
            let from_small = !self.small.is_empty()
                && (self.main.is_empty() || self.small.weight() >= weight / SMALL_SHARE);
            if from_small {
                let token = self.small.tail();
                let (node, hash) = nodes.node_and_hash(token);
                let (stays, links) = (node.hits() >= HITS_TO_STAY, node.links);
                node.set_hits(0);
                self.small.pop(nodes, links);
                if !stays {
                    self.ghosts.remember(hash);
                    return Some(token);
                }
                self.main.push_to(nodes, token, MAIN);
            } else {
                let token = self.main.tail();
                if token == NONE {
                    return None;
                }
                let node = nodes.node_mut(token);
                let (hits, links) = (node.hits(), node.links);
                if hits == 0 {
                    self.main.pop(nodes, links);
                    return Some(token);
                }
                node.set_hits(hits - 1);
                self.main.turn(links);
            }
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
