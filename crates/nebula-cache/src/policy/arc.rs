//! ARC: Megiddo and Modha, "ARC: a self-tuning, low overhead replacement cache", FAST 2003.
//!
//! Entries used once since they came are in one queue (the paper's T1), those used more often in
//! another (T2), both in the order of use. Of either it is remembered who left lately (B1, B2). Who
//! comes back and is remembered shows which of the queues was too short: the target size of the
//! first (p) moves that way, and evictions move the queues towards it.
//!
//! The paper's cache has pages of one size and a fixed capacity c. Here c is what the store holds
//! when it has to evict. Where entries differ in weight, the target and the queues are compared by
//! weight; what is remembered is counted in entries, each of which stands for the average weight of
//! those that are here. Where entries are alike, that is the paper's algorithm to the letter.

use std::collections::TryReserveError;

use super::{
    Newcomer, Nodes, Place, Queue, drive,
    history::{Cell, History},
    links::tally,
    shape::{memory_in, queues_by_place},
};
use crate::PolicyKind;

/// ARC (Megiddo and Modha, FAST 2003): balances recency and frequency by what it regrets to have
/// evicted.
///
/// Every hit writes to the queues and so takes its part of the cache for itself. Takes 20 bytes for
/// each entry, to remember as many again.
#[derive(Debug, Default)]
pub struct Arc {
    /// T1.
    once: Queue,
    /// T2.
    often: Queue,
    /// B1 and B2.
    gone: History,
    /// What `once` should weigh (p).
    target: f64,
    /// What the store held when it evicted last, or more if it has held more since (c).
    capacity: usize,
}

const ONCE: Place = Place::First;
const OFTEN: Place = Place::Second;

/// The list of those who left `once`, and of those who left `often`.
const GONE_FROM_ONCE: bool = false;
const GONE_FROM_OFTEN: bool = true;

/// What [`Newcomer::kind`] says: not remembered, or in which list.
const STRANGER: u8 = 0;
const BACK_FROM_ONCE: u8 = 1;
const BACK_FROM_OFTEN: u8 = 2;

impl Arc {
    const fn queue(&mut self, place: Place) -> &mut Queue {
        match place {
            ONCE => &mut self.once,
            _ => &mut self.often,
        }
    }

    const fn len(&self) -> usize {
        self.once.len() + self.often.len()
    }

    const fn weight(&self) -> usize {
        self.once.weight() + self.often.weight()
    }

    #[inline]
    fn push_often<N: Nodes>(&mut self, nodes: &mut N, token: u32) {
        nodes.node_mut(token).place = OFTEN;
        self.often.push(nodes, token);
    }

    /// How far the target moves when a member of a list of `own` entries comes back, and the other
    /// list has `other`.
    fn step(&self, own: usize, other: usize) -> f64 {
        let average = self.weight() as f64 / self.len().max(1) as f64;
        average * (other as f64 / own as f64).max(1.0)
    }
}

impl drive::Policy for Arc {
    memory_in!(gone: History of Cell);
    queues_by_place!();

    fn new(_kind: PolicyKind) -> Self {
        Self::default()
    }

    fn kind(&self) -> PolicyKind {
        PolicyKind::Arc
    }

    fn shares_hits(&self) -> bool {
        false
    }

    #[inline]
    fn touch<N: Nodes>(&mut self, nodes: &mut N, token: u32) {
        if nodes.node(token).place == ONCE {
            self.once.unlink(nodes, token);
            self.push_often(nodes, token);
        } else {
            self.often.promote(nodes, token);
        }
    }

    fn admit(&mut self, hash: u32) -> Newcomer {
        // The paper's sizes are those before it is taken out of its list.
        let (once, often) = (self.gone.len(GONE_FROM_ONCE), self.gone.len(GONE_FROM_OFTEN));
        let kind = match self.gone.recall(hash) {
            None => STRANGER,
            Some(GONE_FROM_ONCE) => {
                self.capacity = self.capacity.max(self.weight());
                let target = self.target + self.step(once, often);
                self.target = target.min(self.capacity as f64);
                BACK_FROM_ONCE
            }
            Some(GONE_FROM_OFTEN) => {
                self.target = (self.target - self.step(often, once)).max(0.0);
                BACK_FROM_OFTEN
            }
        };
        Newcomer { kind }
    }

    #[inline]
    fn insert<N: Nodes>(&mut self, nodes: &mut N, token: u32, newcomer: Newcomer) {
        if newcomer.kind == STRANGER {
            nodes.node_mut(token).place = ONCE;
            self.once.push(nodes, token);
        } else {
            self.push_often(nodes, token);
        }
    }

    /// Amortised O(1): what is forgotten had to be remembered first.
    fn evict<N: Nodes>(&mut self, nodes: &mut N, newcomer: Option<&Newcomer>) -> Option<u32> {
        let len = self.len();
        if len == 0 {
            return None;
        }
        self.capacity = self.weight();
        self.target = self.target.min(self.capacity as f64);
        let kind = newcomer.map_or(STRANGER, |newcomer| newcomer.kind);

        let once = self.once.weight() as f64;
        let longer = once > self.target || (kind == BACK_FROM_OFTEN && once >= self.target);
        let from_once = !self.once.is_empty() && (longer || self.often.is_empty());
        let token = if from_once { self.once.tail() } else { self.often.tail() };

        // Both lists of the paper's L1 together are no longer than c when the newcomer is in (if
        // all are in T1, nobody is remembered), and all four no longer than 2c.
        let most = if kind == STRANGER { len - 1 } else { len };
        let full = self.once.len() > most;
        while self.once.len() + self.gone.len(GONE_FROM_ONCE) > most
            && self.gone.forget(GONE_FROM_ONCE)
        {}
        if !full {
            while self.gone.len(GONE_FROM_ONCE) + self.gone.len(GONE_FROM_OFTEN) >= len
                && (self.gone.forget(GONE_FROM_OFTEN) || self.gone.forget(GONE_FROM_ONCE))
            {
            }
            let list = if from_once { GONE_FROM_ONCE } else { GONE_FROM_OFTEN };
            self.gone.remember(list, nodes.hash(token));
        }
        let queue = if from_once { &mut self.once } else { &mut self.often };
        queue.unlink(nodes, token);
        Some(token)
    }

    fn restore<N: Nodes>(&mut self, nodes: &mut N, token: u32) {
        self.push_often(nodes, token);
    }

    fn coldest_first<N: Nodes>(&self, nodes: &N, mut each: impl FnMut(u32)) {
        self.once.oldest_first(nodes, &mut each);
        self.often.oldest_first(nodes, each);
    }

    fn validate<N: Nodes>(&self, nodes: &N, len: usize, weight: usize) -> Result<(), String> {
        self.once.validate(nodes, |node| node.place == ONCE)?;
        self.often.validate(nodes, |node| node.place == OFTEN)?;
        self.gone.validate()?;
        if !(0.0..=self.capacity as f64).contains(&self.target) {
            return Err(format!("the target {} is not within the capacity", self.target));
        }
        tally(&[&self.once, &self.often], len, weight)
    }
}
