//! Every policy, driven through a cache: against a plain model of itself where it does not depend on
//! how keys are hashed, and with everything else that caches do in between.

#[path = "../src/policy/tests/models.rs"]
mod models;

use models::{ArcModel, FifoModel, LfuModel, LruModel, Model, SieveModel};
use nebula_cache::{
    Arc, CacheConfig, Capacity, ComputeCache, ConcurrentComputeCache, Fifo, Lfu, Lru, Policy,
    PolicyKind, S3Fifo, Sieve, WTinyLfu, With,
};
use nebula_testing::{CountingAccount, Rng};

const KINDS: [PolicyKind; 8] = [
    PolicyKind::Steady,
    PolicyKind::Fifo,
    PolicyKind::Lru,
    PolicyKind::Lfu,
    PolicyKind::Arc,
    PolicyKind::S3Fifo,
    PolicyKind::Sieve,
    PolicyKind::WTinyLfu,
];

/// Some keys much more often than others, loops, and a scan now and then.
fn trace(seed: u64) -> Vec<u32> {
    let mut rng = Rng::new(seed);
    let (mut keys, mut fresh) = (Vec::new(), 1_000_000);
    let number = |n: usize| u32::try_from(n).unwrap();
    for _ in 0..20 {
        let (start, len) = (rng.below(400), rng.between(10, 200));
        match rng.below(3) {
            0 => keys.extend((0..400).map(|at| number(start + at % len))),
            1 => keys.extend((0..400).map(|_| {
                let bound = rng.between(1, 400);
                number(rng.below(bound))
            })),
            _ => keys.extend((0..400).map(|at| {
                fresh += 1;
                if at % 3 == 0 { number(rng.below(len)) } else { fresh }
            })),
        }
    }
    keys
}

fn config(entries: usize, kind: PolicyKind) -> CacheConfig {
    CacheConfig::builder().entries(entries).shards(1).policy(kind).build().unwrap()
}

/// The cache whose policy is chosen by its configuration, the one whose policy is its type, and the
/// one for one thread have the same hits as the model, and so the same entries all the time.
fn follows<P: Policy, M: Model>(kind: PolicyKind) {
    for (seed, capacity) in [1, 2, 10, 65, 130].into_iter().enumerate() {
        let chosen = ConcurrentComputeCache::<u32, u32>::new(config(capacity, kind)).unwrap();
        let fixed = ConcurrentComputeCache::<u32, u32>::builder(config(capacity, kind));
        let fixed = fixed.with_policy::<P>().build().unwrap();
        let mut local = ComputeCache::<u32, u32>::new(config(capacity, kind)).unwrap();
        let mut model = M::new(capacity);
        for (at, key) in trace(seed as u64).into_iter().enumerate() {
            let hit = model.request(key).0;
            let hits = [chosen.get(&key), fixed.get(&key), local.get(&key).copied()];
            assert_eq!(hits, [hit.then_some(key); 3], "{kind:?} of {capacity}: request {at}");
            if !hit {
                chosen.insert(key, key).unwrap();
                fixed.insert(key, key).unwrap();
                local.insert(key, key).unwrap();
            }
        }
        chosen.validate().unwrap();
        fixed.validate().unwrap();
        local.validate().unwrap();
    }
}

#[test]
fn fifo_is_fifo() {
    follows::<Fifo, FifoModel>(PolicyKind::Fifo);
}

#[test]
fn lru_is_lru() {
    follows::<Lru, LruModel>(PolicyKind::Lru);
}

#[test]
fn lfu_is_lfu_with_dynamic_ageing() {
    follows::<Lfu, LfuModel>(PolicyKind::Lfu);
}

#[test]
fn arc_is_arc() {
    follows::<Arc, ArcModel>(PolicyKind::Arc);
}

#[test]
fn sieve_is_sieve() {
    follows::<Sieve, SieveModel>(PolicyKind::Sieve);
}

#[test]
fn what_is_chosen_by_name_is_what_is_chosen_by_type() {
    fn filters<P: Policy>(kind: PolicyKind) {
        let fixed = ConcurrentComputeCache::<u32, u32>::builder(config(64, kind));
        let fixed = fixed.with_policy::<P>().build().unwrap();
        let chosen = ConcurrentComputeCache::<u32, u32>::new(config(64, kind)).unwrap();
        let (mut hits, mut others) = (0_i32, 0);
        for key in trace(7) {
            if fixed.get(&key).is_some() {
                hits += 1;
            } else {
                fixed.insert(key, key).unwrap();
            }
            if chosen.get(&key).is_some() {
                others += 1;
            } else {
                chosen.insert(key, key).unwrap();
            }
        }
        // They hash differently, which decides which strangers look alike.
        assert!(hits > 1000 && (hits - others).abs() < 200, "{kind:?}: {hits} and {others} hits");
    }
    filters::<S3Fifo>(PolicyKind::S3Fifo);
    filters::<WTinyLfu>(PolicyKind::WTinyLfu);
}

#[test]
fn used_again_and_again_survives_a_scan_except_by_fifo_and_lru() {
    for kind in KINDS {
        let cache = ConcurrentComputeCache::<u32, u32>::new(config(200, kind)).unwrap();
        let request = |key| {
            if cache.get(&key).is_none() {
                cache.insert(key, key).unwrap();
            }
        };
        for _ in 0..20 {
            (0..100).for_each(request);
        }
        (1000..1300).for_each(request);
        let kept = (0..100).filter(|key| cache.contains(key)).count();
        match kind {
            PolicyKind::Fifo | PolicyKind::Lru => assert_eq!(kept, 0, "{kind:?}"),
            _ => assert!(kept >= 95, "{kind:?} kept {kept} of 100"),
        }
    }
}

#[test]
fn no_policy_evicts_what_is_pinned() {
    for kind in KINDS {
        let cache = ConcurrentComputeCache::<u32, u32>::new(config(50, kind)).unwrap();
        for key in 0..50 {
            cache.insert(key, key).unwrap();
        }
        for key in (0..50).step_by(5) {
            assert!(cache.pin(&key));
        }
        for key in 100..1000 {
            cache.insert(key, key).unwrap();
        }
        for key in (0..50).step_by(5) {
            assert_eq!(cache.get(&key), Some(key), "{kind:?}");
            assert!(cache.unpin(&key));
        }
        cache.validate().unwrap();
        cache.evict(usize::MAX);
        assert!(cache.is_empty(), "{kind:?} kept what is no longer pinned");
    }
}

type Weighed = With<
    nebula_cache::AnyPolicy,
    nebula_cache::Weighed,
    nebula_cache::Untimed,
    nebula_cache::Untagged,
    CountingAccount,
>;

#[test]
fn every_policy_stays_whole_and_pays_for_its_memory_whatever_is_done() {
    for (kind, capacity) in KINDS.into_iter().flat_map(|kind| {
        [Capacity::Entries(100), Capacity::Bytes(nebula_memory_core::ByteSize::new(60_000))]
            .map(|capacity| (kind, capacity))
    }) {
        let account = CountingAccount::new();
        let config =
            CacheConfig::builder().capacity(capacity).shards(2).policy(kind).build().unwrap();
        let cache: ConcurrentComputeCache<u32, Vec<u8>, Weighed> =
            ConcurrentComputeCache::builder(config)
                .with_account(account.clone())
                .with_weigher(|_, value: &Vec<u8>| value.capacity())
                .build()
                .unwrap();
        let mut rng = Rng::new(11);
        for step in 0..6000 {
            let key = u32::try_from(rng.below(300)).unwrap();
            match rng.below(40) {
                0 => drop(cache.remove(&key)),
                1 => _ = cache.pin(&key),
                2..4 => _ = cache.unpin(&key),
                4 => _ = cache.evict(1000),
                5 if rng.one_in(10) => {
                    let half = match capacity {
                        Capacity::Entries(entries) => Capacity::Entries(entries / 2),
                        Capacity::Bytes(bytes) => Capacity::Bytes((bytes.get() / 2).into()),
                    };
                    cache.set_capacity(half).unwrap();
                    cache.validate().unwrap();
                    cache.set_capacity(capacity).unwrap();
                }
                6 if rng.one_in(20) => cache.clear(),
                7 => cache.retain(|other, _| other % 16 != key % 16),
                8..20 => drop(cache.insert(key, vec![0; rng.below(600)])),
                _ => drop(cache.get(&key)),
            }
            if step % 50 == 0 {
                cache.validate().unwrap_or_else(|fault| panic!("{kind:?}: {fault}"));
            }
        }
        cache.validate().unwrap();
        assert!(account.balance() > 0);
        drop(cache);
        account.assert_settled();
    }
}
