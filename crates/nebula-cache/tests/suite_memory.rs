//! Changing the capacity, giving memory back, and what accounts and weights have to do with it, for
//! every cache and every policy.

mod common;

use std::time::Duration;

use common::{
    KINDS,
    faces::{Face, Log, Spec, for_every_face, value},
};
use nebula_cache::{
    CacheConfig, Capacity, ComputeCache, ConcurrentComputeCache, EntryOptions, RemovalCause,
};
use nebula_memory_core::{ByteSize, MemoryError, PressureLevel};

for_every_face!(
    the_capacity_changes_at_run_time,
    a_capacity_in_bytes_changes_at_run_time,
    what_is_unpinned_beyond_the_capacity_leaves_at_once,
    what_expires_beyond_the_capacity_makes_no_room_for_its_successor,
    a_pin_holds_no_room_for_longer_than_its_entry_lives,
    a_capacity_keeps_its_unit_and_is_not_zero,
    the_coldest_entries_are_given_back_first,
    what_is_said_to_be_given_back_is_credited,
    what_is_asked_back_is_given_at_the_next_call_if_somebody_listens,
    what_is_charged_is_not_what_is_weighed_if_there_is_a_charger,
    a_weight_that_overflows_is_refused,
    the_account_may_refuse,
    an_account_without_room_makes_the_cache_replace_its_own_entries,
);

const SECOND: Duration = Duration::from_secs(1);

fn the_capacity_changes_at_run_time<F: Face>() {
    for kind in KINDS {
        let (spec, log) = Spec::entries(100).policy(kind).shards(4).logged();
        let mut cache = F::build(&spec).unwrap();
        let fill = |cache: &mut F| {
            (0..500).for_each(|key| _ = cache.insert(key, value(0, 1)).unwrap());
        };
        fill(&mut cache);
        log.take();
        cache.set_capacity(Capacity::Entries(30)).unwrap();
        assert_eq!((cache.len(), cache.room()), (30, Capacity::Entries(30)));
        let shown = log.take();
        assert!(shown.len() == 70 && shown.iter().all(|shown| shown.2 == RemovalCause::Capacity));
        cache.assert_whole(&spec);
        fill(&mut cache);
        assert_eq!(cache.len(), 30);
        cache.set_capacity(Capacity::Entries(400)).unwrap();
        assert_eq!(cache.len(), 30);
        fill(&mut cache);
        assert_eq!(cache.len(), 400);
        cache.set_capacity(Capacity::Entries(1)).unwrap();
        assert_eq!(cache.len(), 1);
        cache.assert_whole(&spec);
        // What is pinned stays, whatever the capacity.
        cache.set_capacity(Capacity::Entries(10)).unwrap();
        let pinned = EntryOptions::new().pinned();
        (0..8).for_each(|key| _ = cache.insert_with(key, value(0, 1), pinned).unwrap());
        cache.set_capacity(Capacity::Entries(3)).unwrap();
        assert_eq!((cache.len(), cache.pinned()), (8, 8));
        assert!(cache.insert(100, value(0, 1)).is_err());
        cache.assert_whole(&spec);
    }
}

fn a_capacity_in_bytes_changes_at_run_time<F: Face>() {
    for kind in KINDS {
        let spec = Spec::sharded_bytes::<F>(60_000, 4).policy(kind);
        let Capacity::Bytes(large) = spec.config.capacity else { unreachable!() };
        let mut cache = F::build(&spec).unwrap();
        for bytes in [large.get() - 30_000, large.get() - 50_000, large.get(), large.get() * 2] {
            (0..1000).for_each(|key| _ = cache.insert(key, value(0, 100)).unwrap());
            cache.set_capacity(Capacity::Bytes(ByteSize::new(bytes))).unwrap();
            assert!(cache.weight() <= bytes, "{kind:?}: {} of {bytes}", cache.weight());
            (0..1000).for_each(|key| _ = cache.insert(key, value(0, 100)).unwrap());
            assert!(cache.weight() <= bytes, "{kind:?}: {} of {bytes}", cache.weight());
            cache.assert_whole(&spec);
        }
        assert!(cache.weight() > large.get());
    }
}

/// More than a store of ten entries takes beside its values: however keys are spread over shards, what
/// such a store gives back when it is emptied makes no room for another value.
const LARGE: usize = 20_000;

/// Caches, in entries and in bytes, with ten pinned and [`LARGE`] entries that live for a second, and
/// a capacity that three of them fit into.
fn overfull<F: Face>() -> impl Iterator<Item = (F, Spec, Log, Capacity)> {
    let cases = KINDS.into_iter().flat_map(|kind| [(kind, false), (kind, true)]);
    cases.map(|(kind, in_bytes)| {
        let spec = if in_bytes {
            Spec::sharded_bytes::<F>(20 * LARGE, 2)
        } else {
            Spec::entries(10).shards(2)
        };
        let (spec, log) = spec.policy(kind).ttl(SECOND).logged();
        let mut cache = F::build(&spec).unwrap();
        let pinned = EntryOptions::new().pinned();
        (0..10).for_each(|key| _ = cache.insert_with(key, value(1, LARGE), pinned).unwrap());
        let capacity = match cache.room() {
            Capacity::Entries(_) => Capacity::Entries(3),
            Capacity::Bytes(_) => Capacity::Bytes(ByteSize::new(cache.weight() - 7 * LARGE)),
        };
        cache.set_capacity(capacity).unwrap();
        assert_eq!((cache.len(), log.take().len()), (10, 0), "what is pinned stays");
        (cache, spec, log, capacity)
    })
}

/// The number in a capacity.
fn amount(capacity: Capacity) -> usize {
    match capacity {
        Capacity::Entries(entries) => entries,
        Capacity::Bytes(bytes) => bytes.get(),
    }
}

fn what_is_unpinned_beyond_the_capacity_leaves_at_once<F: Face>() {
    for (mut cache, spec, log, capacity) in overfull::<F>() {
        for key in 0..10 {
            let before = cache.weight();
            assert!(cache.unpin(key));
            // There is nothing else that could leave.
            let stays = before <= amount(capacity);
            assert_eq!(cache.contains(key), stays, "{capacity}, {key}");
            let shown = log.take();
            assert_eq!(shown.len(), usize::from(!stays));
            assert!(shown.iter().all(|shown| shown.2 == RemovalCause::Capacity));
            assert_eq!(cache.weight() < before, !stays);
            cache.assert_whole(&spec);
        }
        assert_eq!((cache.len(), cache.pinned()), (3, 0), "{capacity}");
        assert!(cache.weight() <= amount(capacity));
    }
}

fn what_expires_beyond_the_capacity_makes_no_room_for_its_successor<F: Face>() {
    for (mut cache, spec, log, capacity) in overfull::<F>() {
        // While it lives, its room is that of its next value.
        assert_eq!(cache.insert(0, value(2, LARGE)).unwrap(), Some(value(1, LARGE)));
        assert_eq!((cache.len(), cache.pinned(), log.take().len()), (10, 10, 1));
        (1..9).for_each(|key| _ = cache.insert(key, value(2, LARGE)).unwrap());
        log.take();
        spec.clock.advance(SECOND);
        (0..8).for_each(|key| drop(cache.insert(key, value(3, LARGE))));
        let shown = log.take();
        let expired = shown.iter().filter(|shown| shown.2 == RemovalCause::Expired);
        assert!(expired.count() >= 7, "{capacity}");
        assert!(cache.weight() <= amount(capacity), "{capacity}: {}", cache.weight());
        cache.assert_whole(&spec);
    }
}

fn a_pin_holds_no_room_for_longer_than_its_entry_lives<F: Face>() {
    for (mut cache, spec, log, capacity) in overfull::<F>() {
        let refused = cache.insert(100, value(2, LARGE)).unwrap_err();
        assert_eq!(refused.into_value(), (100, value(2, LARGE)));
        spec.clock.advance(SECOND);
        // Nobody has asked for those whose time is over, but they are not in the way.
        cache.insert(100, value(2, LARGE)).unwrap();
        assert!(cache.contains(100) && cache.pinned() < 10, "{capacity}");
        assert!(log.take().iter().all(|shown| shown.2 == RemovalCause::Expired));
        assert!(cache.weight() <= amount(capacity));
        cache.assert_whole(&spec);
    }
    for (mut cache, spec, log, capacity) in overfull::<F>() {
        spec.clock.advance(SECOND);
        cache.set_capacity(capacity).unwrap();
        assert!(cache.weight() <= amount(capacity), "{capacity}");
        assert!(log.take().iter().all(|shown| shown.2 == RemovalCause::Expired));
        cache.assert_whole(&spec);
    }
}

fn a_capacity_keeps_its_unit_and_is_not_zero<F: Face>() {
    let of_entries = Spec::entries(5);
    let of_bytes = Spec::bytes::<F>(5000);
    for (spec, capacity) in [
        (&of_entries, Capacity::Bytes(ByteSize::mib(1))),
        (&of_entries, Capacity::Entries(0)),
        (&of_bytes, Capacity::Entries(100_000)),
        (&of_bytes, Capacity::Bytes(ByteSize::ZERO)),
        (&of_bytes, Capacity::Bytes(ByteSize::new(100))),
    ] {
        let mut cache = F::build(spec).unwrap();
        let error = cache.set_capacity(capacity).unwrap_err();
        assert!(matches!(error, MemoryError::InvalidConfig(_)), "{capacity}");
        assert_eq!(cache.room(), spec.config.capacity);
    }
}

fn the_coldest_entries_are_given_back_first<F: Face>() {
    for kind in KINDS {
        let spec = Spec::entries(2000).policy(kind).shards(2);
        let mut cache = F::build(&spec).unwrap();
        (0..2000).for_each(|key| _ = cache.insert(key, value(0, 100)).unwrap());
        let hot = |key: &u64| key % 10 == 0;
        for _ in 0..3 {
            (0..2000).filter(hot).for_each(|key| _ = cache.get(key));
        }
        cache.evict(cache.charged() / 2);
        let kept = (0..2000).filter(hot).filter(|key| cache.contains(*key)).count();
        let evicted = cache.stats().reclaimed;
        assert!((500..1500).contains(&evicted), "{kind:?}: {evicted}");
        // First in, first out knows nothing of use.
        assert!(kept == 200 || kind == nebula_cache::PolicyKind::Fifo, "{kind:?}: {kept} of 200");
        cache.assert_whole(&spec);
    }
}

fn what_is_said_to_be_given_back_is_credited<F: Face>() {
    for kind in KINDS {
        let spec = Spec::entries(3000).policy(kind).shards(4);
        let mut cache = F::build(&spec).unwrap();
        let empty = cache.charged();
        (0..3000).for_each(|key| _ = cache.insert(key, value(0, 50)).unwrap());
        for wanted in [0, 1, 5000, 20_000, 60_000] {
            let before = spec.books().balance();
            let given = cache.evict(wanted);
            assert!(given >= wanted && given <= wanted + 20_000, "{given} of {wanted}");
            spec.books().assert_balance(before - given);
            cache.assert_whole(&spec);
        }
        assert!(!cache.is_empty());
        let rest = cache.charged() - empty;
        assert_eq!(cache.evict(usize::MAX), rest);
        assert_eq!((cache.len(), cache.charged(), cache.evict(1)), (0, empty, 0));
        cache.assert_whole(&spec);
    }
}

fn what_is_asked_back_is_given_at_the_next_call_if_somebody_listens<F: Face>() {
    let (spec, log) = Spec::entries(3000).logged();
    let mut cache = F::build(&spec).unwrap();
    // Insertions and maintenance look for requests.
    let calls: [fn(&mut F); 2] =
        [|cache| _ = cache.insert(999_999, value(0, 0)).unwrap(), |cache| _ = cache.maintain(1)];
    for call in calls {
        (0..3000).for_each(|key| _ = cache.insert(key, value(0, 50)).unwrap());
        log.take();
        let before = cache.charged();
        assert_eq!(cache.ask_back(50_000, PressureLevel::High), 0);
        assert_eq!((cache.charged(), log.take().len()), (before, 0), "nothing has happened yet");
        call(&mut cache);
        assert!(cache.charged() <= before - 50_000 + 100);
        let shown = log.take();
        assert!(shown.len() > 300);
        assert!(shown.iter().all(|shown| shown.2 == RemovalCause::Reclaimed));
        call(&mut cache);
        let again = log.take().iter().any(|shown| shown.2 == RemovalCause::Reclaimed);
        assert!(!again, "once is enough");
        cache.assert_whole(&spec);
    }
}

fn what_is_charged_is_not_what_is_weighed_if_there_is_a_charger<F: Face>() {
    for kind in KINDS {
        let mut spec = Spec::bytes::<F>(50_000).policy(kind);
        // Half of each value is charged by somebody else.
        spec.charge = |_, value| value.len() / 2;
        let mut cache = F::build(&spec).unwrap();
        for key in 0..500 {
            cache.insert(key, value(0, 100)).unwrap();
            assert_eq!(cache.weight() - cache.charged(), cache.len() * 50);
            spec.books().assert_balance(cache.charged());
        }
        assert!(cache.stats().evicted > 0);
        cache.assert_whole(&spec);
        // Where entries are counted, the weigher has no say.
        let mut spec = Spec::entries(10).policy(kind);
        spec.weigh = |_, _| 1 << 40;
        spec.charge = |_, _| 7;
        let mut cache = F::build(&spec).unwrap();
        (0..30).for_each(|key| _ = cache.insert(key, value(0, 0)).unwrap());
        assert_eq!((cache.len(), cache.weight()), (10, 10));
        let charged = cache.charged();
        cache.remove(29);
        assert_eq!(cache.charged(), charged - 7);
        cache.assert_whole(&spec);
    }
}

fn a_weight_that_overflows_is_refused<F: Face>() {
    let mut spec = Spec::bytes::<F>(10_000);
    spec.weigh = |_, value| usize::MAX - 10 + value.len();
    spec.charge = |_, _| 0;
    let mut cache = F::build(&spec).unwrap();
    for size in 0..10 {
        assert!(cache.insert(1, value(0, size)).is_err());
    }
    cache.assert_whole(&spec);
}

fn the_account_may_refuse<F: Face>() {
    for kind in KINDS {
        let spec = Spec::entries(100).policy(kind);
        spec.books().set_limit(100);
        assert!(matches!(F::build(&spec), Err(MemoryError::CapacityExceeded { .. })));
        spec.books().assert_settled();
        spec.books().set_limit(usize::MAX);
        let mut cache = F::build(&spec).unwrap();
        cache.insert(1, value(1, 1000)).unwrap();
        spec.books().set_limit(spec.books().balance() + 500);
        // Evicting what is there makes room for one of its size and a little more, not for this.
        assert_eq!(cache.insert(2, value(2, 1400)).unwrap(), None);
        assert_eq!((cache.len(), cache.contains(2)), (1, true), "{kind:?}");
        let refused = cache.insert(3, value(3, 100_000)).unwrap_err();
        assert_eq!(refused.into_value(), (3, value(3, 100_000)));
        assert_eq!(cache.stats().rejected, 1);
        cache.assert_whole(&spec);
        drop(cache);
        spec.books().assert_settled();
    }
}

fn an_account_without_room_makes_the_cache_replace_its_own_entries<F: Face>() {
    for kind in KINDS {
        let spec = Spec::entries(100_000).policy(kind);
        let mut cache = F::build(&spec).unwrap();
        (0..500).for_each(|key| _ = cache.insert(key, value(0, 40)).unwrap());
        spec.books().set_limit(spec.books().balance());
        for key in 1000..3000 {
            cache.insert(key, value(0, 40)).unwrap();
            assert!(cache.contains(key));
        }
        assert!(cache.len() > 250, "{kind:?}: {} entries", cache.len());
        assert_eq!(cache.stats().rejected, 0);
        cache.assert_whole(&spec);
    }
}

#[test]
fn sizes_that_nobody_has_do_no_harm() {
    let config = || CacheConfig::builder().entries(10).build().unwrap();
    let mut cache = ComputeCache::<u64, u64>::builder(config())
        .with_weigher(|_, _| usize::MAX / 2)
        .build()
        .unwrap();
    for key in 0..20 {
        drop(cache.insert(key, key));
    }
    assert_eq!(cache.len(), 10);
    cache.clear();
    cache.validate().unwrap();
    let config = CacheConfig::builder().bytes(ByteSize::mib(1)).build().unwrap();
    let cache = ConcurrentComputeCache::<u64, u64>::builder(config)
        .with_weigher(|_, _| 5)
        .with_charger(|_, _| usize::MAX / 2)
        .build()
        .unwrap();
    for key in 0..20 {
        drop(cache.insert(key, key));
    }
    cache.evict(100);
    cache.clear();
    cache.validate().unwrap();
}
