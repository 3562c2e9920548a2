//! A doubly linked list through the nodes of entries: the queue that policies are made of.

use super::Nodes;
use crate::slab::NONE;

/// The neighbours of an entry in its queue.
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

/// A node that has links.
pub(crate) trait Linked {
    fn links(&self) -> &Links;
    fn links_mut(&mut self) -> &mut Links;
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

    #[inline]
    pub(crate) fn push<L: Linked, N: Nodes<L>>(&mut self, nodes: &mut N, token: u32) {
        *nodes.node_mut(token).links_mut() = Links { newer: NONE, older: self.head };
        match self.head {
            NONE => self.tail = token,
            head => nodes.node_mut(head).links_mut().newer = token,
        }
        self.head = token;
        self.len += 1;
        self.weight += nodes.weight(token);
    }

    #[inline]
    pub(crate) fn unlink<L: Linked, N: Nodes<L>>(&mut self, nodes: &mut N, token: u32) {
        let Links { newer, older } = *nodes.node(token).links();
        match newer {
            NONE => self.head = older,
            newer => nodes.node_mut(newer).links_mut().older = older,
        }
        match older {
            NONE => self.tail = newer,
            older => nodes.node_mut(older).links_mut().newer = newer,
        }
        self.len -= 1;
        self.weight -= nodes.weight(token);
    }

    /// The weight of a member changed from `old` to `new`.
    pub(crate) const fn reweigh(&mut self, old: usize, new: usize) {
        self.weight = self.weight - old + new;
    }

    /// A member, already in its new slot `to` with its links, left the slot that its neighbours
    /// know.
    pub(crate) fn relocate<L: Linked, N: Nodes<L>>(&mut self, nodes: &mut N, to: u32) {
        let Links { newer, older } = *nodes.node(to).links();
        match newer {
            NONE => self.head = to,
            newer => nodes.node_mut(newer).links_mut().older = to,
        }
        match older {
            NONE => self.tail = to,
            older => nodes.node_mut(older).links_mut().newer = to,
        }
    }

    /// Checks links, length and weight, and that `member` holds for every member.
    pub(crate) fn validate<L: Linked, N: Nodes<L>>(
        &self,
        nodes: &N,
        member: impl Fn(&L) -> bool,
    ) -> Result<(), String> {
        let (mut len, mut weight, mut newer, mut token) = (0, 0, NONE, self.head);
        while token != NONE {
            let node = nodes.node(token);
            if node.links().newer != newer {
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
            token = node.links().older;
        }
        if (self.tail, self.len, self.weight) == (newer, len, weight) {
            Ok(())
        } else {
            Err(format!("a queue is off: {self:?}; walked {len} entries, {weight} bytes"))
        }
    }
}
