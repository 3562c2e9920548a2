//! Looking up or computing, once per key.

use std::{
    convert::Infallible,
    hash::{BuildHasher, Hash},
    sync::atomic::Ordering::Relaxed,
};

use equivalent::Equivalent;
use nebula_memory_core::{MemoryError, Refused, sync::Arc};

use crate::{
    ComputeError, ConcurrentComputeCache, EntryOptions, Kit,
    flight::{Joined, Lead},
    stats::Timing,
    store::Entry,
    times::sealed::Times,
};

impl<K, V, O: Kit> ConcurrentComputeCache<K, V, O>
where
    K: Hash + Eq,
    O::Hasher: BuildHasher,
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
    #[inline]
    pub fn get_or_compute<Q>(&self, key: &Q, compute: impl FnOnce() -> V) -> Result<V, MemoryError>
    where
        Q: Hash + Equivalent<K> + ToOwned<Owned = K> + ?Sized,
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
    #[inline]
    pub fn try_get_or_compute<Q, E>(
        &self,
        key: &Q,
        compute: impl FnOnce() -> Result<V, E>,
    ) -> Result<V, ComputeError<E>>
    where
        Q: Hash + Equivalent<K> + ToOwned<Owned = K> + ?Sized,
        V: Clone,
    {
        let hash = self.engine.hash(key);
        self.engine.look_up_or(
            hash,
            key,
            |entry, _| Ok(entry.value.clone()),
            |date| self.compute_missing(hash, key, date, None, compute),
        )
    }

    /// As [`try_get_or_compute`](Self::try_get_or_compute), with options for the entry.
    ///
    /// # Errors
    /// As [`try_get_or_compute`](Self::try_get_or_compute). Options that entries of this cache do
    /// not keep have the value not cached.
    #[inline]
    pub fn try_get_or_compute_with<Q, E>(
        &self,
        key: &Q,
        options: EntryOptions,
        compute: impl FnOnce() -> Result<V, E>,
    ) -> Result<V, ComputeError<E>>
    where
        Q: Hash + Equivalent<K> + ToOwned<Owned = K> + ?Sized,
        V: Clone,
    {
        let hash = self.engine.hash(key);
        self.engine.look_up_or(
            hash,
            key,
            |entry, _| Ok(entry.value.clone()),
            |date| self.compute_missing(hash, key, date, Some(&options), compute),
        )
    }

    /// Replaces the value of `key` by what `load` finds, if the entry is there still for which that was
    /// claimed; whether it has a new one. Waits for a computation of it that is under way instead.
    pub(crate) fn refresh(&self, hash: u64, key: &K, load: impl FnOnce(&K) -> Option<V>) -> bool
    where
        K: Clone,
        V: Clone,
    {
        match self.flights.join(hash, key, || self.count_wait()) {
            Joined::Lead(lead) => {
                let Some(value) = load(key) else { return false };
                // Who removed it meanwhile does not want it back, and who put another value there wants
                // that.
                let claimed = |entry: &Entry<K, V, O>| entry.kept.times.is_refreshing();
                let wanted = self.engine.peek(hash, key, claimed) == Some(true);
                let mut placed = false;
                if let Some(key) = lead.take_key().filter(|_| wanted) {
                    placed = self.engine.place(hash, key, value.clone(), None).is_ok();
                }
                lead.land(|| value);
                placed
            }
            Joined::Landed(_) => true,
            Joined::Failed(_) | Joined::Again | Joined::Circle => false,
        }
    }

    /// Computes what was not there at `date`.
    #[inline(never)]
    pub(crate) fn compute_missing<Q, E>(
        &self,
        hash: u64,
        key: &Q,
        date: u64,
        options: Option<&EntryOptions>,
        compute: impl FnOnce() -> Result<V, E>,
    ) -> Result<V, ComputeError<E>>
    where
        Q: Hash + Equivalent<K> + ToOwned<Owned = K> + ?Sized,
        V: Clone,
    {
        let peek = || self.engine.peek(hash, key, |entry| entry.value.clone());
        loop {
            match self.flights.join(hash, key, || self.count_wait()) {
                Joined::Lead(lead) => {
                    // It may have been placed after the last look and before this flight began: by a
                    // flight that ended, under whose lock the date has become known here.
                    let placed = if self.engine.date(hash) == date { None } else { peek() };
                    let value = match placed {
                        Some(value) => value,
                        None => self.lead(hash, &lead, options, compute)?,
                    };
                    lead.land(|| value.clone());
                    return Ok(value);
                }
                Joined::Landed(value) => {
                    return Ok(Arc::try_unwrap(value).unwrap_or_else(|value| V::clone(&value)));
                }
                Joined::Failed(_) | Joined::Again => {
                    if let Some(value) = peek() {
                        return Ok(value);
                    }
                }
                Joined::Circle => {
                    return Err(MemoryError::Reentrant { what: "a cache computation" }.into());
                }
            }
        }
    }

    pub(crate) fn count_wait(&self) {
        self.engine.counters.waits.fetch_add(1, Relaxed);
    }

    /// Computes and caches.
    fn lead<E>(
        &self,
        hash: u64,
        lead: &Lead<'_, K, V>,
        options: Option<&EntryOptions>,
        compute: impl FnOnce() -> Result<V, E>,
    ) -> Result<V, ComputeError<E>>
    where
        V: Clone,
    {
        let timing = Timing::start(&self.engine.counters, &self.engine.hooks);
        let value = compute().map_err(ComputeError::Compute)?;
        timing.succeed();
        self.cache_computed(hash, lead, options, &value);
        Ok(value)
    }

    /// Caches a copy of what was computed.
    #[inline]
    pub(crate) fn cache_computed(
        &self,
        hash: u64,
        lead: &Lead<'_, K, V>,
        options: Option<&EntryOptions>,
        value: &V,
    ) where
        V: Clone,
    {
        let copy = value.clone();
        if let Some(key) = lead.take_key() {
            // What is refused has been counted, and is dropped: the caller has its value.
            drop(self.engine.place(hash, key, copy, options));
        }
    }

    /// Changes the value of `key`: `change` is given a clone of what is cached, if anything is, and
    /// returns what is to be cached instead, or `None` for nothing. Returns a clone of that.
    ///
    /// While it runs, no other `update` or computation of the key does: those wait (`insert` and
    /// `remove` do not). `change` runs with no lock held and may use the cache, other keys'
    /// computations included.
    ///
    /// # Errors
    /// What `change` returned is handed back if the cache or its account refuses it; an earlier
    /// value then stays, unless it was evicted on the way. [`MemoryError::Reentrant`], with nothing
    /// handed back, if it would wait for itself.
    ///
    /// ```
    /// use nebula_cache::{CacheConfig, ConcurrentComputeCache};
    ///
    /// let cache = ConcurrentComputeCache::<String, u64>::new(CacheConfig::default())?;
    /// for word in ["a", "b", "a"] {
    ///     cache.update(word, |count| Some(count.unwrap_or(0) + 1))?;
    /// }
    /// assert_eq!(cache.get("a"), Some(2));
    /// assert_eq!(cache.update("a", |_| None)?, None);
    /// assert!(!cache.contains("a"));
    /// # Ok::<(), nebula_memory_core::MemoryError>(())
    /// ```
    pub fn update<Q>(
        &self,
        key: &Q,
        change: impl FnOnce(Option<V>) -> Option<V>,
    ) -> Result<Option<V>, Refused<Option<V>>>
    where
        Q: Hash + Equivalent<K> + ToOwned<Owned = K> + ?Sized,
        V: Clone,
    {
        let hash = self.engine.hash(key);
        loop {
            match self.flights.join(hash, key, || self.count_wait()) {
                Joined::Lead(lead) => {
                    let before = self.engine.peek(hash, key, |entry| entry.value.clone());
                    return self.finish_update(hash, key, lead, change(before));
                }
                Joined::Landed(_) | Joined::Failed(_) | Joined::Again => {}
                Joined::Circle => {
                    let error = MemoryError::Reentrant { what: "an update of a cached value" };
                    return Err(Refused::new(None, error));
                }
            }
        }
    }
    /// Caches what an update said.
    pub(crate) fn finish_update<Q>(
        &self,
        hash: u64,
        key: &Q,
        lead: Lead<'_, K, V>,
        changed: Option<V>,
    ) -> Result<Option<V>, Refused<Option<V>>>
    where
        Q: Equivalent<K> + ?Sized,
        V: Clone,
    {
        let Some(value) = changed else {
            // Who waits for a value computes one.
            drop(self.engine.remove(hash, key));
            return Ok(None);
        };
        let copy = value.clone();
        if let Some(key) = lead.take_key() {
            let placed = self.engine.place(hash, key, copy, None);
            if let Err(Refused { value: (_, copy), error, .. }) = placed {
                return Err(Refused::new(Some(copy), error));
            }
        }
        lead.land(|| value.clone());
        Ok(Some(value))
    }
}
