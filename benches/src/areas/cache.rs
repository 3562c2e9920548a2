//! `nebula-cache` beside `quick_cache` and moka: the same keys in the same order, the same hash
//! function, room for the same number of entries; statistics as each has them by default (ours
//! always on).

use std::sync::{Arc, OnceLock};

use nebula_cache::{CacheConfig, ConcurrentComputeCache};
use nebula_memory_core::ByteSize;

use crate::{Case, Contender, Thread, kept};

/// The tests run everything a few times without optimisation, and on less.
const SMALL: bool = cfg!(debug_assertions);

/// Different keys of the Zipf sequence.
const KEYS: usize = if SMALL { 1000 } else { 100_000 };

/// Length of the sequence, a power of two; threads start at different places in it.
const SEQUENCE: usize = if SMALL { 1 << 12 } else { 1 << 18 };

/// Entries of a cache that holds about 80 % of the accesses.
const PART: usize = if SMALL { 140 } else { 14_000 };

/// What the cases need of a cache from `u64` to `u64`.
trait Map: Send + Sync + Sized + 'static {
    fn with_room_for(entries: usize) -> Self;
    fn get(&self, key: u64) -> Option<u64>;
    fn insert(&self, key: u64);
    fn get_or_insert(&self, key: u64) -> u64;
}

type Ours = ConcurrentComputeCache<u64, u64>;

impl Map for Ours {
    fn with_room_for(entries: usize) -> Self {
        let capacity = ByteSize::new(entries * size_of::<(u64, u64)>());
        let config = CacheConfig::builder().capacity(capacity).build().expect("a valid size");
        Self::new(config).expect("a valid configuration")
    }

    #[inline]
    fn get(&self, key: u64) -> Option<u64> {
        self.get(&key)
    }

    #[inline]
    fn insert(&self, key: u64) {
        self.insert(key, key).expect("room for one");
    }

    #[inline]
    fn get_or_insert(&self, key: u64) -> u64 {
        self.get_or_compute(&key, || key).expect("no circle")
    }
}

type Quick = quick_cache::sync::Cache<u64, u64, quick_cache::UnitWeighter, ahash::RandomState>;

impl Map for Quick {
    fn with_room_for(entries: usize) -> Self {
        let (unit, hasher) =
            (quick_cache::UnitWeighter, ahash::RandomState::with_seeds(1, 2, 3, 4));
        Self::with(
            entries,
            entries as u64,
            unit,
            hasher,
            quick_cache::sync::DefaultLifecycle::default(),
        )
    }

    #[inline]
    fn get(&self, key: u64) -> Option<u64> {
        self.get(&key)
    }

    #[inline]
    fn insert(&self, key: u64) {
        self.insert(key, key);
    }

    #[inline]
    fn get_or_insert(&self, key: u64) -> u64 {
        self.get_or_insert_with(&key, || Ok::<_, std::convert::Infallible>(key))
            .expect("infallible")
    }
}

type Moka = moka::sync::Cache<u64, u64, ahash::RandomState>;

impl Map for Moka {
    fn with_room_for(entries: usize) -> Self {
        let hasher = ahash::RandomState::with_seeds(1, 2, 3, 4);
        moka::sync::Cache::builder().max_capacity(entries as u64).build_with_hasher(hasher)
    }

    #[inline]
    fn get(&self, key: u64) -> Option<u64> {
        self.get(&key)
    }

    #[inline]
    fn insert(&self, key: u64) {
        self.insert(key, key);
    }

    #[inline]
    fn get_or_insert(&self, key: u64) -> u64 {
        self.get_with(key, || key)
    }
}

/// Spreads numbers over the key space.
const fn scatter(number: u64) -> u64 {
    number.wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

/// A fixed sequence of keys by the Zipf distribution, exponent 0.99; ranks are scattered over the
/// key space.
fn zipf() -> &'static [u64] {
    static SEQUENCE_OF_KEYS: OnceLock<Vec<u64>> = OnceLock::new();
    SEQUENCE_OF_KEYS.get_or_init(|| {
        let mut sum = 0.0;
        let sums: Vec<f64> = (1..=KEYS)
            .map(|rank| {
                sum += (rank as f64).powf(-0.99);
                sum
            })
            .collect();
        let mut state = 7_u64;
        let mut uniform = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            ((state ^ (state >> 29)) >> 11) as f64 / (1_u64 << 53) as f64
        };
        let draw = |_| {
            let point = uniform() * sum;
            let rank = sums.partition_point(|&sum| sum <= point) as u64;
            scatter(rank)
        };
        (0..SEQUENCE).map(draw).collect()
    })
}

/// A cache and the place in the sequence, for one thread.
fn each_key<M: Map>(state: &M, thread: Thread, op: impl Fn(&M, u64)) {
    let keys = zipf();
    let start = thread.index * SEQUENCE / 3;
    let turns = usize::try_from(thread.iterations).unwrap_or(usize::MAX);
    for turn in start..start + turns {
        op(state, keys[turn & (SEQUENCE - 1)]);
    }
}

/// Everything is cached, and read.
fn hit<M: Map>(name: &'static str, threads: usize) -> Contender {
    let setup = || {
        let cache = M::with_room_for(2 * KEYS);
        for rank in 0..KEYS as u64 {
            cache.insert(scatter(rank));
        }
        cache
    };
    Contender::threads(name, threads, kept(setup), |cache: &Arc<M>, thread| {
        each_key(&**cache, thread, |cache, key| {
            std::hint::black_box(cache.get(key));
        });
    })
}

/// Every key is new, and one goes for it.
fn churn<M: Map>(name: &'static str, threads: usize) -> Contender {
    let setup = || {
        let cache = M::with_room_for(PART);
        (0..4 * PART as u64).for_each(|key| cache.insert(scatter(key)));
        cache
    };
    Contender::threads(name, threads, setup, |cache, thread| {
        let first = (thread.index as u64 + 1) << 40;
        for key in first..first + thread.iterations {
            cache.insert(scatter(key));
        }
    })
}

/// About four in five keys are cached; the others are computed and cached.
fn get_or_insert<M: Map>(name: &'static str, threads: usize) -> Contender {
    let setup = || {
        let cache = M::with_room_for(PART);
        for &key in zipf() {
            cache.get_or_insert(key);
        }
        cache
    };
    Contender::threads(name, threads, setup, |cache, thread| {
        each_key(cache, thread, |cache, key| {
            std::hint::black_box(cache.get_or_insert(key));
        });
    })
}

/// A case over all of them.
macro_rules! case {
    ($name:literal, $work:ident, $threads:literal) => {
        Case::new($name, $work::<Ours>("ours", $threads))
            .peer($work::<Quick>("quick_cache", $threads))
            .peer($work::<Moka>("moka", $threads))
    };
}

/// Every case of this area.
#[must_use]
pub fn cases() -> Vec<Case> {
    vec![
        case!("get hit, 1 thread", hit, 1),
        case!("get hit, 2 threads", hit, 2),
        case!("insert and evict, 1 thread", churn, 1),
        case!("insert and evict, 2 threads", churn, 2),
        case!("get or insert at 80 % hits, 1 thread", get_or_insert, 1),
        case!("get or insert at 80 % hits, 2 threads", get_or_insert, 2),
    ]
}
