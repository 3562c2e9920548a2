//! The pool that serves the important first.

use std::{future::Future, panic::Location, time::Duration};

use nebula_memory_core::{Account, MemoryError, Unlimited, WaitQueue, sync::Arc};

use crate::{
    OwnedGuard, PoolConfig, PoolGuard, Poolable,
    alike::constructors,
    config::Abilities,
    slots::{SlotPool, mode::Mode},
};

/// A [`ThreadSafePool`](crate::ThreadSafePool) in whose line the important stand before the others,
/// and which keeps the objects of the highest [`value`](Poolable::value) when it shrinks.
///
/// Priorities go from 0, which is what [`get`](Self::get) and the like have, to 255. Nobody starves:
/// who waits is overtaken by no more than the next `overtakes` to come of the next higher priority,
/// twice as many of the one above that, and so on; after that, his age counts as much.
///
/// (That objects go by their value holds for all pools of this crate; it is this one that is made
/// for objects that differ.)
///
/// ```
/// use nebula_pool::{PoolConfig, PriorityPool};
///
/// let config = PoolConfig::builder().capacity(1).build()?;
/// let pool = PriorityPool::new(&config, 16, String::new)?;
/// let held = pool.try_get()?;
/// let served = std::sync::Mutex::new(Vec::new());
/// let waiting = |n| while pool.waiting() < n { std::thread::yield_now() };
/// std::thread::scope(|s| {
///     for (n, priority) in [(1, 0), (2, 9)] {
///         let (pool, served) = (&pool, &served);
///         s.spawn(move || {
///             let _guard = pool.get_with(priority).unwrap();
///             served.lock().unwrap().push(priority);
///         });
///         waiting(n);
///     }
///     drop(held);
/// });
/// assert_eq!(*served.lock().unwrap(), [9, 0]);
/// # Ok::<(), nebula_memory_core::MemoryError>(())
/// ```
pub type PriorityPool<T, A = Unlimited> = SlotPool<T, A, Ageing>;

/// A line in which the important overtake, but not for ever.
#[derive(Debug)]
pub struct Ageing {
    overtakes: u32,
}

impl Mode for Ageing {
    const NAME: &'static str = "PriorityPool";
    type Stamp = ();

    fn line<V>(&self) -> WaitQueue<V> {
        WaitQueue::with_ageing(self.overtakes)
    }
}

constructors!(PriorityPool, [Send + Sync + 'static] -> Self, overtakes: u32);

impl<T: Poolable, A: Account> PriorityPool<T, A> {
    /// A pool whose objects are made by `factory`, which can fail, and charged to `account`.
    /// `overtakes` is how many who come later, and are of the next higher priority, may overtake
    /// somebody who waits; zero makes it a pool that serves as they come.
    ///
    /// # Errors
    /// [`MemoryError::InvalidConfig`] if `config` is not valid for this pool; the refusal of the
    /// account (or of the system) if there is no room for the table of slots, the factory, or the
    /// objects of the warm-up; the error of the factory. Then nothing stays charged.
    pub fn try_new_in<F>(
        config: &PoolConfig,
        account: A,
        overtakes: u32,
        factory: F,
    ) -> Result<Self, MemoryError>
    where
        F: Fn() -> Result<T, MemoryError> + Send + Sync + 'static,
    {
        Self::make_pool(config, account, Abilities::default(), Ageing { overtakes }, factory)
    }

    /// As [`get`](Self::get), with that priority.
    ///
    /// # Errors
    /// Those of [`get`](Self::get).
    ///
    /// # Panics
    /// If the factory does; its place is free again.
    #[inline]
    #[track_caller]
    pub fn get_with(&self, priority: u8) -> Result<PoolGuard<'_, Self>, MemoryError> {
        self.get_as(priority, None, Location::caller())
    }

    /// As [`get_timeout`](Self::get_timeout), with that priority.
    ///
    /// # Errors
    /// Those of [`get_timeout`](Self::get_timeout).
    ///
    /// # Panics
    /// If the factory does; its place is free again.
    #[inline]
    #[track_caller]
    pub fn get_timeout_with(
        &self,
        priority: u8,
        timeout: Duration,
    ) -> Result<PoolGuard<'_, Self>, MemoryError> {
        self.get_as(priority, Some(timeout), Location::caller())
    }

    /// As [`get_async`](Self::get_async), with that priority.
    ///
    /// # Errors
    /// Those of [`get_async`](Self::get_async).
    ///
    /// # Panics
    /// If the factory does; its place is free again.
    #[track_caller]
    pub fn get_async_with(
        &self,
        priority: u8,
    ) -> impl Future<Output = Result<PoolGuard<'_, Self>, MemoryError>> {
        self.get_as_async(priority, Location::caller())
    }

    /// As [`get_owned`](Self::get_owned), with that priority.
    ///
    /// # Errors
    /// Those of [`get_owned`](Self::get_owned).
    ///
    /// # Panics
    /// If the factory does; its place is free again.
    #[inline]
    #[track_caller]
    pub fn get_owned_with(self: &Arc<Self>, priority: u8) -> Result<OwnedGuard<Self>, MemoryError> {
        let guard = self.get_as(priority, None, Location::caller())?;
        Ok(OwnedGuard::new(Arc::clone(self), guard))
    }

    /// As [`get_owned_timeout`](Self::get_owned_timeout), with that priority.
    ///
    /// # Errors
    /// Those of [`get_timeout`](Self::get_timeout).
    ///
    /// # Panics
    /// If the factory does; its place is free again.
    #[inline]
    #[track_caller]
    pub fn get_owned_timeout_with(
        self: &Arc<Self>,
        priority: u8,
        timeout: Duration,
    ) -> Result<OwnedGuard<Self>, MemoryError> {
        let guard = self.get_as(priority, Some(timeout), Location::caller())?;
        Ok(OwnedGuard::new(Arc::clone(self), guard))
    }

    /// As [`get_owned_async`](Self::get_owned_async), with that priority.
    ///
    /// # Errors
    /// Those of [`get_async`](Self::get_async).
    ///
    /// # Panics
    /// If the factory does; its place is free again.
    #[track_caller]
    pub fn get_owned_async_with(
        self: Arc<Self>,
        priority: u8,
    ) -> impl Future<Output = Result<OwnedGuard<Self>, MemoryError>> {
        let site = Location::caller();
        async move {
            let guard = self.get_as_async(priority, site).await?;
            Ok(OwnedGuard::new(Arc::clone(&self), guard))
        }
    }
}
