//! Lent objects: what a get returns, and whose drop is the return.

use std::{
    fmt,
    marker::PhantomData,
    mem::ManuallyDrop,
    ops::{Deref, DerefMut},
};

use nebula_memory_core::{Account, Unlimited, sync::Arc};

use crate::{Poolable, ThreadSafePool, slots::Claimed};

/// A slot with a guard around it always has an object; `take` and `detach` consume the guard.
#[cold]
#[inline(never)]
fn no_object() -> ! {
    unreachable!("the slot of a guard is never empty")
}

/// A lent object, which goes back to the pool when the guard is dropped.
///
/// ```
/// use nebula_pool::{PoolConfig, ThreadSafePool};
///
/// let pool = ThreadSafePool::new(&PoolConfig::default(), String::new)?;
/// let mut name = pool.try_get()?;
/// name.push_str("nebula");
/// assert_eq!(name.len(), 6);
/// # Ok::<(), nebula_memory_core::MemoryError>(())
/// ```
///
/// It can be shared with another thread only if the object can:
/// ```compile_fail,E0277
/// use std::cell::Cell;
/// use nebula_pool::{Poolable, PoolConfig, ThreadSafePool};
///
/// struct Counter(Cell<u32>);
/// impl Poolable for Counter {
///     fn reset(&mut self) {}
///     fn heap_size(&self) -> usize { 0 }
/// }
/// let pool = ThreadSafePool::new(&PoolConfig::default(), || Counter(Cell::new(0))).unwrap();
/// let counter = pool.try_get().unwrap();
/// std::thread::scope(|s| {
///     s.spawn(|| counter.0.set(1));
/// });
/// ```
///
/// It does not outlive the pool:
/// ```compile_fail,E0597
/// use nebula_pool::{PoolConfig, ThreadSafePool};
///
/// let guard = {
///     let pool = ThreadSafePool::new(&PoolConfig::default(), String::new).unwrap();
///     pool.try_get().unwrap()
/// };
/// ```
#[must_use = "dropping a guard returns the object at once"]
pub struct PoolGuard<'p, T: Poolable, A: Account = Unlimited> {
    pool: &'p ThreadSafePool<T, A>,
    slot: ManuallyDrop<Claimed<'p, T>>,
}

impl<'p, T: Poolable, A: Account> PoolGuard<'p, T, A> {
    /// `slot` is one of `pool`'s, with an object in it.
    #[inline]
    pub(crate) fn new(pool: &'p ThreadSafePool<T, A>, slot: Claimed<'p, T>) -> Self {
        Self { pool, slot: ManuallyDrop::new(slot) }
    }

    #[inline]
    fn into_slot(self) -> Claimed<'p, T> {
        let mut this = ManuallyDrop::new(self);
        // SAFETY: `this` is neither used nor dropped again, so that the slot is taken once.
        unsafe { ManuallyDrop::take(&mut this.slot) }
    }

    /// Takes the object out of the pool for good. It is not charged any more, and its place in the
    /// pool is free for another.
    ///
    /// ```
    /// use nebula_pool::{PoolConfig, ThreadSafePool};
    ///
    /// let config = PoolConfig::builder().capacity(1).build()?;
    /// let pool = ThreadSafePool::new(&config, || String::from("new"))?;
    /// let mine: String = pool.try_get()?.detach();
    /// let another = pool.try_get()?;
    /// assert_eq!((mine.as_str(), another.as_str()), ("new", "new"));
    /// # Ok::<(), nebula_memory_core::MemoryError>(())
    /// ```
    #[must_use = "the object is dropped if it is not used"]
    pub fn detach(self) -> T {
        let pool = self.pool;
        pool.detach(self.into_slot()).unwrap_or_else(|| no_object())
    }
}

impl<T: Poolable, A: Account> Deref for PoolGuard<'_, T, A> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        self.slot.object().unwrap_or_else(|| no_object())
    }
}

impl<T: Poolable, A: Account> DerefMut for PoolGuard<'_, T, A> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        self.slot.object_mut().unwrap_or_else(|| no_object())
    }
}

impl<T: Poolable, A: Account> Drop for PoolGuard<'_, T, A> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: the slot is not used after this: `self` is being dropped, and `into_slot` forgets.
        let slot = unsafe { ManuallyDrop::take(&mut self.slot) };
        self.pool.take_back(slot);
    }
}

impl<T: Poolable + fmt::Debug, A: Account> fmt::Debug for PoolGuard<'_, T, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PoolGuard").field(&**self).finish()
    }
}

/// A lent object that keeps its pool alive; otherwise a [`PoolGuard`].
///
/// It costs two more atomic operations than a borrowed guard, on a counter that all owned guards of
/// the pool share.
///
/// Like the other, it can be shared with another thread only if the object can:
/// ```compile_fail,E0277
/// use std::{cell::Cell, sync::Arc};
/// use nebula_pool::{Poolable, PoolConfig, ThreadSafePool};
///
/// struct Counter(Cell<u32>);
/// impl Poolable for Counter {
///     fn reset(&mut self) {}
///     fn heap_size(&self) -> usize { 0 }
/// }
/// let pool = Arc::new(ThreadSafePool::new(&PoolConfig::default(), || Counter(Cell::new(0))).unwrap());
/// let counter = pool.try_get_owned().unwrap();
/// std::thread::scope(|s| {
///     s.spawn(|| counter.0.set(1));
/// });
/// ```
#[must_use = "dropping a guard returns the object at once"]
pub struct OwnedGuard<T: Poolable, A: Account = Unlimited> {
    pool: Arc<ThreadSafePool<T, A>>,
    /// The slot that this guard holds the claim of.
    index: usize,
    /// Behaves like the object, for `Send` and `Sync`.
    object: PhantomData<T>,
}

impl<T: Poolable, A: Account> OwnedGuard<T, A> {
    /// `guard` is one of `pool`'s.
    pub(crate) fn new(pool: &Arc<ThreadSafePool<T, A>>, guard: PoolGuard<'_, T, A>) -> Self {
        debug_assert!(std::ptr::eq(guard.pool, &raw const **pool), "a guard of another pool");
        let pool = Arc::clone(pool);
        let index = pool.slots.give_up(guard.into_slot());
        Self { pool, index, object: PhantomData }
    }

    /// Takes the object out of the pool for good, as [`PoolGuard::detach`] does.
    #[must_use = "the object is dropped if it is not used"]
    pub fn detach(self) -> T {
        let mut this = ManuallyDrop::new(self);
        let pool = {
            // SAFETY: `this` is neither used (but for `index`) nor dropped again, so that the
            // handle is taken once.
            unsafe { std::ptr::read(&raw mut this.pool) }
        };
        // SAFETY: `new` gave the claim up in favour of this guard, which ends here.
        let slot = unsafe { pool.slots.claimed_again(this.index) };
        pool.detach(slot).unwrap_or_else(|| no_object())
    }
}

impl<T: Poolable, A: Account> Deref for OwnedGuard<T, A> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: this guard holds the claim, and is borrowed for as long as the object is.
        unsafe { self.pool.slots.object(self.index) }.unwrap_or_else(|| no_object())
    }
}

impl<T: Poolable, A: Account> DerefMut for OwnedGuard<T, A> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: this guard holds the claim, and is borrowed exclusively for as long as the object.
        unsafe { self.pool.slots.object_mut(self.index) }.unwrap_or_else(|| no_object())
    }
}

impl<T: Poolable, A: Account> Drop for OwnedGuard<T, A> {
    fn drop(&mut self) {
        // SAFETY: `new` gave the claim up in favour of this guard, which ends here.
        let slot = unsafe { self.pool.slots.claimed_again(self.index) };
        self.pool.take_back(slot);
    }
}

impl<T: Poolable + fmt::Debug, A: Account> fmt::Debug for OwnedGuard<T, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("OwnedGuard").field(&**self).finish()
    }
}
