//! User code that runs while an entry is being placed, or others leave, and places entries itself: it
//! is never waited for what its own thread holds.

mod common;

use std::{
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicUsize, Ordering::SeqCst},
        mpsc::channel,
    },
    thread,
};

use common::LIMIT;
use nebula_cache::{
    AnyPolicy, CacheConfig, ConcurrentComputeCache, PartitionedCache, Share, Weighed, With,
};
use nebula_memory_core::{ByteSize, PressureLevel, Reclaim};

type Blocks = ConcurrentComputeCache<u64, Vec<u8>, With<AnyPolicy, Weighed>>;

/// Runs it on another thread, which is given up if it takes too long.
fn ends(what: impl FnOnce() + Send + 'static) {
    let (sender, done) = channel();
    let thread = thread::spawn(move || {
        what();
        let _ = sender.send(());
    });
    match done.recv_timeout(LIMIT) {
        Err(std::sync::mpsc::RecvTimeoutError::Timeout) => panic!("it waits for itself"),
        _ => thread.join().unwrap(),
    }
}

/// A cache whose listener puts something half as large again in the place of what leaves, once; and
/// how often it could.
fn replacing(config: CacheConfig) -> (Arc<Blocks>, Arc<AtomicUsize>) {
    let own: Arc<OnceLock<Weak<Blocks>>> = Arc::default();
    let count = Arc::new(AtomicUsize::new(0));
    let (its, counter) = (own.clone(), count.clone());
    let cache = ConcurrentComputeCache::builder(config)
        .with_weigher(|_, block: &Vec<u8>| block.capacity())
        .with_listener(move |key: &u64, block, _| {
            let cache = its.get().and_then(Weak::upgrade).filter(|_| *key < 1000);
            let more = || (key + 1000, vec![0; block.len() * 3 / 2]);
            if cache.is_some_and(|cache| cache.insert(more().0, more().1).is_ok()) {
                counter.fetch_add(1, SeqCst);
            }
        })
        .build()
        .unwrap();
    let cache = Arc::new(cache);
    own.set(Arc::downgrade(&cache)).unwrap();
    (cache, count)
}

#[test]
fn a_listener_can_fill_a_cache_that_is_being_cleared_or_gives_back() {
    let leave: [fn(&Blocks); 4] = [
        Blocks::clear,
        |cache| _ = cache.evict(1),
        |cache| cache.retain(|_, _| false),
        |cache| (0..2).for_each(|key| drop(cache.remove(&key))),
    ];
    for leave in leave {
        ends(move || {
            let config = CacheConfig::builder().entries(2).shards(1).build().unwrap();
            let (cache, count) = replacing(config);
            (0..2).for_each(|key| _ = cache.insert(key, Vec::new()).unwrap());
            leave(&cache);
            assert_eq!(count.load(SeqCst), 2);
            assert_eq!(cache.len(), 2);
            assert_eq!(cache.validate(), Ok(()));
        });
    }
}

#[test]
fn giving_back_ends_though_a_listener_puts_everything_back() {
    ends(|| {
        for shards in [1, 4] {
            let own: Arc<OnceLock<Weak<Blocks>>> = Arc::default();
            let its = own.clone();
            let config = CacheConfig::builder().entries(100).shards(shards).build().unwrap();
            let cache = ConcurrentComputeCache::builder(config)
                .with_weigher(|_, block: &Vec<u8>| block.capacity())
                .with_listener(move |key: &u64, block, _| {
                    let cache = its.get().and_then(Weak::upgrade);
                    _ = cache.map(|cache| cache.insert(*key, block.clone()));
                })
                .build()
                .unwrap();
            let cache = Arc::new(cache);
            own.set(Arc::downgrade(&cache)).unwrap();
            (0..100).for_each(|key| _ = cache.insert(key, vec![0; 10]).unwrap());
            let calls: [fn(&Blocks); 4] = [
                |cache| _ = cache.evict(usize::MAX),
                Blocks::clear,
                |cache| cache.retain(|_, _| false),
                |cache| {
                    cache.reclaim(usize::MAX, PressureLevel::Critical);
                    cache.maintain(0);
                },
            ];
            for call in calls {
                let before = cache.stats();
                call(&cache);
                // Each of them left, and is there again.
                let stats = cache.stats();
                let left = stats.evictions() + stats.removed - before.evictions() - before.removed;
                assert_eq!((left, cache.len()), (100, 100), "on {shards} shards");
                assert_eq!(cache.validate(), Ok(()));
            }
        }
    });
}

#[test]
fn a_listener_is_refused_what_the_eviction_that_it_is_told_of_is_for() {
    ends(|| {
        let config = CacheConfig::builder().bytes(ByteSize::kib(64)).shards(1).build().unwrap();
        let (cache, _) = replacing(config);
        (0..3).for_each(|key| drop(cache.insert(key, vec![0; 17 << 10]).unwrap()));
        // Two of the three are gone when it is called first, their room held.
        cache.insert(2000, vec![0; 53 << 10]).unwrap();
        assert_eq!(cache.validate(), Ok(()));
    });
}

/// Places another one when it is dropped.
struct Leaving(Arc<OnceLock<Weak<ConcurrentComputeCache<u64, Self>>>>);

impl Drop for Leaving {
    fn drop(&mut self) {
        if let Some(cache) = self.0.get().and_then(Weak::upgrade) {
            let _ = cache.insert(99, Self(Arc::default()));
        }
    }
}

#[test]
fn values_that_place_others_when_they_are_dropped_do_not_wait_for_their_own_room() {
    ends(|| {
        let own = Arc::default();
        let config = CacheConfig::builder().entries(2).shards(1).build().unwrap();
        let cache = Arc::new(ConcurrentComputeCache::new(config).unwrap());
        let _ = OnceLock::set(&*own, Arc::downgrade(&cache));
        for key in 0..2 {
            assert!(cache.insert(key, Leaving(own.clone())).is_ok());
        }
        cache.clear();
        assert_eq!(cache.validate(), Ok(()));
    });
}

#[test]
fn a_partitions_listener_can_not_have_what_is_on_its_way_to_another() {
    type Tenants = PartitionedCache<u64, u64>;
    ends(|| {
        let config = CacheConfig::builder().entries(2).shards(2).build().unwrap();
        let tenants = Arc::new(Tenants::new(config).unwrap());
        let first = Arc::new(AtomicUsize::new(0));
        let (own, count) = (Arc::downgrade(&tenants), first.clone());
        let listening = tenants.add("listening", Share::default(), move |cache| {
            cache.with_listener(move |key, _, _| {
                if count.fetch_add(1, SeqCst) == 0 {
                    for name in ["listening", "owner"] {
                        let to = own.upgrade().and_then(|tenants| tenants.get(name));
                        let _ = to.map(|to| to.insert(key + 100, 0));
                    }
                }
            })
        });
        let listening = listening.unwrap();
        (0..2).for_each(|key| _ = listening.insert(key, key).unwrap());
        let owner = tenants.add("owner", Share::guaranteed(2), |cache| cache).unwrap();
        for key in 0..2 {
            owner.insert(key, key).unwrap();
        }
        assert!(first.load(SeqCst) > 0);
        assert_eq!((owner.len(), listening.len()), (2, 0));
        assert_eq!((owner.validate(), listening.validate()), (Ok(()), Ok(())));
    });
}
