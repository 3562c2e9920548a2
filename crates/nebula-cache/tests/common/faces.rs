//! The caches behind one trait, with everything built in that a cache can have, so that one suite
//! runs over them.

use std::{
    fmt::Debug,
    mem::take,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use nebula_cache::{
    AnyPolicy, AsyncCache, CacheConfig, CacheConfigBuilder, CacheStats, Capacity, ComputeCache,
    ComputeError, ConcurrentComputeCache, EntryOptions, Policy, PolicyKind, RemovalCause,
    Scheduled, ScheduledCache, Tagged, TimedAndIdle, WeighedAndCharged, With,
};
use nebula_memory_core::{
    ByteSize, ManualClock, MemoryError, MemoryUsage, PressureLevel, Reclaim, Refused,
};
use nebula_testing::{CountingAccount, RefusingAccount};

use super::{hashes::Hashes, tasks::block_on};

/// What the suite's caches are charged to.
pub(crate) type Purse = RefusingAccount<CountingAccount>;

/// Everything that a cache can have.
pub(crate) type Full<P, T = TimedAndIdle> = With<P, WeighedAndCharged, T, Tagged, Purse, Hashes>;

pub(crate) type Concurrent<P = AnyPolicy> = ConcurrentComputeCache<u64, Value, Full<P>>;
pub(crate) type Async<P = AnyPolicy> = AsyncCache<u64, Value, Full<P>>;
pub(crate) type Timer<P = AnyPolicy> = ScheduledCache<u64, Value, Full<P, Scheduled<TimedAndIdle>>>;
pub(crate) type Local<P = AnyPolicy> = ComputeCache<u64, Value, Full<P>>;

/// Owns as many bytes on the heap as it has, and its clones too.
pub(crate) type Value = Vec<u8>;

/// A value of `size` bytes.
pub(crate) fn value(tag: u8, size: usize) -> Value {
    vec![tag; size]
}

/// What a listener was shown.
#[derive(Clone, Debug, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<Shown>>>);

/// An entry that left.
pub(crate) type Shown = (u64, Value, RemovalCause);

impl Log {
    pub(crate) fn note(&self, key: u64, value: &Value, cause: RemovalCause) {
        let mut log = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        log.push((key, value.clone(), cause));
    }

    /// What was shown since the last call.
    pub(crate) fn take(&self) -> Vec<Shown> {
        take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// By what a cache is built.
#[derive(Clone, Debug)]
pub(crate) struct Spec {
    pub(crate) config: CacheConfig,
    pub(crate) account: Purse,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) log: Option<Log>,
    pub(crate) hashes: Hashes,
    pub(crate) weigh: fn(&u64, &Value) -> usize,
    pub(crate) charge: fn(&u64, &Value) -> usize,
}

impl Spec {
    pub(crate) fn new(builder: CacheConfigBuilder) -> Self {
        let owned = |_: &u64, value: &Value| value.capacity();
        Self {
            config: builder.build().unwrap(),
            account: Purse::default(),
            clock: Arc::default(),
            log: None,
            hashes: Hashes::default(),
            weigh: owned,
            charge: owned,
        }
    }

    /// A cache of so many entries, on one shard.
    pub(crate) fn entries(entries: usize) -> Self {
        Self::new(CacheConfig::builder().entries(entries).shards(1))
    }

    /// A cache of so many bytes beside what it takes when it is empty, on one shard.
    pub(crate) fn bytes<F: Face>(bytes: usize) -> Self {
        Self::sharded_bytes::<F>(bytes, 1)
    }

    pub(crate) fn sharded_bytes<F: Face>(bytes: usize, shards: usize) -> Self {
        let large = CacheConfig::builder().bytes(ByteSize::mib(64)).shards(shards);
        let empty = F::build(&Self::new(large)).unwrap().charged();
        Self::new(CacheConfig::builder().bytes(ByteSize::new(empty + bytes)).shards(shards))
    }

    pub(crate) fn policy(mut self, kind: impl Into<Option<PolicyKind>>) -> Self {
        self.config.policy = kind.into();
        self
    }

    pub(crate) fn shards(mut self, shards: usize) -> Self {
        self.config.shards = Some(shards);
        self
    }

    pub(crate) fn ttl(mut self, ttl: Duration) -> Self {
        self.config.ttl = Some(ttl);
        self
    }

    pub(crate) fn idle(mut self, idle: Duration) -> Self {
        self.config.idle = Some(idle);
        self
    }

    /// With a listener that notes what it is shown.
    pub(crate) fn logged(mut self) -> (Self, Log) {
        let log = Log::default();
        self.log = Some(log.clone());
        (self, log)
    }

    pub(crate) fn books(&self) -> &CountingAccount {
        self.account.get_ref()
    }
}

/// One of them.
pub(crate) trait Face: MemoryUsage + Debug + Sized {
    /// Whether values that don't fit are returned by computations all the same.
    const RETURNS_REFUSED: bool;

    fn build(spec: &Spec) -> Result<Self, MemoryError>;
    fn get(&mut self, key: u64) -> Option<Value>;
    fn peek(&mut self, key: u64) -> Option<Value>;
    fn contains(&self, key: u64) -> bool;
    fn insert(&mut self, key: u64, value: Value) -> Result<Option<Value>, Refused<(u64, Value)>> {
        self.insert_with(key, value, EntryOptions::new())
    }
    fn insert_with(
        &mut self,
        key: u64,
        value: Value,
        options: EntryOptions,
    ) -> Result<Option<Value>, Refused<(u64, Value)>>;
    fn remove(&mut self, key: u64) -> Option<Value>;
    fn update(
        &mut self,
        key: u64,
        change: impl FnOnce(Option<Value>) -> Option<Value>,
    ) -> Result<(), Refused<Value>>;
    fn compute(&mut self, key: u64, compute: impl FnOnce() -> Value) -> Result<Value, MemoryError>;
    fn try_compute<E: Send + Sync + 'static>(
        &mut self,
        key: u64,
        compute: impl FnOnce() -> Result<Value, E>,
    ) -> Result<Value, ComputeError<E>>;
    fn try_compute_with<E: Send + Sync + 'static>(
        &mut self,
        key: u64,
        options: EntryOptions,
        compute: impl FnOnce() -> Result<Value, E>,
    ) -> Result<Value, ComputeError<E>>;
    fn pin(&mut self, key: u64) -> bool;
    fn unpin(&mut self, key: u64) -> bool;
    fn retain(&mut self, keep: impl FnMut(&u64, &Value) -> bool);
    fn entries(&mut self) -> Vec<(u64, Value)>;
    fn clear(&mut self);
    fn set_capacity(&mut self, capacity: Capacity) -> Result<(), MemoryError>;
    fn evict(&mut self, bytes: usize) -> usize;
    fn maintain(&mut self, slots: usize) -> usize;
    /// Removes what is due, if the cache knows what is; whether it does, and may have more.
    fn run_due(&mut self) -> bool {
        false
    }
    fn invalidate_tag(&mut self, tag: u64) -> usize;
    /// Asks for memory as a registry does.
    fn ask_back(&mut self, bytes: usize, urgency: PressureLevel) -> usize;
    fn len(&self) -> usize;
    fn is_empty(&self) -> bool;
    fn pinned(&self) -> usize;
    fn weight(&self) -> usize;
    fn room(&self) -> Capacity;
    fn charged(&self) -> usize;
    fn policy(&self) -> PolicyKind;
    fn stats(&self) -> CacheStats;
    fn check(&self) -> Result<(), String>;

    /// Structure and books are in order.
    #[track_caller]
    fn assert_whole(&self, spec: &Spec) {
        assert_eq!(self.check(), Ok(()), "{self:?}");
        spec.books().assert_balance(self.charged());
    }
}

macro_rules! face {
    // `$cache` is built by `$build`, keeps `$times`, and its methods are those of `$of`.
    ($cache:ident, [$($build:tt)+], $times:ty, $of:ident, { $($particular:tt)* }) => {
        impl<P: Policy> Face for $cache<u64, Value, Full<P, $times>> {
            fn build(spec: &Spec) -> Result<Self, MemoryError> {
                let builder = $of::builder(spec.config.clone())
                    .with_policy::<P>()
                    .with_idle_expiry()
                    .with_tags()
                    .with_hasher(spec.hashes)
                    .with_account(spec.account.clone())
                    .with_clock(Arc::clone(&spec.clock) as _)
                    .with_weigher(spec.weigh)
                    .with_charger(spec.charge);
                match spec.log.clone() {
                    Some(log) => {
                        let note = move |key: &u64, value: &Value, cause| {
                            log.note(*key, value, cause);
                        };
                        builder.with_listener(note).$($build)+
                    }
                    None => builder.$($build)+,
                }
            }

            fn contains(&self, key: u64) -> bool {
                $of::contains(self, &key)
            }

            fn insert_with(
                &mut self,
                key: u64,
                value: Value,
                options: EntryOptions,
            ) -> Result<Option<Value>, Refused<(u64, Value)>> {
                $of::insert_with(self, key, value, options)
            }

            fn remove(&mut self, key: u64) -> Option<Value> {
                $of::remove(self, &key)
            }

            fn pin(&mut self, key: u64) -> bool {
                $of::pin(self, &key)
            }

            fn unpin(&mut self, key: u64) -> bool {
                $of::unpin(self, &key)
            }

            fn retain(&mut self, keep: impl FnMut(&u64, &Value) -> bool) {
                $of::retain(self, keep);
            }

            fn clear(&mut self) {
                $of::clear(self);
            }

            fn set_capacity(&mut self, capacity: Capacity) -> Result<(), MemoryError> {
                $of::set_capacity(self, capacity)
            }

            fn evict(&mut self, bytes: usize) -> usize {
                $of::evict(self, bytes)
            }

            fn maintain(&mut self, slots: usize) -> usize {
                $of::maintain(self, slots)
            }

            fn invalidate_tag(&mut self, tag: u64) -> usize {
                $of::invalidate_tag(self, tag)
            }

            fn len(&self) -> usize {
                $of::len(self)
            }

            fn is_empty(&self) -> bool {
                $of::is_empty(self)
            }

            fn pinned(&self) -> usize {
                $of::pinned(self)
            }

            fn weight(&self) -> usize {
                $of::weight(self)
            }

            fn room(&self) -> Capacity {
                $of::capacity(self)
            }

            fn charged(&self) -> usize {
                $of::charged(self)
            }

            fn policy(&self) -> PolicyKind {
                $of::policy(self)
            }

            fn stats(&self) -> CacheStats {
                $of::stats(self)
            }

            fn check(&self) -> Result<(), String> {
                self.validate()
            }

            $($particular)*
        }
    };
}

/// A cache whose callers block.
macro_rules! blocking_face {
    ($cache:ident, [$($build:tt)+], $times:ty, { $($particular:tt)* }) => {
        face!($cache, [$($build)+], $times, ConcurrentComputeCache, {
            const RETURNS_REFUSED: bool = true;

            fn get(&mut self, key: u64) -> Option<Value> {
                $cache::get(self, &key)
            }

            fn peek(&mut self, key: u64) -> Option<Value> {
                ConcurrentComputeCache::peek(self, &key)
            }

            fn update(
                &mut self,
                key: u64,
                change: impl FnOnce(Option<Value>) -> Option<Value>,
            ) -> Result<(), Refused<Value>> {
                let changed = ConcurrentComputeCache::update(self, &key, change);
                changed.map(drop).map_err(|refused| refused.map(Option::unwrap))
            }

            fn compute(&mut self, key: u64, compute: impl FnOnce() -> Value) -> Result<Value, MemoryError> {
                self.get_or_compute(&key, compute)
            }

            fn try_compute<E: Send + Sync + 'static>(
                &mut self,
                key: u64,
                compute: impl FnOnce() -> Result<Value, E>,
            ) -> Result<Value, ComputeError<E>> {
                self.try_get_or_compute(&key, compute)
            }

            fn try_compute_with<E: Send + Sync + 'static>(
                &mut self,
                key: u64,
                options: EntryOptions,
                compute: impl FnOnce() -> Result<Value, E>,
            ) -> Result<Value, ComputeError<E>> {
                self.try_get_or_compute_with(&key, options, compute)
            }

            fn entries(&mut self) -> Vec<(u64, Value)> {
                self.iter().collect()
            }

            fn ask_back(&mut self, bytes: usize, urgency: PressureLevel) -> usize {
                self.reclaim(bytes, urgency)
            }

            $($particular)*
        });
    };
}

blocking_face!(ConcurrentComputeCache, [build()], TimedAndIdle, {});

blocking_face!(ScheduledCache, [scheduled().build_without_thread()], Scheduled<TimedAndIdle>, {
    fn run_due(&mut self) -> bool {
        ScheduledCache::run_due(self)
    }
});

/// The error of a computation for which nobody else waited.
fn unshared<E>(computed: Result<Value, ComputeError<Arc<E>>>) -> Result<Value, ComputeError<E>> {
    computed.map_err(|error| match error {
        ComputeError::Compute(error) => match Arc::into_inner(error) {
            Some(error) => ComputeError::Compute(error),
            None => unreachable!("nobody else waited"),
        },
        ComputeError::Memory(error) => ComputeError::Memory(error),
        _ => unreachable!("there are no others"),
    })
}

face!(AsyncCache, [build_async()], TimedAndIdle, ConcurrentComputeCache, {
    const RETURNS_REFUSED: bool = true;

    fn get(&mut self, key: u64) -> Option<Value> {
        ConcurrentComputeCache::get(self, &key)
    }

    fn peek(&mut self, key: u64) -> Option<Value> {
        ConcurrentComputeCache::peek(self, &key)
    }

    fn update(
        &mut self,
        key: u64,
        change: impl FnOnce(Option<Value>) -> Option<Value>,
    ) -> Result<(), Refused<Value>> {
        let changed = AsyncCache::update(self, &key, async |value| change(value));
        block_on(changed).map(drop).map_err(|refused| refused.map(Option::unwrap))
    }

    fn compute(&mut self, key: u64, compute: impl FnOnce() -> Value) -> Result<Value, MemoryError> {
        block_on(self.get_or_compute(&key, async { compute() }))
    }

    fn try_compute<E: Send + Sync + 'static>(
        &mut self,
        key: u64,
        compute: impl FnOnce() -> Result<Value, E>,
    ) -> Result<Value, ComputeError<E>> {
        unshared(block_on(self.try_get_or_compute(&key, async { compute() })))
    }

    fn try_compute_with<E: Send + Sync + 'static>(
        &mut self,
        key: u64,
        options: EntryOptions,
        compute: impl FnOnce() -> Result<Value, E>,
    ) -> Result<Value, ComputeError<E>> {
        unshared(block_on(self.try_get_or_compute_with(&key, options, async { compute() })))
    }

    fn entries(&mut self) -> Vec<(u64, Value)> {
        self.iter().collect()
    }

    fn ask_back(&mut self, bytes: usize, urgency: PressureLevel) -> usize {
        self.reclaim(bytes, urgency)
    }
});

face!(ComputeCache, [build()], TimedAndIdle, ComputeCache, {
    const RETURNS_REFUSED: bool = false;

    fn get(&mut self, key: u64) -> Option<Value> {
        ComputeCache::get(self, &key).cloned()
    }

    fn peek(&mut self, key: u64) -> Option<Value> {
        ComputeCache::peek(self, &key).cloned()
    }

    fn update(
        &mut self,
        key: u64,
        change: impl FnOnce(Option<Value>) -> Option<Value>,
    ) -> Result<(), Refused<Value>> {
        let changed = ComputeCache::update(self, key, |value| change(value.cloned()));
        changed.map_err(|refused| refused.map(|(_, value)| value))
    }

    fn compute(&mut self, key: u64, compute: impl FnOnce() -> Value) -> Result<Value, MemoryError> {
        Ok(self.get_or_compute(&key, compute)?.clone())
    }

    fn try_compute<E: Send + Sync + 'static>(
        &mut self,
        key: u64,
        compute: impl FnOnce() -> Result<Value, E>,
    ) -> Result<Value, ComputeError<E>> {
        self.try_get_or_compute(&key, compute).cloned()
    }

    fn try_compute_with<E: Send + Sync + 'static>(
        &mut self,
        key: u64,
        options: EntryOptions,
        compute: impl FnOnce() -> Result<Value, E>,
    ) -> Result<Value, ComputeError<E>> {
        self.try_get_or_compute_with(&key, options, compute).cloned()
    }

    fn entries(&mut self) -> Vec<(u64, Value)> {
        self.iter().map(|(key, value)| (*key, value.clone())).collect()
    }

    fn ask_back(&mut self, bytes: usize, urgency: PressureLevel) -> usize {
        self.trim_request().reclaim(bytes, urgency)
    }
});

/// Makes a test of each function, for every cache.
#[allow(unused_macros, reason = "not every test file is a suite")]
macro_rules! for_every_face {
    ($($test:ident),* $(,)?) => {
        for_every_face!(@ concurrent, Concurrent, $($test),*);
        for_every_face!(@ local, Local, $($test),*);
        for_every_face!(@ asynchronous, Async, $($test),*);
    };
    (@ $module:ident, $face:ident, $($test:ident),*) => {
        mod $module {
            $(
                #[test]
                fn $test() {
                    super::$test::<super::common::faces::$face>();
                }
            )*
        }
    };
}
#[allow(unused_imports, reason = "not every test file is a suite")]
pub(crate) use for_every_face;
