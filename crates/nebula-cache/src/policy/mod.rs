//! Which entry goes next: the trait that drives the store, and the policies, one a file.
//!
//! A policy keeps its state in the entries themselves (a [`Policy::Node`] each) and says which entry
//! to evict; the store owns the entries, the table and the weights, and asks.

mod ghosts;
mod links;
mod s3_fifo;

use std::{collections::TryReserveError, fmt::Debug};

pub(crate) use s3_fifo::S3Fifo;

/// The entries as a policy sees them: by token, each with its node, its weight and its hash.
pub(crate) trait Nodes<N> {
    fn node(&self, token: u32) -> &N;
    fn node_mut(&mut self, token: u32) -> &mut N;
    fn weight(&self, token: u32) -> usize;
    fn hash(&self, token: u32) -> u32;
}

/// Decides which entry a store evicts.
///
/// All methods but [`hit`](Self::hit) run under the store's exclusive lock and run no user code.
pub(crate) trait Policy: Debug + Default {
    /// What the policy keeps in each entry.
    type Node: Debug + Default;

    /// Memory beyond the nodes (the memory of past entries, for example), as one allocation.
    type Memory;

    /// Notes that an entry was read. Called under a shared lock, by many threads at once.
    fn hit(node: &Self::Node);

    /// Takes in a fresh entry, whose node is new.
    fn insert<N: Nodes<Self::Node>>(&mut self, nodes: &mut N, token: u32);

    /// Lets go of an entry that leaves for other reasons than eviction.
    fn remove<N: Nodes<Self::Node>>(&mut self, nodes: &mut N, token: u32);

    /// Chooses the entry to evict and lets go of it; `None` if there are no entries.
    fn evict<N: Nodes<Self::Node>>(&mut self, nodes: &mut N) -> Option<u32>;

    /// Notes that the weight of an entry is no longer `old` (the new one is in place).
    fn reweigh<N: Nodes<Self::Node>>(&mut self, nodes: &N, token: u32, old: usize);

    /// Notes that the entry of slot `from`, node and all, is in slot `to` now.
    fn relocate<N: Nodes<Self::Node>>(&mut self, nodes: &mut N, from: u32, to: u32);

    /// Bytes of memory wanted for a store of `slots` slots, or zero if what there is suffices.
    fn wanted(&self, slots: usize) -> usize;

    /// Allocates what [`wanted`](Self::wanted) said.
    fn allocate(bytes: usize) -> Result<Self::Memory, TryReserveError>;

    /// Takes over more memory, keeping what the old one holds; returns the one not used any more.
    fn adopt(&mut self, memory: Self::Memory) -> Self::Memory;

    /// Bytes of a piece of memory.
    fn bytes_of(memory: &Self::Memory) -> usize;

    /// Bytes allocated.
    fn bytes(&self) -> usize;

    /// Checks its structure against the entries, of which there are `len`, weighing `weight`.
    fn validate<N: Nodes<Self::Node>>(
        &self,
        nodes: &N,
        len: usize,
        weight: usize,
    ) -> Result<(), String>;
}
