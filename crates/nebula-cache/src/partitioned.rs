//! The face for many tenants: caches that share one capacity.

use std::{collections::BTreeMap, fmt, ops::Deref};

use nebula_memory_core::{
    MemoryError, PressureLevel, Reclaim,
    sync::{Arc, Mutex},
};

use crate::{
    CacheBuilder, CacheConfig, Capacity, ConcurrentComputeCache, Kit, Share, SharedBuilder, With,
    engine::unit,
    mode::Shared,
    shares::{Lender, Shares, Tenancy},
};

type Partitions<K, V, O> = BTreeMap<Box<str>, Partition<K, V, O>>;

/// One capacity shared by named partitions, one for each tenant, so that a noisy one cannot evict
/// what the others are guaranteed.
///
/// - Each [`Partition`] is a cache of its own: its policy, statistics, listener and account see its
///   own entries only.
/// - Each has a [`Share`]: what it is guaranteed, and the most that it may have. The guarantees are
///   no more than the capacity, together.
/// - What a partition does not use, guaranteed or not, is lent to those who ask. Its owner has it
///   back as soon as it inserts: who has most beyond his guarantee evicts that much, by his own
///   policy, before the insertion returns.
/// - What nobody is guaranteed goes to who asks first; if there is none left, to who has less beyond
///   his guarantee from who has more, until both have as much.
/// - Together the partitions never hold more than the capacity, not for a moment.
///
/// Capacity moves in portions (a 64th of what an even split would be), so that not each insertion
/// asks: a partition may have up to a portion that it does not use.
///
/// ```
/// use nebula_cache::{CacheConfig, PartitionedCache, Share};
///
/// let config = CacheConfig::builder().entries(1000).build()?;
/// let tenants = PartitionedCache::<u64, String>::new(config)?;
/// let acme = tenants.add("acme", Share::guaranteed(400), |cache| cache)?;
/// let noisy = tenants.add("noisy", Share::guaranteed(100), |cache| cache)?;
///
/// for key in 0..400 {
///     acme.insert(key, "an entry of acme's".to_owned())?;
/// }
/// for key in 0..100_000 {
///     noisy.insert(key, "one of very many".to_owned())?;
/// }
/// assert_eq!(acme.len(), 400);
/// assert!(noisy.len() <= 600);
/// # Ok::<(), nebula_memory_core::MemoryError>(())
/// ```
pub struct PartitionedCache<K, V, O: Kit = With> {
    config: CacheConfig,
    shares: Arc<Shares>,
    partitions: Mutex<Partitions<K, V, O>>,
}

/// A tenant's part of a [`PartitionedCache`]: a [`ConcurrentComputeCache`] whose capacity is what it
/// has been granted now. A cheap handle; clones share.
///
/// Its [`set_capacity`](ConcurrentComputeCache::set_capacity) is an error; its share is changed by
/// [`PartitionedCache::set_share`].
pub struct Partition<K, V, O: Kit = With>(Arc<ConcurrentComputeCache<K, V, O>>);

/// What a partition has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct PartitionUsage {
    /// What is there whenever it needs it, in entries or bytes.
    pub guaranteed: usize,
    /// The most that it may have.
    pub maximum: usize,
    /// What it has been granted now.
    pub granted: usize,
    /// What of that it uses.
    pub used: usize,
    /// What others have had it evict, ever.
    pub lost: u64,
}

impl<K, V, O: Kit> PartitionedCache<K, V, O> {
    /// A capacity without partitions. The other values of `config` apply to every partition.
    ///
    /// # Errors
    /// [`MemoryError::InvalidConfig`] for a configuration that breaks its rules.
    pub fn new(config: CacheConfig) -> Result<Self, MemoryError> {
        config.validate()?;
        let shares = Shares::new(config.capacity.get());
        Ok(Self { config, shares, partitions: Mutex::new(BTreeMap::new()) })
    }

    /// The partition called `name`. O(log partitions).
    #[must_use]
    pub fn get(&self, name: &str) -> Option<Partition<K, V, O>> {
        self.partitions.lock().get(name).cloned()
    }

    /// All partitions, by name.
    #[must_use]
    pub fn partitions(&self) -> Vec<Partition<K, V, O>> {
        self.partitions.lock().values().cloned().collect()
    }

    /// The capacity that they share.
    #[must_use]
    pub fn capacity(&self) -> Capacity {
        capacity_of(self.config.capacity, self.shares.capacity())
    }

    /// What of the capacity is not guaranteed to any partition, in entries or bytes.
    #[must_use]
    pub fn unpromised(&self) -> usize {
        self.shares.unpromised()
    }

    /// What the entries of all partitions take of the capacity. O(shards of all).
    #[must_use]
    pub fn weight(&self) -> usize {
        self.partitions().iter().map(|partition| partition.weight()).sum()
    }
}

fn capacity_of(like: Capacity, amount: usize) -> Capacity {
    match like {
        Capacity::Entries(_) => Capacity::Entries(amount),
        Capacity::Bytes(_) => Capacity::Bytes(amount.into()),
    }
}

impl<K, V, P, W, T, G, A, S> PartitionedCache<K, V, With<P, W, T, G, A, S>>
where
    With<P, W, T, G, A, S>: crate::kit::sealed::Kit<Account = A, Hasher = S>,
    ConcurrentComputeCache<K, V, With<P, W, T, G, A, S>>: Send + Sync + 'static,
{
    /// Adds a partition called `name`, as `build` builds it: with an account, a weigher, a listener
    /// of its own, for example.
    ///
    /// # Errors
    /// [`MemoryError::InvalidConfig`] if there is a partition of that name, or for a share that
    /// breaks its rules; [`MemoryError::CapacityExceeded`] if so much cannot be guaranteed, or if
    /// nothing is to be had for what a cache in bytes takes itself; the account's refusal.
    ///
    /// ```
    /// use nebula_cache::{CacheConfig, PartitionedCache, Share, Weighed, With};
    /// use nebula_memory_core::ByteSize;
    ///
    /// type Pages = PartitionedCache<String, Vec<u8>, With<nebula_cache::AnyPolicy, Weighed>>;
    /// let config = CacheConfig::builder().bytes(ByteSize::mib(64)).build()?;
    /// let tenants = Pages::new(config)?;
    /// let share = Share::guaranteed(8 << 20).at_most(32 << 20);
    /// let acme = tenants.add("acme", share, |cache| {
    ///     cache.with_weigher(|url: &String, page: &Vec<u8>| url.capacity() + page.capacity())
    /// })?;
    /// acme.insert("/".to_owned(), b"<html>".to_vec())?;
    /// assert_eq!(tenants.get("acme").map(|acme| acme.len()), Some(1));
    /// # Ok::<(), nebula_memory_core::MemoryError>(())
    /// ```
    #[allow(clippy::type_complexity, reason = "an alias would hide what it is")]
    pub fn add(
        &self,
        name: &str,
        share: Share,
        build: impl FnOnce(SharedBuilder<K, V>) -> CacheBuilder<K, V, Shared, P, W, T, G, A, S>,
    ) -> Result<Partition<K, V, With<P, W, T, G, A, S>>, MemoryError> {
        let taken = || {
            let rule = "must differ from the names of the other partitions";
            Err(MemoryError::invalid_config("name", name, rule))
        };
        if self.get(name).is_some() {
            return taken();
        }
        // As large as it is for certain, so that it is divided into as many shards as suit that.
        let size = if share.guarantee() > 0 { share.guarantee() } else { share.maximum() };
        let mut config = self.config.clone();
        config.capacity = capacity_of(config.capacity, size.min(self.shares.capacity()));
        let (_, hooks, account, hasher) = build(CacheBuilder::new(config.clone())).into_parts();
        let tenancy = Tenancy::new(name, &self.shares, share)?;
        let cache =
            ConcurrentComputeCache::from_parts(&config, hooks, account, hasher, Some(tenancy))?;
        let partition = Partition(Arc::new(cache));
        let lender: Arc<dyn Lender> = partition.0.clone();
        {
            let mut partitions = self.partitions.lock();
            if partitions.contains_key(name) {
                drop(partitions);
                return taken();
            }
            partitions.insert(name.into(), partition.clone());
        }
        partition.tenancy().enter(Arc::downgrade(&lender));
        Ok(partition)
    }
}

impl<K, V, O: Kit> PartitionedCache<K, V, O>
where
    ConcurrentComputeCache<K, V, O>: Send + Sync,
{
    /// Changes a partition's share; what it has too much is evicted before this returns (pinned
    /// entries stay). `Ok(false)` if there is no such partition.
    ///
    /// # Errors
    /// As [`add`](PartitionedCache::add); nothing has changed then.
    pub fn set_share(&self, name: &str, share: Share) -> Result<bool, MemoryError> {
        let Some(partition) = self.get(name) else { return Ok(false) };
        partition.tenancy().set_share(share, &*partition.0)
    }

    /// Removes a partition, and every entry of it; whether there was one. What it was guaranteed is
    /// there for others. Who still has a handle has an empty cache without capacity.
    pub fn remove(&self, name: &str) -> bool {
        let Some(partition) = self.partitions.lock().remove(name) else { return false };
        partition.clear();
        partition.tenancy().end(&*partition.0);
        true
    }

    /// Changes the capacity, in the unit in which it is counted. What is too much is evicted before
    /// this returns, from those first who have most beyond their guarantees (pinned entries stay).
    ///
    /// # Errors
    /// [`MemoryError::InvalidConfig`] for less than the partitions are guaranteed, for zero, or for
    /// bytes where entries are counted and the other way round.
    pub fn set_capacity(&self, capacity: Capacity) -> Result<(), MemoryError> {
        if unit(capacity) != unit(self.config.capacity) {
            let rule = "a cache counts entries or bytes, as it was built to, for its life";
            return Err(MemoryError::invalid_config("capacity", capacity, rule));
        }
        self.shares.set_capacity(capacity.get())
    }
}

impl<K, V, O: Kit> Lender for ConcurrentComputeCache<K, V, O>
where
    Self: Send + Sync,
{
    fn lend(&self, most: usize, kept: usize) -> usize {
        self.engine.total.lend(most, kept)
    }

    fn yield_up(&self, most: usize) -> usize {
        self.engine.yield_up(most)
    }
}

impl<K, V, O: Kit> Partition<K, V, O> {
    fn tenancy(&self) -> &Tenancy {
        match &self.0.engine.tenancy {
            Some(tenancy) => tenancy,
            None => unreachable!("partitions are built with one"),
        }
    }

    /// The partition's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.tenancy().name
    }

    /// What it has of the capacity, and what it uses of that.
    #[must_use]
    pub fn usage(&self) -> PartitionUsage {
        let holding = self.tenancy().holding();
        let (share, granted) = (holding.share(), holding.granted());
        PartitionUsage {
            guaranteed: share.guarantee(),
            maximum: share.maximum(),
            granted,
            used: self.weight(),
            lost: holding.lost(),
        }
    }

    /// The cache behind it, to be registered with a
    /// [`ReclaimRegistry`](nebula_memory_core::ReclaimRegistry), for example.
    #[must_use]
    pub const fn cache(&self) -> &Arc<ConcurrentComputeCache<K, V, O>> {
        &self.0
    }
}

impl<K, V, O: Kit> Deref for Partition<K, V, O> {
    type Target = ConcurrentComputeCache<K, V, O>;

    #[inline]
    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl<K, V, O: Kit> Clone for Partition<K, V, O> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

/// Asks those first who have most beyond their guarantees.
impl<K, V, O> Reclaim for PartitionedCache<K, V, O>
where
    O: Kit,
    Self: Send + Sync,
    ConcurrentComputeCache<K, V, O>: Reclaim,
{
    fn reclaimable(&self) -> usize {
        let Some(partitions) = self.partitions.try_lock() else { return 0 };
        partitions.values().map(|partition| partition.reclaimable()).sum()
    }

    fn reclaim(&self, wanted: usize, urgency: PressureLevel) -> usize {
        let mut partitions = {
            let Some(partitions) = self.partitions.try_lock() else { return 0 };
            partitions.values().cloned().collect::<Vec<_>>()
        };
        let excess = |partition: &Partition<K, V, O>| {
            let usage = partition.usage();
            usage.used.saturating_sub(usage.guaranteed)
        };
        partitions.sort_by_cached_key(|partition| std::cmp::Reverse(excess(partition)));
        let mut given = 0_usize;
        for partition in partitions {
            if given >= wanted {
                break;
            }
            given = given.saturating_add(partition.reclaim(wanted - given, urgency));
        }
        given
    }
}

impl<K, V, O> fmt::Debug for Partition<K, V, O>
where
    O: Kit,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut partition = f.debug_struct("Partition");
        partition.field("name", &self.name()).field("usage", &self.usage()).finish_non_exhaustive()
    }
}

impl<K, V, O: Kit> fmt::Debug for PartitionedCache<K, V, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PartitionedCache")
            .field("capacity", &self.capacity())
            .field("unpromised", &self.unpromised())
            .field("partitions", &self.partitions())
            .finish_non_exhaustive()
    }
}
