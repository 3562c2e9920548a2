//! What makes one kind of pool with slots differ from another.

use std::future::Future;

use std::time::Duration;

use nebula_memory_core::{MemoryError, WaitQueue, Waiter};

/// A line of those who wait, each of whom is handed one `V`.
pub trait Line<V> {
    /// A place in it.
    type Waiter<'l>: Future<Output = Result<V, MemoryError>> + Wait<V>
    where
        Self: 'l,
        V: 'l;

    /// Takes a place. Contains a sequentially consistent fence.
    fn join(&self, priority: u8) -> Self::Waiter<'_>;

    /// Hands `value` to the first in line; it comes back if nobody waits.
    fn hand(&self, value: V) -> Result<(), V>;

    /// Whether somebody waits. Contains a sequentially consistent fence.
    fn has_waiters(&self) -> bool;

    /// How many wait.
    fn len(&self) -> usize;
}

/// Waiting without a runtime.
pub trait Wait<V> {
    /// What has been handed over, if anything was.
    fn try_take(&mut self) -> Option<Result<V, MemoryError>>;

    /// Blocks, for `timeout` at most.
    fn wait(self, timeout: Option<Duration>) -> Result<V, MemoryError>;
}

impl<V> Line<V> for WaitQueue<V> {
    type Waiter<'l>
        = Waiter<'l, V>
    where
        V: 'l;

    fn join(&self, priority: u8) -> Waiter<'_, V> {
        self.join(priority)
    }

    fn hand(&self, value: V) -> Result<(), V> {
        self.hand(value)
    }

    #[inline]
    fn has_waiters(&self) -> bool {
        self.has_waiters()
    }

    #[inline]
    fn len(&self) -> usize {
        self.len()
    }
}

impl<V> Wait<V> for Waiter<'_, V> {
    fn try_take(&mut self) -> Option<Result<V, MemoryError>> {
        self.try_take()
    }

    fn wait(self, timeout: Option<Duration>) -> Result<V, MemoryError> {
        match timeout {
            None => self.wait(),
            Some(timeout) => self.wait_timeout(timeout),
        }
    }
}

/// A kind of pool with slots. Not to be implemented outside of this crate, where it has no name.
pub trait Mode: Sized {
    /// The name that the pool has in debug output.
    const NAME: &'static str;
    /// What is kept in each slot, written by its owner.
    type Stamp: Default + Send + Sync;
    /// How those stand who wait.
    type Line<V>: Line<V>;

    /// A new line.
    fn line<V>(&self) -> Self::Line<V>;

    /// An object has been made.
    fn born(&self, stamp: &Self::Stamp);

    /// An object has come back.
    fn come_back(&self, stamp: &Self::Stamp);

    /// Whether an idle object is too old to be lent.
    fn is_stale(&self, stamp: &Self::Stamp) -> bool;

    /// Time may have passed.
    fn tick(&self);

    /// An idle object has been seen by `maintain`.
    fn see_idle(&self, stamp: &Self::Stamp);
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
    type Line<V> = WaitQueue<V>;

    fn line<V>(&self) -> WaitQueue<V> {
        WaitQueue::new()
    }

    #[inline]
    fn born(&self, (): &()) {}

    #[inline]
    fn come_back(&self, (): &()) {}

    #[inline]
    fn is_stale(&self, (): &()) -> bool {
        false
    }

    fn tick(&self) {}

    fn see_idle(&self, (): &()) {}
}
