//! A doubly linked list through the nodes of entries: the queue that policies are made of.

use super::{Node, Nodes, Place};
use crate::slab::NONE;

/// The neighbours of an entry in its queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Links {
    /// Towards the head: inserted later.
    pub(crate) newer: u32,
    /// Towards the tail: inserted earlier.
    older: u32,
}

impl Default for Links {
    fn default() -> Self {
        Self { newer: NONE, older: NONE }
    }
}

/// A queue of entries, with the sum of their weights.
#[derive(Debug)]
pub(crate) struct Queue {
    head: u32,
    tail: u32,
    len: u32,
    weight: usize,
}

impl Default for Queue {
    fn default() -> Self {
        Self { head: NONE, tail: NONE, len: 0, weight: 0 }
    }
}

impl Queue {
    pub(crate) const fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(crate) const fn len(&self) -> usize {
        self.len as usize
    }

    pub(crate) const fn weight(&self) -> usize {
        self.weight
    }

    /// The entry that was inserted first, or [`NONE`].
    pub(crate) const fn tail(&self) -> u32 {
        self.tail
    }

    /// The next older entry after a member, or [`NONE`].
    pub(crate) fn older<N: Nodes>(nodes: &N, token: u32) -> u32 {
        nodes.node(token).links.older
    }

    /// The next newer entry after a member, or [`NONE`].
    pub(crate) fn newer<N: Nodes>(nodes: &N, token: u32) -> u32 {
        nodes.node(token).links.newer
    }

    #[inline]
    pub(crate) fn push<N: Nodes>(&mut self, nodes: &mut N, token: u32) {
        nodes.node_mut(token).links = Links { newer: NONE, older: self.head };
        self.lead(nodes, token);
    }

    /// As [`push`](Self::push), for an entry that comes to another `place` by it.
    #[inline(always)]
    pub(crate) fn push_to<N: Nodes>(&mut self, nodes: &mut N, token: u32, place: Place) {
        let node = nodes.node_mut(token);
        node.links = Links { newer: NONE, older: self.head };
        node.place = place;
        self.lead(nodes, token);
    }

    /// Makes an entry that is linked to the head the new head.
    #[inline]
    fn lead<N: Nodes>(&mut self, nodes: &mut N, token: u32) {
        match self.head {
            NONE => self.tail = token,
            head => nodes.node_mut(head).links.newer = token,
        }
        self.head = token;
        self.len += 1;
        self.weight += nodes.weight(token);
    }

    /// Takes an entry in as the next newer one after the member `older`, or at the tail if that is
    /// [`NONE`].
    #[inline]
    pub(crate) fn push_after<N: Nodes>(&mut self, nodes: &mut N, token: u32, older: u32) {
        let newer = match older {
            NONE => std::mem::replace(&mut self.tail, token),
            older => std::mem::replace(&mut nodes.node_mut(older).links.newer, token),
        };
        match newer {
            NONE => self.head = token,
            newer => nodes.node_mut(newer).links.older = token,
        }
        nodes.node_mut(token).links = Links { newer, older };
        self.len += 1;
        self.weight += nodes.weight(token);
    }

    /// Moves a member to the head.
    #[inline]
    pub(crate) fn promote<N: Nodes>(&mut self, nodes: &mut N, token: u32) {
        if token != self.head {
            self.unlink(nodes, token);
            self.push(nodes, token);
        }
    }

    #[inline]
    pub(crate) fn unlink<N: Nodes>(&mut self, nodes: &mut N, token: u32) {
        let Links { newer, older } = nodes.node(token).links;
        match newer {
            NONE => self.head = older,
            newer => nodes.node_mut(newer).links.older = older,
        }
        match older {
            NONE => self.tail = newer,
            older => nodes.node_mut(older).links.newer = newer,
        }
        self.len -= 1;
        self.weight -= nodes.weight(token);
    }

    /// Takes out the member at the tail, whose next newer neighbour (or [`NONE`]) is known.
    #[inline(always)]
    pub(crate) fn pop<N: Nodes>(&mut self, nodes: &mut N, newer: u32) {
        self.weight -= nodes.weight(self.tail);
        self.tail = newer;
        match newer {
            NONE => self.head = NONE,
            newer => nodes.node_mut(newer).links.older = NONE,
        }
        self.len -= 1;
    }

    /// Moves the member at the tail to the head.
    #[inline]
    pub(crate) fn turn<N: Nodes>(&mut self, nodes: &mut N) {
        let token = self.tail;
        if token != self.head {
            let next = nodes.node(token).links.newer;
            nodes.node_mut(next).links.older = NONE;
            self.tail = next;
            nodes.node_mut(token).links = Links { newer: NONE, older: self.head };
            nodes.node_mut(self.head).links.newer = token;
            self.head = token;
        }
    }

    /// The weight of a member changed from `old` to `new`.
    pub(crate) const fn reweigh(&mut self, old: usize, new: usize) {
        self.weight = self.weight - old + new;
    }

    /// A member, already in its new slot `to` with its links, left the slot that its neighbours
    /// know.
    pub(crate) fn relocate<N: Nodes>(&mut self, nodes: &mut N, to: u32) {
        let Links { newer, older } = nodes.node(to).links;
        match newer {
            NONE => self.head = to,
            newer => nodes.node_mut(newer).links.older = to,
        }
        match older {
            NONE => self.tail = to,
            older => nodes.node_mut(older).links.newer = to,
        }
    }

    /// Calls `each` with every member, the oldest first.
    pub(crate) fn oldest_first<N: Nodes>(&self, nodes: &N, mut each: impl FnMut(u32)) {
        let mut token = self.tail;
        while token != NONE {
            each(token);
            token = Self::newer(nodes, token);
        }
    }

    /// Checks links, length and weight, and that `member` holds for every member.
    pub(crate) fn validate<N: Nodes>(
        &self,
        nodes: &N,
        member: impl Fn(&Node) -> bool,
    ) -> Result<(), String> {
        let (mut len, mut weight, mut newer, mut token) = (0, 0, NONE, self.head);
        while token != NONE {
            let node = nodes.node(token);
            if node.links.newer != newer {
                return Err(format!("entry {token} does not know its newer neighbour {newer}"));
            }
            if !member(node) {
                return Err(format!("entry {token} is in a queue that it does not belong to"));
            }
            len += 1;
            if len > self.len {
                return Err("a queue is longer than it counts".to_owned());
            }
            weight += nodes.weight(token);
            newer = token;
            token = node.links.older;
        }
        if (self.tail, self.len, self.weight) == (newer, len, weight) {
            Ok(())
        } else {
            Err(format!("a queue is off: {self:?}; walked {len} entries, {weight} bytes"))
        }
    }
}

/// Checks that `queues` together have `len` entries weighing `weight`.
pub(crate) fn tally(queues: &[&Queue], len: usize, weight: usize) -> Result<(), String> {
    let queued: usize = queues.iter().map(|queue| queue.len()).sum();
    let weighed: usize = queues.iter().map(|queue| queue.weight()).sum();
    if (queued, weighed) == (len, weight) {
        Ok(())
    } else {
        Err(format!("{queued} entries weighing {weighed} are queued, not {len} of {weight}"))
    }
}
