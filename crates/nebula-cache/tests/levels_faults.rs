//! Levels that fail, dawdle and come back: nobody but the statistics notices, and nothing that was
//! removed or replaced is ever served again.

mod common;

use std::{
    cell::RefCell,
    collections::HashMap,
    sync::{Arc, Condvar, Mutex, atomic::Ordering::SeqCst},
    thread,
    time::Duration,
};

use nebula_cache::{
    AnyPolicy, Breaker, BreakerState, CacheConfig, ConcurrentComputeCache, Counted,
    DefaultHashBuilder, Demotion, EntryOptions, LevelError, LevelStats, MultiLevelBuilder,
    MultiLevelCache, PolicyKind, Timed, Untagged, WhenFull, With, Writing,
};
use nebula_memory_core::{ManualClock, Unlimited};
use nebula_testing::CountingAccount;
use proptest::prelude::*;

use self::common::shelf::{Mood, Shelf};

type Timing = With<AnyPolicy, Counted, Timed>;
type Builder =
    MultiLevelBuilder<u64, u64, AnyPolicy, Counted, Timed, Untagged, Unlimited, DefaultHashBuilder>;
type Cache = MultiLevelCache<u64, u64, Timing>;
type Under = Arc<Shelf<u64, u64>>;

const SECOND: Duration = Duration::from_secs(1);

/// Level one of so many entries, oldest first out, over two shelves.
fn over_two(entries: usize, with: impl FnOnce(Builder) -> Builder) -> (Cache, Under, Under) {
    let clock = Arc::<ManualClock>::default();
    let (upper, lower) = (Shelf::new(&clock), Shelf::new(&clock));
    let config = CacheConfig::builder().entries(entries).policy(PolicyKind::Fifo).shards(1);
    let first = ConcurrentComputeCache::builder(config.build().unwrap())
        .with_expiry()
        .with_clock(clock as _);
    let builder =
        MultiLevelCache::builder(first).level(Arc::clone(&upper)).level(Arc::clone(&lower));
    (with(builder).build().unwrap(), upper, lower)
}

fn level(cache: &Cache, index: usize) -> LevelStats {
    cache.stats().levels.swap_remove(index)
}

fn breaker() -> Breaker {
    Breaker::default().failures(3).slow(SECOND).cool_down(10 * SECOND)
}

#[test]
fn a_level_that_fails_is_a_miss_and_hits_elsewhere_are_served() {
    for mood in [Mood::Fails, Mood::Panics, Mood::FailsAfterwards] {
        let (cache, upper, lower) = over_two(1, |builder| builder.breaker(breaker()));
        upper.be(mood);
        for key in 0..10 {
            cache.insert(key, key * 10).unwrap();
        }
        for key in 0..10 {
            assert_eq!(cache.get(&key), Some(key * 10), "{mood:?}");
            assert_eq!(cache.get_or_compute(&(key + 100), || key).unwrap(), key);
        }
        let (sick, well) = (level(&cache, 0), level(&cache, 1));
        assert_eq!((sick.errors, sick.opened, sick.breaker), (3, 1, BreakerState::Open));
        assert!(sick.bypassed > 0 && sick.hits + sick.writes == 0, "{sick:?}");
        assert_eq!((well.errors, well.writes, lower.len()), (0, 20, 20));
        cache.validate().unwrap();
    }
}

#[test]
fn a_breaker_opens_probes_and_closes() {
    let (cache, upper, _lower) = over_two(1, |builder| builder.breaker(breaker()));
    upper.be(Mood::Fails);
    for key in 0..3 {
        cache.get(&key);
    }
    assert_eq!((level(&cache, 0).breaker, level(&cache, 0).errors), (BreakerState::Open, 3));
    let calls = upper.calls();
    cache.get(&3);
    assert_eq!(upper.calls(), calls, "it is left alone");
    upper.clock.advance(10 * SECOND);
    cache.get(&4);
    assert_eq!((upper.calls(), level(&cache, 0).opened), (calls + 1, 2), "one probe");
    upper.be(Mood::Well);
    cache.get(&5);
    assert_eq!(upper.calls(), calls + 1);
    upper.clock.advance(10 * SECOND);
    cache.get(&6);
    assert_eq!(level(&cache, 0).breaker, BreakerState::Closed);
    cache.get(&7);
    let stats = level(&cache, 0);
    assert_eq!((stats.misses, stats.errors, stats.bypassed, stats.opened), (2, 4, 2, 2));
}

#[test]
fn slow_calls_count_as_failures_and_their_results_are_used() {
    let (cache, upper, _lower) = over_two(1, |builder| builder.breaker(breaker()));
    (0..5).for_each(|key| upper.plant(key, key, None));
    upper.be(Mood::Slow(SECOND));
    for key in 0..5 {
        let wanted = (key < 3).then_some(key);
        assert_eq!(cache.get(&key), wanted);
    }
    let stats = level(&cache, 0);
    assert_eq!((stats.slow, stats.hits, stats.bypassed, stats.errors), (3, 3, 2, 0));
    assert_eq!(stats.breaker, BreakerState::Open);
}

#[test]
fn a_level_that_missed_a_removal_or_a_write_is_not_believed_until_it_is_told() {
    for mood in [Mood::Fails, Mood::Panics, Mood::FailsAfterwards] {
        let (cache, upper, lower) = over_two(1, |builder| builder.breaker(breaker()));
        for key in 1..=3 {
            cache.insert(key, key).unwrap();
        }
        upper.be(mood);
        cache.remove(&1).unwrap();
        cache.insert(2, 22).unwrap();
        cache.evict(usize::MAX);
        assert_eq!(level(&cache, 0).doubts, 2);
        upper.be(Mood::Well);
        // What is asked first pays for what the level has missed.
        upper.be(Mood::Fails);
        assert_eq!((cache.get(&1), cache.get(&2)), (None, Some(22)));
        upper.be(Mood::Well);
        upper.clock.advance(10 * SECOND);
        assert_eq!(cache.get(&1), None);
        cache.evict(usize::MAX);
        assert_eq!(cache.get(&2), Some(22));
        assert_eq!(upper.holds(&1), None);
        assert_ne!(upper.holds(&2), Some(2));
        assert_eq!((level(&cache, 0).doubts, lower.holds(&2)), (0, Some(22)));
        assert_eq!(cache.get(&3), Some(3));
    }
}

#[test]
fn a_level_that_missed_too_much_or_a_clear_is_cleared_before_it_is_asked() {
    let cleared = |miss: fn(&Cache)| {
        let (cache, upper, _lower) = over_two(1, |builder| builder.breaker(breaker()));
        for key in 0..2000 {
            cache.insert(key, key).unwrap();
        }
        upper.be(Mood::Fails);
        miss(&cache);
        upper.be(Mood::Well);
        assert_eq!((upper.len(), level(&cache, 0).doubts), (2000, u64::MAX));
        assert_eq!(cache.get(&7), None, "the breaker is open");
        upper.clock.advance(10 * SECOND);
        for key in 0..2000 {
            assert_eq!(cache.get(&key), None);
        }
        assert_eq!((upper.len(), upper.clears.load(SeqCst) > 0), (0, true));
        cache.insert(1, 11).unwrap();
        cache.evict(usize::MAX);
        assert_eq!((cache.get(&1), upper.holds(&1)), (Some(11), Some(11)));
    };
    cleared(|cache| (0..2000).for_each(|key| assert!(cache.remove(&key).is_ok())));
    cleared(|cache| {
        for key in 0..3 {
            cache.get(&(5000 + key));
        }
        cache.clear();
    });
}

#[test]
fn maintenance_tells_levels_what_they_missed() {
    let (cache, upper, _lower) = over_two(1, |builder| builder.breaker(breaker()));
    for key in 0..50 {
        cache.insert(key, key).unwrap();
    }
    upper.be(Mood::Fails);
    for key in 0..50 {
        cache.remove(&key).unwrap();
    }
    upper.be(Mood::Well);
    upper.clock.advance(10 * SECOND);
    cache.maintain(20);
    assert_eq!((upper.len(), level(&cache, 0).doubts), (30, 30));
    cache.maintain(100);
    assert_eq!((upper.len(), level(&cache, 0).doubts), (0, 0));
}

/// A queue of so many keys, whose thread is held at a gate with a write of key 99.
fn held(queue: usize, when_full: WhenFull) -> (Cache, Under, Under) {
    let (cache, upper, lower) =
        over_two(100, |builder| builder.writing(Writing::Behind { queue, when_full }));
    upper.close_gate();
    cache.insert(99, 99).unwrap();
    upper.await_visitor();
    (cache, upper, lower)
}

#[test]
fn a_removal_is_not_undone_by_a_write_that_is_queued_or_under_way() {
    let (cache, upper, lower) = held(10, WhenFull::Write);
    cache.insert(1, 10).unwrap();
    cache.remove(&1).unwrap();
    // This one is being written at this moment.
    cache.remove(&99).unwrap();
    cache.insert(2, 20).unwrap();
    cache.insert(2, 21).unwrap();
    cache.evict(usize::MAX);
    // What waits is seen as if it were done.
    assert_eq!((cache.get(&1), cache.get(&99), cache.get(&2)), (None, None, Some(21)));
    assert_eq!(cache.stats().queue.hits, 1);
    let waiting = cache.flush(Duration::from_millis(1));
    assert!(matches!(waiting, Err(LevelError::TimedOut(_))));
    upper.open_gate();
    cache.flush(common::LIMIT).unwrap();
    for shelf in [&upper, &lower] {
        assert_eq!((shelf.holds(&1), shelf.holds(&99), shelf.holds(&2)), (None, None, Some(21)));
    }
    let queue = cache.stats().queue;
    assert_eq!((queue.queued, queue.merged, queue.waiting), (6, 3, 0));
    assert_eq!((queue.written, queue.dropped), (0, 0));
    // Overtaken writes were not done: 99, and 2 once.
    assert_eq!(level(&cache, 1).writes, 2);
}

#[test]
fn a_full_queue_has_the_caller_write() {
    let (cache, upper, lower) = held(2, WhenFull::Write);
    cache.insert(1, 10).unwrap();
    cache.insert(2, 20).unwrap();
    thread::scope(|scope| {
        scope.spawn(|| cache.insert(3, 30).unwrap());
        // Two are at the gate now: the thread, and the caller.
        common::until(|| upper.puts.load(SeqCst) == 2);
        assert_eq!((upper.len(), cache.is_in_first(&3)), (0, true));
        upper.open_gate();
    });
    assert_eq!(lower.holds(&3), Some(30));
    cache.flush(common::LIMIT).unwrap();
    let queue = cache.stats().queue;
    assert_eq!((queue.written, queue.dropped, lower.len()), (1, 0, 4));
}

#[test]
fn a_full_queue_that_drops_leaves_no_old_value_to_be_found() {
    let (cache, upper, lower) = held(2, WhenFull::Drop);
    for shelf in [&upper, &lower] {
        shelf.plant(3, 3, None);
        shelf.plant(4, 4, None);
    }
    cache.insert(1, 10).unwrap();
    cache.insert(2, 20).unwrap();
    cache.insert(3, 30).unwrap();
    cache.remove(&4).unwrap();
    let stats = cache.stats();
    assert_eq!((stats.queue.dropped, stats.queue.written), (2, 0));
    assert_eq!((stats.levels[0].dropped, stats.levels[0].doubts), (1, 2));
    cache.evict(usize::MAX);
    assert_eq!((cache.get(&3), cache.get(&4)), (None, None));
    upper.open_gate();
    cache.flush(common::LIMIT).unwrap();
    assert_eq!((cache.get(&3), cache.get(&4), cache.get(&2)), (None, None, Some(20)));
    cache.maintain(10);
    assert_eq!((upper.holds(&3), lower.holds(&4)), (None, None));
}

#[test]
fn what_is_queued_is_written_before_the_cache_is_gone() {
    let (cache, upper, lower) = held(10, WhenFull::Write);
    cache.insert(1, 10).unwrap();
    let gate = Arc::clone(&upper);
    let opener = thread::spawn(move || gate.open_gate());
    drop(cache);
    opener.join().unwrap();
    assert_eq!(
        (upper.holds(&1), lower.holds(&1), Arc::strong_count(&upper)),
        (Some(10), Some(10), 1)
    );
}

#[test]
fn a_clear_takes_what_is_queued_and_what_is_under_way() {
    let (cache, upper, lower) = held(10, WhenFull::Write);
    cache.insert(1, 10).unwrap();
    cache.clear();
    upper.open_gate();
    cache.flush(common::LIMIT).unwrap();
    assert_eq!((upper.len(), lower.len(), cache.get(&99), cache.get(&1)), (0, 0, None, None));
    cache.insert(1, 11).unwrap();
    cache.flush(common::LIMIT).unwrap();
    assert_eq!(lower.holds(&1), Some(11));
}

/// A key whose clone can be held up.
#[derive(Debug, Default, PartialEq, Eq, Hash)]
struct Slow(u64);

/// Where a thread stands that clones a key which is held up.
#[derive(Default)]
struct Stop(Mutex<(bool, bool)>, Condvar);

thread_local! {
    static HELD: RefCell<Option<(u64, Arc<Stop>)>> = const { RefCell::new(None) };
}

impl Clone for Slow {
    fn clone(&self) -> Self {
        let stop = HELD.with_borrow_mut(|held| held.take_if(|(key, _)| *key == self.0));
        if let Some((_, Stop(state, moved))) = stop.as_ref().map(|(key, stop)| (key, &**stop)) {
            let mut state = state.lock().unwrap();
            state.0 = true;
            moved.notify_all();
            drop(moved.wait_while(state, |state| !state.1).unwrap());
        }
        Self(self.0)
    }
}

#[test]
fn an_eviction_on_its_way_down_undoes_no_removal_and_no_write() {
    type Way = (fn(&MultiLevelCache<Slow, u64>), Option<u64>);
    let ways: [Way; 5] = [
        (|_| {}, Some(10)),
        (|cache| cache.clear(), None),
        (|cache| assert!(cache.remove(&Slow(1)).is_ok()), None),
        (|cache| assert_eq!(cache.insert(Slow(1), 11).unwrap(), None), Some(11)),
        (|cache| assert_eq!(cache.get_or_compute(&Slow(1), || 11).unwrap(), 11), Some(11)),
    ];
    for (way, wanted) in ways {
        let shelf = Shelf::<Slow, u64>::new(&Arc::default());
        let config = CacheConfig::builder().entries(2).policy(PolicyKind::Fifo).shards(1);
        let first = ConcurrentComputeCache::<Slow, u64>::builder(config.build().unwrap());
        let cache = MultiLevelCache::builder(first).level(Arc::clone(&shelf));
        let cache = cache.demotion(Demotion::Only).build().unwrap();
        cache.insert(Slow(1), 10).unwrap();
        cache.insert(Slow(2), 20).unwrap();
        let stop = Arc::new(Stop::default());
        thread::scope(|scope| {
            scope.spawn(|| {
                HELD.set(Some((1, Arc::clone(&stop))));
                // Evicts 1, which is held up on its way.
                cache.insert(Slow(3), 30).unwrap();
            });
            drop(stop.1.wait_while(stop.0.lock().unwrap(), |state| !state.0).unwrap());
            assert!(!cache.is_in_first(&Slow(1)));
            way(&cache);
            stop.0.lock().unwrap().1 = true;
            stop.1.notify_all();
        });
        assert!(shelf.holds(&Slow(1)) != Some(10) || wanted == Some(10));
        assert_eq!(cache.get(&Slow(1)), wanted);
        cache.validate().unwrap();
    }
}

#[test]
fn threads_that_remove_and_evict_leave_nothing_behind() {
    let (cache, upper, _lower) = over_two(2, |builder| builder.demotion(Demotion::Only));
    for round in 0..100 {
        for key in 0..4 {
            cache.insert(key, round).unwrap();
        }
        thread::scope(|scope| {
            scope.spawn(|| cache.insert(100 + round, 0).unwrap());
            scope.spawn(|| cache.insert(200 + round, 0).unwrap());
            scope.spawn(|| {
                for key in 0..4 {
                    cache.remove(&key).unwrap();
                    assert_eq!(cache.get(&key), None);
                }
            });
        });
        for key in 0..4 {
            assert_eq!((cache.get(&key), upper.holds(&key)), (None, None), "round {round}");
        }
    }
    cache.validate().unwrap();
}

#[test]
fn an_account_is_charged_by_level_one_alone() {
    let account = CountingAccount::new();
    let clock = Arc::<ManualClock>::default();
    let shelf = Shelf::<u64, Vec<u8>>::new(&clock);
    let config = CacheConfig::builder().bytes(200_000.into()).build().unwrap();
    let first = ConcurrentComputeCache::<u64, Vec<u8>>::builder(config)
        .with_account(account.clone())
        .with_weigher(|_, value| value.capacity());
    let cache = MultiLevelCache::builder(first)
        .level(Arc::clone(&shelf))
        .demotion(Demotion::Evicted)
        .writing(Writing::Behind { queue: 4, when_full: WhenFull::Drop });
    let cache = cache.build().unwrap();
    for key in 0..500 {
        cache.insert(key, vec![0; 1000]).unwrap();
        assert_eq!(cache.charged(), account.balance());
        cache.get(&(key / 2));
        assert_eq!(cache.charged(), account.balance());
    }
    assert!(cache.weight() <= 200_000);
    cache.validate().unwrap();
    cache.clear();
    assert_eq!(cache.charged(), account.balance());
    drop(cache);
    assert_eq!(account.balance(), 0);
}

#[derive(Clone, Debug)]
enum Act {
    Insert(u64, u64, Option<u64>),
    Get(u64),
    Compute(u64, u64),
    Remove(u64),
    Clear,
    Evict,
    Tick(u64),
    Mood(bool, Mood),
    Flush,
    Maintain,
}

fn act() -> impl Strategy<Value = Act> {
    let key = || 0..12_u64;
    let mood = prop_oneof![
        3 => Just(Mood::Well),
        1 => Just(Mood::Fails),
        1 => Just(Mood::Panics),
        1 => Just(Mood::FailsAfterwards),
        1 => Just(Mood::Refuses),
        1 => Just(Mood::Corrupt),
        1 => Just(Mood::Slow(SECOND)),
    ];
    prop_oneof![
        6 => (key(), any::<u64>(), prop::option::of(1..20_u64)).prop_map(|(k, v, t)| Act::Insert(k, v, t)),
        8 => key().prop_map(Act::Get),
        4 => (key(), any::<u64>()).prop_map(|(k, v)| Act::Compute(k, v)),
        4 => key().prop_map(Act::Remove),
        1 => Just(Act::Clear),
        2 => Just(Act::Evict),
        2 => (1..6_u64).prop_map(Act::Tick),
        2 => (any::<bool>(), mood).prop_map(|(upper, mood)| Act::Mood(upper, mood)),
        1 => Just(Act::Flush),
        1 => Just(Act::Maintain),
    ]
}

fn rules() -> impl Strategy<Value = (Demotion, Writing)> {
    let demotion = prop_oneof![Just(Demotion::None), Just(Demotion::Evicted), Just(Demotion::Only)];
    let behind = |when_full| Writing::Behind { queue: 2, when_full };
    let writing = prop_oneof![
        Just(Writing::Through),
        Just(behind(WhenFull::Write)),
        Just(behind(WhenFull::Drop))
    ];
    (demotion, writing)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever the levels do: what is found is what was written last, and still alive.
    #[test]
    fn never_an_old_value((demotion, writing) in rules(), acts in prop::collection::vec(act(), 1..80)) {
        let (cache, upper, lower) = over_two(3, |builder| {
            builder.demotion(demotion).writing(writing).breaker(breaker())
        });
        // The value that was written last, and until when it lives, in seconds.
        let mut truth: HashMap<u64, (u64, u64)> = HashMap::new();
        let now = || nebula_memory_core::Clock::now(&*upper.clock);
        // Slow levels turn the clock, by a second, while the thread that writes behind may be about to
        // tell another one how long a value has still to live.
        let slack = if writing == Writing::Through { 0 } else { 2 };
        let alive = |truth: &HashMap<u64, (u64, u64)>, key: &u64| {
            let is_alive = |until: u64| now() < Duration::from_secs(until.saturating_add(slack));
            truth.get(key).filter(|(_, until)| is_alive(*until)).map(|(value, _)| *value)
        };
        for act in acts {
            match act {
                Act::Insert(key, value, ttl) => {
                    let mut options = EntryOptions::new();
                    if let Some(ttl) = ttl {
                        options = options.ttl(Duration::from_secs(ttl));
                    }
                    cache.insert_with(key, value, options).unwrap();
                    // (At the latest: slow levels turn the clock meanwhile, on other threads too.)
                    let until = ttl.map_or(u64::MAX, |ttl| now().as_secs() + ttl);
                    truth.insert(key, (value, until));
                }
                Act::Get(key) => {
                    let before = alive(&truth, &key);
                    if let Some(found) = cache.get(&key) {
                        prop_assert_eq!(Some(found), before);
                    }
                }
                Act::Compute(key, value) => {
                    let before = alive(&truth, &key);
                    let mut computed = false;
                    let found = cache.get_or_compute(&key, || {
                        computed = true;
                        value
                    });
                    if computed {
                        prop_assert_eq!(found.unwrap(), value);
                        truth.insert(key, (value, u64::MAX));
                    } else {
                        prop_assert_eq!(Some(found.unwrap()), before);
                    }
                }
                Act::Remove(key) => {
                    cache.remove(&key).unwrap();
                    truth.remove(&key);
                }
                Act::Clear => {
                    cache.clear();
                    truth.clear();
                }
                Act::Evict => drop(cache.evict(usize::MAX).to_string()),
                Act::Tick(by) => {
                    // A clock that leaps while a value is on its way down (between how long it has
                    // still to live and what the level makes of that) is none that there is.
                    let _ = cache.flush(common::LIMIT);
                    upper.clock.advance(Duration::from_secs(by));
                }
                Act::Mood(true, mood) => upper.be(mood),
                Act::Mood(false, mood) => lower.be(mood),
                Act::Flush => drop(cache.flush(common::LIMIT)),
                Act::Maintain => {
                    cache.maintain(5);
                }
            }
        }
        cache.validate().map_err(TestCaseError::fail)?;
    }

    /// With levels that are well, nothing is lost but what expires.
    #[test]
    fn nothing_is_lost_where_everything_is_written(acts in prop::collection::vec(act(), 1..80), behind in any::<bool>()) {
        let writing = Writing::Behind { queue: 3, when_full: WhenFull::Write };
        let writing = if behind { writing } else { Writing::Through };
        let (cache, upper, _lower) = over_two(3, |builder| builder.writing(writing));
        let mut truth: HashMap<u64, u64> = HashMap::new();
        for act in acts {
            match act {
                Act::Insert(key, value, _) => {
                    cache.insert(key, value).unwrap();
                    truth.insert(key, value);
                }
                Act::Get(key) => prop_assert_eq!(cache.get(&key), truth.get(&key).copied()),
                Act::Compute(key, value) => {
                    let found = cache.get_or_compute(&key, || value).unwrap();
                    prop_assert_eq!(found, *truth.entry(key).or_insert(value));
                }
                Act::Remove(key) => {
                    cache.remove(&key).unwrap();
                    truth.remove(&key);
                }
                Act::Clear => {
                    cache.clear();
                    truth.clear();
                }
                Act::Evict => drop(cache.evict(usize::MAX).to_string()),
                _ => {}
            }
        }
        cache.flush(common::LIMIT).unwrap();
        for (key, value) in &truth {
            prop_assert_eq!(upper.holds(key), Some(*value));
        }
        prop_assert_eq!(upper.len(), truth.len());
    }
}
