//! Entries on their way from level one to the next.
//!
//! An entry that is evicted leaves level one under a lock, and is written to the next level after it.
//! Whoever removes or replaces the key in between finds nothing in level one, and must have the
//! value that is on its way not arrive. Keys are told apart by some bits of their hash: at worst,
//! another key's value does not arrive either.

use nebula_memory_core::sync::atomic::{
    AtomicU32,
    Ordering::{AcqRel, Acquire, Relaxed},
};

const STRIPES: usize = 1024;

/// Set if a key has been written or removed while values of its stripe were on their way.
const TOUCHED: u32 = 1 << 31;

#[derive(Debug)]
pub(crate) struct Limbo(Box<[AtomicU32]>);

fn touch(stripe: &AtomicU32) {
    if stripe.load(Acquire) != 0 {
        let touch = |count| (count != 0).then_some(count | TOUCHED);
        // Nothing is on its way any more if it fails.
        let _ = stripe.fetch_update(AcqRel, Acquire, touch);
    }
}

impl Limbo {
    pub(crate) fn new() -> Self {
        Self((0..STRIPES).map(|_| AtomicU32::new(0)).collect())
    }

    fn stripe(&self, hash: u32) -> &AtomicU32 {
        // (Any bits do.)
        &self.0[(hash ^ (hash >> 16)) as usize & (STRIPES - 1)]
    }

    /// A value is on its way.
    pub(crate) fn enter(&self, hash: u32) {
        self.stripe(hash).fetch_add(1, AcqRel);
    }

    /// A key of this hash is not what it was.
    pub(crate) fn touch(&self, hash: u32) {
        touch(self.stripe(hash));
    }

    /// No key is what it was.
    pub(crate) fn touch_all(&self) {
        self.0.iter().for_each(touch);
    }

    /// Whether the value may still arrive.
    pub(crate) fn is_current(&self, hash: u32) -> bool {
        self.stripe(hash).load(Acquire) & TOUCHED == 0
    }

    /// The value has arrived, or never will.
    pub(crate) fn exit(&self, hash: u32) {
        let less = |count: u32| Some(if count & !TOUCHED <= 1 { 0 } else { count - 1 });
        // `less` is never `None`.
        let _ = self.stripe(hash).fetch_update(AcqRel, Relaxed, less);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_touched_on_its_way_does_not_arrive() {
        let limbo = Limbo::new();
        limbo.touch(1);
        limbo.enter(1);
        assert!(limbo.is_current(1), "it was touched before");
        limbo.enter(1);
        limbo.touch(1);
        assert!(!limbo.is_current(1) && limbo.is_current(2));
        limbo.exit(1);
        assert!(!limbo.is_current(1), "one is still on its way");
        limbo.exit(1);
        limbo.enter(1);
        assert!(limbo.is_current(1));
    }
}
