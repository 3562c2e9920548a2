//! FIFO: entries leave in the order in which they came.
//!
//! The oldest policy there is, and the baseline of every paper on the subject. Hits change nothing.

use std::collections::TryReserveError;

use super::{Newcomer, Nodes, Queue, drive, links::tally};
use crate::{PolicyKind, slab::NONE};

/// First in, first out: who came first leaves first, read or not.
///
/// Replacing a value does not make its entry any younger; pinning and unpinning it does.
#[derive(Debug, Default)]
pub struct Fifo {
    queue: Queue,
}

impl drive::Policy for Fifo {
    type Memory = ();

    fn new(_kind: PolicyKind) -> Self {
        Self::default()
    }

    fn kind(&self) -> PolicyKind {
        PolicyKind::Fifo
    }

    #[inline]
    fn touch<N: Nodes>(&mut self, _nodes: &mut N, _token: u32) {}

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
