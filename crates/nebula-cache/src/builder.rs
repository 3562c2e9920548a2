//! Builds caches whose account, weigher or hasher is not the default.

use std::{fmt, marker::PhantomData};

use nebula_memory_core::{Account, MemoryError, Unlimited};

use crate::{CacheConfig, ConcurrentComputeCache, DefaultHashBuilder, SizeOf, Weigher};

/// Builds a [`ConcurrentComputeCache`].
///
/// ```
/// use nebula_cache::{CacheConfig, ConcurrentComputeCache};
/// use nebula_memory_core::Unlimited;
///
/// let cache = ConcurrentComputeCache::<String, Vec<u8>>::builder(CacheConfig::default())
///     .with_account(Unlimited)
///     .with_weigher(|key, value| key.capacity() + value.capacity())
///     .with_hasher(std::hash::RandomState::new())
///     .build()?;
/// assert!(cache.is_empty());
/// # Ok::<(), nebula_memory_core::MemoryError>(())
/// ```
#[must_use = "a builder does nothing until it is built"]
pub struct CacheBuilder<K, V, A = Unlimited, W = SizeOf, S = DefaultHashBuilder> {
    config: CacheConfig,
    account: A,
    weigher: W,
    hasher: S,
    entries: PhantomData<fn(K, V)>,
}

impl<K, V> CacheBuilder<K, V> {
    pub(crate) fn new(config: CacheConfig) -> Self {
        let (account, weigher, hasher) = (Unlimited, SizeOf, DefaultHashBuilder::default());
        Self { config, account, weigher, hasher, entries: PhantomData }
    }
}

impl<K, V, A, W, S> CacheBuilder<K, V, A, W, S> {
    /// Charges `account` for the cache's own memory and for what its entries own.
    pub fn with_account<B: Account>(self, account: B) -> CacheBuilder<K, V, B, W, S> {
        let Self { config, weigher, hasher, entries, .. } = self;
        CacheBuilder { config, account, weigher, hasher, entries }
    }

    /// Asks `weigher` how many bytes an entry owns on the heap; see [`Weigher`].
    pub fn with_weigher<X>(self, weigher: X) -> CacheBuilder<K, V, A, X, S>
    where
        X: Fn(&K, &V) -> usize,
    {
        let Self { config, account, hasher, entries, .. } = self;
        CacheBuilder { config, account, weigher, hasher, entries }
    }

    /// Hashes keys with `hasher`. All 64 bits of a hash should be good ones: the shard is chosen by
    /// the high half, and the place within it by the low half.
    pub fn with_hasher<T>(self, hasher: T) -> CacheBuilder<K, V, A, W, T> {
        let Self { config, account, weigher, entries, .. } = self;
        CacheBuilder { config, account, weigher, hasher, entries }
    }
}

impl<K, V, A: Account, W: Weigher<K, V>, S> CacheBuilder<K, V, A, W, S> {
    /// The cache, empty.
    ///
    /// # Errors
    /// [`MemoryError::InvalidConfig`] for a configuration that breaks its rules, or the account's
    /// refusal of the memory for the shards themselves.
    pub fn build(self) -> Result<ConcurrentComputeCache<K, V, A, W, S>, MemoryError> {
        let Self { config, account, weigher, hasher, .. } = self;
        ConcurrentComputeCache::from_parts(&config, account, weigher, hasher)
    }
}

impl<K, V, A: fmt::Debug, W, S> fmt::Debug for CacheBuilder<K, V, A, W, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CacheBuilder")
            .field("config", &self.config)
            .field("account", &self.account)
            .finish_non_exhaustive()
    }
}
