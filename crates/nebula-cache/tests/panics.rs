//! Panics in the user's code, at every call: the cache stays in order, and the books exact.

use std::{
    cell::Cell,
    hash::{Hash, Hasher},
};

use nebula_cache::{CacheConfig, ConcurrentComputeCache};
use nebula_memory_core::ByteSize;
use nebula_testing::{CountingAccount, DropCounter, DropProbe, InjectedPanic, catch};

/// Whose turn it is to panic, and when. Per thread, so that tests don't disturb each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Site {
    Hash,
    Eq,
    CloneKey,
    CloneValue,
    Drop,
    Weigher,
    Compute,
    Retain,
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

/// Runs a life of a cache with a panic at call `n` of `site`; whether that call came.
fn live_a_life(site: Site, n: usize) -> bool {
    let (probes, account) = (DropCounter::new(), CountingAccount::new());
    ARMED.set(None);
    {
        let entry = size_of::<Key>() + size_of::<Value>();
        let capacity = ByteSize::new(entry * 8 + 500);
        let config = CacheConfig::builder().capacity(capacity).shards(2).build().unwrap();
        let cache = ConcurrentComputeCache::<Key, Value>::builder(config)
            .with_account(account.clone())
            .with_weigher(|_, value| {
                tick(Site::Weigher);
                value.0
            })
            .build()
            .unwrap();
        let key = |key| Key(key, probes.probe(key));
        ARMED.set(Some((site, n)));
        for i in 0..24_u64 {
            let size = usize::try_from(i * 31 % 120).unwrap();
            // Each step may panic on its own; what it was about is then done or not done.
            let _ = catch(|| drop(cache.insert(key(i % 14), Value(size, probes.probe(i)))));
            let _ = catch(|| drop(cache.get(&key(i / 2))));
            let _ = catch(|| {
                let compute = || {
                    tick(Site::Compute);
                    Value(size, probes.probe(i))
                };
                drop(cache.get_or_compute(&key(30 + i % 5), compute));
            });
            let _ = catch(|| drop(cache.remove(&key(i / 3))));
            if i % 8 == 7 {
                let _ = catch(|| {
                    cache.retain(|key, _| {
                        tick(Site::Retain);
                        key.0 % 5 != 0
                    });
                });
                let _ = catch(|| cache.evict(300));
            }
            assert_eq!(cache.validate(), Ok(()), "{site:?} {n}, step {i}");
            assert!(cache.weight() <= cache.capacity());
            account.assert_balance(cache.charged());
            // A key and a value for each entry, and nothing else.
            probes.assert_live(cache.len() * 2);
        }
        // The cache goes on as if nothing had been, unless it is dropped by a panic now.
        let _ = catch(|| cache.clear());
        account.assert_balance(cache.charged());
        let _ = catch(move || drop(cache));
    }
    let fired = ARMED.replace(None).is_none();
    probes.assert_all_dropped();
    account.assert_settled();
    fired
}

fn panic_at_every(site: Site) {
    let mut n = 0;
    while live_a_life(site, n) {
        n += 1;
    }
    assert!(n > 10, "{site:?} was called {n} times only");
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
fn panicking_compute() {
    panic_at_every(Site::Compute);
}

#[test]
fn panicking_retain() {
    panic_at_every(Site::Retain);
}
