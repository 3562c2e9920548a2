//! What makes one kind of pool with slots differ from another.

use nebula_memory_core::WaitQueue;

/// A kind of pool with slots. Not to be implemented outside of this crate, where it has no name.
///
/// The defaults are those of objects that do not grow old.
pub trait Mode: Sized {
    /// The name that the pool has in debug output.
    const NAME: &'static str;
    /// What is kept in each slot, written by its owner.
    type Stamp: Default + Send + Sync;

    /// A new line for those who wait.
    fn line<V>(&self) -> WaitQueue<V> {
        WaitQueue::new()
    }

    /// An object has been made.
    #[inline]
    fn born(&self, _stamp: &Self::Stamp) {}

    /// An object has come back.
    #[inline]
    fn come_back(&self, _stamp: &Self::Stamp) {}

    /// What time it is, for a sweep: read anew.
    fn read(&self) -> u64 {
        0
    }

    /// What time it is, for somebody who is about to be lent an object.
    #[inline]
    fn now(&self) -> u64 {
        0
    }

    /// Whether an object is too old to be lent at that time.
    #[inline]
    fn is_stale(&self, _stamp: &Self::Stamp, _now: u64) -> bool {
        false
    }
}

/// Slots for the thread that had them last, and those who wait are served as they came.
#[derive(Debug)]
pub struct Affine(());

impl Affine {
    pub(crate) const fn new() -> Self {
        Self(())
    }
}

impl Mode for Affine {
    const NAME: &'static str = "ThreadSafePool";
    type Stamp = ();
}
