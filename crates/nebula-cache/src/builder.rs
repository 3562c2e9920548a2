//! Builds caches whose policy, account, weigher, hasher and so on are not the default.

use std::{fmt, marker::PhantomData};

use nebula_memory_core::{Account, Clock, MemoryError, Unlimited, sync::Arc};

use crate::{
    AnyPolicy, AsyncCache, CacheConfig, ComputeCache, ConcurrentComputeCache, Counted,
    DefaultHashBuilder, RemovalCause, Tagged, Timed, TimedAndIdle, Untagged, Untimed, Weighed,
    WeighedAndCharged, With,
    hooks::Hooks,
    mode::{Local, Mode, Shared},
    policy::Policy,
};

/// Types that a builder remembers.
type Kinds<P, W, T, G> = PhantomData<fn() -> (P, W, T, G)>;

/// Builds a [`ConcurrentComputeCache`], an [`AsyncCache`] or a [`ComputeCache`].
///
/// Each `with_` call adds one thing; what is not asked for takes no bytes in the entries.
///
/// ```
/// use nebula_cache::{CacheConfig, ConcurrentComputeCache, RemovalCause, S3Fifo};
/// use nebula_memory_core::Unlimited;
///
/// let cache = ConcurrentComputeCache::<String, Vec<u8>>::builder(CacheConfig::default())
///     .with_policy::<S3Fifo>()
///     .with_account(Unlimited)
///     .with_weigher(|key, value| key.capacity() + value.capacity())
///     .with_listener(|key, _value, cause| {
///         if cause == RemovalCause::Expired {
///             println!("{key} has expired");
///         }
///     })
///     .with_expiry()
///     .with_hasher(std::hash::RandomState::new())
///     .build()?;
/// assert!(cache.is_empty());
/// # Ok::<(), nebula_memory_core::MemoryError>(())
/// ```
#[must_use = "a builder does nothing until it is built"]
pub struct CacheBuilder<K, V, M, P, W, T, G, A, S>
where
    M: Mode,
{
    config: CacheConfig,
    hooks: Hooks<K, V, M>,
    account: A,
    hasher: S,
    kinds: Kinds<P, W, T, G>,
}

/// A builder of a [`ConcurrentComputeCache`] in which nothing has been chosen.
pub type SharedBuilder<K, V> = CacheBuilder<
    K,
    V,
    Shared,
    AnyPolicy,
    Counted,
    Untimed,
    Untagged,
    Unlimited,
    DefaultHashBuilder,
>;

/// A builder of a [`ComputeCache`] in which nothing has been chosen.
pub type LocalBuilder<K, V> =
    CacheBuilder<K, V, Local, AnyPolicy, Counted, Untimed, Untagged, Unlimited, DefaultHashBuilder>;

impl<K, V, M: Mode>
    CacheBuilder<K, V, M, AnyPolicy, Counted, Untimed, Untagged, Unlimited, DefaultHashBuilder>
{
    pub(crate) fn new(config: CacheConfig) -> Self {
        let (account, hasher) = (Unlimited, DefaultHashBuilder::default());
        Self { config, hooks: Hooks::none(), account, hasher, kinds: PhantomData }
    }
}

impl<K, V, M: Mode, P, W, T, G, A, S> CacheBuilder<K, V, M, P, W, T, G, A, S> {
    pub(crate) fn cast<P2, W2, T2, G2>(self) -> CacheBuilder<K, V, M, P2, W2, T2, G2, A, S> {
        let Self { config, hooks, account, hasher, .. } = self;
        CacheBuilder { config, hooks, account, hasher, kinds: PhantomData }
    }

    /// Fixes the policy by type, rather than by [`CacheConfig::policy`] when the cache is built,
    /// which saves a few instructions an operation.
    pub fn with_policy<P2: Policy>(self) -> CacheBuilder<K, V, M, P2, W, T, G, A, S> {
        self.cast()
    }

    /// Entries may expire: after [`CacheConfig::ttl`], or a time of their own
    /// ([`EntryOptions::ttl`](crate::EntryOptions::ttl)). Takes 8 bytes an entry.
    pub fn with_expiry(self) -> CacheBuilder<K, V, M, P, W, Timed, G, A, S> {
        self.cast()
    }

    /// Entries may expire, and also if they lie idle: after [`CacheConfig::idle`], or a time of
    /// their own ([`EntryOptions::idle`](crate::EntryOptions::idle)). Takes 24 bytes an entry.
    pub fn with_idle_expiry(self) -> CacheBuilder<K, V, M, P, W, TimedAndIdle, G, A, S> {
        self.cast()
    }

    /// Entries may have [tags](crate::EntryOptions::tag). Takes 16 bytes an entry.
    pub fn with_tags(self) -> CacheBuilder<K, V, M, P, W, T, Tagged, A, S> {
        self.cast()
    }

    /// Reads the time off `clock`; the machine's monotonic clock otherwise.
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.hooks.set_clock(clock);
        self
    }

    /// Charges `account` for the cache's own memory and for what its entries own.
    pub fn with_account<B: Account>(self, account: B) -> CacheBuilder<K, V, M, P, W, T, G, B, S> {
        let Self { config, hooks, hasher, kinds, .. } = self;
        CacheBuilder { config, hooks, account, hasher, kinds }
    }

    /// Hashes keys with `hasher`.
    pub fn with_hasher<H>(self, hasher: H) -> CacheBuilder<K, V, M, P, W, T, G, A, H> {
        let Self { config, hooks, account, kinds, .. } = self;
        CacheBuilder { config, hooks, account, hasher, kinds }
    }
}

impl<K, V, P, T, G, A, S, W> CacheBuilder<K, V, Shared, P, W, T, G, A, S> {
    /// Asks `weigher` how many bytes an entry owns outside the cache: the heap memory of its key
    /// and value. That counts against a capacity in bytes and is charged to the account. (Key and
    /// value themselves lie in the cache's own memory, which is counted and charged as it is
    /// allocated.)
    ///
    /// Called once for each value that is inserted, with no lock held; what it said is kept with
    /// the entry. Takes 8 bytes an entry.
    pub fn with_weigher(
        mut self,
        weigher: impl Fn(&K, &V) -> usize + Send + Sync + 'static,
    ) -> CacheBuilder<K, V, Shared, P, Weighed, T, G, A, S> {
        self.hooks.weigher = Some(Box::new(weigher));
        self.hooks.charger = None;
        self.cast()
    }

    /// Calls `listener` with every entry that leaves, and why: after the locks are released, before
    /// key and value are dropped or returned.
    ///
    /// A listener may use the cache. (What it inserts into a full one has something else leave, of
    /// which it is told in turn: it must not insert for whatever leaves.) One that panics has no effect
    /// on the cache; entries that left by the same operation may then not be shown. A cache with a
    /// listener gives memory back under pressure at its next miss, insertion or
    /// [`maintain`](ConcurrentComputeCache::maintain), because the listener is not to run inside a
    /// stranger's allocation. Entries that are dropped with the cache are not shown.
    pub fn with_listener(
        mut self,
        listener: impl Fn(&K, &V, RemovalCause) + Send + Sync + 'static,
    ) -> Self {
        self.hooks.listener = Some(Box::new(listener));
        self
    }
}

impl<K, V, P, T, G, A, S> CacheBuilder<K, V, Shared, P, Weighed, T, G, A, S> {
    /// Charges the account what `charger` says, rather than the weigher: zero for values whose own
    /// allocator charges them already. Takes 8 bytes an entry more.
    pub fn with_charger(
        mut self,
        charger: impl Fn(&K, &V) -> usize + Send + Sync + 'static,
    ) -> CacheBuilder<K, V, Shared, P, WeighedAndCharged, T, G, A, S> {
        self.hooks.charger = Some(Box::new(charger));
        self.cast()
    }
}

impl<K, V, P, T, G, A, S, W> CacheBuilder<K, V, Local, P, W, T, G, A, S> {
    /// As for a [shared cache](CacheBuilder::with_weigher): how many bytes an entry owns outside
    /// the cache.
    pub fn with_weigher(
        mut self,
        weigher: impl Fn(&K, &V) -> usize + 'static,
    ) -> CacheBuilder<K, V, Local, P, Weighed, T, G, A, S> {
        self.hooks.weigher = Some(Box::new(weigher));
        self.hooks.charger = None;
        self.cast()
    }

    /// As for a [shared cache](CacheBuilder::with_listener): is told of every entry that leaves.
    pub fn with_listener(mut self, listener: impl Fn(&K, &V, RemovalCause) + 'static) -> Self {
        self.hooks.listener = Some(Box::new(listener));
        self
    }
}

impl<K, V, P, T, G, A, S> CacheBuilder<K, V, Local, P, Weighed, T, G, A, S> {
    /// As for a [shared cache](CacheBuilder::with_charger): what the account is charged for an
    /// entry, if that is not what it weighs.
    pub fn with_charger(
        mut self,
        charger: impl Fn(&K, &V) -> usize + 'static,
    ) -> CacheBuilder<K, V, Local, P, WeighedAndCharged, T, G, A, S> {
        self.hooks.charger = Some(Box::new(charger));
        self.cast()
    }
}

impl<K, V, M: Mode, P, W, T, G, A, S> CacheBuilder<K, V, M, P, W, T, G, A, S> {
    pub(crate) const fn config(&self) -> &CacheConfig {
        &self.config
    }

    /// The configuration, hooks, account and hasher, the hooks with what the configuration says.
    pub(crate) fn into_parts(self) -> (CacheConfig, Hooks<K, V, M>, A, S) {
        let Self { config, mut hooks, account, hasher, .. } = self;
        (hooks.ttl, hooks.idle) = (config.ttl, config.idle);
        hooks.time_computations = config.time_computations;
        (config, hooks, account, hasher)
    }
}

impl<K, V, P, W, T, G, A, S> CacheBuilder<K, V, Shared, P, W, T, G, A, S>
where
    With<P, W, T, G, A, S>: crate::kit::sealed::Kit<Account = A, Hasher = S>,
{
    /// The cache, empty.
    ///
    /// # Errors
    /// [`MemoryError::InvalidConfig`] for a configuration that breaks its rules or asks for what
    /// has not been built in (a `ttl` without [`with_expiry`](Self::with_expiry)), or the account's
    /// refusal of the memory for the shards themselves.
    #[allow(clippy::type_complexity, reason = "an alias would hide what it is")]
    pub fn build(
        self,
    ) -> Result<ConcurrentComputeCache<K, V, With<P, W, T, G, A, S>>, MemoryError> {
        let (config, hooks, account, hasher) = self.into_parts();
        ConcurrentComputeCache::from_parts(&config, hooks, account, hasher, None)
    }

    /// The cache for tasks, empty.
    ///
    /// # Errors
    /// As [`build`](Self::build).
    #[allow(clippy::type_complexity, reason = "an alias would hide what it is")]
    pub fn build_async(self) -> Result<AsyncCache<K, V, With<P, W, T, G, A, S>>, MemoryError> {
        self.build().map(AsyncCache::from)
    }
}

impl<K, V, P, W, T, G, A, S> CacheBuilder<K, V, Local, P, W, T, G, A, S>
where
    With<P, W, T, G, A, S>: crate::kit::sealed::Kit<Account = A, Hasher = S>,
{
    /// The cache, empty.
    ///
    /// # Errors
    /// [`MemoryError::InvalidConfig`] for a configuration that breaks its rules or asks for what
    /// has not been built in (a `ttl` without [`with_expiry`](Self::with_expiry)), or the account's
    /// refusal of the memory for the cache itself.
    #[allow(clippy::type_complexity, reason = "an alias would hide what it is")]
    pub fn build(self) -> Result<ComputeCache<K, V, With<P, W, T, G, A, S>>, MemoryError> {
        let (config, hooks, account, hasher) = self.into_parts();
        ComputeCache::from_parts(&config, hooks, account, hasher)
    }
}

impl<K, V, M: Mode, P, W, T, G, A: fmt::Debug, S> fmt::Debug
    for CacheBuilder<K, V, M, P, W, T, G, A, S>
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CacheBuilder")
            .field("config", &self.config)
            .field("account", &self.account)
            .finish_non_exhaustive()
    }
}
