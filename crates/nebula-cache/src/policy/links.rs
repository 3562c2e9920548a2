//! A ring through the nodes of entries: the queue that policies are made of.

use super::{Node, Nodes, Place};
use crate::slab::NONE;

/// The neighbours of an entry in its queue.
///
/// A queue is a ring: the next newer one after the head is the tail. So the tail becomes the head by
/// a turn of the ring, in which nobody's neighbours change; and whoever comes in at the head in the
/// slot of the one who leaves from the tail has nobody to make himself known to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Links {
    /// Towards the head: inserted later.
    newer: u32,
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
    pub(crate) fn older<N: Nodes>(&self, nodes: &N, token: u32) -> u32 {
        if token == self.tail { NONE } else { nodes.node(token).links.older }
    }

    /// The next newer entry after a member, or [`NONE`].
    pub(crate) fn newer<N: Nodes>(&self, nodes: &N, token: u32) -> u32 {
        if token == self.head { NONE } else { nodes.node(token).links.newer }
    }

    #[inline]
    pub(crate) fn push<N: Nodes>(&mut self, nodes: &mut N, token: u32) {
        let place = nodes.node(token).place;
        self.push_to(nodes, token, place);
    }

    /// As [`push`](Self::push), for an entry that comes to another `place` by it.
    #[inline(always)]
    pub(crate) fn push_to<N: Nodes>(&mut self, nodes: &mut N, token: u32, place: Place) {
        self.close(nodes, token, place, self.head, self.tail);
        self.head = token;
        if self.tail == NONE {
            self.tail = token;
        }
    }

    /// Takes an entry in as the next newer one after the member `older`, or at the tail if that is
    /// [`NONE`].
    #[inline]
    pub(crate) fn push_after<N: Nodes>(&mut self, nodes: &mut N, token: u32, older: u32) {
        let place = nodes.node(token).place;
        let before = if older == NONE { self.head } else { older };
        let after = if before == NONE { NONE } else { nodes.node(before).links.newer };
        self.close(nodes, token, place, before, after);
        if older == self.head {
            self.head = token;
        }
        if older == NONE {
            self.tail = token;
        }
    }

    /// Puts an entry between two members that are neighbours, or in a ring of its own.
    #[inline(always)]
    fn close<N: Nodes>(&mut self, nodes: &mut N, token: u32, place: Place, older: u32, newer: u32) {
        let node = nodes.node_mut(token);
        node.place = place;
        if older == NONE {
            node.links = Links { newer: token, older: token };
        } else {
            node.links = Links { newer, older };
            nodes.node_mut(older).links.newer = token;
            nodes.node_mut(newer).links.older = token;
        }
        self.len += 1;
        self.weight += nodes.weight(token);
    }

    /// Moves a member to the head.
    #[inline]
    pub(crate) fn promote<N: Nodes>(&mut self, nodes: &mut N, token: u32) {
        if token == self.tail {
            self.turn(nodes.node(token).links);
        } else if token != self.head {
            self.unlink(nodes, token);
            self.push(nodes, token);
        }
    }

    #[inline]
    pub(crate) fn unlink<N: Nodes>(&mut self, nodes: &mut N, token: u32) {
        let links = nodes.node(token).links;
        if token == self.tail {
            self.pop(nodes, links);
            return;
        }
        self.open(nodes, token, links);
        if token == self.head {
            self.head = links.older;
        }
    }

    /// Takes out the member at the tail, whose links are known.
    #[inline(always)]
    pub(crate) fn pop<N: Nodes>(&mut self, nodes: &mut N, links: Links) {
        self.open(nodes, self.tail, links);
        self.tail = links.newer;
        if self.len == 0 {
            (self.head, self.tail) = (NONE, NONE);
        }
    }

    /// Takes an entry out of the ring.
    #[inline(always)]
    fn open<N: Nodes>(&mut self, nodes: &mut N, token: u32, links: Links) {
        self.weight -= nodes.weight(token);
        self.len -= 1;
        nodes.node_mut(links.newer).links.older = links.older;
        nodes.node_mut(links.older).links.newer = links.newer;
    }

    /// Moves the member at the tail, whose links are known, to the head; or takes in there whoever
    /// gets its slot and its links, and weighs as much.
    #[inline]
    pub(crate) const fn turn(&mut self, links: Links) {
        self.head = self.tail;
        self.tail = links.newer;
    }

    /// The weight of a member changed from `old` to `new`.
    pub(crate) const fn reweigh(&mut self, old: usize, new: usize) {
        self.weight = self.weight - old + new;
    }

    /// A member, already in its new slot `to` with its links, left the slot `from` that its
    /// neighbours know.
    pub(crate) fn relocate<N: Nodes>(&mut self, nodes: &mut N, from: u32, to: u32) {
        let Links { newer, older } = nodes.node(to).links;
        if older == from {
            // It is the only one.
            nodes.node_mut(to).links = Links { newer: to, older: to };
        } else {
            nodes.node_mut(newer).links.older = to;
            nodes.node_mut(older).links.newer = to;
        }
        if self.head == from {
            self.head = to;
        }
        if self.tail == from {
            self.tail = to;
        }
    }

    /// Calls `each` with every member, the oldest first.
    pub(crate) fn oldest_first<N: Nodes>(&self, nodes: &N, mut each: impl FnMut(u32)) {
        let mut token = self.tail;
        while token != NONE {
            each(token);
            token = self.newer(nodes, token);
        }
    }

    /// Checks links, length and weight, and that `member` holds for every member.
    pub(crate) fn validate<N: Nodes>(
        &self,
        nodes: &N,
        member: impl Fn(&Node) -> bool,
    ) -> Result<(), String> {
        let (mut len, mut weight, mut newer, mut token) = (0, 0, self.tail, self.head);
        while len < self.len {
            let node = nodes.node(token);
            if node.links.newer != newer {
                return Err(format!("entry {token} does not know its newer neighbour {newer}"));
            }
            if !member(node) {
                return Err(format!("entry {token} is in a queue that it does not belong to"));
            }
            len += 1;
            weight += nodes.weight(token);
            newer = token;
            token = node.links.older;
        }
        let has_ends = (self.head, self.tail) != (NONE, NONE);
        if (self.head, self.tail, self.weight) == (token, newer, weight)
            && has_ends == (self.len > 0)
        {
            Ok(())
        } else {
            Err(format!("a queue is off: {self:?}; walked to {newer}, {weight} bytes"))
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
