//! What goes where: the choices of a multi-level cache.

use nebula_memory_core::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// When a value that a lower level held is placed in the levels above it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Promotion {
    /// At once. The default.
    #[default]
    Always,
    /// With its so-many-th hit below level one: what is read once in a while does not push out what
    /// is read often. Hits are counted for the most recent few thousand keys, told apart by their
    /// hashes.
    AfterHits(u32),
    /// Never: level one holds what is inserted or computed.
    Never,
}

/// What becomes of entries that level one evicts, for lack of room or because memory is asked back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Demotion {
    /// The lower levels have had them when they were written. The default.
    #[default]
    None,
    /// They are written to the next level, which may have lost them by now.
    Evicted,
    /// They are written to the next level, and that is all that the lower levels ever get: what is
    /// inserted or computed is written nowhere else. An insertion removes what the lower levels hold
    /// of its key.
    Only,
}

/// How lower levels are written, and told of removals.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Writing {
    /// By the caller, before its call returns. The default.
    #[default]
    Through,
    /// By a thread of the cache's own (in an [`AsyncMultiLevelCache`](crate::AsyncMultiLevelCache), by
    /// its [`run`](crate::AsyncMultiLevelCache::run)), to which a queue leads. Lookups see what is queued as if it
    /// were written.
    Behind {
        /// How many keys may wait; above zero, and 16,777,216 at most.
        queue: usize,
        /// What happens to one more.
        when_full: WhenFull,
    },
}

impl Writing {
    /// How many keys may wait, and what happens to one more; `None` if none do.
    pub(super) const fn queue(self) -> Option<(usize, WhenFull)> {
        match self {
            Self::Through => None,
            Self::Behind { queue, when_full } => Some((queue, when_full)),
        }
    }
}

/// What happens to a write or a removal for which the queue has no room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum WhenFull {
    /// The caller does it. The default.
    #[default]
    Write,
    /// Nobody does it. The lower levels are not asked about the key until they have been told to
    /// remove it, which happens by and by.
    Drop,
}

/// How many keys' hits are counted.
const SLOTS: usize = 4096;

/// Decides about promotion.
#[derive(Debug)]
pub(crate) struct Promoter {
    rule: Promotion,
    /// By some bits of the hash: the other bits of it, and hits.
    slots: Box<[AtomicU64]>,
}

impl Promoter {
    pub(crate) fn new(rule: Promotion) -> Self {
        let slots = if matches!(rule, Promotion::AfterHits(_)) { SLOTS } else { 0 };
        Self { rule, slots: (0..slots).map(|_| AtomicU64::new(0)).collect() }
    }

    /// Whether the key of this hash is promoted with the hit that it just had.
    pub(crate) fn promotes(&self, hash: u32) -> bool {
        match self.rule {
            Promotion::Always => true,
            Promotion::Never => false,
            Promotion::AfterHits(wanted) => self.count(hash) >= u64::from(wanted),
        }
    }

    /// Counts a hit; at worst one is lost to another thread.
    fn count(&self, hash: u32) -> u64 {
        let slot = &self.slots[hash as usize & (SLOTS - 1)];
        let seen = slot.load(Relaxed);
        let hits = if seen >> 32 == u64::from(hash) { (seen & 0xFFFF_FFFF) + 1 } else { 1 };
        slot.store(u64::from(hash) << 32 | hits.min(0xFFFF_FFFF), Relaxed);
        hits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hits_are_counted_for_each_key() {
        let promoter = Promoter::new(Promotion::AfterHits(3));
        let seen: Vec<bool> = (0..4).map(|_| promoter.promotes(7)).collect();
        assert_eq!(seen, [false, false, true, true]);
        // Another key that falls to the same place takes it over.
        let other = 7 + (1 << 20);
        assert!(!promoter.promotes(other));
        assert!(!promoter.promotes(7));
    }
}
