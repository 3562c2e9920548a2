//! Whatever is asked of levels for tasks, however they fail, and wherever futures are dropped: nothing
//! is ever seen that is older than what was written, removed or seen before.

mod common;

use std::{future::Future, sync::Arc, task::Poll, time::Duration};

use common::{
    async_shelf::{AsyncShelf, Pace},
    shelf::Mood,
    tasks::Task,
};
use nebula_cache::{
    AsyncMultiLevelCache, Breaker, BreakerState, CacheConfig, ConcurrentComputeCache, Demotion,
    PolicyKind, Promotion, WhenFull, Writing,
};
use nebula_memory_core::ManualClock;
use proptest::prelude::*;

const KEYS: usize = 3;
const SECOND: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug)]
enum Step {
    Get(usize),
    Compute(usize),
    Insert(usize),
    Remove(usize),
    Clear,
    Flush,
    Maintain,
    Evict,
    Mood(usize, Mood),
    Pace(usize, Pace),
    Wait,
}

fn steps() -> impl Strategy<Value = Vec<(Step, usize)>> {
    let key = 0..KEYS;
    let moods = vec![Mood::Well, Mood::Well, Mood::Fails, Mood::Panics, Mood::FailsAfterwards];
    let paces = vec![
        Pace::AtOnce,
        Pace::AtOnce,
        Pace::Yields(1),
        Pace::Yields(2),
        Pace::Never,
        Pace::NeverAfterwards,
    ];
    let step = prop_oneof![
        6 => key.clone().prop_map(Step::Get),
        2 => key.clone().prop_map(Step::Compute),
        5 => key.clone().prop_map(Step::Insert),
        3 => key.prop_map(Step::Remove),
        1 => Just(Step::Clear),
        2 => Just(Step::Flush),
        2 => Just(Step::Maintain),
        3 => Just(Step::Evict),
        2 => (0_usize..2, prop::sample::select(moods)).prop_map(|(at, mood)| Step::Mood(at, mood)),
        2 => (0_usize..2, prop::sample::select(paces)).prop_map(|(at, pace)| Step::Pace(at, pace)),
        2 => Just(Step::Wait),
    ];
    prop::collection::vec((step, 1_usize..12), 1..80)
}

/// What comes of a future that is dropped after so many polls.
fn polled<T>(times: usize, future: impl Future<Output = T>) -> Option<T> {
    let mut task = Task::new(future);
    (0..times).find_map(|_| match task.poll() {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn nothing_old_is_seen(
        steps in steps(),
        behind in any::<bool>(),
        when_full in prop::sample::select(vec![WhenFull::Write, WhenFull::Drop]),
        demotion in prop::sample::select(vec![Demotion::None, Demotion::Evicted, Demotion::Only]),
        promotion in prop::sample::select(vec![Promotion::Always, Promotion::AfterHits(2), Promotion::Never]),
    ) {
        let clock = Arc::<ManualClock>::default();
        let shelves = [AsyncShelf::<u64, u64>::new(&clock), AsyncShelf::new(&clock)];
        let config = CacheConfig::builder().entries(2).policy(PolicyKind::Fifo).shards(1);
        let first = ConcurrentComputeCache::<u64, u64>::builder(config.build().unwrap());
        let mut builder = AsyncMultiLevelCache::builder(first.with_clock(Arc::clone(&clock) as _))
            .level(Arc::clone(&shelves[0]))
            .level(Arc::clone(&shelves[1]))
            .promotion(promotion)
            .breaker(Breaker::default().failures(2).slow(1000 * SECOND).cool_down(SECOND));
        if behind {
            builder = builder.writing(Writing::Behind { queue: 2, when_full }).demotion(demotion);
        }
        let cache = builder.build().unwrap();
        let mut floors = [0; KEYS];
        let steps = steps.into_iter().chain((0..KEYS).map(|key| (Step::Get(key), usize::MAX)));
        for (number, (step, times)) in (1..).zip(steps) {
            let mut seen = None;
            match step {
                Step::Get(key) | Step::Compute(key) => {
                    if times == usize::MAX {
                        for shelf in &shelves {
                            shelf.be(Mood::Well);
                            shelf.go(Pace::AtOnce);
                        }
                        clock.advance(2 * SECOND);
                        cache.evict(usize::MAX);
                    }
                    let name = key as u64;
                    let value = if matches!(step, Step::Get(_)) {
                        polled(times, cache.get(&name)).flatten()
                    } else {
                        polled(times, cache.get_or_compute(&name, async { number })).map(Result::unwrap)
                    };
                    seen = value.map(|value| (key, value));
                }
                Step::Insert(key) => {
                    // It happens in the first poll, as far as level one is concerned.
                    polled(times, cache.insert(key as u64, number));
                    floors[key] = number;
                }
                Step::Remove(key) => {
                    polled(times, cache.remove(&(key as u64)));
                    floors[key] = number;
                }
                Step::Clear => {
                    polled(times, cache.clear());
                    floors = [number; KEYS];
                }
                Step::Flush => drop(polled(times, cache.flush())),
                Step::Maintain => {
                    polled(times, cache.maintain(times));
                }
                Step::Evict => {
                    cache.evict(usize::MAX);
                }
                Step::Mood(at, mood) => shelves[at].be(mood),
                Step::Pace(at, pace) => shelves[at].go(pace),
                Step::Wait => clock.advance(SECOND),
            }
            if let Some((key, value)) = seen {
                prop_assert!(value >= floors[key], "{step:?}: {value} after {}", floors[key]);
                floors[key] = value;
            }
            prop_assert_eq!(cache.validate(), Ok(()));
        }
        prop_assert!(polled(usize::MAX, cache.flush()).unwrap().is_ok());
        polled(usize::MAX, cache.maintain(1000));
        let stats = cache.stats();
        prop_assert_eq!(stats.queue.waiting, 0);
        for level in stats.levels {
            prop_assert_eq!((level.doubts, level.breaker), (0, BreakerState::Closed));
        }
    }
}
