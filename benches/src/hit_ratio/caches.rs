//! The caches that take part.

use nebula_cache::{CacheConfig, ConcurrentComputeCache, PolicyKind};

use super::{Trace, lru, optimum};

/// One that does the requests.
#[derive(Clone, Copy, Debug)]
pub struct Contender {
    /// Its name: of a policy of ours, or of a peer.
    pub name: &'static str,
    /// Its hits on a trace with room for so many entries.
    pub hits: fn(&Trace, usize) -> usize,
}

/// The references, all of ours, the peers.
#[must_use]
pub fn contenders() -> Vec<Contender> {
    macro_rules! ours {
        ($($policy:ident),*) => {[$(
            Contender {
                name: stringify!($policy),
                hits: |trace, entries| ours(trace, entries, PolicyKind::$policy, Some(1)),
            },
            Contender {
                name: concat!(stringify!($policy), ", default shards"),
                hits: |trace, entries| ours(trace, entries, PolicyKind::$policy, None),
            },
        )*]};
    }
    let mut all = vec![
        Contender { name: "OPT", hits: |trace, entries| optimum(&trace.requests, entries) },
        Contender { name: "LRU", hits: |trace, entries| lru(&trace.requests, entries) },
    ];
    all.extend(ours!(Steady, S3Fifo, Sieve, WTinyLfu, Arc, Lfu, Lru, Fifo));
    all.extend([
        Contender { name: "quick_cache", hits: quick_cache },
        Contender { name: "moka", hits: moka },
        Contender {
            name: "foyer s3fifo",
            hits: |trace, entries| foyer(trace, entries, foyer_memory::S3FifoConfig::default()),
        },
        Contender {
            name: "foyer lfu",
            hits: |trace, entries| foyer(trace, entries, foyer_memory::LfuConfig::default()),
        },
    ]);
    all
}

pub(super) fn hasher() -> ahash::RandomState {
    ahash::RandomState::with_seeds(1, 2, 3, 4)
}

/// Hits of a cache with this policy and so many shards.
fn ours(trace: &Trace, entries: usize, kind: PolicyKind, shards: Option<usize>) -> usize {
    let config = CacheConfig::builder().entries(entries).shards(shards).policy(kind).build();
    let config = config.expect("a valid configuration");
    let cache = ConcurrentComputeCache::builder(config).with_hasher(hasher()).build();
    let cache = cache.expect("a valid configuration");
    trace.hits(|key| {
        let hit = cache.get(&key).is_some();
        if !hit {
            cache.insert(key, ()).expect("room for one");
        }
        hit
    })
}

fn quick_cache(trace: &Trace, entries: usize) -> usize {
    let options = quick_cache::OptionsBuilder::new()
        .estimated_items_capacity(entries)
        .weight_capacity(entries as u64)
        .shards(1)
        .build()
        .expect("valid options");
    let lifecycle = quick_cache::sync::DefaultLifecycle::default();
    let unit = quick_cache::UnitWeighter;
    let cache = quick_cache::sync::Cache::with_options(options, unit, hasher(), lifecycle);
    trace.hits(|key| {
        let hit = cache.get(&key).is_some();
        if !hit {
            cache.insert(key, ());
        }
        hit
    })
}

fn moka(trace: &Trace, entries: usize) -> usize {
    let cache = moka::sync::Cache::builder().max_capacity(entries as u64);
    let cache = cache.build_with_hasher(hasher());
    trace.hits(|key| {
        let hit = cache.get(&key).is_some();
        if !hit {
            cache.insert(key, ());
        }
        // At once, what it does in its own time otherwise.
        cache.run_pending_tasks();
        hit
    })
}

fn foyer(trace: &Trace, entries: usize, policy: impl Into<foyer_memory::EvictionConfig>) -> usize {
    let cache: foyer_memory::Cache<u32, (), ahash::RandomState> =
        foyer_memory::CacheBuilder::new(entries)
            .with_shards(1)
            .with_eviction_config(policy)
            .with_hash_builder(hasher())
            .build();
    trace.hits(|key| {
        let hit = cache.get(&key).is_some();
        if !hit {
            cache.insert(key, ());
        }
        hit
    })
}
