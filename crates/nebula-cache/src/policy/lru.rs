//! LRU: the entry that has not been used for the longest time leaves.
//!
//! Exactly so: every hit moves its entry to the head of the queue, which takes the exclusive lock.

use std::collections::TryReserveError;

use super::{Newcomer, Nodes, Queue, drive, links::tally};
use crate::{PolicyKind, slab::NONE};

/// Least recently used: who has not been used for the longest time leaves first.
///
/// Every hit writes to the queue and so takes its part of the cache for itself.
#[derive(Debug, Default)]
pub struct Lru {
    queue: Queue,
}

impl drive::Policy for Lru {
    type Memory = ();

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

    #[inline]
    fn insert<N: Nodes>(&mut self, nodes: &mut N, token: u32, _newcomer: Newcomer) {
        self.queue.push(nodes, token);
    }

    #[inline]
    fn evict<N: Nodes>(&mut self, nodes: &mut N, _newcomer: Option<&Newcomer>) -> Option<u32> {
        let token = self.queue.tail();
        if token == NONE {
            return None;
        }
        self.queue.unlink(nodes, token);
        Some(token)
    }

    fn remove<N: Nodes>(&mut self, nodes: &mut N, token: u32) {
        self.queue.unlink(nodes, token);
    }

    fn restore<N: Nodes>(&mut self, nodes: &mut N, token: u32) {
        self.queue.push(nodes, token);
    }

    fn reweigh<N: Nodes>(&mut self, nodes: &N, token: u32, old: usize) {
        self.queue.reweigh(old, nodes.weight(token));
    }

    fn relocate<N: Nodes>(&mut self, nodes: &mut N, _from: u32, to: u32) {
        self.queue.relocate(nodes, to);
    }

    fn allocate(&self, _bytes: usize) -> Result<(), TryReserveError> {
        Ok(())
    }

    fn adopt(&mut self, _memory: ()) {}

    fn bytes_of(_memory: &()) -> usize {
        0
    }

    fn coldest_first<N: Nodes>(&self, nodes: &N, each: impl FnMut(u32)) {
        self.queue.oldest_first(nodes, each);
    }

    fn validate<N: Nodes>(&self, nodes: &N, len: usize, weight: usize) -> Result<(), String> {
        self.queue.validate(nodes, |_| true)?;
        tally(&[&self.queue], len, weight)
    }
}
