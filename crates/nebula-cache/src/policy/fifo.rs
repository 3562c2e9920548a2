//! FIFO: entries leave in the order in which they came.
//!
//! The oldest policy there is, and the baseline of every paper on the subject. Hits change nothing.

use std::collections::TryReserveError;

use super::{
    Newcomer, Node, Nodes, Queue, drive,
    links::tally,
    shape::{no_memory, oldest_leaves},
};
use crate::{PolicyKind, slab::NONE};

/// First in, first out: who came first leaves first, read or not.
///
/// Replacing a value does not make its entry any younger; pinning and unpinning it does.
#[derive(Debug, Default)]
pub struct Fifo {
    queue: Queue,
}

impl drive::Policy for Fifo {
    no_memory!();
    oldest_leaves!();

    fn new(_kind: PolicyKind) -> Self {
        Self::default()
    }

    fn kind(&self) -> PolicyKind {
        PolicyKind::Fifo
    }

    #[inline]
    fn touch<N: Nodes>(&mut self, _nodes: &mut N, _token: u32) {}
}
