//! The configuration and the builders: every rule, every field's effect, and what the types are.

use std::{
    cell::Cell,
    fmt::Debug,
    hash::{BuildHasherDefault, Hasher, RandomState},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use nebula_cache::{
    AnyPolicy, CacheConfig, CacheConfigBuilder, CacheStats, Capacity, ComputeCache, ComputeError,
    ConcurrentComputeCache, DefaultHashBuilder, DefaultHasher, EntryOptions, Fifo, Iter, Lfu,
    LocalBuilder, Lru, PolicyKind, RemovalCause, S3Fifo, SharedBuilder, Sieve, Steady, Tagged,
    Timed, TimedAndIdle, WTinyLfu, WeighedAndCharged, With,
};
use nebula_memory_core::{ByteSize, MemoryError, MemoryUsage, Reclaim, Unlimited};
use nebula_testing::CountingAccount;
use static_assertions::{assert_impl_all, assert_not_impl_any};

type Shared<K, V> = ConcurrentComputeCache<K, V>;
type Full = With<Lru, WeighedAndCharged, TimedAndIdle, Tagged, CountingAccount>;

assert_impl_all!(Shared<String, Vec<u8>>: Send, Sync, Debug, MemoryUsage, Reclaim);
assert_impl_all!(ConcurrentComputeCache<u64, String, Full>: Send, Sync, Debug, Reclaim);
assert_not_impl_any!(Shared<u64, Cell<u8>>: Sync);
assert_not_impl_any!(Shared<u64, Rc<u8>>: Send, Sync);
assert_not_impl_any!(ComputeCache<u64, u64>: Sync, Reclaim);
assert_impl_all!(ComputeCache<Rc<u8>, Rc<u8>>: Debug, MemoryUsage);
assert_impl_all!(Iter<'static, u64, u64, With>: Send, Iterator, Debug);
assert_impl_all!(CacheConfig: Send, Sync, Clone, Default, PartialEq, Debug);
assert_impl_all!(CacheConfigBuilder: Send, Sync, Clone, Debug);
assert_impl_all!(EntryOptions: Send, Sync, Copy, Default, Debug);
assert_impl_all!(SharedBuilder<String, Cell<u8>>: Send, Debug);
assert_impl_all!(LocalBuilder<String, Cell<u8>>: Debug);
assert_impl_all!(CacheStats: Send, Sync, Copy, std::fmt::Display);
assert_impl_all!(RemovalCause: Send, Sync, Copy, Eq, std::hash::Hash, Debug);
assert_impl_all!(ComputeError<std::fmt::Error>: Send, Sync, Clone, std::error::Error);
assert_impl_all!(DefaultHashBuilder: Send, Sync, Clone, Default, Debug);
assert_impl_all!(DefaultHasher: Send, Sync, Debug);
assert_impl_all!(With: Send, Sync, Debug);

const SECOND: Duration = Duration::from_secs(1);

/// The paths of all faults.
#[track_caller]
fn faults<T: Debug>(result: Result<T, MemoryError>) -> Vec<String> {
    match result.unwrap_err() {
        MemoryError::InvalidConfig(faults) => {
            faults.as_slice().iter().map(|fault| fault.path.clone()).collect()
        }
        error => panic!("{error}"),
    }
}

#[test]
fn an_unfit_configuration_is_refused_with_every_fault() {
    let config = CacheConfig {
        capacity: Capacity::Bytes(ByteSize::ZERO),
        shards: Some(6000),
        ttl: Some(Duration::ZERO),
        idle: Some(Duration::ZERO),
        ..CacheConfig::default()
    };
    let all = ["capacity", "shards", "shards", "ttl", "idle"];
    assert_eq!(faults(config.validate()), all);
    assert_eq!(faults(Shared::<u8, u8>::new(config.clone())), all);
    assert_eq!(faults(ComputeCache::<u8, u8>::new(config)), all);
    assert_eq!(faults(CacheConfig::builder().entries(0).build()), ["capacity"]);
    for shards in [0, 3, 12, 4095] {
        assert_eq!(faults(CacheConfig::builder().shards(shards).build()), ["shards"]);
    }
    assert_eq!(faults(CacheConfig::builder().ttl(Duration::ZERO).build()), ["ttl"]);
    assert_eq!(faults(CacheConfig::builder().idle(Duration::ZERO).build()), ["idle"]);
    CacheConfig::default().validate().unwrap();
}

#[test]
fn every_setter_sets_its_field() {
    let config = CacheConfig::builder()
        .capacity(Capacity::Entries(5))
        .shards(8)
        .policy(PolicyKind::Arc)
        .ttl(SECOND)
        .idle(SECOND * 2)
        .time_computations(true)
        .build()
        .unwrap();
    let expected = CacheConfig {
        capacity: Capacity::Entries(5),
        shards: Some(8),
        policy: Some(PolicyKind::Arc),
        ttl: Some(SECOND),
        idle: Some(SECOND * 2),
        time_computations: true,
    };
    assert_eq!(config, expected);
    assert_eq!(CacheConfig::builder().build().unwrap(), CacheConfig::default());
    let bytes = CacheConfig::builder().entries(3).bytes(ByteSize::kib(9)).build().unwrap();
    assert_eq!(bytes.capacity, Capacity::Bytes(ByteSize::kib(9)));
    assert_eq!(bytes.capacity.to_string(), ByteSize::kib(9).to_string());
    assert_eq!(config.capacity.to_string(), "5 entries");
}

#[test]
fn a_capacity_is_read_as_it_is_written() {
    for (text, capacity) in [
        ("1000 entries", Capacity::Entries(1000)),
        (" 7entries ", Capacity::Entries(7)),
        ("64MiB", Capacity::Bytes(ByteSize::mib(64))),
        ("100 B", Capacity::Bytes(ByteSize::new(100))),
    ] {
        assert_eq!(text.parse::<Capacity>().unwrap(), capacity, "{text}");
        assert_eq!(String::from(capacity).parse::<Capacity>().unwrap(), capacity);
    }
    // Exactly, where what is displayed is rounded.
    let odd = Capacity::Bytes(ByteSize::new((1 << 30) + 1));
    assert_eq!(String::from(odd).parse::<Capacity>().unwrap(), odd);
    // A number alone may mean either.
    for text in ["", "1000", "entries", "-1 entries", "1.5 entries", "many", "64 parsecs"] {
        assert_eq!(faults(text.parse::<Capacity>()), ["capacity"], "{text:?}");
    }
}

#[test]
fn times_need_entries_that_keep_them() {
    let (ttl, idle) = (CacheConfig::builder().ttl(SECOND), CacheConfig::builder().idle(SECOND));
    let (ttl, idle) = (ttl.build().unwrap(), idle.build().unwrap());
    assert_eq!(faults(Shared::<u8, u8>::new(ttl.clone())), ["ttl"]);
    assert_eq!(faults(ComputeCache::<u8, u8>::new(ttl.clone())), ["ttl"]);
    assert_eq!(faults(Shared::<u8, u8>::new(idle.clone())), ["idle"]);
    let expiring = Shared::<u8, u8>::builder(idle.clone()).with_expiry();
    assert_eq!(faults(expiring.build()), ["idle"], "a time to live is not an idle time");
    Shared::<u8, u8>::builder(ttl.clone()).with_expiry().build().unwrap();
    ComputeCache::<u8, u8>::builder(ttl).with_idle_expiry().build().unwrap();
    ComputeCache::<u8, u8>::builder(idle).with_idle_expiry().build().unwrap();
}

#[test]
fn options_need_entries_that_keep_them() {
    let options = EntryOptions::new();
    let plain = Shared::<u8, u8>::new(CacheConfig::default()).unwrap();
    let timed = Shared::<u8, u8>::builder(CacheConfig::default()).with_expiry().build().unwrap();
    for (refused, path) in [
        (plain.insert_with(1, 2, options.ttl(SECOND)), "options"),
        (plain.insert_with(1, 2, options.idle(SECOND)), "options"),
        (timed.insert_with(1, 2, options.idle(SECOND)), "options"),
        (plain.insert_with(1, 2, options.tag("tag")), "tags"),
    ] {
        let refused = refused.unwrap_err();
        assert_eq!(refused.value, (1, 2));
        assert_eq!(faults(Err::<(), _>(refused.error)), [path]);
    }
    assert!(plain.is_empty() && timed.is_empty());
    assert_eq!((plain.stats().rejected, timed.stats().rejected), (3, 1));
    assert_eq!(plain.invalidate_tag("tag"), 0);
    // A computation has its value all the same.
    let computed = plain.try_get_or_compute_with(&1, options.ttl(SECOND), || Ok::<_, ()>(7));
    assert_eq!((computed.unwrap(), plain.contains(&1)), (7, false));
    // Where it can only be lent from the cache, it is refused.
    let mut local = ComputeCache::<u8, u8>::new(CacheConfig::default()).unwrap();
    match local.try_get_or_compute_with(&1, options.ttl(SECOND), || Ok::<_, ()>(7)) {
        Err(ComputeError::Memory(error)) => assert_eq!(faults(Err::<(), _>(error)), ["options"]),
        other => panic!("{other:?}"),
    }
    assert_eq!((local.len(), local.stats().rejected), (0, 1));
    plain.insert_with(1, 2, options.pinned()).unwrap();
    timed.insert_with(1, 2, options.ttl(SECOND)).unwrap();
    assert!(plain.contains(&1) && timed.contains(&1));
}

#[test]
fn a_policy_is_chosen_by_configuration_or_by_type_and_not_by_both() {
    fn only<P: nebula_cache::Policy>(kind: PolicyKind, other: PolicyKind) {
        let with = |kind: Option<PolicyKind>| {
            let config = CacheConfig::builder().policy(kind).build().unwrap();
            let local = ComputeCache::<u8, u8>::builder(config.clone()).with_policy::<P>();
            let local = local.build().map(|cache| cache.policy());
            let shared = Shared::<u8, u8>::builder(config).with_policy::<P>().build();
            assert_eq!(local.is_ok(), shared.is_ok());
            shared.map(|cache| cache.policy())
        };
        assert_eq!(with(None).unwrap(), kind);
        assert_eq!(with(Some(kind)).unwrap(), kind);
        assert_eq!(faults(with(Some(other))), ["policy"]);
    }
    only::<Fifo>(PolicyKind::Fifo, PolicyKind::Lru);
    only::<Lru>(PolicyKind::Lru, PolicyKind::Lfu);
    only::<Lfu>(PolicyKind::Lfu, PolicyKind::Arc);
    only::<nebula_cache::Arc>(PolicyKind::Arc, PolicyKind::S3Fifo);
    only::<S3Fifo>(PolicyKind::S3Fifo, PolicyKind::Sieve);
    only::<Sieve>(PolicyKind::Sieve, PolicyKind::Steady);
    only::<Steady>(PolicyKind::Steady, PolicyKind::WTinyLfu);
    only::<WTinyLfu>(PolicyKind::WTinyLfu, PolicyKind::Fifo);
    let config = CacheConfig::builder().policy(PolicyKind::Sieve).build().unwrap();
    assert_eq!(Shared::<u8, u8>::new(config.clone()).unwrap().policy(), PolicyKind::Sieve);
    let any = Shared::<u8, u8>::builder(config).with_policy::<AnyPolicy>().build().unwrap();
    assert_eq!(any.policy(), PolicyKind::Sieve);
    let default = Shared::<u8, u8>::new(CacheConfig::default()).unwrap();
    assert_eq!(default.policy(), PolicyKind::default());
}

#[test]
fn shards_are_as_asked_or_chosen() {
    let shards = |shards: Option<usize>, capacity| {
        let config = CacheConfig::builder().capacity(capacity).shards(shards).build().unwrap();
        Shared::<u64, u64>::new(config).unwrap().shards()
    };
    assert_eq!(shards(Some(64), Capacity::Entries(10)), 64);
    assert_eq!(shards(None, Capacity::Entries(1000)), 1, "a small cache is not divided");
    assert_eq!(shards(None, Capacity::Bytes(ByteSize::kib(16))), 1);
    for large in [Capacity::Entries(1 << 24), Capacity::Bytes(ByteSize::gib(1))] {
        assert!(shards(None, large).is_power_of_two());
        assert!(shards(None, large) >= 4, "a large one is");
    }
}

#[test]
fn capacities_of_any_size_work() {
    for capacity in [
        Capacity::Entries(1),
        Capacity::Entries(usize::MAX),
        Capacity::Entries(usize::MAX - 1),
        Capacity::Bytes(ByteSize::new(usize::MAX)),
    ] {
        for kind in [PolicyKind::Arc, PolicyKind::Lfu, PolicyKind::S3Fifo, PolicyKind::WTinyLfu] {
            let config = CacheConfig::builder().capacity(capacity).policy(kind).build().unwrap();
            let cache = Shared::<u64, u64>::new(config.clone()).unwrap();
            let mut local = ComputeCache::<u64, u64>::new(config).unwrap();
            for key in 0..5000 {
                cache.insert(key, key).unwrap();
                local.insert(key, key).unwrap();
            }
            assert!(cache.get(&4999).is_some() && local.get(&4999).is_some());
            cache.validate().unwrap();
            local.validate().unwrap();
        }
    }
    // Too few bytes for the cache itself is an error, not an empty cache.
    let config = CacheConfig::builder().bytes(ByteSize::new(10)).build().unwrap();
    assert_eq!(faults(Shared::<u64, u64>::new(config.clone())), ["capacity"]);
    assert_eq!(faults(ComputeCache::<u64, u64>::new(config)), ["capacity"]);
}

#[test]
fn entries_without_size_are_limited_too() {
    let config = CacheConfig::builder().entries(1).build().unwrap();
    let cache = Shared::<(), ()>::new(config).unwrap();
    cache.insert((), ()).unwrap();
    assert_eq!((cache.len(), cache.weight()), (1, 1));
    assert_eq!(cache.insert((), ()).unwrap(), Some(()));
    assert_eq!(cache.get(&()), Some(()));
}

/// Takes only `u64`, and returns it.
#[derive(Default)]
struct Identity(u64);

impl Hasher for Identity {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, _: &[u8]) {
        unreachable!("keys are u64")
    }
    fn write_u64(&mut self, key: u64) {
        self.0 = key;
    }
}

#[test]
fn the_builder_takes_account_hasher_and_clock() {
    let account = CountingAccount::new();
    let cache = Shared::<Arc<str>, u64>::builder(CacheConfig::default())
        .with_account(account.clone())
        .with_hasher(RandomState::new())
        .build()
        .unwrap();
    assert_eq!(cache.get_or_compute(&Arc::from("key"), || 1).unwrap(), 1);
    assert_eq!(cache.get("key"), Some(1));
    assert_eq!(cache.account().balance(), cache.charged());
    assert!(cache.charged() > 0);
    drop(cache);
    account.assert_settled();
    let plain = Shared::<u64, u64>::new(CacheConfig::default()).unwrap();
    assert_eq!(plain.account(), &Unlimited);
    let debug = format!("{:?}", Shared::<u64, u64>::builder(CacheConfig::default()));
    assert!(debug.starts_with("CacheBuilder { config: CacheConfig {"), "{debug}");
}

#[test]
fn a_hash_function_whose_bits_are_poor_does_no_harm() {
    // Multiples of a large power of two differ in few bits.
    for step in [1, 1 << 16, 1 << 32, 1 << 52] {
        let config = CacheConfig::builder().entries(2000).shards(8).build().unwrap();
        let cache = Shared::<u64, u64>::builder(config)
            .with_hasher(BuildHasherDefault::<Identity>::default())
            .build()
            .unwrap();
        (0..2000).for_each(|key| _ = cache.insert(key * step, key).unwrap());
        assert!((0..2000).all(|key| cache.get(&(key * step)) == Some(key)));
        cache.validate().unwrap();
    }
}

#[test]
fn a_second_weigher_replaces_the_first_and_its_charger() {
    let account = CountingAccount::new();
    let cache = ComputeCache::<u64, Vec<u8>>::builder(CacheConfig::default())
        .with_weigher(|_, _| 1)
        .with_charger(|_, _| 2)
        .with_weigher(|_, value| value.capacity())
        .with_account(account.clone())
        .build();
    let mut cache = cache.unwrap();
    cache.insert(1, vec![0; 10]).unwrap();
    let (weight, charged) = (cache.weight(), cache.charged());
    cache.insert(1, vec![0; 110]).unwrap();
    assert_eq!((cache.weight() - weight, cache.charged() - charged), (100, 100));
}

#[test]
fn functions_of_a_local_cache_need_not_be_send() {
    let seen = Rc::new(Cell::new(0));
    let (weighed, left) = (Rc::clone(&seen), Rc::clone(&seen));
    let mut cache = ComputeCache::<u64, u64>::builder(CacheConfig::default())
        .with_weigher(move |_, value| {
            weighed.set(weighed.get() + 1);
            usize::try_from(*value).unwrap()
        })
        .with_listener(move |_, _, _| left.set(left.get() + 10))
        .build()
        .unwrap();
    cache.insert(1, 100).unwrap();
    assert_eq!((cache.remove(&1), seen.get()), (Some(100), 11));
}

#[test]
fn a_cache_can_be_named() {
    struct Named {
        shared: ConcurrentComputeCache<u64, String, With<Lru, nebula_cache::Weighed, Timed>>,
        local: ComputeCache<u64, u64, With<Sieve>>,
    }
    let config = CacheConfig::default();
    let mut named = Named {
        shared: ConcurrentComputeCache::builder(config.clone())
            .with_policy()
            .with_expiry()
            .with_weigher(|_, value: &String| value.capacity())
            .build()
            .unwrap(),
        local: ComputeCache::builder(config).with_policy().build().unwrap(),
    };
    named.shared.insert(1, "one".to_owned()).unwrap();
    named.local.insert(1, 1).unwrap();
    assert_eq!((named.shared.policy(), named.local.policy()), (PolicyKind::Lru, PolicyKind::Sieve));
}

#[cfg(feature = "serde")]
#[test]
fn configuration_and_statistics_survive_a_round_trip() {
    let config: CacheConfig = serde_json::from_str(r#"{"capacity": "16MiB"}"#).unwrap();
    let capacity = Capacity::Bytes(ByteSize::mib(16));
    assert_eq!(config, CacheConfig { capacity, ..CacheConfig::default() });
    assert_eq!(serde_json::from_str::<CacheConfig>("{}").unwrap(), CacheConfig::default());
    let text = r#"{"capacity":"100 entries","shards":4,"policy":"w_tiny_lfu","ttl":"1m 30s","idle":null,"time_computations":true}"#;
    let config: CacheConfig = serde_json::from_str(text).unwrap();
    let expected = CacheConfig {
        capacity: Capacity::Entries(100),
        shards: Some(4),
        policy: Some(PolicyKind::WTinyLfu),
        ttl: Some(SECOND * 90),
        idle: None,
        time_computations: true,
    };
    assert_eq!(config, expected);
    let written = serde_json::to_string(&config).unwrap();
    assert_eq!(serde_json::from_str::<CacheConfig>(&written).unwrap(), config);
    assert!(serde_json::from_str::<CacheConfig>(r#"{"size": 1}"#).is_err());
    let cache = Shared::<u64, u64>::new(CacheConfig::default()).unwrap();
    cache.insert(1, 1).unwrap();
    let stats = cache.stats();
    let text = serde_json::to_string(&stats).unwrap();
    assert_eq!(serde_json::from_str::<CacheStats>(&text).unwrap(), stats);
    assert_eq!(serde_json::to_string(&RemovalCause::Expired).unwrap(), r#""expired""#);
}
