//! The removal listener, where it matters who calls it and when: outside the locks, so that it may
//! use the cache, before the entry is dropped or returned, and on every path.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use nebula_cache::{
    AnyPolicy, CacheConfig, Capacity, ComputeCache, ConcurrentComputeCache, Counted, EntryOptions,
    RemovalCause, Tagged, Timed, With,
};
use nebula_memory_core::{ManualClock, PressureLevel, Reclaim};
use nebula_testing::{DropCounter, DropProbe, catch};

type Cache<V = u64> = ConcurrentComputeCache<u64, V, With<AnyPolicy, Counted, Timed, Tagged>>;

/// A cache of ten entries whose listener is given the cache itself.
fn reflexive<V: Send + Sync + 'static>(
    listener: impl Fn(&Cache<V>, u64, &V, RemovalCause) + Send + Sync + 'static,
) -> (Arc<Cache<V>>, Arc<ManualClock>) {
    let (itself, clock) = (Arc::new(OnceLock::<std::sync::Weak<Cache<V>>>::new()), Arc::default());
    let this = Arc::clone(&itself);
    let config = CacheConfig::builder().entries(10).shards(1).build().unwrap();
    let cache = ConcurrentComputeCache::builder(config)
        .with_expiry()
        .with_tags()
        .with_clock(Arc::clone(&clock) as _)
        .with_listener(move |key: &u64, value: &V, cause| {
            if let Some(cache) = this.get().and_then(std::sync::Weak::upgrade) {
                listener(&cache, *key, value, cause);
            }
        })
        .build()
        .unwrap();
    let cache = Arc::new(cache);
    itself.set(Arc::downgrade(&cache)).unwrap();
    (cache, clock)
}

/// A way for the entry of key zero to leave.
type Way = (&'static str, RemovalCause, fn(&Cache, &ManualClock));

/// Every way there is.
fn ways() -> [Way; 16] {
    use RemovalCause::{Capacity as Full, Expired, Reclaimed, Removed, Replaced};
    [
        ("insert into a full cache", Full, |cache, _| {
            let pinned = EntryOptions::new().pinned();
            (100..110).for_each(|key| _ = cache.insert_with(key, 0, pinned).unwrap());
        }),
        ("a smaller capacity", Full, |cache, _| {
            (1..9).for_each(|key| _ = cache.insert_with(key, 0, EntryOptions::new().pinned()));
            cache.set_capacity(Capacity::Entries(1)).unwrap();
        }),
        ("unpin beyond a smaller capacity", Full, |cache, _| {
            cache.insert_with(1, 0, EntryOptions::new().pinned()).unwrap();
            assert!(cache.pin(&0));
            cache.set_capacity(Capacity::Entries(1)).unwrap();
            assert!(cache.unpin(&0));
        }),
        ("insert over it", Replaced, |cache, _| _ = cache.insert(0, 1).unwrap()),
        ("update it", Replaced, |cache, _| _ = cache.update(&0, |_| Some(1)).unwrap()),
        ("update it away", Removed, |cache, _| _ = cache.update(&0, |_| None).unwrap()),
        ("remove", Removed, |cache, _| _ = cache.remove(&0)),
        ("retain", Removed, |cache, _| cache.retain(|_, _| false)),
        ("invalidate its tag", Removed, |cache, _| _ = cache.invalidate_tag(7)),
        ("clear", Removed, |cache, _| cache.clear()),
        ("evict", Reclaimed, |cache, _| _ = cache.evict(usize::MAX)),
        ("reclaim and maintain", Reclaimed, |cache, _| {
            cache.reclaim(usize::MAX, PressureLevel::Critical);
            cache.maintain(0);
        }),
        ("get too late", Expired, |cache, clock| {
            clock.advance(Duration::from_secs(1));
            assert_eq!(cache.get(&0), None);
        }),
        ("insert over it too late", Expired, |cache, clock| {
            clock.advance(Duration::from_secs(1));
            assert_eq!(cache.insert(0, 1).unwrap(), None);
        }),
        ("remove too late", Expired, |cache, clock| {
            clock.advance(Duration::from_secs(1));
            assert_eq!(cache.remove(&0), None);
        }),
        ("maintain", Expired, |cache, clock| {
            clock.advance(Duration::from_secs(1));
            assert_eq!(cache.maintain(usize::MAX), 1);
        }),
    ]
}

#[test]
fn on_every_path_it_may_use_the_cache_and_sees_the_entry_gone() {
    for (name, expected, leave) in ways() {
        let calls = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&calls);
        let (cache, clock) = reflexive(move |cache, key, value, cause| {
            // With a lock held, each of these would wait for ever, or panic.
            assert_ne!(cache.peek(&key), Some(*value));
            if key == 0 {
                seen.lock().unwrap().push((*value, cause));
                _ = cache.get(&1000);
                cache.validate().ok();
                assert_eq!(cache.get_or_compute(&500, || 5).unwrap(), 5);
                cache.remove(&500);
            }
        });
        let options = EntryOptions::new().ttl(Duration::from_secs(1)).tag(7);
        cache.insert_with(0, 42, options).unwrap();
        leave(&cache, &clock);
        assert_eq!(*calls.lock().unwrap(), [(42, expected)], "{name}");
        cache.validate().unwrap_or_else(|fault| panic!("{name}: {fault}"));
    }
}

#[test]
fn it_may_put_an_entry_back() {
    for (name, _, leave) in ways() {
        let (done, back) = (AtomicBool::new(false), Arc::new(AtomicUsize::new(0)));
        let count = Arc::clone(&back);
        let (cache, clock) = reflexive(move |cache, key, value, cause| {
            if key == 0 && !done.swap(true, SeqCst) {
                if cache.insert(0, value + 1).is_ok() {
                    count.fetch_add(1, SeqCst);
                }
            } else if (key, *value) == (0, 43) {
                assert_ne!(cause, RemovalCause::Expired);
                count.fetch_sub(1, SeqCst);
            }
        });
        let options = EntryOptions::new().ttl(Duration::from_secs(1)).tag(7);
        cache.insert_with(0, 42, options).unwrap();
        leave(&cache, &clock);
        // What was put back is there, unless its leaving was shown too.
        let there = cache.peek(&0) == Some(43);
        assert_eq!(usize::from(there), back.load(SeqCst), "{name}");
        cache.validate().unwrap_or_else(|fault| panic!("{name}: {fault}"));
    }
}

#[test]
fn it_sees_the_entry_before_that_is_dropped() {
    let probes = DropCounter::new();
    let seen = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&seen);
    let (cache, _) = reflexive::<DropProbe>(move |_, key, value, _| {
        assert_eq!(value.tag(), key);
        // As many have been dropped as were shown before, or those shown together are all alive.
        assert!(probes.drops() <= count.load(SeqCst));
        count.fetch_add(1, SeqCst);
    });
    (0..30).for_each(|key| _ = cache.insert(key, probes.probe(key)).unwrap());
    cache.evict(usize::MAX);
    assert_eq!((seen.load(SeqCst), probes.drops()), (30, 30));
    (0..10).for_each(|key| _ = cache.insert(key, probes.probe(key)).unwrap());
    drop(cache.remove(&3));
    cache.clear();
    assert_eq!((seen.load(SeqCst), probes.drops()), (40, 40));
}

#[test]
fn what_is_dropped_with_the_cache_is_not_shown() {
    let shown = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&shown);
    let cache = ConcurrentComputeCache::<u64, u64>::builder(CacheConfig::default())
        .with_listener(move |_, _, _| _ = count.fetch_add(1, SeqCst))
        .build()
        .unwrap();
    (0..10).for_each(|key| _ = cache.insert(key, 0).unwrap());
    drop(cache);
    assert_eq!(shown.load(SeqCst), 0);
}

#[test]
fn its_panic_is_the_callers_and_the_cache_goes_on() {
    for (name, _, leave) in ways() {
        let armed = Arc::new(AtomicBool::new(true));
        let fuse = Arc::clone(&armed);
        let (cache, clock) = reflexive(move |_, key, _, _| {
            assert!(key != 0 || !fuse.load(SeqCst), "the listener panics");
        });
        let options = EntryOptions::new().ttl(Duration::from_secs(1)).tag(7);
        cache.insert_with(0, 42, options).unwrap();
        let panicked = catch(|| leave(&cache, &clock));
        assert_eq!(panicked.unwrap_err(), "the listener panics", "{name}");
        cache.validate().unwrap_or_else(|fault| panic!("{name}: {fault}"));
        armed.store(false, SeqCst);
        assert_eq!(cache.stats().entries, cache.len() as u64);
        cache.clear();
        cache.set_capacity(Capacity::Entries(10)).unwrap();
        cache.insert(0, 1).unwrap();
        assert_eq!(cache.get(&0), Some(1));
        cache.validate().unwrap_or_else(|fault| panic!("{name}: {fault}"));
    }
}

#[test]
fn a_listener_of_a_local_cache_may_keep_what_it_is_shown() {
    let (kept, calls) = (Rc::new(RefCell::new(Vec::new())), Rc::new(Cell::new(0)));
    let (keeper, counter) = (Rc::clone(&kept), Rc::clone(&calls));
    let config = CacheConfig::builder().entries(2).build().unwrap();
    let mut cache = ComputeCache::<u64, Rc<str>>::builder(config)
        .with_listener(move |key, value, cause| {
            counter.set(counter.get() + 1);
            keeper.borrow_mut().push((*key, Rc::clone(value), cause));
        })
        .build()
        .unwrap();
    let text: Rc<str> = Rc::from("text");
    cache.insert(1, Rc::clone(&text)).unwrap();
    cache.insert(1, Rc::from("other")).unwrap();
    cache.clear();
    assert_eq!(calls.get(), 2);
    assert!(Rc::ptr_eq(&kept.borrow()[0].1, &text));
    assert_eq!(kept.borrow()[1].2, RemovalCause::Removed);
}
