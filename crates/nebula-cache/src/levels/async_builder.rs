//! Builds caches of several levels for tasks.

use std::{
    fmt,
    future::Future,
    hash::{BuildHasher, Hash},
    time::Duration,
};

use nebula_memory_core::{Account, ConfigFaults, MemoryError, sync::Arc};

use super::{
    AsyncLevel, AsyncMultiLevelCache, Breaker, Demotion, Promotion, Writing,
    builder::{STRIPES, check},
    lower::{Demoter, Lower},
    remote::{Patience, Remote},
    rules::Promoter,
    tier::Tier,
};
use crate::{CacheBuilder, ConcurrentComputeCache, Kit, With, mode::Shared};

/// Builds an [`AsyncMultiLevelCache`].
///
/// ```
/// use std::time::Duration;
/// use nebula_cache::{
///     AsyncMultiLevelCache, Breaker, CacheConfig, ConcurrentComputeCache, InPlace, WhenFull, Writing,
/// };
/// # async fn sleep(_: Duration) {}
///
/// let first = ConcurrentComputeCache::<u64, String>::builder(CacheConfig::default());
/// let below = ConcurrentComputeCache::<u64, String>::new(CacheConfig::default())?;
/// let cache = AsyncMultiLevelCache::builder(first)
///     .level(InPlace::new(below))
///     // With tokio: `tokio::time::sleep`.
///     .timeout(Duration::from_millis(50), sleep)
///     .breaker(Breaker::default().failures(3))
///     .writing(Writing::Behind { queue: 1000, when_full: WhenFull::Write })
///     .build()?;
/// # assert!(cache.is_empty());
/// # Ok::<(), nebula_memory_core::MemoryError>(())
/// ```
#[must_use = "a builder does nothing until it is built"]
pub struct AsyncMultiLevelBuilder<K, V, P, W, T, G, A, S> {
    first: CacheBuilder<K, V, Shared, P, W, T, G, A, S>,
    levels: Vec<Box<dyn AsyncLevel<K, V>>>,
    promotion: Promotion,
    demotion: Demotion,
    writing: Writing,
    breaker: Breaker,
    patience: Option<Patience>,
}

impl<K, V, P, W, T, G, A, S> AsyncMultiLevelBuilder<K, V, P, W, T, G, A, S> {
    pub(crate) fn new(first: CacheBuilder<K, V, Shared, P, W, T, G, A, S>) -> Self {
        Self {
            first,
            levels: Vec::new(),
            promotion: Promotion::default(),
            demotion: Demotion::default(),
            writing: Writing::default(),
            breaker: Breaker::default(),
            patience: None,
        }
    }

    /// Adds a level below those that there are.
    pub fn level(mut self, level: impl AsyncLevel<K, V> + 'static) -> Self {
        self.levels.push(Box::new(level));
        self
    }

    /// When what a lower level held is placed in those above it.
    pub const fn promotion(mut self, promotion: Promotion) -> Self {
        self.promotion = promotion;
        self
    }

    /// What becomes of entries that level one evicts. Other than [`Demotion::None`], it takes
    /// [`Writing::Behind`]: they wait in its queue, and if that is full they are dropped.
    pub const fn demotion(mut self, demotion: Demotion) -> Self {
        self.demotion = demotion;
        self
    }

    /// How lower levels are written. [Behind](Writing::Behind) is by
    /// [`run`](AsyncMultiLevelCache::run), which has to be spawned.
    pub const fn writing(mut self, writing: Writing) -> Self {
        self.writing = writing;
        self
    }

    /// When a lower level is bypassed; each has a breaker of its own.
    pub const fn breaker(mut self, breaker: Breaker) -> Self {
        self.breaker = breaker;
        self
    }

    /// Gives up looking for, writing and removing a key in a level after `timeout`, above zero:
    /// `sleep` is your runtime's, and called for calls that are not ready at once. That is an error of
    /// the level's ([`LevelError::TimedOut`](crate::LevelError::TimedOut)), and counts for its breaker.
    ///
    /// Clearing, maintenance and flushing take as long as they take where they are asked for.
    pub fn timeout<F>(
        mut self,
        timeout: Duration,
        sleep: impl Fn(Duration) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let sleep = Box::new(move |time| Box::pin(sleep(time)) as _);
        self.patience = Some(Patience { timeout, sleep });
        self
    }

    fn validate(&self) -> Result<(), MemoryError> {
        let mut faults = ConfigFaults::new();
        check(&mut faults, self.levels.len(), self.promotion, self.writing, self.breaker);
        let through = self.writing == Writing::Through;
        let demotes = self.demotion != Demotion::None;
        faults.check(!(through && demotes), "demotion", "evicted", "takes writing behind");
        let timeout = self.patience.as_ref().is_none_or(|patience| !patience.timeout.is_zero());
        faults.check(timeout, "timeout", "0s", "must be above zero");
        faults.into_result()
    }
}

impl<K, V, P, W, T, G, A: Account, S> AsyncMultiLevelBuilder<K, V, P, W, T, G, A, S>
where
    K: Hash + Eq + Clone + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
    S: BuildHasher,
    With<P, W, T, G, A, S>: Kit + crate::kit::sealed::Kit<Account = A, Hasher = S>,
{
    /// The cache, level one empty.
    ///
    /// # Errors
    /// [`MemoryError::InvalidConfig`] for what breaks its rules, and whatever
    /// [`CacheBuilder::build`] says of level one.
    #[allow(clippy::type_complexity, reason = "an alias would hide what it is")]
    pub fn build(self) -> Result<AsyncMultiLevelCache<K, V, With<P, W, T, G, A, S>>, MemoryError> {
        self.validate()?;
        let Self { first, levels, promotion, demotion, writing, breaker, patience } = self;
        let (config, mut hooks, account, hasher) = first.into_parts();
        let clock = Arc::clone(&hooks.clock);
        let patience = patience.map(Arc::new);
        let tiers = levels.into_iter().map(|level| {
            let remote = Box::new(Remote { level, patience: patience.clone() });
            Tier::new(remote, breaker, Arc::clone(&clock))
        });
        let tiers = tiers.collect();
        let promoter = Promoter::new(promotion);
        let lower = Lower::new(tiers, STRIPES, clock, promoter, demotion, writing.queue());
        let lower = Arc::new(lower);
        if demotion != Demotion::None {
            hooks.evictions = Some(Box::new(Demoter(Arc::clone(&lower))));
        }
        let first = ConcurrentComputeCache::from_parts(&config, hooks, account, hasher, None)?;
        Ok(AsyncMultiLevelCache::from_parts(first, lower))
    }
}

impl<K, V, P, W, T, G, A: fmt::Debug, S> fmt::Debug
    for AsyncMultiLevelBuilder<K, V, P, W, T, G, A, S>
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AsyncMultiLevelBuilder")
            .field("first", &self.first)
            .field("levels", &self.levels.len())
            .field("promotion", &self.promotion)
            .field("demotion", &self.demotion)
            .field("writing", &self.writing)
            .field("breaker", &self.breaker)
            .field("timeout", &self.patience.as_ref().map(|patience| patience.timeout))
            .finish()
    }
}
