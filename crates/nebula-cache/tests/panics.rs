//! Panics in the user's code, at every call: the cache stays in order, the books exact, and no entry
//! is lost that was not concerned.

mod common;

use std::{
    cell::Cell,
    hash::{Hash, Hasher},
    time::Duration,
};

use common::{KINDS, SameHashes};
use nebula_cache::{
    AnyPolicy, CacheConfig, Capacity, ComputeCache, ConcurrentComputeCache, EntryOptions,
    PolicyKind, Tagged, Timed, WeighedAndCharged, With,
};
use nebula_memory_core::{ByteSize, ManualClock};
use nebula_testing::{CountingAccount, DropCounter, DropProbe, InjectedPanic, catch};

/// Whose turn it is to panic. Per thread, so that tests don't disturb each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Site {
    Hash,
    Eq,
    CloneKey,
    CloneValue,
    Drop,
    Weigher,
    Charger,
    Listener,
    Compute,
    Retain,
    Update,
}

std::thread_local! {
    static ARMED: Cell<Option<(Site, usize)>> = const { Cell::new(None) };
}

/// One call of `site`; panics if it is the one.
fn tick(site: Site) {
    let Some((armed, left)) = ARMED.get() else { return };
    if armed != site || std::thread::panicking() {
        return;
    }
    ARMED.set(left.checked_sub(1).map(|left| (armed, left)));
    if left == 0 {
        std::panic::resume_unwind(Box::new(InjectedPanic));
    }
}

#[derive(Debug)]
struct Key(u64, DropProbe);

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        tick(Site::Hash);
        self.0.hash(state);
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        tick(Site::Eq);
        self.0 == other.0
    }
}

impl Eq for Key {}

impl Clone for Key {
    fn clone(&self) -> Self {
        tick(Site::CloneKey);
        Self(self.0, self.1.clone())
    }
}

impl Drop for Key {
    fn drop(&mut self) {
        tick(Site::Drop);
    }
}

#[derive(Debug)]
struct Value(usize, DropProbe);

impl Clone for Value {
    fn clone(&self) -> Self {
        tick(Site::CloneValue);
        Self(self.0, self.1.clone())
    }
}

impl Drop for Value {
    fn drop(&mut self) {
        tick(Site::Drop);
    }
}

type Kit = With<AnyPolicy, WeighedAndCharged, Timed, Tagged, CountingAccount, SameHashes>;

/// How a cache is built here; the same words for both.
macro_rules! build {
    ($cache:ident, $config:expr, $account:expr, $clock:expr) => {
        $cache::<Key, Value>::builder($config)
            .with_expiry()
            .with_tags()
            .with_account($account.clone())
            .with_clock($clock.clone())
            .with_hasher(SameHashes::default())
            .with_weigher(|_, value| {
                tick(Site::Weigher);
                value.0
            })
            .with_charger(|_, value| {
                tick(Site::Charger);
                value.0 / 2
            })
            .with_listener(|_, _, _| tick(Site::Listener))
            .build()
            .unwrap()
    };
}

/// Runs a life of a cache with a panic at call `n` of `site`; whether that call came. Each step may
/// panic on its own; what it was about is then done or not done.
macro_rules! life {
    ($name:ident, $cache:ident, $ref:ident) => {
        fn $name(site: Site, n: usize, kind: PolicyKind) -> bool {
            let (probes, account) = (DropCounter::new(), CountingAccount::new());
            let clock = std::sync::Arc::new(ManualClock::new());
            ARMED.set(None);
            {
                let config = CacheConfig::builder().shards(2).policy(kind);
                let config = |capacity| config.clone().capacity(capacity).build().unwrap();
                let large = config(Capacity::Bytes(ByteSize::mib(1)));
                let empty = build!($cache, large, account, clock).charged();
                let capacity = Capacity::Bytes(ByteSize::new(empty + 9000));
                #[allow(unused_mut, reason = "one of the two needs it")]
                let mut cache = build!($cache, config(capacity), account, clock);
                let key = |key| Key(key, probes.probe(key));
                ARMED.set(Some((site, n)));
                for i in 0..20_u64 {
                    let size = usize::try_from(i * 31 % 120).unwrap();
                    let value = || Value(size, probes.probe(i));
                    let before = alive!($ref, cache);
                    let options = EntryOptions::new().tag(i % 3).ttl(Duration::from_secs(5));
                    let armed = ARMED.get().is_some();
                    let left = |cache: &$cache<Key, Value, Kit>| {
                        let stats = cache.stats();
                        stats.evictions() + stats.expired + stats.removed
                    };
                    let removals = left(&cache);
                    let done = catch(|| drop(cache.insert_with(key(i % 14), value(), options)));
                    if armed && done.is_err() {
                        // The panic has cost nobody else's entry: who left was evicted.
                        let after = alive!($ref, cache);
                        let gone = before.iter().filter(|key| !after.contains(key)).count() as u64;
                        assert!(gone <= left(&cache) - removals, "{site:?} {n}, step {i}");
                    }
                    let _ = catch(|| _ = cache.get(&key(i / 2)));
                    let _ = catch(|| {
                        let compute = || {
                            tick(Site::Compute);
                            value()
                        };
                        drop(cache.get_or_compute(&key(30 + i % 5), compute));
                    });
                    let _ = catch(|| drop(cache.remove(&key(i / 3))));
                    let _ = catch(|| update!($ref, cache, key(40 + i % 2), value()));
                    if i % 8 == 5 {
                        let smaller = Capacity::Bytes(ByteSize::new(empty + 5000));
                        let _ = catch(|| cache.pin(&key(i % 14)));
                        let _ = catch(|| cache.set_capacity(smaller));
                        let _ = catch(|| cache.unpin(&key(i % 14)));
                        let _ = catch(|| cache.set_capacity(capacity));
                    }
                    if i % 8 == 7 {
                        let _ = catch(|| {
                            cache.retain(|key, _| {
                                tick(Site::Retain);
                                key.0 % 5 != 0
                            });
                        });
                        let _ = catch(|| cache.evict(300));
                        let _ = catch(|| cache.invalidate_tag(1_u64));
                        clock.advance(Duration::from_secs(3));
                        let _ = catch(|| cache.maintain(3));
                    }
                    assert_eq!(cache.validate(), Ok(()), "{site:?} {n}, step {i}");
                    account.assert_balance(cache.charged());
                    // A key and a value for each entry, and nothing else.
                    probes.assert_live(cache.len() * 2);
                }
                let _ = catch(|| cache.set_capacity(Capacity::Bytes(ByteSize::new(empty + 5000))));
                assert_eq!(cache.validate(), Ok(()), "{site:?} {n}");
                let _ = catch(|| cache.clear());
                assert_eq!(cache.validate(), Ok(()), "{site:?} {n}");
                account.assert_balance(cache.charged());
                probes.assert_live(cache.len() * 2);
                // The cache goes on as if nothing had been, unless it is dropped by a panic now.
                let _ = catch(|| drop(cache.insert(key(1), Value(1, probes.probe(1)))));
                let _ = catch(move || drop(cache));
            }
            let fired = ARMED.replace(None).is_none();
            probes.assert_all_dropped();
            account.assert_settled();
            fired
        }
    };
}

/// The keys that are there.
macro_rules! alive {
    (shared, $cache:ident) => {{
        let armed = ARMED.take();
        let keys: Vec<u64> = $cache.iter().map(|(key, _)| key.0).collect();
        ARMED.set(armed);
        keys
    }};
    (local, $cache:ident) => {
        $cache.iter().map(|(key, _)| key.0).collect::<Vec<u64>>()
    };
}

macro_rules! update {
    (shared, $cache:ident, $key:expr, $value:expr) => {
        drop($cache.update(&$key, |old| {
            tick(Site::Update);
            // Not on return, when a panic would lose what is returned.
            drop(old);
            Some($value)
        }))
    };
    (local, $cache:ident, $key:expr, $value:expr) => {
        drop($cache.update($key, |_| {
            tick(Site::Update);
            Some($value)
        }))
    };
}

life!(shared_life, ConcurrentComputeCache, shared);
life!(local_life, ComputeCache, local);

/// Makes the cache smaller with a listener that panics meanwhile; then something is inserted.
macro_rules! shrink {
    ($cache:ident, $large:expr, $small:expr) => {{
        let (probes, account) = (DropCounter::new(), CountingAccount::new());
        let clock = std::sync::Arc::new(ManualClock::new());
        for kind in KINDS {
            ARMED.set(None);
            let config = CacheConfig::builder().capacity($large).shards(2).policy(kind);
            #[allow(unused_mut, reason = "one of the two needs it")]
            let mut cache = build!($cache, config.build().unwrap(), account, clock);
            let key = |key| Key(key, probes.probe(key));
            for at in 0..100 {
                drop(cache.insert(key(at), Value(200, probes.probe(at))).unwrap());
            }
            ARMED.set(Some((Site::Listener, 3)));
            assert!(catch(|| cache.set_capacity($small)).is_err());
            assert_eq!(cache.capacity(), $small);
            let small = match $small {
                Capacity::Entries(entries) => entries,
                Capacity::Bytes(bytes) => bytes.get(),
            };
            assert!(cache.weight() > small, "{kind:?}");
            drop(cache.insert(key(1000), Value(200, probes.probe(1000))).unwrap());
            assert!(cache.weight() <= small, "{kind:?}: {} of {small}", cache.weight());
            assert!(cache.contains(&key(1000)));
            assert_eq!(cache.validate(), Ok(()));
            account.assert_balance(cache.charged());
        }
        probes.assert_all_dropped();
    }};
}

#[test]
fn after_a_panic_the_next_insertion_brings_a_cache_to_its_capacity() {
    let bytes = |kib| Capacity::Bytes(ByteSize::kib(kib));
    shrink!(ConcurrentComputeCache, Capacity::Entries(100), Capacity::Entries(10));
    shrink!(ComputeCache, Capacity::Entries(100), Capacity::Entries(10));
    shrink!(ConcurrentComputeCache, bytes(200), bytes(30));
    shrink!(ComputeCache, bytes(200), bytes(20));
}

fn panic_at_every(site: Site) {
    let lives: [fn(Site, usize, PolicyKind) -> bool; 2] = [shared_life, local_life];
    for (which, live) in lives.into_iter().enumerate() {
        for kind in [PolicyKind::default(), PolicyKind::Arc] {
            let mut n = 0;
            while live(site, n, kind) {
                n += 1;
            }
            // A local cache clones no values.
            let least = if (site, which) == (Site::CloneValue, 1) { 0 } else { 10 };
            assert!(n >= least, "{site:?} was called {n} times only");
        }
    }
}

#[test]
fn panicking_hash() {
    panic_at_every(Site::Hash);
}

#[test]
fn panicking_eq() {
    panic_at_every(Site::Eq);
}

#[test]
fn panicking_clone_of_keys() {
    panic_at_every(Site::CloneKey);
}

#[test]
fn panicking_clone_of_values() {
    panic_at_every(Site::CloneValue);
}

#[test]
fn panicking_drop() {
    panic_at_every(Site::Drop);
}

#[test]
fn panicking_weigher() {
    panic_at_every(Site::Weigher);
}

#[test]
fn panicking_charger() {
    panic_at_every(Site::Charger);
}

#[test]
fn panicking_listener() {
    panic_at_every(Site::Listener);
}

#[test]
fn panicking_compute() {
    panic_at_every(Site::Compute);
}

#[test]
fn panicking_retain() {
    panic_at_every(Site::Retain);
}

#[test]
fn panicking_update() {
    panic_at_every(Site::Update);
}
