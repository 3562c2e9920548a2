//! What a sense of time costs: `ScheduledCache` beside the cache that it is without its wheel, whose
//! entries expire as well.

use std::{sync::Arc, time::Duration};

use nebula_budget::BudgetAccount;
use nebula_cache::{
    ConcurrentComputeCache, Counted, Scheduled, ScheduledCache, Steady, Timed, Untagged, With,
};
use nebula_memory_core::ManualClock;

use super::{
    churn, hit,
    maps::{Map, account, config, hasher},
    scatter,
};
use crate::{Case, Contender, Stopwatch};

/// How long entries live: longer than any run takes.
const LIFE: Duration = Duration::from_secs(4000);

/// The cache without a wheel.
type Plain = ConcurrentComputeCache<u64, u64, Made<Timed>>;

/// The same with one, and a thread that comes by.
type OnWheel = ScheduledCache<u64, u64, Made<Scheduled<Timed>>>;

/// What both are made of: charged to a budget.
type Made<T> = With<Steady, Counted, T, Untagged, BudgetAccount, ahash::RandomState>;

macro_rules! built {
    ($entries:expr $(, $call:ident)*) => {{
        let mut config = config($entries);
        config.ttl = Some(LIFE);
        ConcurrentComputeCache::<u64, u64>::builder(config)
            .with_policy::<Steady>()
            .with_account(account())
            .with_hasher(hasher())
            .with_expiry()
            $(.$call())*
    }};
}

macro_rules! map {
    ($cache:ty, $($call:ident),*) => {
        impl Map for $cache {
            fn with_room_for(entries: usize) -> Self {
                built!(entries $(, $call)*).build().expect("room in the budget")
            }

            #[inline]
            fn get(&self, key: u64) -> Option<u64> {
                self.get(&key)
            }

            #[inline]
            fn insert(&self, key: u64) {
                ConcurrentComputeCache::insert(self, key, key).expect("room for one");
            }

            #[inline]
            fn get_or_insert(&self, key: u64) -> u64 {
                self.get_or_compute(&key, || key).expect("nothing waits for itself")
            }
        }
    };
}

map!(Plain,);
map!(OnWheel, scheduled);

/// Has as many entries as there are iterations expire, by what `due` does. Only that is timed; but
/// instructions are counted for all of it.
fn expire<C: 'static>(
    name: &'static str,
    build: impl Fn(usize, Arc<ManualClock>) -> C + 'static,
    insert: impl Fn(&C, u64) + 'static,
    due: impl Fn(&C) -> usize + 'static,
) -> Contender {
    Contender::timed(name, move |iterations| {
        let clock = Arc::new(ManualClock::new());
        let entries = usize::try_from(iterations).unwrap_or(usize::MAX);
        let cache = build(entries, Arc::clone(&clock));
        for key in 0..iterations {
            insert(&cache, scatter(key));
            clock.advance(Duration::from_micros(1));
        }
        clock.advance(2 * LIFE);
        let watch = Stopwatch::start();
        let left = due(&cache);
        let elapsed = watch.elapsed();
        assert_eq!(left, 0, "all have expired");
        elapsed
    })
}

pub(super) fn cases() -> Vec<Case> {
    let wheel = expire(
        "ours",
        |entries, clock| {
            let builder = built!(entries).with_clock(clock).scheduled();
            builder.build_without_thread().expect("room in the budget")
        },
        |cache, key| _ = ConcurrentComputeCache::insert(cache, key, key).expect("room for one"),
        |cache| {
            while cache.run_due() {}
            cache.len()
        },
    );
    let sweep = expire(
        "ours, without a wheel: a sweep",
        |entries, clock| built!(entries).with_clock(clock).build().expect("room in the budget"),
        |cache, key| _ = ConcurrentComputeCache::insert(cache, key, key).expect("room for one"),
        |cache| {
            while cache.maintain(1 << 16) > 0 {}
            cache.len()
        },
    );
    vec![
        Case::new("scheduled: get hit", hit::<OnWheel>("ours", 1, false)).peer(hit::<Plain>(
            "ours, without a wheel",
            1,
            false,
        )),
        Case::new("scheduled: insert and evict", churn::<OnWheel>("ours", 1))
            .peer(churn::<Plain>("ours, without a wheel", 1)),
        Case::new("scheduled: an entry expires", wheel).peer(sweep),
    ]
}
