//! Computing, updating, and what the statistics say of it all, for every cache and every policy.

mod common;

use std::{cell::Cell, time::Duration};

use common::{
    KINDS,
    faces::{Face, Spec, for_every_face, value},
};
use nebula_cache::{Capacity, ComputeError, EntryOptions, RemovalCause};
use nebula_memory_core::MemoryError;

for_every_face!(
    statistics_count_by_cause_and_the_listener_is_shown_the_same,
    an_update_sees_what_is_there_and_decides_what_will_be,
    a_refused_update_hands_the_value_back,
    a_value_is_computed_if_it_is_missing,
    a_failed_computation_leaves_nothing_and_the_next_one_runs,
    computed_entries_have_options_too,
    a_computed_value_that_is_refused_is_counted,
    computations_are_timed_if_that_is_asked_for,
    usage_and_display_tell_what_there_is,
);

const SECOND: Duration = Duration::from_secs(1);

fn statistics_count_by_cause_and_the_listener_is_shown_the_same<F: Face>() {
    for kind in KINDS {
        let (spec, log) = Spec::entries(10).policy(kind).logged();
        let mut cache = F::build(&spec).unwrap();
        assert_eq!(cache.stats(), nebula_cache::CacheStats::default());
        (0..13).for_each(|key| _ = cache.insert(key, value(1, 1)).unwrap());
        cache.insert(12, value(2, 2)).unwrap();
        assert_eq!(cache.remove(12), Some(value(2, 2)));
        let times = EntryOptions::new().ttl(SECOND);
        cache.insert_with(50, value(5, 5), times).unwrap();
        spec.clock.advance(SECOND);
        assert!(cache.get(50).is_none());
        assert!(cache.get(50).is_none());
        cache.compute(60, || value(6, 6)).unwrap();
        cache.compute(60, || unreachable!()).unwrap();
        _ = cache.try_compute(61, || Err(()));
        let removed = u64::try_from(cache.len()).unwrap() - 1;
        cache.retain(|key, _| *key == 60);
        cache.evict(usize::MAX);
        let stats = cache.stats();
        assert_eq!((stats.hits, stats.misses, stats.lookups()), (1, 4, 5));
        assert_eq!(stats.hit_rate(), Some(0.2));
        assert_eq!((stats.inserts, stats.replaced, stats.expired), (16, 1, 1));
        assert_eq!((stats.reclaimed, stats.removed), (1, removed + 1));
        assert_eq!(stats.evictions(), stats.evicted + stats.reclaimed);
        assert_eq!((stats.computes, stats.failures, stats.waits), (2, 1, 0));
        assert_eq!((stats.rejected, stats.entries, stats.weight), (0, 0, 0));
        let shown = log.take();
        let count = |cause| shown.iter().filter(|shown| shown.2 == cause).count() as u64;
        assert_eq!(count(RemovalCause::Capacity), stats.evicted);
        assert_eq!(count(RemovalCause::Reclaimed), stats.reclaimed);
        assert_eq!(count(RemovalCause::Expired), stats.expired);
        assert_eq!(count(RemovalCause::Replaced), stats.replaced);
        assert_eq!(count(RemovalCause::Removed), stats.removed);
        assert!(shown.contains(&(12, value(1, 1), RemovalCause::Replaced)));
        assert!(shown.contains(&(12, value(2, 2), RemovalCause::Removed)));
        assert!(shown.contains(&(50, value(5, 5), RemovalCause::Expired)));
        assert!(shown.contains(&(60, value(6, 6), RemovalCause::Reclaimed)));
    }
}

fn an_update_sees_what_is_there_and_decides_what_will_be<F: Face>() {
    for kind in KINDS {
        let (spec, log) = Spec::entries(10).policy(kind).logged();
        let mut cache = F::build(&spec).unwrap();
        let grow = |old: Option<Vec<u8>>| Some(value(1, old.map_or(0, |old| old.len() + 1)));
        for size in 0..4 {
            cache.update(1, grow).unwrap();
            assert_eq!(cache.peek(1), Some(value(1, size)));
        }
        assert_eq!(cache.stats().replaced, 3);
        let before = cache.stats();
        cache.update(2, |old| old).unwrap();
        assert_eq!((cache.stats(), cache.len()), (before, 1), "nothing stays nothing");
        cache.update(1, |_| None).unwrap();
        assert_eq!((cache.len(), cache.stats().removed), (0, 1));
        assert_eq!(log.take().len(), 4);
        cache.assert_whole(&spec);
    }
}

fn a_refused_update_hands_the_value_back<F: Face>() {
    let spec = Spec::bytes::<F>(5000);
    let mut cache = F::build(&spec).unwrap();
    cache.insert(1, value(1, 10)).unwrap();
    let refused = cache.update(1, |_| Some(value(2, 6000))).unwrap_err();
    assert_eq!(refused.into_value(), value(2, 6000));
    assert_eq!(cache.peek(1), Some(value(1, 10)));
    cache.assert_whole(&spec);
}

fn a_value_is_computed_if_it_is_missing<F: Face>() {
    for kind in KINDS {
        let spec = Spec::entries(10).policy(kind);
        let mut cache = F::build(&spec).unwrap();
        let calls = Cell::new(0);
        let compute = || {
            calls.set(calls.get() + 1);
            value(1, calls.get())
        };
        assert_eq!(cache.compute(1, compute).unwrap(), value(1, 1));
        assert_eq!(cache.compute(1, compute).unwrap(), value(1, 1));
        assert_eq!((calls.get(), cache.peek(1)), (1, Some(value(1, 1))));
        cache.remove(1);
        assert_eq!(cache.compute(1, compute).unwrap(), value(1, 2));
        let stats = cache.stats();
        assert_eq!((stats.computes, stats.failures, stats.compute_nanos), (2, 0, 0));
        cache.assert_whole(&spec);
    }
}

fn a_failed_computation_leaves_nothing_and_the_next_one_runs<F: Face>() {
    let spec = Spec::entries(10);
    let mut cache = F::build(&spec).unwrap();
    let failed = cache.try_compute(1, || Err("no"));
    assert!(matches!(failed, Err(ComputeError::Compute("no"))));
    assert_eq!(failed.unwrap_err().to_string(), "the computation failed: no");
    assert!(!cache.contains(1));
    assert_eq!(cache.try_compute(1, || Ok::<_, ()>(value(0, 7))).unwrap(), value(0, 7));
    assert_eq!(cache.try_compute(1, || Err("unused")).unwrap(), value(0, 7));
    let panicked = nebula_testing::catch(|| cache.compute(2, || panic!("it fails")));
    assert_eq!(panicked.unwrap_err(), "it fails");
    assert_eq!(cache.compute(2, || value(0, 2)).unwrap(), value(0, 2));
    let stats = cache.stats();
    assert_eq!((stats.computes, stats.failures), (4, 2));
    cache.assert_whole(&spec);
}

fn computed_entries_have_options_too<F: Face>() {
    for kind in KINDS {
        let spec = Spec::entries(10).policy(kind);
        let mut cache = F::build(&spec).unwrap();
        let options = EntryOptions::new().ttl(SECOND).tag(7_u64).pinned();
        let made = |tag| move || Ok::<_, ()>(value(tag, 1));
        assert!(cache.try_compute_with(1, options, || Err("no")).is_err());
        assert_eq!((cache.len(), cache.pinned()), (0, 0));
        assert_eq!(cache.try_compute_with(1, options, made(1)).unwrap(), value(1, 1));
        // Of an entry that is there they change nothing.
        let more = options.ttl(SECOND * 9);
        assert_eq!(cache.try_compute_with(1, more, made(2)).unwrap(), value(1, 1));
        cache.try_compute_with(2, options, made(3)).unwrap();
        assert_eq!(cache.pinned(), 2);
        spec.clock.advance(SECOND);
        assert!(!cache.contains(1) && !cache.contains(2));
        cache.try_compute_with(1, options, made(4)).unwrap();
        assert_eq!((cache.invalidate_tag(7), cache.contains(1)), (2, false));
        let stats = cache.stats();
        assert_eq!((stats.computes, stats.failures, stats.rejected), (4, 1, 0));
        cache.assert_whole(&spec);
    }
}

fn a_computed_value_that_is_refused_is_counted<F: Face>() {
    let spec = Spec::bytes::<F>(5000);
    let mut cache = F::build(&spec).unwrap();
    let computed = cache.compute(1, || value(1, 6000));
    if F::RETURNS_REFUSED {
        assert_eq!(computed.unwrap(), value(1, 6000));
    } else {
        assert!(matches!(computed, Err(MemoryError::CapacityExceeded { .. })));
        let computed = cache.try_compute(1, || Ok::<_, ()>(value(1, 6000)));
        assert!(matches!(computed, Err(ComputeError::Memory(_))));
    }
    let stats = cache.stats();
    assert_eq!((cache.len(), stats.rejected, stats.failures), (0, stats.computes, 0));
    cache.assert_whole(&spec);
}

fn computations_are_timed_if_that_is_asked_for<F: Face>() {
    for timed in [false, true] {
        let mut spec = Spec::entries(10);
        spec.config.time_computations = timed;
        let mut cache = F::build(&spec).unwrap();
        for (key, took) in [(1, SECOND), (2, SECOND * 3)] {
            let compute = || {
                spec.clock.advance(took);
                value(0, 0)
            };
            cache.compute(key, compute).unwrap();
        }
        let mean = timed.then_some(SECOND * 2);
        assert_eq!(cache.stats().mean_compute_time(), mean);
        assert_eq!(cache.stats().to_string().ends_with(", 2s a compute"), timed);
    }
}

fn usage_and_display_tell_what_there_is<F: Face>() {
    let mut cache = F::build(&Spec::entries(10)).unwrap();
    assert_eq!(cache.stats().to_string().split(';').next(), Some("no lookups"));
    (0..12).for_each(|key| _ = cache.insert(key, value(0, 0)).unwrap());
    cache.get(11);
    cache.get(99);
    assert_eq!(
        cache.stats().to_string(),
        "50.0 % of 2 lookups hit; 10 entries; 12 inserts, 2 evicted, 0 reclaimed, 0 expired, \
         0 replaced, 0 removed, 0 rejected; 0 computes (0 failed), 0 waits"
    );
    assert_eq!((cache.used(), cache.capacity()), (cache.charged(), None));
    let text = format!("{cache:?}");
    assert!(text.contains("len: 10, weight: 10, capacity: Entries(10), policy: "), "{text}");
    let spec = Spec::bytes::<F>(5000);
    let Capacity::Bytes(bytes) = spec.config.capacity else { unreachable!() };
    let cache = F::build(&spec).unwrap();
    assert_eq!(cache.capacity(), Some(bytes.get()));
    assert_eq!(cache.available(), Some(5000));
    for kind in KINDS {
        let cache = F::build(&Spec::entries(10).policy(kind)).unwrap();
        assert_eq!(cache.policy(), kind);
    }
}
