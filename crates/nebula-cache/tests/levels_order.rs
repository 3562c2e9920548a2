//! What comes between: writes that overtake each other, a clear and an eviction at once, panics of the
//! user's code between two levels. Nothing old is served, and nobody is held up.

mod common;

use std::{
    cell::Cell,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{
        Arc, Barrier,
        atomic::{
            AtomicBool, AtomicUsize,
            Ordering::{Relaxed, SeqCst},
        },
    },
    thread,
    time::Duration,
};

use nebula_cache::{
    CacheConfig, ConcurrentComputeCache, Demotion, Hit, Level, LevelError, MultiLevelCache,
    PolicyKind, RemovalCause, SharedBuilder, WhenFull, Writing,
};

use self::common::shelf::{Mood, Shelf};

const BEHIND: Writing = Writing::Behind { queue: 10, when_full: WhenFull::Write };

fn first<K, V>(entries: usize) -> SharedBuilder<K, V> {
    let config = CacheConfig::builder().entries(entries).policy(PolicyKind::Fifo).shards(1);
    ConcurrentComputeCache::builder(config.build().unwrap())
}

/// Holds nothing, and says so only when all have come.
struct Empty {
    all_wait: Barrier,
    gets: AtomicUsize,
}

impl Level<u64, u64> for Empty {
    fn name(&self) -> &'static str {
        "empty"
    }

    fn get(&self, _: &u64) -> Result<Option<Hit<u64>>, LevelError> {
        if self.gets.fetch_add(1, SeqCst) == 0 {
            self.all_wait.wait();
        }
        Ok(None)
    }

    fn put(&self, _: &u64, _: &u64, _: Option<Duration>) -> Result<(), LevelError> {
        Ok(())
    }

    fn remove(&self, _: &u64) -> Result<(), LevelError> {
        Ok(())
    }

    fn clear(&self) -> Result<(), LevelError> {
        Ok(())
    }
}

#[test]
fn those_who_look_for_what_is_nowhere_share_one_lookup() {
    let level = Arc::new(Empty { all_wait: Barrier::new(2), gets: AtomicUsize::new(0) });
    let cache = MultiLevelCache::builder(first(10)).level(Arc::clone(&level)).build().unwrap();
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| assert_eq!(cache.get(&1), None));
        }
        common::until(|| cache.stats().first.waits == 7);
        level.all_wait.wait();
    });
    assert_eq!(level.gets.load(SeqCst), 1);
    // One who computes is not content with that.
    assert_eq!(cache.get_or_compute(&1, || 7).unwrap(), 7);
    cache.validate().unwrap();
}

#[test]
fn a_demotion_that_overtakes_a_removal_leaves_no_old_value_further_down() {
    let (upper, lower) = (Shelf::<u64, u64>::new(&Arc::default()), Shelf::new(&Arc::default()));
    let cache = MultiLevelCache::builder(first(2))
        .level(Arc::clone(&upper))
        .level(Arc::clone(&lower))
        .demotion(Demotion::Only)
        .writing(BEHIND)
        .build()
        .unwrap();
    lower.plant(1, 10, None);
    // The thread is held up with a write of another key.
    upper.close_gate();
    cache.insert(99, 99).unwrap();
    cache.evict(usize::MAX);
    upper.await_visitor();
    // What the levels have of 1 is to go; and then the first of them is to have the new value.
    cache.insert(1, 11).unwrap();
    cache.evict(usize::MAX);
    upper.open_gate();
    cache.flush(common::LIMIT).unwrap();
    assert_eq!((upper.holds(&1), lower.holds(&1)), (Some(11), None));
}

#[test]
fn a_clear_takes_what_is_being_demoted() {
    for writing in [Writing::Through, BEHIND] {
        let shelf = Shelf::<u64, u64>::new(&Arc::default());
        let cache = MultiLevelCache::builder(first(1)).level(Arc::clone(&shelf));
        let cache = cache.demotion(Demotion::Only).writing(writing).build().unwrap();
        cache.insert(1, 10).unwrap();
        shelf.close_gate();
        thread::scope(|scope| {
            // Evicts 1, which is held up as it is written.
            scope.spawn(|| cache.insert(2, 20).unwrap());
            shelf.await_visitor();
            cache.clear();
            shelf.open_gate();
        });
        cache.flush(common::LIMIT).unwrap();
        assert_eq!((cache.get(&1), shelf.holds(&1)), (None, None), "{writing:?}");
        cache.validate().unwrap();
    }
}

#[test]
fn after_a_listener_panicked_no_level_serves_what_was_replaced_or_removed() {
    for writing in [Writing::Through, BEHIND] {
        let shelf = Shelf::<u64, u64>::new(&Arc::default());
        let panics = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&panics);
        let first = first(10).with_listener(move |_, _, cause| {
            let gone = [RemovalCause::Replaced, RemovalCause::Removed].contains(&cause);
            if gone && told.swap(false, SeqCst) {
                resume_unwind(Box::new("the listener panics"));
            }
        });
        let cache = MultiLevelCache::builder(first).level(Arc::clone(&shelf)).writing(writing);
        let cache = cache.build().unwrap();
        let cut_short = |work: &dyn Fn()| {
            panics.store(true, SeqCst);
            assert!(catch_unwind(AssertUnwindSafe(work)).is_err());
            cache.evict(usize::MAX);
        };
        cache.insert(1, 10).unwrap();
        cut_short(&|| drop(cache.insert(1, 11)));
        assert_ne!(cache.get(&1), Some(10));
        cache.insert(2, 20).unwrap();
        cut_short(&|| drop(cache.remove(&2)));
        assert_eq!(cache.get(&2), None);
        cache.flush(common::LIMIT).unwrap();
        cache.maintain(100);
        assert_eq!((shelf.holds(&1), shelf.holds(&2)), (None, None), "{writing:?}");
        cache.insert(1, 12).unwrap();
        cache.evict(usize::MAX);
        assert_eq!(cache.get(&1), Some(12));
        cache.validate().unwrap();
    }
}

thread_local! {
    /// After so many clones of a value, one panics.
    static CLONES: Cell<Option<usize>> = const { Cell::new(None) };
}

#[derive(Debug, PartialEq, Eq, Default)]
struct Brittle(u64);

impl Clone for Brittle {
    fn clone(&self) -> Self {
        match CLONES.get() {
            Some(0) => {
                CLONES.set(None);
                resume_unwind(Box::new("a clone panics"))
            }
            left => CLONES.set(left.map(|left| left - 1)),
        }
        Self(self.0)
    }
}

#[test]
fn wherever_a_clone_panics_no_old_value_is_served() {
    for writing in [Writing::Through, BEHIND] {
        for round in 0.. {
            let shelf = Shelf::<u64, Brittle>::new(&Arc::default());
            let cache = MultiLevelCache::builder(first(10)).level(Arc::clone(&shelf));
            let cache = cache.writing(writing).build().unwrap();
            cache.insert(1, Brittle(10)).unwrap();
            cache.flush(common::LIMIT).unwrap();
            CLONES.set(Some(round));
            let inserted = catch_unwind(AssertUnwindSafe(|| drop(cache.insert(1, Brittle(11)))));
            CLONES.set(None);
            let now = cache.get(&1);
            cache.evict(usize::MAX);
            let later = cache.get(&1);
            assert!(now == later || later.is_none(), "{now:?}, {later:?} after clone {round}");
            cache.validate().unwrap();
            if inserted.is_ok() {
                assert!(round > 0, "something panicked");
                break;
            }
        }
    }
}

thread_local! {
    static MINE: Cell<bool> = const { Cell::new(false) };
}

/// A value that panics when it is dropped by a stranger.
#[derive(Clone, Debug)]
struct Touchy(Arc<AtomicUsize>);

impl Drop for Touchy {
    fn drop(&mut self) {
        if !MINE.get() {
            self.0.fetch_add(1, Relaxed);
            resume_unwind(Box::new("a drop panics"));
        }
    }
}

/// Takes everything, and keeps nothing.
struct Sink(AtomicUsize);

impl Level<u64, Touchy> for Sink {
    fn name(&self) -> &'static str {
        "sink"
    }

    fn get(&self, _: &u64) -> Result<Option<Hit<Touchy>>, LevelError> {
        Ok(None)
    }

    fn put(&self, _: &u64, _: &Touchy, _: Option<Duration>) -> Result<(), LevelError> {
        self.0.fetch_add(1, SeqCst);
        Ok(())
    }

    fn remove(&self, _: &u64) -> Result<(), LevelError> {
        Ok(())
    }

    fn clear(&self) -> Result<(), LevelError> {
        Ok(())
    }
}

#[test]
fn the_thread_that_writes_survives_values_that_panic_when_they_are_dropped() {
    MINE.set(true);
    let (sink, panics) = (Arc::new(Sink(AtomicUsize::new(0))), Arc::default());
    let cache = MultiLevelCache::builder(first(10)).level(Arc::clone(&sink)).writing(BEHIND);
    let cache = cache.build().unwrap();
    for key in 0..5 {
        cache.insert(key, Touchy(Arc::clone(&panics))).unwrap();
        cache.flush(common::LIMIT).unwrap();
    }
    assert_eq!((sink.0.load(SeqCst), panics.load(SeqCst)), (5, 5));
}

/// Can't put odd keys into bytes, and never finds the way to 4.
struct Picky(Arc<Shelf<u64, u64>>);

impl Picky {
    fn check(key: u64) -> Result<(), LevelError> {
        match key {
            4 => Err(LevelError::backend("there is no way")),
            key if key % 2 == 1 => Err(LevelError::Encode("it is odd".into())),
            _ => Ok(()),
        }
    }
}

impl Level<u64, u64> for Picky {
    fn name(&self) -> &'static str {
        "picky"
    }

    fn get(&self, key: &u64) -> Result<Option<Hit<u64>>, LevelError> {
        Self::check(*key)?;
        self.0.get(key)
    }

    fn put(&self, key: &u64, value: &u64, ttl: Option<Duration>) -> Result<(), LevelError> {
        Self::check(*key)?;
        self.0.put(key, value, ttl)
    }

    fn remove(&self, key: &u64) -> Result<(), LevelError> {
        self.0.remove(key)?;
        Self::check(*key)
    }

    fn clear(&self) -> Result<(), LevelError> {
        self.0.clear()
    }
}

#[test]
fn a_level_is_told_what_it_missed_though_it_never_takes_some_keys() {
    let shelf = Shelf::<u64, u64>::new(&Arc::default());
    let cache = MultiLevelCache::builder(first(100)).level(Picky(Arc::clone(&shelf)));
    let cache = cache.build().unwrap();
    for key in 0..20 {
        cache.insert(key, key).unwrap();
    }
    let doubts = || cache.stats().levels[0].doubts;
    assert_eq!((shelf.len(), doubts()), (9, 1), "what can't be put into bytes is not there");
    shelf.be(Mood::Fails);
    for key in [0, 2, 6, 8] {
        cache.remove(&key).unwrap();
        // (The breaker counts failures in a row.)
        shelf.be(Mood::Well);
        cache.get(&1000);
        shelf.be(Mood::Fails);
    }
    shelf.be(Mood::Well);
    (0..10).for_each(|_| drop(cache.maintain(10).to_string()));
    assert_eq!((shelf.len(), doubts()), (5, 1), "4 alone");
    assert_eq!((cache.get(&10), cache.get(&0)), (Some(10), None));
}

#[test]
fn threads_that_write_behind_leave_what_they_wrote_last() {
    for queue in [1, 3, 100] {
        let shelf = Shelf::<u64, u64>::new(&Arc::default());
        let cache = MultiLevelCache::builder(first(4)).level(Arc::clone(&shelf));
        let writing = Writing::Behind { queue, when_full: WhenFull::Write };
        let cache = cache.writing(writing).build().unwrap();
        thread::scope(|scope| {
            for thread in 0..4_u64 {
                let cache = &cache;
                scope.spawn(move || {
                    for round in 0..500 {
                        // One key again and again, and others beside it.
                        for key in [thread, thread, 10 + 10 * thread + round % 7] {
                            cache.insert(key, round).unwrap();
                        }
                        if round % 5 == 0 {
                            cache.remove(&(10 + 10 * thread + round % 3)).unwrap();
                        }
                        if round % 100 == 0 {
                            cache.flush(common::LIMIT).unwrap();
                            assert_eq!(cache.get(&thread), Some(round));
                        }
                    }
                });
            }
        });
        cache.flush(common::LIMIT).unwrap();
        assert_eq!(cache.stats().queue.waiting, 0);
        for thread in 0..4 {
            assert_eq!(shelf.holds(&thread), Some(499), "a queue of {queue}");
            for key in (10 + 10 * thread)..(17 + 10 * thread) {
                assert_eq!(cache.get(&key), shelf.holds(&key), "a queue of {queue}");
            }
        }
        cache.validate().unwrap();
    }
}
