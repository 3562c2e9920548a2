//! Looking up or computing, once per key.

use std::{
    borrow::Borrow,
    convert::Infallible,
    hash::{BuildHasher, Hash},
    sync::atomic::Ordering::Relaxed,
};

use nebula_memory_core::{Account, MemoryError, sync::Arc};

use crate::{
    ComputeError, ConcurrentComputeCache, Weigher,
    flight::{Joined, Lead},
};

impl<K, V, A, W, S> ConcurrentComputeCache<K, V, A, W, S>
where
    K: Hash + Eq,
    A: Account,
    W: Weigher<K, V>,
    S: BuildHasher,
{
    /// The value of `key`, computed by `compute` if it is not cached.
    ///
    /// Of several callers for one key, one computes and the others wait for its value. If it
    /// panics, one of the others computes. `compute` runs with no lock held and may use the cache,
    /// computing other keys included.
    ///
    /// A value that the cache or its account refuses is returned all the same, to all who waited;
    /// it is merely not cached, and counted as [`rejected`](crate::CacheStats::rejected).
    ///
    /// # Errors
    /// [`MemoryError::Reentrant`] if the computation that is under way waits for this call:
    /// because `compute` asks for its own key, or for one whose computation, perhaps on another
    /// thread, asks for its own.
    ///
    /// ```
    /// use nebula_cache::{CacheConfig, ConcurrentComputeCache};
    ///
    /// let cache = ConcurrentComputeCache::<u64, u64>::new(CacheConfig::default())?;
    /// // Computing a key may ask for another one, but not for itself.
    /// let answer = cache.get_or_compute(&42, || cache.get_or_compute(&41, || 40).unwrap() + 2)?;
    /// assert_eq!(answer, 42);
    /// let own = cache.get_or_compute(&7, || cache.get_or_compute(&7, || 0).map_or(0, |_| 1))?;
    /// assert_eq!(own, 0);
    /// # Ok::<(), nebula_memory_core::MemoryError>(())
    /// ```
    pub fn get_or_compute<Q>(&self, key: &Q, compute: impl FnOnce() -> V) -> Result<V, MemoryError>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
        V: Clone,
    {
        match self.try_get_or_compute(key, || Ok::<V, Infallible>(compute())) {
            Ok(value) => Ok(value),
            Err(ComputeError::Memory(error)) => Err(error),
            Err(ComputeError::Compute(never)) => match never {},
        }
    }

    /// As [`get_or_compute`](Self::get_or_compute), for a computation that may fail.
    ///
    /// An error is returned to the caller whose computation it was; those who waited for it compute
    /// for themselves, one of them first. Nothing is cached.
    ///
    /// # Errors
    /// [`ComputeError::Compute`] with the error of `compute`, or [`ComputeError::Memory`] with
    /// [`MemoryError::Reentrant`].
    pub fn try_get_or_compute<Q, E>(
        &self,
        key: &Q,
        compute: impl FnOnce() -> Result<V, E>,
    ) -> Result<V, ComputeError<E>>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
        V: Clone,
    {
        let hash = self.hash(key);
        if let Some(value) = self.look_up(hash, key) {
            return Ok(value);
        }
        loop {
            let waiting = || {
                self.counters.waits.fetch_add(1, Relaxed);
            };
            match self.flights.join(hash, key, waiting) {
                Joined::Lead(lead) => {
                    return match self.peek_at(hash, key) {
                        // Placed after the look above and before this flight began.
                        Some(value) => {
                            lead.land(|| value.clone());
                            Ok(value)
                        }
                        None => self.lead(hash, &lead, compute).inspect(|value| {
                            lead.land(|| value.clone());
                        }),
                    };
                }
                Joined::Landed(value) => {
                    return Ok(Arc::try_unwrap(value).unwrap_or_else(|value| V::clone(&value)));
                }
                Joined::Failed => {
                    if let Some(value) = self.peek_at(hash, key) {
                        return Ok(value);
                    }
                }
                Joined::Circle => {
                    return Err(MemoryError::Reentrant { what: "a cache computation" }.into());
                }
            }
        }
    }

    /// Computes and caches.
    fn lead<E>(
        &self,
        hash: u64,
        lead: &Lead<'_, K, V>,
        compute: impl FnOnce() -> Result<V, E>,
    ) -> Result<V, ComputeError<E>>
    where
        V: Clone,
    {
        self.counters.computes.fetch_add(1, Relaxed);
        let value = compute().map_err(ComputeError::Compute)?;
        let copy = value.clone();
        if let Some(key) = lead.take_key() {
            // What is refused has been counted, and is dropped: the caller has its value.
            drop(self.place(hash, key, copy));
        }
        Ok(value)
    }
}
