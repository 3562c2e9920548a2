//! SIEVE: Zhang, Yang, Yue, Vigfusson and Rashmi, "SIEVE is simpler than LRU: an efficient turn-key
//! eviction algorithm for web caches", NSDI 2024.
//!
//! One queue in the order of insertion, and a hand that moves through it from the tail to the head:
//! an entry that was hit since the hand's last visit stays where it is and loses the mark, the first
//! one without a mark leaves. So newcomers, who are all at the head, are sorted quickly, and what
//! has proved itself is passed over. A hit is one relaxed store to the entry.

use std::collections::TryReserveError;

use super::{Newcomer, Nodes, Queue, drive, links::tally, shape::no_memory};
use crate::{PolicyKind, slab::NONE};

/// SIEVE (Zhang et al., NSDI 2024): a hand sifts one queue; what was hit since its last visit stays
/// in place. A hit is one relaxed store to the entry.
#[derive(Debug)]
pub struct Sieve {
    queue: Queue,
    /// Where the hand goes on, or [`NONE`] for the tail.
    hand: u32,
}

impl Sieve {
    /// Lets go of an entry, which the hand must not hold on to.
    #[inline]
    fn unlink<N: Nodes>(&mut self, nodes: &mut N, token: u32) {
        if self.hand == token {
            self.hand = self.queue.newer(nodes, token);
        }
        self.queue.unlink(nodes, token);
    }
}

impl drive::Policy for Sieve {
    no_memory!();

    fn new(_kind: PolicyKind) -> Self {
        Self { queue: Queue::default(), hand: NONE }
    }

    fn kind(&self) -> PolicyKind {
        PolicyKind::Sieve
    }

    #[inline]
    fn insert<N: Nodes>(&mut self, nodes: &mut N, token: u32, _newcomer: Newcomer) {
        self.queue.push(nodes, token);
    }

    /// Amortised O(1): an entry that is passed over has lost its mark.
    #[inline]
    fn evict<N: Nodes>(&mut self, nodes: &mut N, _newcomer: Option<&Newcomer>) -> Option<u32> {
        if self.queue.is_empty() {
            return None;
        }
        loop {
            let token = if self.hand == NONE { self.queue.tail() } else { self.hand };
            let node = nodes.node_mut(token);
            if node.hits() == 0 {
                self.hand = token;
                self.unlink(nodes, token);
                return Some(token);
            }
            node.set_hits(0);
            self.hand = self.queue.newer(nodes, token);
        }
    }

    fn remove<N: Nodes>(&mut self, nodes: &mut N, token: u32) {
        self.unlink(nodes, token);
    }

    fn restore<N: Nodes>(&mut self, nodes: &mut N, token: u32) {
        self.queue.push(nodes, token);
    }

    fn reweigh<N: Nodes>(&mut self, nodes: &N, token: u32, old: usize) {
        self.queue.reweigh(old, nodes.weight(token));
    }

    fn relocate<N: Nodes>(&mut self, nodes: &mut N, from: u32, to: u32) {
        if self.hand == from {
            self.hand = to;
        }
        self.queue.relocate(nodes, from, to);
    }

    /// In the order in which the hand would come by.
    fn coldest_first<N: Nodes>(&self, nodes: &N, mut each: impl FnMut(u32)) {
        let mut token = self.hand;
        while token != NONE {
            each(token);
            token = self.queue.newer(nodes, token);
        }
        token = self.queue.tail();
        while token != self.hand {
            each(token);
            token = self.queue.newer(nodes, token);
        }
    }

    fn validate<N: Nodes>(&self, nodes: &N, len: usize, weight: usize) -> Result<(), String> {
        self.queue.validate(nodes, |_| true)?;
        let (mut held, hand) = (self.hand == NONE, self.hand);
        self.queue.oldest_first(nodes, |token| held |= token == hand);
        if !held {
            return Err(format!("the hand is at {hand}, which is not in the queue"));
        }
        tally(&[&self.queue], len, weight)
    }
}
