//! LRU: the entry that has not been used for the longest time leaves.
//!
//! Exactly so: every hit moves its entry to the head of the queue, which takes the exclusive lock.

use std::collections::TryReserveError;

use super::{
    Newcomer, Node, Nodes, Queue, drive,
    links::tally,
    shape::{no_memory, oldest_leaves},
};
use crate::{PolicyKind, slab::NONE};

/// Least recently used: who has not been used for the longest time leaves first.
///
/// Every hit writes to the queue and so takes its part of the cache for itself.
#[derive(Debug, Default)]
pub struct Lru {
    queue: Queue,
}

impl drive::Policy for Lru {
    no_memory!();
    oldest_leaves!();

    fn new(_kind: PolicyKind) -> Self {
        Self::default()
    }

    fn kind(&self) -> PolicyKind {
        PolicyKind::Lru
    }

    fn shares_hits(&self) -> bool {
        false
    }

    #[inline]
    fn touch<N: Nodes>(&mut self, nodes: &mut N, token: u32) {
        self.queue.promote(nodes, token);
    }
}
