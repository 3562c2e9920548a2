//! The pool for many threads and tasks.

use nebula_memory_core::{Account, MemoryError, Unlimited};

use crate::{
    PoolConfig, Poolable,
    alike::constructors,
    config::Abilities,
    slots::{SlotPool, mode::Affine},
};

/// A pool of objects for many threads and tasks, with a hard maximum, which callers can wait for.
///
/// Objects stay where they are, in a table of slots; a guard points to one. Each thread tries the
/// slot first that it had last, so that threads stay out of each other's way. Who finds everything
/// lent can go away ([`try_get`](Self::try_get)), block ([`get`](Self::get),
/// [`get_timeout`](Self::get_timeout)) or await ([`get_async`](Self::get_async)); all who wait stand
/// in one line, first come first served, and no newcomer overtakes them.
///
/// Everything that the pool holds is charged to its account `A`: the table and the factory, and the
/// [`heap_size`](Poolable::heap_size) of every object from when it is made until it is destroyed or
/// [detached](crate::PoolGuard::detach).
///
/// ```
/// use nebula_pool::{PoolConfig, ThreadSafePool};
///
/// let config = PoolConfig::builder().capacity(2).build()?;
/// let pool = ThreadSafePool::new(&config, || Vec::<u8>::with_capacity(4096))?;
///
/// let mut buffer = pool.try_get()?;
/// buffer.extend_from_slice(b"hello");
/// drop(buffer); // Cleared, and kept with its capacity.
///
/// let (a, b) = (pool.try_get()?, pool.try_get()?);
/// assert!(a.is_empty() && a.capacity() >= 4096);
/// assert_eq!(pool.try_get().unwrap_err().code(), "pool_exhausted");
/// # drop(b);
/// # Ok::<(), nebula_memory_core::MemoryError>(())
/// ```
///
/// A pool of objects that must stay on their thread cannot be shared:
/// ```compile_fail,E0277
/// use std::rc::Rc;
/// use nebula_pool::{Poolable, PoolConfig, ThreadSafePool};
///
/// struct Local(Rc<()>);
/// impl Poolable for Local {
///     fn reset(&mut self) {}
///     fn heap_size(&self) -> usize { 0 }
/// }
/// let pool = ThreadSafePool::new(&PoolConfig::default(), || Local(Rc::new(()))).unwrap();
/// std::thread::scope(|s| {
///     s.spawn(|| drop(pool.try_get()));
/// });
/// ```
pub type ThreadSafePool<T, A = Unlimited> = SlotPool<T, A, Affine>;

constructors!(ThreadSafePool, [Send + Sync + 'static] -> Self);

impl<T: Poolable, A: Account> ThreadSafePool<T, A> {
    /// A pool whose objects are made by `factory`, which can fail, and charged to `account`.
    ///
    /// # Errors
    /// [`MemoryError::InvalidConfig`] if `config` is not valid for this pool; the refusal of the
    /// account (or of the system) if there is no room for the table of slots, the factory, or the
    /// objects of the warm-up; the error of the factory. Then nothing stays charged.
    pub fn try_new_in<F>(config: &PoolConfig, account: A, factory: F) -> Result<Self, MemoryError>
    where
        F: Fn() -> Result<T, MemoryError> + Send + Sync + 'static,
    {
        Self::make_pool(config, account, Abilities::default(), Affine::new(), factory)
    }
}
