//! A store without table, values and capacity of its own, for policies to drive.

use std::collections::HashMap;

use super::super::{Newcomer, Node, Nodes, Place, drive::Policy};
use crate::PolicyKind;

#[derive(Debug)]
struct Slot {
    node: Node,
    key: u32,
    weight: usize,
}

/// Slots; the key of an entry is spread to make its hash.
#[derive(Debug, Default)]
pub(crate) struct Slots(Vec<Option<Slot>>);

pub(crate) fn hash_of(key: u32) -> u32 {
    key.wrapping_mul(0x85EB_CA6B).rotate_left(13).wrapping_mul(0xC2B2_AE35)
}

impl Slots {
    fn get(&self, token: u32) -> &Slot {
        self.0[token as usize].as_ref().expect("a taken slot")
    }

    fn get_mut(&mut self, token: u32) -> &mut Slot {
        self.0[token as usize].as_mut().expect("a taken slot")
    }
}

impl Nodes for Slots {
    fn node(&self, token: u32) -> &Node {
        &self.get(token).node
    }

    fn node_mut(&mut self, token: u32) -> &mut Node {
        &mut self.get_mut(token).node
    }

    fn node_and_hash(&mut self, token: u32) -> (&mut Node, u32) {
        let slot = self.get_mut(token);
        (&mut slot.node, hash_of(slot.key))
    }

    fn weight(&self, token: u32) -> usize {
        self.get(token).weight
    }

    fn hash(&self, token: u32) -> u32 {
        hash_of(self.get(token).key)
    }
}

#[derive(Debug)]
pub(crate) struct Mock<P> {
    pub(crate) policy: P,
    slots: Slots,
    free: Vec<u32>,
    tokens: HashMap<u32, u32>,
    capacity: usize,
    held: usize,
    /// The keys of those evicted.
    pub(crate) evicted: Vec<u32>,
}

impl<P: Policy> Mock<P> {
    /// With `slots` slots, and more as they are needed.
    pub(crate) fn new(kind: PolicyKind, capacity: usize, slots: usize) -> Self {
        Self::of(P::new(kind), kind, capacity, slots)
    }

    /// As [`new`](Self::new); the policy is the one that leads in its cache.
    pub(crate) fn leading(kind: PolicyKind, capacity: usize, slots: usize) -> Self {
        Self::of(P::new(kind).fork(true), kind, capacity, slots)
    }

    fn of(policy: P, kind: PolicyKind, capacity: usize, slots: usize) -> Self {
        let mut mock = Self {
            policy,
            slots: Slots::default(),
            free: Vec::new(),
            tokens: HashMap::new(),
            capacity,
            held: 0,
            evicted: Vec::new(),
        };
        assert_eq!(mock.policy.kind(), kind);
        assert_eq!((mock.policy.bytes(), mock.policy.wanted(0)), (0, 0));
        mock.grow(slots);
        mock
    }

    pub(crate) fn grow(&mut self, slots: usize) {
        let old = self.slots.0.len();
        let new = old + slots;
        let wanted = self.policy.wanted(new);
        if wanted > 0 {
            let before = self.policy.bytes();
            let memory = self.policy.allocate(wanted).expect("memory");
            assert_eq!(P::bytes_of(&memory), wanted);
            let old = self.policy.adopt(memory);
            assert_eq!((self.policy.bytes(), P::bytes_of(&old)), (wanted, before));
            // Less than there is is of no use.
            let back = self.policy.adopt(old);
            assert_eq!((self.policy.bytes(), P::bytes_of(&back)), (wanted, before));
        }
        assert_eq!(self.policy.wanted(new), 0);
        self.slots.0.resize_with(new, || None);
        self.free.extend((old..new).rev().map(|token| u32::try_from(token).expect("a token")));
    }

    pub(crate) fn has(&self, key: u32) -> bool {
        self.tokens.contains_key(&key)
    }

    pub(crate) fn len(&self) -> usize {
        self.tokens.len()
    }

    pub(crate) fn is_pinned(&self, key: u32) -> bool {
        self.tokens.get(&key).is_some_and(|&token| self.slots.node(token).place == Place::Pinned)
    }

    fn touch(&mut self, token: u32) {
        if self.slots.node(token).place == Place::Pinned {
            return;
        }
        if self.policy.shares_hits() {
            let node = self.slots.node(token);
            if !node.hit() {
                self.policy.note(node, self.slots.hash(token));
            }
        } else {
            self.policy.touch(&mut self.slots, token);
        }
    }

    /// A request for an entry that weighs `weight` if it has to be inserted. Whether it was a hit.
    pub(crate) fn request(&mut self, key: u32, weight: usize) -> bool {
        if let Some(&token) = self.tokens.get(&key) {
            self.touch(token);
            return true;
        }
        let newcomer = self.policy.admit(hash_of(key));
        // Where one makes room for one, he may have the other's slot.
        let alike = self.held == self.capacity && self.held == self.len() && weight == 1;
        if alike && key % 3 != 0 && self.exchange(key, newcomer) {
            return false;
        }
        while self.held + weight > self.capacity && self.evict(Some(&newcomer)) {}
        self.insert(key, weight, newcomer);
        false
    }

    fn exchange(&mut self, key: u32, newcomer: Newcomer) -> bool {
        let Some((token, node)) = self.policy.exchange(&mut self.slots, newcomer) else {
            return false;
        };
        let is_known = node.is_some();
        let slot = Slot { node: node.unwrap_or_default(), key, weight: 1 };
        let old = std::mem::replace(self.slots.get_mut(token), slot);
        assert_ne!(old.node.place, Place::Pinned);
        if !is_known {
            self.policy.insert(&mut self.slots, token, newcomer);
        }
        assert_eq!(self.tokens.remove(&old.key), Some(token));
        assert_eq!(self.tokens.insert(key, token), None);
        self.evicted.push(old.key);
        true
    }

    /// Looks up a key that does not come in after all.
    pub(crate) fn admit(&mut self, key: u32) {
        self.policy.admit(hash_of(key));
    }

    pub(crate) fn insert(&mut self, key: u32, weight: usize, newcomer: Newcomer) {
        if self.free.is_empty() {
            self.grow(16);
        }
        let token = self.free.pop().expect("a free slot");
        self.slots.0[token as usize] = Some(Slot { node: Node::default(), key, weight });
        self.policy.insert(&mut self.slots, token, newcomer);
        assert_eq!(self.tokens.insert(key, token), None);
        self.held += weight;
    }

    pub(crate) fn evict(&mut self, newcomer: Option<&Newcomer>) -> bool {
        let Some(token) = self.policy.evict(&mut self.slots, newcomer) else { return false };
        assert_ne!(self.slots.node(token).place, Place::Pinned);
        let key = self.detach(token);
        self.evicted.push(key);
        true
    }

    fn detach(&mut self, token: u32) -> u32 {
        let slot = self.slots.0[token as usize].take().expect("a taken slot");
        assert_eq!(self.tokens.remove(&slot.key), Some(token));
        self.held -= slot.weight;
        self.free.push(token);
        slot.key
    }

    pub(crate) fn remove(&mut self, key: u32) {
        if let Some(&token) = self.tokens.get(&key) {
            if self.slots.node(token).place != Place::Pinned {
                self.policy.remove(&mut self.slots, token);
            }
            self.detach(token);
        }
    }

    /// Another value in the place of the old.
    pub(crate) fn replace(&mut self, key: u32, weight: usize) {
        if let Some(&token) = self.tokens.get(&key) {
            let old = std::mem::replace(&mut self.slots.get_mut(token).weight, weight);
            self.held = self.held - old + weight;
            if self.slots.node(token).place != Place::Pinned {
                self.policy.reweigh(&self.slots, token, old);
                self.policy.touch(&mut self.slots, token);
            }
        }
    }

    pub(crate) fn pin(&mut self, key: u32, pinned: bool) {
        let Some(&token) = self.tokens.get(&key) else { return };
        if (self.slots.node(token).place == Place::Pinned) == pinned {
            return;
        }
        if pinned {
            self.policy.remove(&mut self.slots, token);
            self.slots.node_mut(token).place = Place::Pinned;
        } else {
            self.slots.node_mut(token).place = Place::First;
            self.policy.restore(&mut self.slots, token);
        }
    }

    /// Moves all entries together at the front, all slots being kept.
    pub(crate) fn compact(&mut self) {
        self.free.sort_unstable_by(|a, b| b.cmp(a));
        let slots = u32::try_from(self.slots.0.len()).expect("tokens");
        for from in (0..slots).rev() {
            let Some(&to) = self.free.last() else { return };
            if to >= from {
                return;
            }
            if let Some(slot) = self.slots.0[from as usize].take() {
                self.tokens.insert(slot.key, to);
                self.slots.0[to as usize] = Some(slot);
                self.free.pop();
                self.free.insert(0, from);
                if self.slots.node(to).place != Place::Pinned {
                    self.policy.relocate(&mut self.slots, from, to);
                }
            }
        }
    }

    pub(crate) fn set_capacity(&mut self, capacity: usize) {
        self.capacity = capacity;
        while self.held > capacity && self.evict(None) {}
    }

    /// The keys of those who are not pinned, in the policy's order.
    pub(crate) fn coldest_first(&self) -> Vec<u32> {
        let mut keys = Vec::new();
        self.policy.coldest_first(&self.slots, |token| keys.push(self.slots.get(token).key));
        keys
    }

    pub(crate) fn validate(&self) {
        let (mut len, mut weight) = (0, 0);
        for slot in self.slots.0.iter().flatten() {
            if slot.node.place != Place::Pinned {
                len += 1;
                weight += slot.weight;
            }
        }
        self.policy.validate(&self.slots, len, weight).unwrap();
        let mut keys = self.coldest_first();
        keys.sort_unstable();
        let mut known: Vec<u32> = self.tokens.keys().copied().collect();
        known.retain(|&key| !self.is_pinned(key));
        known.sort_unstable();
        assert_eq!(keys, known);
    }
}
