//! Expiry and tags: when an entry is no longer there, for every cache and every policy.

mod common;

use std::time::Duration;

use common::{
    KINDS,
    faces::{Face, Spec, for_every_face, value},
};
use nebula_cache::{EntryOptions, RemovalCause};

for_every_face!(
    an_entry_is_gone_the_nanosecond_its_time_is_over,
    an_entry_lives_by_its_own_times_rather_than_the_defaults,
    use_prolongs_idle_time_and_looking_does_not,
    time_without_end_does_not_end,
    an_expired_entry_is_not_there_for_anybody,
    maintenance_removes_what_is_expired_a_bounded_piece_at_a_time,
    a_tag_takes_its_entries_along,
    an_entry_has_four_tags_at_most,
);

const NANO: Duration = Duration::from_nanos(1);
const SECOND: Duration = Duration::from_secs(1);
/// One nanosecond less than a second.
const ALMOST: Duration = Duration::from_nanos(999_999_999);

fn an_entry_is_gone_the_nanosecond_its_time_is_over<F: Face>() {
    for kind in KINDS {
        let spec = Spec::entries(10).policy(kind).ttl(SECOND);
        let mut cache = F::build(&spec).unwrap();
        spec.clock.advance(SECOND);
        cache.insert(1, value(0, 0)).unwrap();
        spec.clock.advance(ALMOST);
        assert!(cache.get(1).is_some() && cache.peek(1).is_some() && cache.contains(1));
        spec.clock.advance(NANO);
        assert!(cache.peek(1).is_none() && !cache.contains(1));
        assert_eq!(cache.len(), 1, "nobody has come across it");
        assert!(cache.get(1).is_none());
        assert_eq!((cache.len(), cache.stats().expired, cache.stats().misses), (0, 1, 1));
        cache.assert_whole(&spec);
    }
}

fn an_entry_lives_by_its_own_times_rather_than_the_defaults<F: Face>() {
    let spec = Spec::entries(10).ttl(SECOND).idle(SECOND);
    let mut cache = F::build(&spec).unwrap();
    let options = EntryOptions::new();
    cache.insert_with(1, value(0, 0), options.ttl(SECOND * 2).idle(SECOND * 3)).unwrap();
    cache.insert_with(2, value(0, 0), options.ttl(SECOND * 3).idle(SECOND * 2)).unwrap();
    cache.insert_with(3, value(0, 0), options.ttl(SECOND / 2)).unwrap();
    cache.insert_with(4, value(0, 0), options.ttl(Duration::ZERO)).unwrap();
    assert!(!cache.contains(4), "it has no time at all");
    spec.clock.advance(SECOND / 2);
    assert!(cache.contains(1) && cache.contains(2) && !cache.contains(3));
    spec.clock.advance(SECOND / 2 + ALMOST);
    assert!(cache.contains(1) && cache.contains(2));
    spec.clock.advance(NANO);
    assert!(!cache.contains(1) && !cache.contains(2));
    // A new value has a time of its own.
    cache.insert(1, value(0, 0)).unwrap();
    assert!(cache.contains(1));
    spec.clock.advance(SECOND);
    assert!(!cache.contains(1));
    cache.assert_whole(&spec);
}

fn use_prolongs_idle_time_and_looking_does_not<F: Face>() {
    for kind in KINDS {
        let spec = Spec::entries(10).policy(kind).idle(SECOND).ttl(SECOND * 5);
        let mut cache = F::build(&spec).unwrap();
        cache.insert(1, value(0, 0)).unwrap();
        cache.insert(2, value(0, 0)).unwrap();
        for _ in 0..4 {
            spec.clock.advance(ALMOST);
            assert!(cache.get(1).is_some(), "{kind:?}");
            assert!(cache.compute(1, || unreachable!("it is there")).is_ok());
            _ = cache.peek(2);
            _ = cache.contains(2);
        }
        assert!(!cache.contains(2));
        spec.clock.advance(SECOND);
        assert!(!cache.contains(1), "it lives no longer than its time to live");
        cache.assert_whole(&spec);
    }
}

fn time_without_end_does_not_end<F: Face>() {
    let spec = Spec::entries(10);
    let mut cache = F::build(&spec).unwrap();
    spec.clock.advance(SECOND);
    cache.insert(1, value(0, 0)).unwrap();
    let options = EntryOptions::new().ttl(Duration::MAX).idle(Duration::MAX);
    cache.insert_with(2, value(0, 0), options).unwrap();
    spec.clock.advance(Duration::MAX);
    assert!(cache.get(1).is_some() && cache.get(2).is_some());
}

fn an_expired_entry_is_not_there_for_anybody<F: Face>() {
    for kind in KINDS {
        let (spec, log) = Spec::entries(20).policy(kind).ttl(SECOND).logged();
        let mut cache = F::build(&spec).unwrap();
        let age = |cache: &mut F| {
            cache.clear();
            log.take();
            cache.insert(1, value(9, 9)).unwrap();
            spec.clock.advance(SECOND);
        };
        let gone = |cause| vec![(1, value(9, 9), cause)];
        let expired = gone(RemovalCause::Expired);

        age(&mut cache);
        assert_eq!(cache.get(1), None);
        assert_eq!(log.take(), expired);
        age(&mut cache);
        assert_eq!(cache.remove(1), None);
        assert_eq!(log.take(), expired);
        age(&mut cache);
        assert_eq!(cache.insert(1, value(1, 1)).unwrap(), None);
        assert_eq!((log.take(), cache.get(1)), (expired.clone(), Some(value(1, 1))));
        age(&mut cache);
        assert_eq!(cache.compute(1, || value(2, 2)).unwrap(), value(2, 2));
        assert_eq!(log.take(), expired);
        age(&mut cache);
        cache.update(1, |old| old.is_none().then(|| value(3, 3))).unwrap();
        assert_eq!((log.take(), cache.get(1)), (expired.clone(), Some(value(3, 3))));
        age(&mut cache);
        assert!(!cache.pin(1) && !cache.unpin(1));
        assert!(cache.entries().is_empty());
        cache.retain(|_, _| unreachable!("it is expired"));
        age(&mut cache);
        cache.evict(usize::MAX);
        assert_eq!(log.take(), expired);
        age(&mut cache);
        let pinned = EntryOptions::new().pinned();
        (10..30).for_each(|key| _ = cache.insert_with(key, value(0, 0), pinned).unwrap());
        assert!(log.take().contains(&expired[0]), "{kind:?}: who makes room is told why");
        age(&mut cache);
        cache.clear();
        assert_eq!(log.take(), gone(RemovalCause::Removed));
        cache.assert_whole(&spec);
    }
}

fn maintenance_removes_what_is_expired_a_bounded_piece_at_a_time<F: Face>() {
    for shards in [1, 4] {
        let spec = Spec::entries(1000).shards(shards);
        let mut cache = F::build(&spec).unwrap();
        for key in 0..1000 {
            let ttl = if key % 2 == 0 { SECOND } else { SECOND * 9 };
            cache.insert_with(key, value(0, 8), EntryOptions::new().ttl(ttl)).unwrap();
        }
        assert_eq!(cache.maintain(usize::MAX), 0);
        spec.clock.advance(SECOND);
        assert_eq!((cache.maintain(0), cache.len()), (0, 1000));
        let (mut removed, mut calls) = (0, 0);
        while removed < 500 {
            let now = cache.maintain(10);
            assert!(now <= 10);
            (removed, calls) = (removed + now, calls + 1);
            assert!(calls < 2000, "it does not go on where it ended");
        }
        assert!(calls >= 100);
        assert_eq!((cache.len(), cache.stats().expired), (500, 500));
        assert_eq!(cache.maintain(usize::MAX), 0);
        cache.assert_whole(&spec);
    }
}

fn a_tag_takes_its_entries_along<F: Face>() {
    for kind in KINDS {
        let (spec, log) = Spec::entries(100).policy(kind).shards(2).logged();
        let mut cache = F::build(&spec).unwrap();
        for key in 0..60 {
            let mut options = EntryOptions::new();
            for tag in [2, 3, 5, 7].into_iter().filter(|tag| key % tag == 0) {
                options = options.tag(tag);
            }
            cache.insert_with(key, value(0, 1), options).unwrap();
        }
        assert_eq!(cache.invalidate_tag(9), 0);
        assert_eq!(cache.invalidate_tag(5), 12);
        assert!((0..60).all(|key| cache.contains(key) == (key % 5 != 0)));
        assert_eq!(cache.invalidate_tag(2), 24);
        assert_eq!(cache.invalidate_tag(2), 0);
        assert_eq!((cache.len(), cache.stats().removed), (24, 36));
        assert!(log.take().iter().all(|shown| shown.2 == RemovalCause::Removed));
        // A new value has tags of its own.
        cache.insert(3, value(0, 1)).unwrap();
        cache.invalidate_tag(3);
        assert!(cache.contains(3) && !cache.contains(9));
        cache.assert_whole(&spec);
    }
}

fn an_entry_has_four_tags_at_most<F: Face>() {
    let mut cache = F::build(&Spec::entries(10)).unwrap();
    let four = (0..4_u64).fold(EntryOptions::new(), EntryOptions::tag);
    cache.insert_with(1, value(0, 1), four).unwrap();
    let refused = cache.insert_with(2, value(0, 2), four.tag(4_u64)).unwrap_err();
    assert!(refused.error.to_string().contains("at most four tags"), "{}", refused.error);
    assert_eq!(refused.into_value(), (2, value(0, 2)));
    assert_eq!(cache.invalidate_tag(3), 1);
}
