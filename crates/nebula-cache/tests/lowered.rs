//! Full caches whose capacity is lowered, whose entries are pinned, whose listeners remove others; and
//! entries that expire while a lookup waits.

mod common;

use std::{
    cell::Cell,
    hash::{Hash, Hasher},
    sync::{
        Arc, Barrier, Mutex, OnceLock, Weak,
        atomic::{AtomicBool, Ordering::SeqCst},
        mpsc::{Receiver, Sender, channel},
    },
    thread,
    time::Duration,
};

use common::{KINDS, SameHashes};
use nebula_cache::{CacheConfig, Capacity, ConcurrentComputeCache, EntryOptions, PolicyKind};
use nebula_memory_core::{ByteSize, Clock, ManualClock};
use nebula_testing::{CountingAccount, Rng};

type Plain = ConcurrentComputeCache<u64, u64>;

#[test]
fn a_listener_that_removes_others_is_not_nested_without_end() {
    std::thread_local! {
        static DEPTH: Cell<usize> = const { Cell::new(0) };
        static MOST: Cell<usize> = const { Cell::new(0) };
    }
    let own: Arc<OnceLock<Weak<Plain>>> = Arc::default();
    let its = own.clone();
    let config = CacheConfig::builder().entries(1000).shards(1).build().unwrap();
    let cache = ConcurrentComputeCache::builder(config)
        .with_listener(move |key: &u64, _: &u64, _| {
            DEPTH.set(DEPTH.get() + 1);
            MOST.set(MOST.get().max(DEPTH.get()));
            if let Some(cache) = its.get().and_then(Weak::upgrade) {
                cache.remove(&(key ^ 1));
            }
            DEPTH.set(DEPTH.get() - 1);
        })
        .build()
        .unwrap();
    let cache = Arc::new(cache);
    own.set(Arc::downgrade(&cache)).unwrap();
    (0..1000).for_each(|key| _ = cache.insert(key, key).unwrap());
    cache.set_capacity(Capacity::Entries(1)).unwrap();
    assert!(cache.len() <= 1);
    cache.validate().unwrap();
    assert!(MOST.get() <= 8, "nested {} times", MOST.get());
}

#[test]
fn what_weighs_nothing_is_not_placed_beside_pinned_entries_that_are_too_much() {
    let config = CacheConfig::builder().bytes(ByteSize::kib(64)).shards(1).build().unwrap();
    let cache = ConcurrentComputeCache::<u64, Vec<u8>>::builder(config)
        .with_weigher(|_, value| value.capacity())
        .build()
        .unwrap();
    let pinned = EntryOptions::new().pinned();
    (0..2).for_each(|key| _ = cache.insert_with(key, vec![0; 20 << 10], pinned).unwrap());
    cache.set_capacity(Capacity::Bytes(ByteSize::kib(16))).unwrap();
    assert!(cache.insert(2, Vec::new()).is_err() && !cache.contains(&2));
    // Nothing can take the place of something.
    cache.insert(1, Vec::new()).unwrap();
    cache.validate().unwrap();
}

/// A clock that says on which thread it is read.
struct Told(ManualClock, Mutex<Sender<thread::ThreadId>>);

impl Clock for Told {
    fn now(&self) -> Duration {
        let now = self.0.now();
        let _ = self.1.lock().unwrap().send(thread::current().id());
        now
    }
}

/// Waits in `Eq` once, if told to.
#[derive(Clone)]
struct Slow(u64, Arc<Gate>);

/// Whether somebody is to wait, to whom that is told, and from whom he hears to go on.
type Gate = (AtomicBool, Mutex<Sender<()>>, Mutex<Receiver<()>>);

impl Hash for Slow {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

impl PartialEq for Slow {
    fn eq(&self, other: &Self) -> bool {
        if self.1.0.swap(false, SeqCst) {
            self.1.1.lock().unwrap().send(()).unwrap();
            self.1.2.lock().unwrap().recv().unwrap();
        }
        self.0 == other.0
    }
}

impl Eq for Slow {}

/// What a lookup finds of an entry that expires while another thread holds its lock.
fn found_after_waiting(kind: PolicyKind) -> Option<u64> {
    let (sender, reads) = channel();
    let clock = Arc::new(Told(ManualClock::new(), Mutex::new(sender)));
    let config = CacheConfig::builder().entries(10).shards(1).policy(kind).build().unwrap();
    let cache = ConcurrentComputeCache::<Slow, u64>::builder(config)
        .with_expiry()
        .with_clock(Arc::clone(&clock) as _)
        .build()
        .unwrap();
    let (there, is_there) = channel();
    let (go, may_go) = channel();
    let gate = Arc::new((AtomicBool::new(false), Mutex::new(there), Mutex::new(may_go)));
    let key = |key| Slow(key, gate.clone());
    let options = EntryOptions::new().ttl(Duration::from_secs(1));
    cache.insert_with(key(1), 1, options).ok().unwrap();
    let (own, other) = (key(1), key(1));
    thread::scope(|scope| {
        gate.0.store(true, SeqCst);
        // Holds the lock.
        let holder = scope.spawn(|| _ = cache.pin(&own));
        is_there.recv().unwrap();
        while reads.try_recv().is_ok() {}
        let looker = scope.spawn(|| cache.get(&other));
        // (It may read the clock before it waits, after it, or both.)
        _ = reads.recv_timeout(Duration::from_millis(100));
        clock.0.advance(Duration::from_secs(2));
        // (Nothing tells that it has got as far as the lock: at most it reads the clock again.)
        _ = reads.recv_timeout(Duration::from_millis(50));
        go.send(()).unwrap();
        holder.join().unwrap();
        looker.join().unwrap()
    })
}

#[test]
fn what_expires_while_a_lookup_waits_is_not_found() {
    for kind in KINDS {
        // Where lookups share the lock, the clock is read before as well: who was late then, and found
        // the lock free, did not wait.
        let shares = matches!(
            kind,
            PolicyKind::Fifo | PolicyKind::S3Fifo | PolicyKind::Sieve | PolicyKind::Steady
        );
        let rounds = if shares { 10 } else { 1 };
        assert!((0..rounds).any(|_| found_after_waiting(kind).is_none()), "{kind:?}");
    }
}

#[test]
fn pins_and_capacities_under_load_leave_order_behind() {
    for round in 0..2 {
        for kind in KINDS {
            let config = CacheConfig::builder().entries(60).shards(4).policy(kind).build().unwrap();
            let account = CountingAccount::new();
            let cache = ConcurrentComputeCache::<u64, Vec<u8>>::builder(config)
                .with_account(account.clone())
                .with_weigher(|_, value| value.capacity())
                .with_hasher(SameHashes::default())
                .build()
                .unwrap();
            thread::scope(|scope| {
                for seed in 0..3 {
                    let cache = &cache;
                    scope.spawn(move || {
                        let mut rng = Rng::new(round * 10 + seed);
                        for _ in 0..400 {
                            let key = rng.below(150) as u64;
                            let value = || Vec::with_capacity(usize::try_from(key).unwrap());
                            match rng.below(20) {
                                0 => _ = cache.set_capacity(Capacity::Entries(1 + rng.below(60))),
                                1 => _ = cache.pin(&key),
                                2..5 => _ = cache.unpin(&key),
                                5 => drop(cache.remove(&key)),
                                6..9 => drop(cache.get(&key)),
                                9 => _ = cache.evict(rng.below(100)),
                                10 => drop(cache.insert_with(
                                    key,
                                    value(),
                                    EntryOptions::new().pinned(),
                                )),
                                _ => drop(cache.insert(key, value())),
                            }
                        }
                    });
                }
            });
            cache.validate().unwrap();
            account.assert_balance(cache.charged());
            (0..150).for_each(|key| _ = cache.unpin(&key));
            let Capacity::Entries(most) = cache.capacity() else { unreachable!() };
            assert!(cache.len() <= most, "{kind:?}: {} of {most}", cache.len());
            cache.validate().unwrap();
            let stats = cache.stats();
            let left = stats.evictions() + stats.expired + stats.replaced + stats.removed;
            assert_eq!(stats.inserts - left, cache.len() as u64);
            drop(cache);
            account.assert_settled();
        }
    }
}

#[test]
fn an_insertion_against_a_smaller_capacity_beside_what_is_pinned() {
    for round in 0..1000_u64 {
        let config = CacheConfig::builder().entries(2).shards(2).build().unwrap();
        let cache = ConcurrentComputeCache::<u64, u64>::builder(config)
            .with_hasher(SameHashes::default())
            .build()
            .unwrap();
        // One in each shard, to have memory there.
        cache.insert_with(0, 0, EntryOptions::new().pinned()).unwrap();
        cache.insert(round, 1).unwrap();
        cache.remove(&round);
        let start = Barrier::new(2);
        thread::scope(|scope| {
            scope.spawn(|| {
                start.wait();
                cache.set_capacity(Capacity::Entries(1)).unwrap();
            });
            start.wait();
            drop(cache.insert(round, 1));
        });
        assert!(cache.len() <= 1 || round == 0, "round {round}: {}", cache.len());
    }
}
