//! Which entry goes next: the trait that drives the store, and the policies, one a file.
//!
//! A policy keeps its state in the entries themselves (a [`Node`] each) and says which entry to
//! evict; the store owns the entries, the table and the weights, and asks.

mod any;
mod arc;
mod fifo;
mod ghosts;
mod history;
mod lfu;
mod links;
mod lru;
mod s3_fifo;
mod shape;
mod sieve;
mod sketch;
mod steady;
#[cfg(test)]
pub(crate) mod tests;
mod w_tiny_lfu;

use std::{collections::TryReserveError, fmt::Debug};

use nebula_memory_core::sync::atomic::{AtomicU8, Ordering::Relaxed};

pub use any::AnyPolicy;
pub use arc::Arc;
pub use fifo::Fifo;
pub use lfu::Lfu;
pub(crate) use links::{Links, Queue};
pub use lru::Lru;
pub use s3_fifo::S3Fifo;
pub use sieve::Sieve;
pub use steady::Steady;
pub use w_tiny_lfu::WTinyLfu;

/// How an eviction policy drives the store. Every policy of this crate is one; there are no others.
pub trait Policy: drive::Policy {}

impl<P: drive::Policy> Policy for P {}

/// More hits than these are not counted by [`Node::hit`].
pub(crate) const MOST_HITS: u8 = 3;

/// What every entry keeps for its policy.
#[derive(Debug, Default)]
pub struct Node {
    pub(crate) links: Links,
    /// Hits since the policy looked last, or the entry's frequency, or whatever else the policy
    /// counts. Written by readers, many at once.
    hits: AtomicU8,
    pub(crate) place: Place,
    /// A number of the policy's own, which takes what would be padding otherwise.
    pub(crate) class: u8,
}

/// In which of its policy's queues an entry is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Place {
    #[default]
    First,
    Second,
    Third,
    /// In none: it is pinned, and the policy does not know it.
    Pinned,
}

impl Node {
    /// Counts a hit, up to [`MOST_HITS`]. Called under a shared lock, by many threads at once.
    /// If there is more in that byte, this is false, nothing is changed, and the policy has to be
    /// told of the hit, by [`note`](drive::Policy::note).
    ///
    /// Two threads may count as one, which costs nothing but a little precision; a
    /// read-modify-write would cost every hit.
    #[inline]
    pub(crate) fn hit(&self) -> bool {
        let hits = self.hits.load(Relaxed);
        if hits == MOST_HITS {
            return true;
        }
        if hits < MOST_HITS {
            self.hits.store(hits + 1, Relaxed);
        }
        hits < MOST_HITS
    }

    /// Puts down as many hits, under a shared lock.
    #[inline]
    pub(crate) fn count(&self, hits: u8) {
        self.hits.store(hits, Relaxed);
    }

    #[inline]
    pub(crate) fn hits(&self) -> u8 {
        self.hits.load(Relaxed)
    }

    #[inline]
    pub(crate) fn set_hits(&mut self, hits: u8) {
        // Exclusive: a plain store.
        self.hits.store(hits, Relaxed);
    }
}

/// The entries as a policy sees them: by token, each with its node, its weight and its hash.
pub trait Nodes {
    fn node(&self, token: u32) -> &Node;
    fn node_mut(&mut self, token: u32) -> &mut Node;
    /// The node and the hash of an entry, looked up once.
    fn node_and_hash(&mut self, token: u32) -> (&mut Node, u32);
    /// What the entry weighs among others: one where all are alike.
    fn weight(&self, token: u32) -> usize;
    fn hash(&self, token: u32) -> u32;
}

/// What a policy knows of an entry that is about to come in.
#[derive(Clone, Copy, Debug, Default)]
pub struct Newcomer {
    /// What the policy's memory of past entries says of it; a number of the policy's own.
    pub(crate) kind: u8,
}

pub(crate) mod drive {
    use super::{Debug, Newcomer, Node, Nodes, TryReserveError};

    /// Decides which entry a store evicts.
    ///
    /// All methods run under the store's exclusive lock and run no user code, except that those
    /// that take `&self` may run under a shared one. For a new entry they are called in the order
    /// [`admit`](Self::admit), [`evict`](Self::evict) (as often as room is needed, perhaps never),
    /// [`insert`](Self::insert); other calls may come between, because the lock may be released
    /// between these steps, and the entry may not be inserted after all. Where one leaves for one,
    /// [`exchange`](Self::exchange) takes the place of evicting, and perhaps of inserting.
    pub trait Policy: Debug + Send + Sync + Sized + 'static {
        /// Memory beyond the nodes (of past entries, for example).
        type Memory: Send + Sync;

        /// The policy that `kind` names, if it can be one of several; otherwise itself.
        fn new(kind: crate::PolicyKind) -> Self;

        /// An empty one for a shard of the cache that this one is of. One of them leads, which is to
        /// say that it may do for the others what need not be done by each.
        fn fork(&self, _leads: bool) -> Self {
            Self::new(self.kind())
        }

        /// Whether it leads.
        fn leads(&self) -> bool {
            false
        }

        /// Bytes that all those of a cache have allocated together, whatever they hold.
        fn shared_bytes(&self) -> usize {
            0
        }

        /// Which one it is.
        fn kind(&self) -> crate::PolicyKind;

        /// Whether a hit is [`Node::hit`](super::Node::hit) and nothing more, so that readers can share a lock.
        /// Otherwise every hit is a [`touch`](Self::touch) under the exclusive lock.
        #[inline]
        fn shares_hits(&self) -> bool {
            true
        }

        /// Notes that an entry was read, under the exclusive lock.
        #[inline]
        fn touch<N: Nodes>(&mut self, nodes: &mut N, token: u32) {
            nodes.node(token).hit();
        }

        /// Notes a hit that [`Node::hit`](super::Node::hit) did not count, under a shared lock.
        fn note(&self, _node: &Node, _hash: u32) {}

        /// Looks up what is remembered of an entry that is about to come in, and forgets it.
        fn admit(&mut self, _hash: u32) -> Newcomer {
            Newcomer::default()
        }

        /// Chooses the entry to evict and lets go of it; `None` if there are no entries. `newcomer`
        /// is who needs the room, if it is a new entry that does.
        fn evict<N: Nodes>(&mut self, nodes: &mut N, newcomer: Option<&Newcomer>) -> Option<u32>;

        /// As [`evict`](Self::evict) for a newcomer who gets the slot of the one who leaves and weighs
        /// as much. If the queue of the one is the other's too, it may just have been turned: then the
        /// newcomer is in already, his node is the one returned, and he is not
        /// [inserted](Self::insert) any more.
        #[inline]
        fn exchange<N: Nodes>(
            &mut self,
            nodes: &mut N,
            newcomer: Newcomer,
        ) -> Option<(u32, Option<Node>)> {
            Some((self.evict(nodes, Some(&newcomer))?, None))
        }

        /// Takes in a fresh entry, whose node is new. What [`wanted`](Self::wanted) asked for when
        /// there were no slots yet has been adopted by then; what it asked for since, perhaps not.
        fn insert<N: Nodes>(&mut self, nodes: &mut N, token: u32, newcomer: Newcomer);

        /// Lets go of an entry that leaves for other reasons than eviction.
        fn remove<N: Nodes>(&mut self, nodes: &mut N, token: u32);

        /// Takes in an entry that [`remove`](Self::remove) let go of and that was kept in use
        /// meanwhile.
        fn restore<N: Nodes>(&mut self, nodes: &mut N, token: u32);

        /// Notes that the weight of an entry is no longer `old` (the new one is in place).
        fn reweigh<N: Nodes>(&mut self, nodes: &N, token: u32, old: usize);

        /// Notes that the entry of slot `from`, node and all, is in slot `to` now.
        fn relocate<N: Nodes>(&mut self, nodes: &mut N, from: u32, to: u32);

        /// Bytes of memory wanted for a store of `slots` slots, or zero if what there is suffices.
        fn wanted(&self, _slots: usize) -> usize {
            0
        }

        /// Allocates what [`wanted`](Self::wanted) said.
        fn allocate(&self, bytes: usize) -> Result<Self::Memory, TryReserveError>;

        /// Takes over more memory, keeping what the old one holds; returns the one not used any
        /// more.
        fn adopt(&mut self, memory: Self::Memory) -> Self::Memory;

        /// Bytes of a piece of memory.
        fn bytes_of(memory: &Self::Memory) -> usize;

        /// Bytes allocated.
        fn bytes(&self) -> usize {
            0
        }

        /// Calls `each` with entries in an order in which the coldest come roughly first, pinned
        /// ones left out.
        fn coldest_first<N: Nodes>(&self, nodes: &N, each: impl FnMut(u32));

        /// Checks its structure against the entries that are not pinned, of which there are `len`,
        /// weighing `weight`.
        fn validate<N: Nodes>(&self, nodes: &N, len: usize, weight: usize) -> Result<(), String>;
    }
}
