//! One tenant: its budget, and everything that is charged to it.

use std::sync::Arc;
#[cfg(any(feature = "arena", feature = "pool", feature = "cache"))]
use std::sync::Weak;

use nebula_budget::{BudgetAccount, BudgetAllocator, MemoryBudget};
#[cfg(any(feature = "allocators", feature = "arena", feature = "pool", feature = "cache"))]
use nebula_memory_core::MemoryError;
#[cfg(any(feature = "arena", feature = "pool", feature = "cache"))]
use nebula_memory_core::Reclaim;

use crate::memory::Parts;

/// A tenant of a [`Memory`](crate::Memory): a budget, and arenas, pools and caches that are charged
/// to it and configured as the process says.
///
/// A cheap handle; clones share. When the last one is dropped (and the last of the tenant's
/// [`budget`](Self::budget)), the tenant's memory is the process's again, but for what is still
/// held.
#[derive(Clone, Debug)]
pub struct Tenant {
    #[cfg_attr(
        not(any(feature = "allocators", feature = "arena", feature = "pool", feature = "cache")),
        allow(dead_code, reason = "there is nothing to configure without the parts")
    )]
    parts: Arc<Parts>,
    budget: MemoryBudget,
    /// What monitors watch, for as long as a handle of the tenant is there.
    #[cfg(feature = "monitor")]
    #[allow(dead_code, reason = "it is seen through a weak handle")]
    watched: Arc<MemoryBudget>,
}

impl Tenant {
    pub(crate) fn new(parts: Arc<Parts>, budget: MemoryBudget) -> Self {
        #[cfg(feature = "monitor")]
        let watched = {
            let watched = Arc::new(budget.clone());
            let weak = Arc::downgrade(&watched);
            parts.suspects.watch(weak);
            watched
        };
        Self {
            parts,
            budget,
            #[cfg(feature = "monitor")]
            watched,
        }
    }

    /// The tenant's name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.budget.name()
    }

    /// The tenant's budget.
    #[must_use]
    pub fn budget(&self) -> &MemoryBudget {
        &self.budget
    }

    /// Charges the tenant.
    #[must_use]
    pub fn account(&self) -> BudgetAccount {
        self.budget.account()
    }

    /// The heap, charged to the tenant: for collections.
    #[must_use]
    pub fn heap(&self) -> BudgetAllocator {
        self.budget.allocator()
    }

    /// An allocator as `allocator` in the configuration says, charged to the tenant. It is listed
    /// in [`Memory::allocators`](crate::Memory::allocators) as `tenant/name` if
    /// `stats.track_tenants` is set.
    ///
    /// # Errors
    /// The budget's refusal, if the allocator takes its memory at once.
    #[cfg(feature = "allocators")]
    pub fn allocator(
        &self,
        name: &str,
    ) -> Result<nebula_alloc::ConfiguredAllocator<BudgetAllocator>, MemoryError> {
        let mut config = self.parts.config.allocator.clone();
        let listed = self.parts.config.stats.track_tenants;
        config.track_stats |= listed;
        let name = format!("{}/{name}", self.name());
        let allocator = config.build_named_in(&name, self.heap())?;
        if listed { Ok(allocator.registered_in(&self.parts.allocators)) } else { Ok(allocator) }
    }

    /// An arena as `arena` in the configuration says, charged to the tenant.
    ///
    /// # Errors
    /// None for a configuration that was checked, as [`Memory`](crate::Memory)'s was.
    #[cfg(feature = "arena")]
    pub fn arena(&self) -> Result<nebula_arena::Arena<BudgetAllocator>, MemoryError> {
        nebula_arena::Arena::with_config_in(self.parts.config.arena.clone(), self.heap())
    }

    /// A stream of batches in `buffers` arenas as `arena` in the configuration says, charged to the
    /// tenant. What idle buffers hold is given back before a charge is refused, and on pressure.
    ///
    /// # Errors
    /// No buffers, too many, or the budget's refusal of their table.
    #[cfg(feature = "arena")]
    pub fn stream(
        &self,
        name: &str,
        buffers: usize,
    ) -> Result<nebula_arena::StreamingArena<BudgetAllocator>, MemoryError> {
        let config = &self.parts.config.arena;
        let stream = nebula_arena::StreamingArena::with_config_in(buffers, config, &self.heap())?;
        self.register(name, SPARE_CHUNKS, &Arc::downgrade(&stream.reclaimer()));
        Ok(stream)
    }

    /// A store of up to `keep` bytes of spare chunks for arenas that come and go
    /// (`Arena::new_in(&store)`), charged to the tenant. They are given back before a charge is
    /// refused, and on pressure.
    #[cfg(feature = "arena")]
    #[must_use]
    pub fn chunk_store(
        &self,
        name: &str,
        keep: nebula_memory_core::ByteSize,
    ) -> nebula_arena::ChunkStore<BudgetAllocator> {
        let store = nebula_arena::ChunkStore::new_in(keep, self.heap());
        self.register(name, SPARE_CHUNKS, &Arc::downgrade(&store.reclaimer()));
        store
    }

    /// A pool as `pool` in the configuration says, charged to the tenant. Its idle objects are
    /// given back before a charge is refused, and on pressure.
    ///
    /// # Errors
    /// The budget's refusal of the pool's own memory or of the objects of the warm-up, or an error
    /// of the factory.
    #[cfg(feature = "pool")]
    pub fn pool<T, F>(
        &self,
        name: &str,
        factory: F,
    ) -> Result<Arc<nebula_pool::ThreadSafePool<T, BudgetAccount>>, MemoryError>
    where
        T: nebula_pool::Poolable + Send + 'static,
        F: Fn() -> Result<T, MemoryError> + Send + Sync + 'static,
    {
        let config = &self.parts.config.pool;
        let pool = nebula_pool::ThreadSafePool::try_new_in(config, self.account(), factory)?;
        let pool = Arc::new(pool);
        let weak: Weak<nebula_pool::ThreadSafePool<T, BudgetAccount>> = Arc::downgrade(&pool);
        let weak: Weak<dyn Reclaim> = weak;
        self.register(name, IDLE_OBJECTS, &weak);
        Ok(pool)
    }

    /// A cache as `cache` in the configuration says, charged to the tenant; `weigher` tells how
    /// many bytes an entry owns on the heap. It gives entries back before a charge is refused, and
    /// on pressure.
    ///
    /// # Errors
    /// The budget's refusal of the cache's own memory.
    #[cfg(feature = "cache")]
    pub fn cache<K, V, W>(
        &self,
        name: &str,
        weigher: W,
    ) -> Result<Arc<TenantCache<K, V>>, MemoryError>
    where
        K: std::hash::Hash + Eq + Send + Sync + 'static,
        V: Send + Sync + 'static,
        W: Fn(&K, &V) -> usize + Send + Sync + 'static,
    {
        let cache = nebula_cache::ConcurrentComputeCache::builder(self.parts.config.cache.clone())
            .with_account(self.account())
            .with_weigher(weigher)
            .with_idle_expiry()
            .build()?;
        let cache = Arc::new(cache);
        let weak: Weak<TenantCache<K, V>> = Arc::downgrade(&cache);
        let weak: Weak<dyn Reclaim> = weak;
        self.register(name, CACHED_VALUES, &weak);
        Ok(cache)
    }

    /// The tenant's partition of a cache that tenants share, under the tenant's name and charged to
    /// the tenant: others cannot evict what `share` guarantees. `weigher` tells how many bytes an
    /// entry owns on the heap. It gives entries back before a charge is refused, and on pressure.
    ///
    /// # Errors
    /// If so much cannot be guaranteed, or if the tenant has a partition there already; the budget's
    /// refusal of the cache's own memory.
    ///
    /// ```
    /// use nebula_memory::{
    ///     Memory, MemoryConfig, TenantPartitions, budget::BudgetConfig,
    ///     cache::{CacheConfig, Share}, core::ByteSize,
    /// };
    ///
    /// let process = BudgetConfig::builder(ByteSize::mib(64)).build()?;
    /// let memory = Memory::new(MemoryConfig::builder().budget(process).build()?)?;
    /// let config = CacheConfig::builder().entries(10_000).build()?;
    /// let pages = TenantPartitions::<u64, Vec<u8>>::new(config)?;
    /// let acme = memory.tenant("acme", &BudgetConfig::builder(ByteSize::mib(8)).build()?)?;
    /// let mine = acme.partition(&pages, Share::guaranteed(1000), |_, page| page.capacity())?;
    /// mine.insert(1, vec![0; 4096])?;
    /// assert!(acme.budget().used() >= 4096);
    /// # Ok::<(), nebula_memory::core::MemoryError>(())
    /// ```
    #[cfg(feature = "cache")]
    pub fn partition<K, V, W>(
        &self,
        of: &TenantPartitions<K, V>,
        share: nebula_cache::Share,
        weigher: W,
    ) -> Result<TenantPartition<K, V>, MemoryError>
    where
        K: std::hash::Hash + Eq + Send + Sync + 'static,
        V: Send + Sync + 'static,
        W: Fn(&K, &V) -> usize + Send + Sync + 'static,
    {
        let partition = of.add(self.name(), share, |cache| {
            cache.with_account(self.account()).with_weigher(weigher).with_idle_expiry()
        })?;
        let weak: Weak<TenantCache<K, V>> = Arc::downgrade(partition.cache());
        let weak: Weak<dyn Reclaim> = weak;
        self.register("partition", CACHED_VALUES, &weak);
        Ok(partition)
    }

    /// Registers with the budget, which asks before it refuses, and with the process, whose monitor
    /// asks on pressure; both until `target` is dropped.
    #[cfg(any(feature = "arena", feature = "pool", feature = "cache"))]
    fn register(&self, name: &str, priority: u8, target: &Weak<dyn Reclaim>) {
        let name = format!("{}/{name}", self.name());
        self.budget.reclaimers().register(&*name, priority, Weak::clone(target)).detach();
        self.parts.reclaimers.register(&*name, priority, Weak::clone(target)).detach();
    }
}

/// What a [`TenantCache`] is made of: the policy as configured, entries that are weighed and may
/// expire, the tenant charged.
#[cfg(feature = "cache")]
pub type TenantKit = nebula_cache::With<
    nebula_cache::AnyPolicy,
    nebula_cache::Weighed,
    nebula_cache::TimedAndIdle,
    nebula_cache::Untagged,
    BudgetAccount,
>;

/// The cache that [`Tenant::cache`] builds.
#[cfg(feature = "cache")]
pub type TenantCache<K, V> = nebula_cache::ConcurrentComputeCache<K, V, TenantKit>;

/// A cache that tenants share; see [`Tenant::partition`].
#[cfg(feature = "cache")]
pub type TenantPartitions<K, V> = nebula_cache::PartitionedCache<K, V, TenantKit>;

/// A tenant's part of a cache that tenants share; see [`Tenant::partition`].
#[cfg(feature = "cache")]
pub type TenantPartition<K, V> = nebula_cache::Partition<K, V, TenantKit>;

/// Spare chunks hold nothing: they are given back first.
#[cfg(feature = "arena")]
const SPARE_CHUNKS: u8 = 5;

/// Idle objects are given back next: making them again is all that it costs.
#[cfg(feature = "pool")]
const IDLE_OBJECTS: u8 = 10;

/// Cached values cost a computation each.
#[cfg(feature = "cache")]
const CACHED_VALUES: u8 = 20;
