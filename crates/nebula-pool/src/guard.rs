//! Lent objects: what a get returns, and whose drop is the return.

use std::{
    fmt,
    marker::PhantomData,
    mem::ManuallyDrop,
    ops::{Deref, DerefMut},
    ptr::NonNull,
};

use crate::home::{Home, SlotOf};

/// A pool of this crate. Guards are generic over it; nobody else can implement it.
pub trait Pool: Home {}

impl<P: Home> Pool for P {}

/// A lent object, which goes back to its pool `P` when the guard is dropped.
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
/// The guard of a pool that lives for as long as the process does so, too:
/// ```
/// use std::sync::LazyLock;
/// use nebula_pool::{PoolConfig, PoolGuard, ThreadSafePool};
///
/// static POOL: LazyLock<ThreadSafePool<String>> =
///     LazyLock::new(|| ThreadSafePool::new(&PoolConfig::default(), String::new).unwrap());
///
/// let name: PoolGuard<'static, ThreadSafePool<String>> = POOL.try_get()?;
/// std::thread::spawn(move || drop(name)).join().unwrap();
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
pub struct PoolGuard<'p, P: Pool> {
    pool: &'p P,
    slot: NonNull<SlotOf<P>>,
    /// Behaves like the object.
    object: PhantomData<P::Object>,
}

// SAFETY: a guard consists of a `&P`, which may move to another thread if the pool is `Sync`, and
// of an object that is its own, as if by value.
unsafe impl<P: Pool + Sync> Send for PoolGuard<'_, P> where P::Object: Send {}
// SAFETY: a shared guard gives a shared reference to the object, and nothing else.
unsafe impl<P: Pool + Sync> Sync for PoolGuard<'_, P> where P::Object: Sync {}

impl<'p, P: Pool> PoolGuard<'p, P> {
    /// # Safety
    /// `slot` is one of `pool`'s, has an object, and is the guard's from now on.
    #[inline]
    pub(crate) const unsafe fn new(pool: &'p P, slot: NonNull<SlotOf<P>>) -> Self {
        Self { pool, slot, object: PhantomData }
    }

    /// The slot, without the guard: it is the caller's.
    #[inline]
    fn into_slot(self) -> NonNull<SlotOf<P>> {
        ManuallyDrop::new(self).slot
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
    pub fn detach(self) -> P::Object {
        let pool = self.pool;
        // SAFETY: the slot is this guard's, which ends here.
        unsafe { pool.detach(self.into_slot()) }
    }
}

impl<P: Pool> Deref for PoolGuard<'_, P> {
    type Target = P::Object;

    #[inline]
    fn deref(&self) -> &P::Object {
        // SAFETY: the pool lives for as long as the guard, and the slot for as long as the pool.
        let slot = unsafe { self.slot.as_ref() };
        // SAFETY: the slot is the guard's and has an object; exclusive references to that come from
        // an exclusive borrow of the guard.
        unsafe { slot.object() }
    }
}

impl<P: Pool> DerefMut for PoolGuard<'_, P> {
    #[inline]
    fn deref_mut(&mut self) -> &mut P::Object {
        // SAFETY: as in `deref`; the slot itself is only ever shared.
        let slot = unsafe { self.slot.as_ref() };
        // SAFETY: the slot is the guard's and has an object; the guard is borrowed exclusively for
        // as long as the reference lives.
        unsafe { slot.object_mut() }
    }
}

impl<P: Pool> Drop for PoolGuard<'_, P> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: the slot is this guard's, which ends here.
        unsafe { self.pool.take_back(self.slot) };
    }
}

impl<P: Pool> fmt::Debug for PoolGuard<'_, P>
where
    P::Object: fmt::Debug,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PoolGuard").field(&**self).finish()
    }
}

/// A lent object that keeps its pool alive; otherwise a [`PoolGuard`].
///
/// For pools that threads share, it costs two more atomic operations than a borrowed guard, on a
/// counter that all owned guards of the pool share.
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
pub struct OwnedGuard<P: Pool> {
    pool: P::Handle,
    slot: NonNull<SlotOf<P>>,
    /// Behaves like the object.
    object: PhantomData<P::Object>,
}

// SAFETY: a guard consists of an `Arc<P>`, which may move if the pool is `Send` and `Sync`, and of
// an object that is its own, as if by value. (Pools whose handle is an `Rc` are not `Sync`.)
unsafe impl<P: Pool + Send + Sync> Send for OwnedGuard<P> where P::Object: Send {}
// SAFETY: a shared guard gives a shared reference to the object, and nothing else.
unsafe impl<P: Pool + Send + Sync> Sync for OwnedGuard<P> where P::Object: Sync {}

impl<P: Pool> OwnedGuard<P> {
    /// `guard` is one of the pool's that `pool` keeps alive.
    #[inline]
    pub(crate) fn new(pool: P::Handle, guard: PoolGuard<'_, P>) -> Self {
        debug_assert!(std::ptr::eq(guard.pool, &raw const *pool), "a guard of another pool");
        Self { slot: guard.into_slot(), pool, object: PhantomData }
    }

    /// Takes the object out of the pool for good, as [`PoolGuard::detach`] does.
    #[must_use = "the object is dropped if it is not used"]
    pub fn detach(self) -> P::Object {
        let this = ManuallyDrop::new(self);
        // SAFETY: `this` is not dropped, and its handle not used again, so that it is taken once.
        let pool = unsafe { std::ptr::read(&raw const this.pool) };
        // SAFETY: the slot is this guard's, which ends here.
        unsafe { pool.detach(this.slot) }
    }
}

impl<P: Pool> Deref for OwnedGuard<P> {
    type Target = P::Object;

    #[inline]
    fn deref(&self) -> &P::Object {
        // SAFETY: the guard keeps the pool alive, and the slot lives for as long as the pool.
        let slot = unsafe { self.slot.as_ref() };
        // SAFETY: the slot is the guard's and has an object; exclusive references to that come from
        // an exclusive borrow of the guard.
        unsafe { slot.object() }
    }
}

impl<P: Pool> DerefMut for OwnedGuard<P> {
    #[inline]
    fn deref_mut(&mut self) -> &mut P::Object {
        // SAFETY: as in `deref`; the slot itself is only ever shared.
        let slot = unsafe { self.slot.as_ref() };
        // SAFETY: the slot is the guard's and has an object; the guard is borrowed exclusively for
        // as long as the reference lives.
        unsafe { slot.object_mut() }
    }
}

impl<P: Pool> Drop for OwnedGuard<P> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: the slot is this guard's, which ends here.
        unsafe { self.pool.take_back(self.slot) };
    }
}

impl<P: Pool> fmt::Debug for OwnedGuard<P>
where
    P::Object: fmt::Debug,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("OwnedGuard").field(&**self).finish()
    }
}
