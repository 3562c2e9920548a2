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

use nebula_memory_core::sync::atomic::{AtomicU8, Ordering::Relaxed};

use super::{
    Nodes, Policy,
    ghosts::{Ghosts, Ring},
    links::{Linked, Links, Queue},
};
use crate::slab::NONE;

/// Hits beyond these are not counted.
const MOST_HITS: u8 = 3;

/// Hits in the small queue that earn a place in the main one.
const HITS_TO_STAY: u8 = 2;

/// The small queue's share of the weight is one in this many.
const SMALL_SHARE: usize = 10;

#[derive(Debug, Default)]
pub(crate) struct S3Fifo {
    small: Queue,
    main: Queue,
    ghosts: Ghosts,
}

#[derive(Debug, Default)]
pub(crate) struct Node {
    links: Links,
    hits: AtomicU8,
    place: Place,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Place {
    #[default]
    Small,
    Main,
}

impl Node {
    /// The counter, exclusively.
    fn take_hit(&mut self) -> bool {
        let hits = self.hits.load(Relaxed);
        if hits > 0 {
            self.hits.store(hits - 1, Relaxed);
        }
        hits > 0
    }
}

impl Linked for Node {
    #[inline]
    fn links(&self) -> &Links {
        &self.links
    }

    #[inline]
    fn links_mut(&mut self) -> &mut Links {
        &mut self.links
    }
}

impl S3Fifo {
    const fn queue(&mut self, place: Place) -> &mut Queue {
        match place {
            Place::Small => &mut self.small,
            Place::Main => &mut self.main,
        }
    }

    fn push_main<N: Nodes<Node>>(&mut self, nodes: &mut N, token: u32) {
        nodes.node_mut(token).place = Place::Main;
        self.main.push(nodes, token);
    }
}

impl Policy for S3Fifo {
    type Node = Node;
    type Memory = Vec<Ring>;

    #[inline]
    fn hit(node: &Node) {
        // Two threads may count as one here, which costs nothing but a little precision; a
        // read-modify-write would cost every hit.
        let hits = node.hits.load(Relaxed);
        if hits < MOST_HITS {
            node.hits.store(hits + 1, Relaxed);
        }
    }

    #[inline]
    fn insert<N: Nodes<Node>>(&mut self, nodes: &mut N, token: u32) {
        if self.ghosts.recall(nodes.hash(token)) {
            self.push_main(nodes, token);
        } else {
            self.small.push(nodes, token);
        }
    }

    fn remove<N: Nodes<Node>>(&mut self, nodes: &mut N, token: u32) {
        let place = nodes.node(token).place;
        self.queue(place).unlink(nodes, token);
    }

    /// Amortised O(1): an entry that is passed over has lost one of its at most three hits, or has
    /// left the small queue for good.
    fn evict<N: Nodes<Node>>(&mut self, nodes: &mut N) -> Option<u32> {
        loop {
            let weight = self.small.weight() + self.main.weight();
            let from_small = !self.small.is_empty()
                && (self.main.is_empty() || self.small.weight() >= weight / SMALL_SHARE);
            let token = if from_small { self.small.tail() } else { self.main.tail() };
            if token == NONE {
                return None;
            }
            if from_small {
                self.small.unlink(nodes, token);
                let node = nodes.node_mut(token);
                if node.hits.load(Relaxed) < HITS_TO_STAY {
                    self.ghosts.remember(nodes.hash(token));
                    return Some(token);
                }
                node.hits.store(0, Relaxed);
            } else {
                self.main.unlink(nodes, token);
                if !nodes.node_mut(token).take_hit() {
                    return Some(token);
                }
            }
            self.push_main(nodes, token);
        }
    }

    fn reweigh<N: Nodes<Node>>(&mut self, nodes: &N, token: u32, old: usize) {
        let new = nodes.weight(token);
        self.queue(nodes.node(token).place).reweigh(old, new);
    }

    fn relocate<N: Nodes<Node>>(&mut self, nodes: &mut N, _from: u32, to: u32) {
        let place = nodes.node(to).place;
        self.queue(place).relocate(nodes, to);
    }

    fn wanted(&self, slots: usize) -> usize {
        self.ghosts.wanted(slots)
    }

    fn allocate(bytes: usize) -> Result<Vec<Ring>, TryReserveError> {
        Ghosts::allocate(bytes)
    }

    fn adopt(&mut self, memory: Vec<Ring>) -> Vec<Ring> {
        self.ghosts.adopt(memory)
    }

    fn bytes_of(memory: &Vec<Ring>) -> usize {
        Ghosts::bytes_of(memory)
    }

    fn bytes(&self) -> usize {
        self.ghosts.bytes()
    }

    fn validate<N: Nodes<Node>>(&self, nodes: &N, len: usize, weight: usize) -> Result<(), String> {
        self.small.validate(nodes, |node: &Node| node.place == Place::Small)?;
        self.main.validate(nodes, |node: &Node| node.place == Place::Main)?;
        self.ghosts.validate()?;
        let queued = self.small.len() + self.main.len();
        let weighed = self.small.weight() + self.main.weight();
        if (queued, weighed) == (len, weight) {
            Ok(())
        } else {
            Err(format!("{queued} entries of {weighed} bytes are queued, not {len} of {weight}"))
        }
    }
}
