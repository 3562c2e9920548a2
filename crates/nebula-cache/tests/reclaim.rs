//! Giving memory back: through a registry, under pressure, without waiting for anybody.

mod common;

use std::sync::{
    Arc, Barrier, Weak,
    atomic::{AtomicUsize, Ordering::SeqCst},
};

use common::{KINDS, SameHashes};
use nebula_cache::{
    AnyPolicy, CacheConfig, ComputeCache, ConcurrentComputeCache, Counted, PolicyKind,
    RemovalCause, Untagged, Untimed, With,
};
use nebula_memory_core::{Account, ByteSize, MemoryError, PressureLevel, Reclaim, ReclaimRegistry};
use nebula_testing::CountingAccount;

type Charged<A = CountingAccount> = With<AnyPolicy, Counted, Untimed, Untagged, A, SameHashes>;
type Cache = ConcurrentComputeCache<u64, u64, Charged>;

/// 10,000 entries on four shards, charged to `account`.
fn filled(account: &CountingAccount, kind: PolicyKind) -> Cache {
    let config = CacheConfig::builder().entries(10_000).shards(4).policy(kind).build().unwrap();
    let cache = ConcurrentComputeCache::<u64, u64>::builder(config)
        .with_account(account.clone())
        .with_hasher(SameHashes::default())
        .build()
        .unwrap();
    (0..10_000).for_each(|key| _ = cache.insert(key, key).unwrap());
    cache
}

#[test]
fn urgency_decides_how_much_is_given() {
    for kind in KINDS {
        for (urgency, percent) in PressureLevel::ALL.into_iter().zip([25, 25, 50, 100]) {
            let account = CountingAccount::new();
            let cache = filled(&account, kind);
            let held = cache.reclaimable();
            let given = cache.reclaim(usize::MAX, urgency);
            account.assert_balance(cache.charged());
            assert_eq!(cache.reclaimable(), held - given);
            // Memory goes in chunks, shards give in turns, and with the last entry of one goes its
            // table.
            let most = held * percent / 100;
            assert!((most..=most + 4 * 8192).contains(&given), "{given} of {held} at {urgency}");
            assert_eq!(cache.is_empty(), percent == 100);
            cache.validate().unwrap();
        }
    }
}

#[test]
fn a_registry_reaches_a_shared_cache() {
    let account = CountingAccount::new();
    let cache = Arc::new(filled(&account, PolicyKind::default()));
    let registry = ReclaimRegistry::new();
    let weak: Weak<dyn Reclaim> = Arc::downgrade(&cache) as _;
    let _registration = registry.register("cache", 10, weak);
    assert_eq!(registry.reclaimable(), cache.reclaimable());
    let before = account.balance();
    let report = registry.reclaim(50_000, PressureLevel::Critical);
    assert!(report.given >= 50_000);
    account.assert_balance(before - report.given);
    drop(cache);
    assert_eq!(registry.reclaimable(), 0);
}

#[test]
fn a_registry_reaches_a_local_cache_through_its_box() {
    let registry = ReclaimRegistry::new();
    let config = CacheConfig::builder().entries(2000).build().unwrap();
    let mut cache = ComputeCache::<u64, u64>::new(config).unwrap();
    let request = cache.trim_request();
    let weak: Weak<dyn Reclaim> = Arc::downgrade(&request) as _;
    let _registration = registry.register("cache", 0, weak);
    assert_eq!(registry.reclaimable(), 0);
    let empty = cache.charged();
    (0..1000).for_each(|key| _ = cache.insert(key, key).unwrap());
    assert_eq!(registry.reclaimable(), cache.charged() - empty, "it says what it could give");
    // It gives at its next insertion: of what it was asked for by then, the most.
    for (asked, urgency) in [(10, PressureLevel::Normal), (20_000, PressureLevel::High)] {
        assert_eq!(registry.reclaim(asked, urgency).given, 0);
    }
    let before = cache.charged();
    assert_eq!(cache.len(), 1000);
    cache.insert(0, 0).unwrap();
    assert!(before - cache.charged() >= 15_000, "{} of {before}", before - cache.charged());
    assert!(cache.stats().reclaimed > 300);
    assert_eq!(registry.reclaimable(), cache.charged() - empty);
    // Critical takes everything; the insertion after it is served.
    registry.reclaim(usize::MAX, PressureLevel::Critical);
    cache.insert(5, 5).unwrap();
    assert_eq!(cache.len(), 1);
    cache.validate().unwrap();
}

type LocalCache = ComputeCache<u64, Vec<u8>, With<AnyPolicy, nebula_cache::Weighed>>;
type Step = (&'static str, fn(&mut LocalCache));

#[test]
fn a_local_cache_says_what_it_could_give_after_everything_that_changes_it() {
    let config = CacheConfig::builder().entries(5000).build().unwrap();
    let mut cache = ComputeCache::<u64, Vec<u8>>::builder(config)
        .with_weigher(|_, value| value.capacity())
        .build()
        .unwrap();
    let (request, empty) = (cache.trim_request(), cache.charged());
    let steps: [Step; 10] = [
        ("insert", |cache| (0..500).for_each(|key| _ = cache.insert(key, vec![0; 100]).unwrap())),
        ("compute", |cache| _ = cache.get_or_compute(&1000, || vec![0; 1000]).unwrap()),
        ("within", |cache| _ = cache.get_or_compute_within(&1001, |_| vec![0; 1000]).unwrap()),
        ("update", |cache| cache.update(1000, |_| Some(vec![0; 5000])).unwrap()),
        ("remove", |cache| _ = cache.remove(&1000)),
        ("retain", |cache| cache.retain(|key, _| key % 2 == 0)),
        ("set_capacity", |cache| {
            cache.set_capacity(nebula_cache::Capacity::Entries(100)).unwrap();
        }),
        ("evict", |cache| _ = cache.evict(1000)),
        ("clear", ComputeCache::clear),
        ("update away", |cache| {
            cache.insert(1, vec![0; 100]).unwrap();
            cache.update(1, |_| None).unwrap();
        }),
    ];
    for (name, step) in steps {
        step(&mut cache);
        assert_eq!(request.reclaimable(), cache.charged() - empty, "after {name}");
    }
}

#[test]
fn a_cache_with_a_listener_gives_on_a_thread_that_uses_it() {
    let shown = Arc::new(AtomicUsize::new(0));
    let config = CacheConfig::builder().entries(5000).shards(4).build().unwrap();
    let count = Arc::clone(&shown);
    let owner = std::thread::current().id();
    let cache = ConcurrentComputeCache::<u64, u64>::builder(config)
        .with_listener(move |_, _, cause| {
            assert_eq!((cause, std::thread::current().id()), (RemovalCause::Reclaimed, owner));
            count.fetch_add(1, SeqCst);
        })
        .build()
        .unwrap();
    (0..5000).for_each(|key| _ = cache.insert(key, key).unwrap());
    std::thread::scope(|s| {
        s.spawn(|| assert_eq!(cache.reclaim(50_000, PressureLevel::Critical), 0));
    });
    assert_eq!((shown.load(SeqCst), cache.len()), (0, 5000));
    let before = cache.charged();
    cache.maintain(0);
    assert!(before - cache.charged() >= 50_000);
    assert_eq!(shown.load(SeqCst), 5000 - cache.len());
    cache.validate().unwrap();
}

/// Clones slowly: holds the shard's lock until told.
struct Slow<'b>(&'b Barrier);

impl Clone for Slow<'_> {
    fn clone(&self) -> Self {
        self.0.wait();
        self.0.wait();
        Self(self.0)
    }
}

#[test]
fn shards_in_use_are_skipped() {
    let barrier = Barrier::new(2);
    let config = CacheConfig::builder().bytes(ByteSize::kib(64)).shards(1).build().unwrap();
    let cache = ConcurrentComputeCache::<u64, Slow<'_>>::new(config).unwrap();
    cache.insert(1, Slow(&barrier)).unwrap();
    std::thread::scope(|s| {
        s.spawn(|| assert!(cache.get(&1).is_some()));
        barrier.wait();
        // The shard is locked now, by a reader; this neither blocks nor gives anything.
        assert_eq!(cache.reclaim(1000, PressureLevel::Critical), 0);
        barrier.wait();
    });
    assert!(cache.reclaim(1000, PressureLevel::Critical) > 0);
    assert!(cache.is_empty());
}

/// An account that reclaims before it refuses, as budgets do.
struct Reclaiming {
    books: CountingAccount,
    registry: ReclaimRegistry,
}

impl Account for Reclaiming {
    fn try_charge(&self, bytes: usize) -> Result<(), MemoryError> {
        self.books.try_charge(bytes).or_else(|error| {
            if self.registry.reclaim(bytes, PressureLevel::High).given == 0 {
                return Err(error);
            }
            self.books.try_charge(bytes)
        })
    }

    fn credit(&self, bytes: usize) {
        self.books.credit(bytes);
    }
}

#[test]
fn a_cache_that_is_reclaimed_by_its_own_charge_does_not_lock_up() {
    for kind in KINDS {
        let books = CountingAccount::with_limit(60_000);
        let registry = ReclaimRegistry::new();
        let account = Reclaiming { books: books.clone(), registry: registry.clone() };
        let config = CacheConfig::builder().bytes(ByteSize::mib(1)).shards(2).policy(kind);
        let cache = ConcurrentComputeCache::<u64, Vec<u8>>::builder(config.build().unwrap())
            .with_account(account)
            .with_hasher(SameHashes::default())
            .with_weigher(|_, value| value.capacity())
            .build()
            .unwrap();
        let cache = Arc::new(cache);
        let weak: Weak<dyn Reclaim> = Arc::downgrade(&cache) as _;
        registry.register("cache", 0, weak).detach();
        for key in 0..2000 {
            cache.insert(key, Vec::with_capacity(100)).unwrap();
            assert!(cache.contains(&key));
        }
        assert!(cache.len() > 100);
        books.assert_balance(cache.charged());
        cache.validate().unwrap();
    }
}
