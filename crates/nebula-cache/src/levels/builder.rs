//! Builds caches of several levels.

use std::{
    fmt,
    hash::{BuildHasher, Hash},
};

use nebula_memory_core::{Account, ConfigFaults, MemoryError, sync::Arc};

use super::{
    Breaker, Demotion, Level, MultiLevelCache, Promotion, Writing,
    cache::start_writer,
    lower::{Demoter, Lower},
    rules::Promoter,
    tier::Tier,
};
use crate::{CacheBuilder, ConcurrentComputeCache, Kit, With, mode::Shared};

/// How many locks the list of what is under way has.
pub(super) const STRIPES: usize = 64;

/// Builds a [`MultiLevelCache`].
///
/// ```
/// use std::time::Duration;
/// use nebula_cache::{
///     Breaker, CacheConfig, ConcurrentComputeCache, MultiLevelCache, Promotion, WhenFull, Writing,
/// };
///
/// let first = ConcurrentComputeCache::<u64, String>::builder(CacheConfig::default());
/// let below = ConcurrentComputeCache::<u64, String>::new(CacheConfig::default())?;
/// let cache = MultiLevelCache::builder(first)
///     .level(below)
///     .promotion(Promotion::AfterHits(2))
///     .writing(Writing::Behind { queue: 1000, when_full: WhenFull::Write })
///     .breaker(Breaker::default().failures(3))
///     .build()?;
/// cache.insert(1, "one".to_owned())?;
/// cache.flush(Duration::from_secs(10)).expect("memory does not fail");
/// assert_eq!(cache.stats().levels[0].writes, 1);
/// # Ok::<(), nebula_memory_core::MemoryError>(())
/// ```
#[must_use = "a builder does nothing until it is built"]
pub struct MultiLevelBuilder<K, V, P, W, T, G, A, S> {
    first: CacheBuilder<K, V, Shared, P, W, T, G, A, S>,
    levels: Vec<Box<dyn Level<K, V>>>,
    promotion: Promotion,
    demotion: Demotion,
    writing: Writing,
    breaker: Breaker,
}

impl<K, V, P, W, T, G, A, S> MultiLevelBuilder<K, V, P, W, T, G, A, S> {
    pub(crate) fn new(first: CacheBuilder<K, V, Shared, P, W, T, G, A, S>) -> Self {
        Self {
            first,
            levels: Vec::new(),
            promotion: Promotion::default(),
            demotion: Demotion::default(),
            writing: Writing::default(),
            breaker: Breaker::default(),
        }
    }

    /// Adds a level below those that there are.
    pub fn level(mut self, level: impl Level<K, V> + 'static) -> Self {
        self.levels.push(Box::new(level));
        self
    }

    /// When what a lower level held is placed in those above it.
    pub const fn promotion(mut self, promotion: Promotion) -> Self {
        self.promotion = promotion;
        self
    }

    /// What becomes of entries that level one evicts.
    pub const fn demotion(mut self, demotion: Demotion) -> Self {
        self.demotion = demotion;
        self
    }

    /// How lower levels are written.
    pub const fn writing(mut self, writing: Writing) -> Self {
        self.writing = writing;
        self
    }

    /// When a lower level is bypassed; each has a breaker of its own.
    pub const fn breaker(mut self, breaker: Breaker) -> Self {
        self.breaker = breaker;
        self
    }

    fn validate(&self) -> Result<(), MemoryError> {
        let mut faults = ConfigFaults::new();
        check(&mut faults, self.levels.len(), self.promotion, self.writing, self.breaker);
        faults.into_result()
    }
}

/// Checks the choices that both faces have.
pub(super) fn check(
    faults: &mut ConfigFaults,
    levels: usize,
    promotion: Promotion,
    writing: Writing,
    breaker: Breaker,
) {
    faults.check(levels > 0, "levels", 0, "there must be one at least");
    let hits = promotion != Promotion::AfterHits(0);
    faults.check(hits, "promotion", "after 0 hits", "must be above zero");
    if let Some((queue, _)) = writing.queue() {
        // (Its memory is there from the beginning.)
        let fits = (1..=1 << 24).contains(&queue);
        faults.check(fits, "writing.queue", queue, "must be above zero, 16777216 at most");
    }
    breaker.check(faults);
}

impl<K, V, P, W, T, G, A: Account, S> MultiLevelBuilder<K, V, P, W, T, G, A, S>
where
    K: Hash + Eq + Clone + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
    S: BuildHasher,
    With<P, W, T, G, A, S>: Kit + crate::kit::sealed::Kit<Account = A, Hasher = S>,
{
    /// The cache, level one empty. Starts the thread that writes, if there is to be one.
    ///
    /// # Errors
    /// [`MemoryError::InvalidConfig`] for what breaks its rules, whatever
    /// [`CacheBuilder::build`] says of level one, and
    /// [`MemoryError::SourceUnavailable`] if the system has no thread.
    #[allow(clippy::type_complexity, reason = "an alias would hide what it is")]
    pub fn build(self) -> Result<MultiLevelCache<K, V, With<P, W, T, G, A, S>>, MemoryError> {
        self.validate()?;
        let Self { first, levels, promotion, demotion, writing, breaker } = self;
        let (config, mut hooks, account, hasher) = first.into_parts();
        let clock = Arc::clone(&hooks.clock);
        let tiers = levels.into_iter().map(|level| Tier::new(level, breaker, Arc::clone(&clock)));
        let queue = writing.queue();
        let promoter = Promoter::new(promotion);
        let lower = Lower::new(tiers.collect(), STRIPES, clock, promoter, demotion, queue);
        let lower = Arc::new(lower);
        if demotion != Demotion::None {
            hooks.evictions = Some(Box::new(Demoter(Arc::clone(&lower))));
        }
        let first = ConcurrentComputeCache::from_parts(&config, hooks, account, hasher, None)?;
        let writer = if queue.is_some() { Some(start_writer(&lower)?) } else { None };
        Ok(MultiLevelCache { first, lower, _writer: writer })
    }
}

impl<K, V, P, W, T, G, A: fmt::Debug, S> fmt::Debug for MultiLevelBuilder<K, V, P, W, T, G, A, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MultiLevelBuilder")
            .field("first", &self.first)
            .field("levels", &self.levels.len())
            .field("promotion", &self.promotion)
            .field("demotion", &self.demotion)
            .field("writing", &self.writing)
            .field("breaker", &self.breaker)
            .finish()
    }
}
