//! What is charged against an independent count of what is really allocated, to the byte, in every
//! state, and under refusals of every single charge and every single allocation.

mod common;

use common::{
    KINDS, SameHashes,
    counting::{self, Counting},
    faces::{Face, Spec, for_every_face, value},
};
use nebula_cache::{
    CacheConfig, Capacity, ComputeCache, ConcurrentComputeCache, EntryOptions, Lru, PolicyKind,
};
use nebula_memory_core::{ByteSize, MemoryError};
use nebula_testing::{CountingAccount, Rng};

#[global_allocator]
static COUNTING: Counting = Counting;

for_every_face!(
    what_is_charged_is_what_is_allocated,
    a_refusal_of_any_charge_leaves_exact_books,
    a_failure_of_any_allocation_leaves_exact_books,
    without_memory_for_growth_a_cache_replaces_its_own_entries,
    what_is_full_allocates_nothing_for_another_entry,
    the_memory_of_what_left_is_found_again,
);

/// Checks at every step that what was allocated since `before` is what the cache says.
#[track_caller]
fn compare<F: Face>(cache: &F, spec: &Spec, before: usize, what: &str) {
    let live = counting::live().wrapping_sub(before);
    assert_eq!(live, cache.charged(), "{what}: allocated and charged");
    cache.assert_whole(spec);
}

fn what_is_charged_is_what_is_allocated<F: Face>() {
    for kind in KINDS {
        for shards in [1, 4] {
            let config = CacheConfig::builder().bytes(ByteSize::kib(60)).shards(shards);
            for spec in
                [Spec::new(config).policy(kind), Spec::entries(300).policy(kind).shards(shards)]
            {
                lead_a_life::<F>(&spec);
            }
        }
    }
}

fn lead_a_life<F: Face>(spec: &Spec) {
    let before = counting::live();
    let mut cache = F::build(spec).unwrap();
    compare(&cache, spec, before, "empty");
    let mut rng = Rng::new(3);
    for step in 0..600 {
        let key = rng.below(400) as u64;
        match rng.below(40) {
            0 => drop(cache.remove(key)),
            1 => drop(cache.compute(key, || value(0, 64)).unwrap()),
            2 => _ = cache.try_compute(key, || Err(())),
            3 => cache.update(key, |old| old.is_none().then(|| value(1, 30))).unwrap(),
            4 if step % 7 == 0 => _ = cache.evict(rng.below(20_000)),
            5 => _ = cache.pin(key),
            6..8 => _ = cache.unpin(key),
            _ => drop(cache.insert(key, value(0, rng.below(200))).unwrap()),
        }
        if step % 10 == 0 {
            compare(&cache, spec, before, "in use");
        }
    }
    cache.retain(|key, _| key % 2 == 0);
    compare(&cache, spec, before, "after retain");
    cache.evict(5000);
    compare(&cache, spec, before, "after evict");
    let half = match spec.config.capacity {
        Capacity::Entries(entries) => Capacity::Entries(entries / 2),
        Capacity::Bytes(bytes) => Capacity::Bytes(ByteSize::new(bytes.get() / 2)),
    };
    cache.set_capacity(half).unwrap();
    compare(&cache, spec, before, "after set_capacity");
    cache.clear();
    compare(&cache, spec, before, "after clear");
    (0..100).for_each(|key| _ = cache.insert(key, value(0, 9)).unwrap());
    compare(&cache, spec, before, "filled again");
    drop(cache);
    assert_eq!(counting::live(), before);
    spec.books().assert_settled();
}

/// A short life with every kind of charge in it; panics if books or structure are off.
fn live_under_refusals<F: Face>(spec: &Spec) {
    let Ok(mut cache) = F::build(spec) else { return };
    for key in 0..60_u64 {
        let size = usize::try_from(key * 37 % 250).unwrap();
        match cache.insert(key % 50, value(1, size)) {
            Ok(_) => assert!(cache.contains(key % 50)),
            Err(refused) => assert_eq!(refused.into_value(), (key % 50, value(1, size))),
        }
        if let Ok(computed) = cache.compute(1000 + key % 20, || value(2, 30)) {
            assert_eq!(computed, value(2, 30));
        }
        if let Err(refused) = cache.update(key / 2, |_| Some(value(3, size))) {
            assert_eq!(refused.into_value(), value(3, size));
        }
        match key % 30 {
            20 => _ = cache.evict(5000),
            29 => cache.clear(),
            _ => {}
        }
        spec.books().assert_balance(cache.charged());
        if key % 10 == 9 {
            cache.assert_whole(spec);
        }
    }
}

fn a_refusal_of_any_charge_leaves_exact_books<F: Face>() {
    for kind in [PolicyKind::Lfu, PolicyKind::S3Fifo] {
        let config = CacheConfig::builder().bytes(ByteSize::kib(12)).shards(2);
        let spec = Spec::new(config).policy(kind);
        for n in 0.. {
            spec.account.refuse_at(n);
            live_under_refusals::<F>(&spec);
            spec.books().assert_settled();
            if !spec.account.tripped() {
                assert!(n > 100, "only {n} charges");
                break;
            }
        }
        // And when everything from some charge on is refused.
        for n in (0..30).chain((30..200).step_by(17)) {
            spec.account.refuse_from(n);
            live_under_refusals::<F>(&spec);
            spec.books().assert_settled();
        }
    }
}

fn a_failure_of_any_allocation_leaves_exact_books<F: Face>() {
    for kind in KINDS {
        for count in [1, 3, usize::MAX] {
            for n in 0.. {
                let spec = Spec::entries(200).policy(kind);
                let mut cache = F::build(&spec).unwrap();
                let mut failed = false;
                for key in 0..60 {
                    let (key, value) = (key, value(1, 50));
                    // Only what the cache allocates for itself fails.
                    let after = if failed { usize::MAX } else { n };
                    let insert = || cache.insert(key, value);
                    let calls = counting::calls();
                    let (inserted, fails) = counting::failing(after, count, insert);
                    assert!(failed || fails || counting::calls() - calls <= n);
                    failed |= fails;
                    match inserted {
                        Ok(_) => assert!(cache.contains(key)),
                        Err(refused) => {
                            assert!(fails, "{}", refused.error);
                            assert!(matches!(refused.error, MemoryError::OutOfMemory { .. }));
                            assert_eq!(refused.value.0, key);
                        }
                    }
                    cache.assert_whole(&spec);
                }
                drop(cache);
                spec.books().assert_settled();
                if !failed {
                    break;
                }
            }
        }
    }
}

fn without_memory_for_growth_a_cache_replaces_its_own_entries<F: Face>() {
    for kind in KINDS {
        let spec = Spec::entries(100_000).policy(kind);
        let mut cache = F::build(&spec).unwrap();
        (0..1000).for_each(|key| _ = cache.insert(key, value(0, 1)).unwrap());
        for key in 5000..8000 {
            let value = value(0, 1);
            let (inserted, _) = counting::failing(0, usize::MAX, || cache.insert(key, value));
            assert_eq!(inserted.unwrap(), None);
            assert!(cache.contains(key));
        }
        assert!(cache.len() >= 1000, "{kind:?}: {}", cache.len());
        cache.assert_whole(&spec);
    }
}

fn what_is_full_allocates_nothing_for_another_entry<F: Face>() {
    for kind in KINDS {
        let spec = Spec::entries(2000).policy(kind).shards(4);
        let mut cache = F::build(&spec).unwrap();
        let mut rng = Rng::new(5);
        let mut churn = |cache: &mut F| {
            for _ in 0..8000 {
                cache.insert(rng.below(10_000) as u64, Vec::new()).unwrap();
            }
        };
        churn(&mut cache);
        let (calls, charged) = (counting::calls(), cache.charged());
        churn(&mut cache);
        assert_eq!((counting::calls(), cache.charged()), (calls, charged), "{kind:?}");
        cache.assert_whole(&spec);
    }
}

/// Hits, computations, insertions over what is there and of what is not, and removals: in a cache that
/// is full and warm, none of them allocates. (With hashes that are the same in every run: a shard that
/// is lent more than it ever had takes a chunk for that.)
macro_rules! allocates_nothing {
    ($cache:ident, $capacity:expr, $kind:expr) => {{
        let config = CacheConfig::builder().capacity($capacity).shards(4).policy($kind);
        #[allow(unused_mut, reason = "one of the two needs it")]
        let mut cache = $cache::<u64, u64>::builder(config.build().unwrap())
            .with_weigher(|_, _| 8)
            .with_idle_expiry()
            .with_tags()
            .with_account(CountingAccount::new())
            .with_hasher(SameHashes::default())
            .with_listener(|_, _, _| ())
            .build()
            .unwrap();
        let mut rng = Rng::new(5);
        let options = EntryOptions::new().tag(1).idle(std::time::Duration::from_secs(3600));
        let mut churn = |rounds: usize| {
            let before = cache.stats();
            for _ in 0..rounds {
                let mut key = || rng.below(10_000) as u64;
                let (computed, other) = (key(), key());
                cache.insert_with(key(), 0, options).unwrap();
                assert!(cache.get_or_compute(&computed, || 1).is_ok());
                assert!(cache.get(&computed).is_some());
                cache.insert(computed, 2).unwrap();
                assert!(cache.get_or_compute(&computed, || unreachable!("it is there")).is_ok());
                _ = cache.try_get_or_compute_with(&other, options, || Err(()));
                if other % 16 == 0 {
                    cache.remove(&computed);
                }
            }
            let stats = cache.stats();
            assert!(stats.evicted > before.evicted && stats.misses > before.misses);
            assert!(stats.hits > before.hits && stats.computes > before.computes);
        };
        churn(4000);
        let calls = counting::calls();
        churn(1000);
        assert_eq!(counting::calls(), calls, "{}, {:?}", stringify!($cache), $kind);
    }};
}

#[test]
fn what_is_full_allocates_nothing_for_hits_and_computations_either() {
    for kind in KINDS {
        for capacity in [Capacity::Entries(2000), Capacity::Bytes(ByteSize::kib(256))] {
            allocates_nothing!(ConcurrentComputeCache, capacity, kind);
            allocates_nothing!(ComputeCache, capacity, kind);
        }
    }
}

fn the_memory_of_what_left_is_found_again<F: Face>() {
    for kind in KINDS {
        let spec = Spec::entries(100_000).policy(kind);
        let mut cache = F::build(&spec).unwrap();
        // A window of 500 keys moves along.
        let mut most = 0;
        for key in 0..10_000 {
            cache.insert(key, Vec::new()).unwrap();
            if key >= 500 {
                assert!(cache.remove(key - 500).is_some());
            }
            if key == 1000 {
                most = cache.charged();
            }
        }
        assert_eq!(cache.charged(), most, "{kind:?}");
        cache.assert_whole(&spec);
    }
}

/// Bytes charged for `entries` entries of two words, all at once, beside an empty cache.
macro_rules! bytes_of {
    ($entries:expr, $(.$with:ident($($arg:expr),*))*) => {{
        let config = CacheConfig::builder().entries($entries).shards(1).build().unwrap();
        let mut cache = ComputeCache::<u64, u64>::builder(config)
            .with_policy::<Lru>()
            $(.$with($($arg),*))*
            .build()
            .unwrap();
        let empty = cache.charged();
        (0..$entries).for_each(|key| _ = cache.insert(key as u64, 0).unwrap());
        cache.charged() - empty
    }};
}

#[test]
fn what_entries_do_not_keep_takes_no_bytes() {
    const N: usize = 1 << 13;
    let plain = bytes_of!(N,);
    assert!(plain < N * 40, "{} bytes for an entry of 16", plain / N);
    // Chunks and their list are rounded up to whole ones.
    let more = |bytes: usize| (bytes as f64 - plain as f64) / N as f64;
    for (name, bytes, each) in [
        ("expiry", bytes_of!(N, .with_expiry()), 8.0),
        ("idle expiry", bytes_of!(N, .with_idle_expiry()), 24.0),
        ("tags", bytes_of!(N, .with_tags()), 16.0),
        ("weights", bytes_of!(N, .with_weigher(|_, _| 0)), 8.0),
        ("charges", bytes_of!(N, .with_weigher(|_, _| 0).with_charger(|_, _| 0)), 16.0),
        ("a listener", bytes_of!(N, .with_listener(|_, _, _| ())), 0.0),
    ] {
        assert!((more(bytes) - each).abs() < 0.6, "{name}: {} bytes", more(bytes));
    }
}

#[test]
fn computations_of_many_threads_leave_no_bytes_behind() {
    let account = CountingAccount::new();
    let config = CacheConfig::builder().entries(100).shards(4).build().unwrap();
    let cache = ConcurrentComputeCache::<u64, u64>::builder(config)
        .with_account(account.clone())
        .build()
        .unwrap();
    // Everything that the threads allocate and free, by themselves and for each other.
    let before = counting::live().wrapping_sub(cache.charged());
    let threads = std::thread::scope(|s| {
        let threads: Vec<_> = (0..4_u64)
            .map(|thread| {
                let cache = &cache;
                s.spawn(move || {
                    let before = counting::live();
                    for key in 0..500 {
                        let key = if key % 3 == 0 { key } else { key * 4 + thread };
                        assert_eq!(cache.get_or_compute(&key, || key).unwrap(), key);
                    }
                    counting::live().wrapping_sub(before)
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).fold(0, usize::wrapping_add)
    });
    let live = counting::live().wrapping_sub(before).wrapping_add(threads);
    // What the threads themselves took is freed, or their own, by now.
    let difference = live.wrapping_sub(cache.charged());
    let difference = difference.min(difference.wrapping_neg());
    assert!(difference < 16 << 10, "{difference} bytes more or less than charged");
    account.assert_balance(cache.charged());
    cache.validate().unwrap();
}

#[test]
fn a_cache_with_nothing_given_to_it_charges_its_own_clock_and_functions_too() {
    let before = counting::live();
    let cache = ComputeCache::<u64, u64>::new(CacheConfig::default()).unwrap();
    assert_eq!(counting::live().wrapping_sub(before), cache.charged());
    drop(cache);
    let text = "captured".repeat(3);
    let before = counting::live();
    let cache = ConcurrentComputeCache::<u64, u64>::builder(CacheConfig::default())
        .with_weigher(move |_, _| text.len())
        .with_listener(|_, _, _| ())
        .build()
        .unwrap();
    assert_eq!(counting::live().wrapping_sub(before), cache.charged());
}

#[test]
fn options_are_charged_with_their_entries() {
    let spec = Spec::entries(10);
    let before = counting::live();
    let mut cache = common::faces::Local::<nebula_cache::AnyPolicy>::build(&spec).unwrap();
    let options = EntryOptions::new().tag(1).tag(2).pinned();
    Face::insert_with(&mut cache, 1, value(0, 10), options).unwrap();
    compare(&cache, &spec, before, "with options");
}
