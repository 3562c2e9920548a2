//! What every cache does, with every policy: one suite for all. Its other parts are the other files
//! that begin so.

mod common;

use std::{collections::BTreeSet, time::Duration};

use common::{
    KINDS,
    faces::{Face, Spec, for_every_face, value},
};
use nebula_cache::{Capacity, EntryOptions, RemovalCause};
use nebula_memory_core::MemoryError;

for_every_face!(
    what_is_inserted_is_found_until_it_is_removed,
    a_replaced_value_is_returned,
    looking_without_touching_leaves_no_trace,
    a_capacity_in_entries_is_used_up_and_never_exceeded,
    a_capacity_in_bytes_is_used_up_and_never_exceeded,
    what_is_larger_than_the_capacity_is_handed_back_and_evicts_nothing,
    an_entry_as_large_as_the_capacity_allows_fits_alone,
    replacing_changes_the_weight,
    a_value_that_replaces_another_survives_the_moving_of_entries,
    what_is_pinned_is_not_evicted,
    more_pinned_entries_than_fit_are_refused,
    more_pinned_bytes_than_fit_are_refused,
    pinned_entries_expire_are_removed_and_replaced,
    retain_asks_about_every_entry_once,
    iteration_shows_every_entry,
    clear_empties_and_keeps_the_statistics,
);

const SECOND: Duration = Duration::from_secs(1);

fn what_is_inserted_is_found_until_it_is_removed<F: Face>() {
    for kind in KINDS {
        let spec = Spec::entries(10).policy(kind);
        let mut cache = F::build(&spec).unwrap();
        assert_eq!(cache.get(1), None);
        assert_eq!(cache.insert(1, value(7, 3)).unwrap(), None);
        assert_eq!(cache.get(1), Some(value(7, 3)));
        assert_eq!((cache.peek(1), cache.contains(1)), (Some(value(7, 3)), true));
        assert_eq!((cache.len(), cache.weight(), cache.is_empty()), (1, 1, false));
        assert_eq!(cache.remove(1), Some(value(7, 3)));
        assert_eq!((cache.remove(1), cache.get(1), cache.peek(1)), (None, None, None));
        assert_eq!((cache.contains(1), cache.len(), cache.weight()), (false, 0, 0));
        cache.assert_whole(&spec);
    }
}

fn a_replaced_value_is_returned<F: Face>() {
    for kind in KINDS {
        let spec = Spec::entries(1).policy(kind);
        let mut cache = F::build(&spec).unwrap();
        cache.insert(1, value(0, 0)).unwrap();
        for size in 1..9 {
            let old = cache.insert(1, value(0, size)).unwrap();
            assert_eq!(old, Some(value(0, size - 1)));
            assert_eq!((cache.get(1), cache.len()), (Some(value(0, size)), 1));
            cache.assert_whole(&spec);
        }
        assert_eq!(cache.stats().replaced, 8);
    }
}

fn looking_without_touching_leaves_no_trace<F: Face>() {
    for kind in KINDS {
        let mut cache = F::build(&Spec::entries(10).policy(kind)).unwrap();
        (0..9).for_each(|key| _ = cache.insert(key, value(0, 0)).unwrap());
        let before = cache.stats();
        for _ in 0..10 {
            assert!(cache.peek(1).is_some() && cache.contains(2) && !cache.contains(99));
            assert!(cache.peek(99).is_none());
        }
        assert_eq!(cache.stats(), before);
        // Not hit as far as the policy knows: with those that nobody looked at, they leave.
        (100..140).for_each(|key| _ = cache.insert(key, value(0, 0)).unwrap());
        let kept = |keys: std::ops::Range<u64>| keys.filter(|key| cache.contains(*key)).count();
        assert!(kept(1..3) <= kept(3..9).max(1), "{kind:?}");
    }
}

fn a_capacity_in_entries_is_used_up_and_never_exceeded<F: Face>() {
    for kind in KINDS {
        for (capacity, shards) in [(1, 1), (2, 1), (100, 1), (100, 4), (3, 8)] {
            let spec = Spec::entries(capacity).policy(kind).shards(shards);
            let mut cache = F::build(&spec).unwrap();
            for key in 0..300 {
                cache.insert(key, value(0, 1)).unwrap();
                assert!(cache.contains(key), "{kind:?}: what was placed is there");
                let len = usize::try_from(key + 1).unwrap().min(capacity);
                assert_eq!((cache.len(), cache.weight()), (len, len));
            }
            let evicted = 300 - u64::try_from(capacity).unwrap();
            assert_eq!(cache.stats().evicted, evicted);
            assert_eq!(cache.stats().evictions(), evicted);
            cache.assert_whole(&spec);
        }
    }
}

fn a_capacity_in_bytes_is_used_up_and_never_exceeded<F: Face>() {
    for kind in KINDS {
        for shards in [1, 4] {
            let spec = Spec::sharded_bytes::<F>(40_000, shards).policy(kind);
            let Capacity::Bytes(capacity) = spec.config.capacity else { unreachable!() };
            let mut cache = F::build(&spec).unwrap();
            for key in 0..2000 {
                let size = usize::try_from(key * 37 % 150).unwrap();
                cache.insert(key, value(0, size)).unwrap();
                assert!(cache.contains(key));
                assert!(cache.weight() <= capacity.get(), "{} of {capacity}", cache.weight());
                assert_eq!(cache.charged(), cache.weight(), "everything is counted");
            }
            let used = cache.weight() as f64 / capacity.get() as f64;
            assert!(used > 0.75, "{kind:?} uses {used:.2} of the capacity");
            cache.assert_whole(&spec);
        }
    }
}

fn what_is_larger_than_the_capacity_is_handed_back_and_evicts_nothing<F: Face>() {
    for kind in KINDS {
        let spec = Spec::bytes::<F>(10_000).policy(kind);
        let mut cache = F::build(&spec).unwrap();
        let nebula_cache::Capacity::Bytes(capacity) = spec.config.capacity else { unreachable!() };
        let room = capacity.get() - cache.charged();
        (0..20).for_each(|key| _ = cache.insert(key, value(0, 10)).unwrap());
        let refused = cache.insert(1, value(3, room + 1)).unwrap_err();
        assert!(matches!(
            refused.error,
            MemoryError::CapacityExceeded { requested, available, .. }
                if (requested, available) == (room + 1, room)
        ));
        assert_eq!(refused.into_value(), (1, value(3, room + 1)));
        assert_eq!((cache.len(), cache.peek(1)), (20, Some(value(0, 10))));
        assert_eq!((cache.stats().rejected, cache.stats().evictions()), (1, 0));
        cache.assert_whole(&spec);
    }
}

fn an_entry_as_large_as_the_capacity_allows_fits_alone<F: Face>() {
    for kind in KINDS {
        for shards in [1, 8] {
            let spec = Spec::sharded_bytes::<F>(60_000, shards).policy(kind);
            let mut cache = F::build(&spec).unwrap();
            (0..100).for_each(|key| _ = cache.insert(key, value(0, 100)).unwrap());
            // No shard's share is as large; a shard's first memory comes on top.
            cache.insert(1000, value(1, 45_000)).unwrap();
            assert!(cache.contains(1000), "{kind:?}");
            cache.insert(1001, value(1, 45_000)).unwrap();
            assert!(cache.contains(1001) && !cache.contains(1000), "{kind:?}");
            (0..100).for_each(|key| _ = cache.insert(key, value(0, 100)).unwrap());
            cache.assert_whole(&spec);
        }
    }
}

fn replacing_changes_the_weight<F: Face>() {
    for kind in KINDS {
        let spec = Spec::bytes::<F>(20_000).policy(kind);
        let mut cache = F::build(&spec).unwrap();
        cache.insert(1, value(0, 0)).unwrap();
        let empty = cache.weight();
        for size in [100, 5000, 0, 9000, 1] {
            cache.insert(1, value(0, size)).unwrap();
            assert_eq!(cache.weight(), empty + size);
            cache.assert_whole(&spec);
        }
        // Growing in place evicts others, if anybody.
        (2..40).for_each(|key| _ = cache.insert(key, value(0, 400)).unwrap());
        cache.insert(1, value(0, 9000)).unwrap();
        assert!(cache.contains(1));
        cache.assert_whole(&spec);
    }
}

fn a_value_that_replaces_another_survives_the_moving_of_entries<F: Face>() {
    for kind in KINDS {
        let spec = Spec::bytes::<F>(100_000).policy(kind);
        let Capacity::Bytes(capacity) = spec.config.capacity else { unreachable!() };
        let mut cache = F::build(&spec).unwrap();
        (0..300).for_each(|key| _ = cache.insert(key, value(7, 10)).unwrap());
        // Holes in the front, into which the rest moves when memory is freed for the last one.
        (0..250).for_each(|key| _ = cache.remove(key).unwrap());
        let (before, larger) = (cache.weight(), capacity.get() - cache.weight() + 1000);
        assert_eq!(cache.insert(299, value(8, larger)).unwrap(), Some(value(7, 10)));
        assert!(cache.weight() < before + larger, "{kind:?}: chunks were freed");
        assert_eq!(cache.get(299), Some(value(8, larger)));
        let kept = (250..299).filter(|key| cache.peek(*key) == Some(value(7, 10))).count();
        assert_eq!((kept, cache.len()), (49, 50), "{kind:?}");
        cache.assert_whole(&spec);
    }
}

fn what_is_pinned_is_not_evicted<F: Face>() {
    for kind in KINDS {
        let spec = Spec::entries(40).policy(kind).shards(2);
        let mut cache = F::build(&spec).unwrap();
        assert!(!cache.pin(1), "there is no such entry");
        (0..5).for_each(|key| _ = cache.insert(key, value(0, 1)).unwrap());
        let pinned = EntryOptions::new().pinned();
        (5..10).for_each(|key| _ = cache.insert_with(key, value(0, 1), pinned).unwrap());
        assert!((0..5).all(|key| cache.pin(key)));
        assert!(cache.pin(0), "it is there, pinned already");
        (100..400).for_each(|key| _ = cache.insert(key, value(0, 1)).unwrap());
        cache.evict(usize::MAX);
        assert_eq!((cache.len(), cache.pinned()), (10, 10));
        assert!((0..10).all(|key| cache.get(key).is_some()), "{kind:?}");
        assert!((0..5).all(|key| cache.unpin(key)));
        assert!(!cache.unpin(0), "it is no longer pinned");
        cache.assert_whole(&spec);
        cache.evict(usize::MAX);
        assert_eq!((cache.len(), cache.pinned()), (5, 5));
        cache.assert_whole(&spec);
    }
}

fn more_pinned_entries_than_fit_are_refused<F: Face>() {
    for kind in KINDS {
        let spec = Spec::entries(8).policy(kind).shards(2);
        let mut cache = F::build(&spec).unwrap();
        let pinned = EntryOptions::new().pinned();
        (0..7).for_each(|key| _ = cache.insert_with(key, value(0, 1), pinned).unwrap());
        // One place is left for all others.
        (10..20).for_each(|key| _ = cache.insert(key, value(0, 1)).unwrap());
        cache.insert_with(7, value(0, 1), pinned).unwrap();
        let refused = cache.insert_with(8, value(8, 8), pinned).unwrap_err();
        assert!(matches!(refused.error, MemoryError::CapacityExceeded { .. }));
        assert_eq!(refused.into_value(), (8, value(8, 8)));
        assert!(cache.insert(9, value(0, 1)).is_err());
        // A pinned one's own place is enough for its next value.
        assert_eq!(cache.insert(3, value(1, 2)).unwrap(), Some(value(0, 1)));
        assert_eq!((cache.len(), cache.pinned()), (8, 8));
        assert!(cache.unpin(0));
        cache.insert(9, value(0, 1)).unwrap();
        assert!(cache.contains(9) && !cache.contains(0), "{kind:?}");
        cache.assert_whole(&spec);
    }
}

fn more_pinned_bytes_than_fit_are_refused<F: Face>() {
    for kind in KINDS {
        let spec = Spec::sharded_bytes::<F>(40_000, 2).policy(kind);
        let mut cache = F::build(&spec).unwrap();
        let (pinned, mut fit) = (EntryOptions::new().pinned(), 0);
        let refused = loop {
            match cache.insert_with(fit, value(1, 2000), pinned) {
                Ok(_) => fit += 1,
                Err(refused) => break refused,
            }
        };
        assert_eq!(refused.into_value(), (fit, value(1, 2000)));
        assert!((10..20).contains(&fit), "{kind:?}: {fit} of 2000 bytes in 40,000");
        assert!((0..fit).all(|key| cache.contains(key)));
        cache.assert_whole(&spec);
    }
}

fn pinned_entries_expire_are_removed_and_replaced<F: Face>() {
    for kind in KINDS {
        let spec = Spec::entries(8).policy(kind).ttl(SECOND);
        let mut cache = F::build(&spec).unwrap();
        let pinned = EntryOptions::new().pinned();
        (0..4).for_each(|key| _ = cache.insert_with(key, value(0, 1), pinned).unwrap());
        assert!(cache.remove(0).is_some());
        assert!(cache.insert(1, value(0, 1)).unwrap().is_some());
        cache.retain(|key, _| *key != 2);
        assert_eq!((cache.len(), cache.pinned()), (2, 2));
        assert!(cache.unpin(1), "its new value is pinned too");
        spec.clock.advance(SECOND);
        assert!(cache.get(3).is_none());
        assert_eq!((cache.pinned(), cache.stats().expired), (0, 1));
        cache.clear();
        assert_eq!((cache.len(), cache.pinned()), (0, 0));
        cache.assert_whole(&spec);
    }
}

fn retain_asks_about_every_entry_once<F: Face>() {
    for kind in KINDS {
        let (spec, log) = Spec::entries(1000).policy(kind).shards(4).logged();
        let mut cache = F::build(&spec).unwrap();
        (0..500).for_each(|key| _ = cache.insert(key, value(0, 2)).unwrap());
        cache.pin(7);
        let mut asked = BTreeSet::new();
        cache.retain(|key, value| {
            assert!(asked.insert(*key) && value.len() == 2);
            key % 3 == 0
        });
        assert_eq!((asked.len(), cache.len(), cache.pinned()), (500, 167, 0));
        assert!((0..500).all(|key| cache.contains(key) == (key % 3 == 0)));
        let shown = log.take();
        assert!(shown.len() == 333 && shown.iter().all(|shown| shown.2 == RemovalCause::Removed));
        cache.assert_whole(&spec);
    }
}

fn iteration_shows_every_entry<F: Face>() {
    for shards in [1, 8] {
        let spec = Spec::entries(5000).shards(shards);
        let mut cache = F::build(&spec).unwrap();
        assert!(cache.entries().is_empty());
        (0..3000).for_each(|key| _ = cache.insert(key, value(5, 1)).unwrap());
        (0..3000).filter(|key| key % 7 == 0).for_each(|key| _ = cache.remove(key));
        let (entries, before) = (cache.entries(), cache.stats());
        let keys: BTreeSet<u64> = entries.iter().map(|entry| entry.0).collect();
        assert_eq!(entries.len(), cache.len());
        assert!(keys.into_iter().eq((0..3000).filter(|key| key % 7 != 0)));
        assert!(entries.iter().all(|entry| entry.1 == value(5, 1)));
        assert_eq!(cache.stats(), before, "nobody notices");
    }
}

fn clear_empties_and_keeps_the_statistics<F: Face>() {
    for kind in KINDS {
        for logged in [true, false] {
            let (with_log, log) = Spec::bytes::<F>(80_000).policy(kind).logged();
            let spec = if logged { with_log } else { Spec { log: None, ..with_log } };
            let mut cache = F::build(&spec).unwrap();
            let empty = (cache.charged(), cache.weight());
            (0..300).for_each(|key| _ = cache.insert(key, value(0, 20)).unwrap());
            assert_eq!(cache.len(), 300);
            cache.clear();
            assert_eq!((cache.charged(), cache.weight()), empty, "everything is freed");
            assert_eq!((cache.len(), cache.stats().removed, cache.stats().inserts), (0, 300, 300));
            let shown = log.take();
            assert_eq!(shown.len(), if logged { 300 } else { 0 });
            assert!(shown.iter().all(|shown| shown.2 == RemovalCause::Removed));
            cache.clear();
            cache.insert(1, value(0, 1)).unwrap();
            assert!(cache.get(1).is_some());
            cache.assert_whole(&spec);
        }
    }
}
