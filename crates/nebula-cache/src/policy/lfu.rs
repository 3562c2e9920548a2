//! LFU with dynamic ageing (LFU-DA): Arlitt, Cherkasova, Dilley, Friedrich and Jin, "Evaluating
//! content management techniques for web proxy caches", 1999.
//!
//! An entry's key is how often it was used plus the cache's age at its last use; the one with the
//! smallest key leaves, of several the one used the longest time ago, and its key is the cache's new
//! age. So what was popular once is overtaken by what is popular now.
//!
//! Uses are counted up to 255. Then every key is within 255 of the age, which makes for 256 classes
//! in a ring: the queue is in the order of keys, and of every class its newest member and one bit
//! are known. Every operation is O(1).

use std::collections::TryReserveError;

use super::{Newcomer, Nodes, Queue, drive, links::tally};
use crate::{PolicyKind, slab::NONE};

/// Classes, as many as a byte tells apart.
const CLASSES: usize = 1 << u8::BITS;

/// Least frequently used, with dynamic ageing (LFU-DA, Arlitt et al., 1999).
///
/// Every hit writes to the queue and so takes its part of the cache for itself. Takes a kilobyte for
/// each part of the cache.
#[derive(Debug, Default)]
pub struct Lfu {
    /// In the order of keys, the smallest at the tail.
    queue: Queue,
    /// The low byte of the key of whoever was evicted last. No member has a smaller key.
    age: u8,
    /// The newest member of every class, or [`NONE`]; a class is the low byte of a key.
    newest: Vec<u32>,
    /// A bit for every class that has members.
    taken: Taken,
}

/// A set of classes.
#[derive(Debug, Default)]
struct Taken([u64; CLASSES / 64]);

impl Taken {
    const fn word(class: u8) -> usize {
        class as usize / 64
    }

    #[inline]
    const fn set(&mut self, class: u8, taken: bool) {
        let bit = 1 << (class % 64);
        if taken {
            self.0[Self::word(class)] |= bit;
        } else {
            self.0[Self::word(class)] &= !bit;
        }
    }

    const fn has(&self, class: u8) -> bool {
        self.0[Self::word(class)] >> (class % 64) & 1 == 1
    }

    /// The first class that is taken, going down from `class` round the ring.
    #[inline]
    fn down_from(&self, class: u8) -> Option<u8> {
        let up_to = u64::MAX >> (63 - class % 64);
        let words = self.0.len();
        for step in 0..=words {
            let index = (Self::word(class) + words - step) % words;
            let mask = match step {
                0 => up_to,
                step if step == words => !up_to,
                _ => u64::MAX,
            };
            let word = self.0[index] & mask;
            if word != 0 {
                #[allow(clippy::cast_possible_truncation, reason = "there are 256 classes")]
                return Some((index * 64 + word.ilog2() as usize) as u8);
            }
        }
        None
    }
}

impl Lfu {
    /// Puts an entry at its place in the queue, as its newest use.
    #[inline]
    fn place<N: Nodes>(&mut self, nodes: &mut N, token: u32) {
        let node = nodes.node_mut(token);
        let class = self.age.wrapping_add(node.hits());
        node.class = class;
        let older = match self.taken.down_from(class) {
            // Not beyond the age, where the largest keys are.
            Some(found) if class.wrapping_sub(found) <= class.wrapping_sub(self.age) => {
                self.newest[usize::from(found)]
            }
            _ => NONE,
        };
        self.queue.push_after(nodes, token, older);
        if let Some(newest) = self.newest.get_mut(usize::from(class)) {
            *newest = token;
            self.taken.set(class, true);
        }
    }

    #[inline]
    fn unlink<N: Nodes>(&mut self, nodes: &mut N, token: u32) {
        let class = nodes.node(token).class;
        if let Some(newest) = self.newest.get_mut(usize::from(class)) {
            if *newest == token {
                let older = self.queue.older(nodes, token);
                if older != NONE && nodes.node(older).class == class {
                    *newest = older;
                } else {
                    *newest = NONE;
                    self.taken.set(class, false);
                }
            }
        }
        self.queue.unlink(nodes, token);
    }
}

impl drive::Policy for Lfu {
    type Memory = Vec<u32>;

    fn new(_kind: PolicyKind) -> Self {
        Self::default()
    }

    fn kind(&self) -> PolicyKind {
        PolicyKind::Lfu
    }

    fn shares_hits(&self) -> bool {
        false
    }

    #[inline]
    fn touch<N: Nodes>(&mut self, nodes: &mut N, token: u32) {
        self.unlink(nodes, token);
        let node = nodes.node_mut(token);
        node.set_hits(node.hits().saturating_add(1));
        self.place(nodes, token);
    }

    #[inline]
    fn insert<N: Nodes>(&mut self, nodes: &mut N, token: u32, _newcomer: Newcomer) {
        nodes.node_mut(token).set_hits(1);
        self.place(nodes, token);
    }

    #[inline]
    fn evict<N: Nodes>(&mut self, nodes: &mut N, _newcomer: Option<&Newcomer>) -> Option<u32> {
        let token = self.queue.tail();
        if token == NONE {
            return None;
        }
        self.age = nodes.node(token).class;
        self.unlink(nodes, token);
        Some(token)
    }

    fn remove<N: Nodes>(&mut self, nodes: &mut N, token: u32) {
        self.unlink(nodes, token);
    }

    /// With the uses it had, as if just used.
    fn restore<N: Nodes>(&mut self, nodes: &mut N, token: u32) {
        self.place(nodes, token);
    }

    fn reweigh<N: Nodes>(&mut self, nodes: &N, token: u32, old: usize) {
        self.queue.reweigh(old, nodes.weight(token));
    }

    fn relocate<N: Nodes>(&mut self, nodes: &mut N, from: u32, to: u32) {
        let class = nodes.node(to).class;
        if let Some(newest) = self.newest.get_mut(usize::from(class)) {
            if *newest == from {
                *newest = to;
            }
        }
        self.queue.relocate(nodes, from, to);
    }

    fn wanted(&self, slots: usize) -> usize {
        if slots > 0 && self.newest.is_empty() { CLASSES * size_of::<u32>() } else { 0 }
    }

    fn allocate(&self, bytes: usize) -> Result<Vec<u32>, TryReserveError> {
        let mut newest = Vec::new();
        newest.try_reserve_exact(bytes / size_of::<u32>())?;
        newest.resize(bytes / size_of::<u32>(), NONE);
        Ok(newest)
    }

    fn adopt(&mut self, memory: Vec<u32>) -> Vec<u32> {
        let needed = self.newest.is_empty() && memory.len() == CLASSES;
        if needed { std::mem::replace(&mut self.newest, memory) } else { memory }
    }

    fn bytes_of(memory: &Vec<u32>) -> usize {
        memory.capacity() * size_of::<u32>()
    }

    fn bytes(&self) -> usize {
        Self::bytes_of(&self.newest)
    }

    fn coldest_first<N: Nodes>(&self, nodes: &N, each: impl FnMut(u32)) {
        self.queue.oldest_first(nodes, each);
    }

    fn validate<N: Nodes>(&self, nodes: &N, len: usize, weight: usize) -> Result<(), String> {
        self.queue.validate(nodes, |_| true)?;
        let mut newest = vec![NONE; self.newest.len()];
        let (mut least, mut fault) = (0, None);
        self.queue.oldest_first(nodes, |token| {
            let class = nodes.node(token).class;
            let key = class.wrapping_sub(self.age);
            if key < least {
                fault = Some(format!("entry {token} of key {key} comes after one of {least}"));
            }
            least = key;
            match newest.get_mut(usize::from(class)) {
                Some(newest) => *newest = token,
                None => fault = Some(format!("entry {token} came in before the classes")),
            }
        });
        if let Some(fault) = fault {
            return Err(fault);
        }
        for (class, &token) in (0..=u8::MAX).zip(&newest) {
            let known = self.newest[usize::from(class)];
            if known != token || self.taken.has(class) != (token != NONE) {
                return Err(format!("the newest of class {class} is {token}, not {known}"));
            }
        }
        tally(&[&self.queue], len, weight)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_class_down_is_found_across_words_and_round_the_ring() {
        for at in [0, 1, 63, 64, 127, 128, 200, 255_u8] {
            let mut taken = Taken::default();
            assert_eq!(taken.down_from(at), None);
            taken.set(at, true);
            for from in 0..=u8::MAX {
                assert_eq!(taken.down_from(from), Some(at));
            }
            let other = at.wrapping_sub(70);
            taken.set(other, true);
            assert_eq!(taken.down_from(at), Some(at));
            assert_eq!(taken.down_from(at.wrapping_sub(1)), Some(other));
            taken.set(at, false);
            assert_eq!((taken.down_from(at), taken.has(at)), (Some(other), false));
        }
    }
}
