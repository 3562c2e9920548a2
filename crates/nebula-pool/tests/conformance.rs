//! One suite over all six pools.

mod common;

use std::sync::atomic::Ordering::SeqCst;

use common::{
    Factory,
    faces::{Face, Purse, for_all_faces},
};
use nebula_memory_core::{ByteSize, MemoryUsage};
use nebula_pool::{Growth, Order, Oversized, PoolConfig, PoolConfigBuilder, PoolGuard, Shrink};
use nebula_testing::catch;

struct Set<P: Face> {
    pool: P::Handle,
    factory: Factory,
    account: Purse,
    /// What the pool itself is charged at first.
    own: usize,
}

fn set_of<P: Face>(config: PoolConfigBuilder, bytes: usize) -> Set<P> {
    let config = config.build().unwrap();
    let (factory, account) = (Factory::of(bytes), Purse::default());
    let pool = P::build(&config, &account, &factory).unwrap();
    let own = account.get_ref().balance() - bytes * config.warm_up;
    Set { pool, factory, account, own }
}

fn set<P: Face>(capacity: usize, bytes: usize) -> Set<P> {
    set_of(PoolConfig::builder().capacity(capacity), bytes)
}

impl<P: Face> Set<P> {
    /// The objects are charged so much together, and nothing is lost.
    #[track_caller]
    fn assert_charged(&self, bytes: usize) {
        self.account.get_ref().assert_balance(self.own + bytes);
        self.assert_whole();
    }

    #[track_caller]
    fn assert_whole(&self) {
        assert_eq!(self.pool.used(), self.account.get_ref().balance());
        let stats = self.pool.figures();
        let here = (stats.lent + stats.idle) as u64;
        assert_eq!(stats.created, here + stats.destroyed + stats.detached, "{stats}");
        assert_eq!(self.factory.goodbyes.load(SeqCst) as u64, stats.destroyed, "{stats}");
        assert!(stats.lent + stats.idle <= stats.places && stats.places <= stats.capacity);
    }

    fn end(self) {
        self.assert_whole();
        drop(self.pool);
        self.factory.counter.assert_all_dropped();
        self.account.get_ref().assert_settled();
    }
}

fn an_object_comes_back_reset_and_is_lent_again<P: Face>() {
    let set = set::<P>(2, 10);
    let mut object = set.pool.lend().unwrap();
    object.dirty = true;
    let tag = object.probe.tag();
    drop(object);
    let object = set.pool.lend().unwrap();
    assert!(object.probe.tag() == tag && !object.dirty);
    drop(object);
    let stats = set.pool.figures();
    assert_eq!((stats.created, stats.gets, stats.reuses), (1, 2, 1));
    set.end();
}

fn a_pool_lends_its_capacity_and_no_more<P: Face>() {
    let set = set::<P>(3, 10);
    for _ in 0..3 {
        let mut guards: Vec<_> = (0..3).map(|_| set.pool.lend().unwrap()).collect();
        let mut tags: Vec<_> = guards.iter().map(|guard| guard.probe.tag()).collect();
        tags.sort_unstable();
        tags.dedup();
        assert_eq!(tags.len(), 3);
        assert_eq!(set.pool.lend().unwrap_err().code(), "pool_exhausted");
        assert_eq!((set.pool.figures().lent, set.pool.figures().idle), (3, 0));
        drop(guards.swap_remove(1));
        assert!(set.pool.lend().is_ok());
    }
    assert_eq!(set.pool.figures().created, 3);
    set.end();
}

fn objects_stay_in_place<P: Face>() {
    let set = set::<P>(2, 0);
    let place = std::ptr::from_ref(&*set.pool.lend().unwrap()).addr();
    assert_eq!(std::ptr::from_ref(&*set.pool.lend().unwrap()).addr(), place);
    set.end();
}

fn a_detached_object_is_the_callers_and_frees_its_place<P: Face>() {
    let set = set::<P>(1, 10);
    let object = set.pool.lend().unwrap().detach();
    set.assert_charged(0);
    let owned = P::lend_owned(&set.pool).unwrap();
    set.assert_charged(10);
    drop((owned.detach(), object));
    assert_eq!(set.pool.figures().detached, 2);
    assert_eq!(set.factory.goodbyes.load(SeqCst), 0, "no goodbye to what was taken out");
    set.end();
}

fn owned_guards_keep_their_pool_alive<P: Face>() {
    let Set { pool, factory, account, .. } = set::<P>(2, 10);
    let mut guard = P::lend_owned(&pool).unwrap();
    let other = P::lend_owned(&pool).unwrap();
    drop(pool);
    guard.dirty = true;
    drop(guard);
    factory.counter.assert_live(2);
    drop(other);
    factory.counter.assert_all_dropped();
    account.get_ref().assert_settled();
}

fn a_leaked_guard_costs_its_place_until_the_pool_is_dropped<P: Face>() {
    let set = set::<P>(2, 10);
    std::mem::forget(set.pool.lend().unwrap());
    assert!(set.pool.lend().is_ok());
    let guard = set.pool.lend().unwrap();
    assert!(set.pool.lend().is_err());
    drop(guard);
    set.end();
}

fn an_invalid_object_is_replaced<P: Face>() {
    let set = set::<P>(1, 10);
    set.pool.lend().unwrap().valid = false;
    assert_eq!(set.pool.lend().unwrap().probe.tag(), 1);
    let stats = set.pool.figures();
    assert_eq!((stats.invalidated, stats.reuses), (1, 0));
    set.assert_charged(10);
    set.end();
}

fn what_panics_is_quarantined_and_the_pool_goes_on<P: Face>() {
    let arms: [fn(&Factory); 4] = [
        |f| f.panics.reset.arm(0),
        |f| f.panics.heap_size.arm(0),
        |f| f.panics.value.arm(0),
        |f| f.panics.is_valid.arm(0),
    ];
    for (n, arm) in arms.into_iter().enumerate() {
        let set = set::<P>(1, 10);
        let guard = set.pool.lend().unwrap();
        if n == 3 {
            drop(guard);
            arm(&set.factory);
        } else {
            arm(&set.factory);
            drop(guard);
        }
        assert_eq!(set.pool.lend().unwrap().probe.tag(), 1);
        assert_eq!((set.pool.figures().quarantined, set.pool.figures().created), (1, 2));
        set.assert_charged(10);
        set.end();
    }
}

fn a_goodbye_that_panics_stays_inside<P: Face>() {
    let set = set::<P>(1, 10);
    set.pool.lend().unwrap().valid = false;
    set.factory.panics.drop.arm(0);
    assert!(set.pool.lend().is_ok());
    set.assert_charged(10);
    set.end();
}

fn a_guard_dropped_by_a_panic_returns_its_object<P: Face>() {
    let set = set::<P>(1, 10);
    let result = catch(|| {
        let _guard = set.pool.lend().unwrap();
        std::panic::panic_any(nebula_testing::InjectedPanic);
    });
    assert!(result.is_err());
    // Even if its reset panics as well.
    set.factory.panics.reset.arm(0);
    let result = catch(|| {
        let _guard = set.pool.lend().unwrap();
        std::panic::panic_any(nebula_testing::InjectedPanic);
    });
    assert!(result.is_err());
    assert!(set.pool.lend().is_ok());
    assert_eq!(set.pool.figures().quarantined, 1);
    set.end();
}

fn a_failing_factory_frees_the_place_it_had_taken<P: Face>() {
    let set = set::<P>(1, 10);
    set.factory.failures.store(1, SeqCst);
    assert_eq!(set.pool.lend().unwrap_err().code(), "closed");
    set.assert_charged(0);
    set.factory.panics.factory.arm(0);
    assert!(catch(|| drop(set.pool.lend())).is_err());
    set.factory.panics.heap_size.arm(0);
    assert!(catch(|| drop(set.pool.lend())).is_err());
    let stats = set.pool.figures();
    assert_eq!((stats.lent, stats.created, stats.quarantined), (0, 1, 1), "the last was made");
    assert!(set.pool.lend().is_ok());
    set.end();
}

fn a_refused_charge_frees_the_place_and_says_goodbye<P: Face>() {
    let set = set::<P>(1, 10);
    set.account.get_ref().set_limit(set.own + 9);
    assert_eq!(set.pool.lend().unwrap_err().code(), "capacity_exceeded");
    assert_eq!(set.factory.goodbyes.swap(0, SeqCst), 1);
    set.assert_charged(0);
    set.account.get_ref().set_limit(set.own + 10);
    assert!(set.pool.lend().is_ok());
    set.end();
}

fn a_return_charges_the_change_of_size<P: Face>() {
    let set = set::<P>(1, 100);
    set.pool.lend().unwrap().bytes = 250;
    set.assert_charged(250);
    set.pool.lend().unwrap().bytes = 30;
    set.assert_charged(30);
    set.account.get_ref().set_limit(set.own + 50);
    set.pool.lend().unwrap().bytes = 51;
    set.assert_charged(0);
    assert_eq!(set.pool.figures().unaffordable, 1);
    set.end();
}

fn lending_charges_nothing<P: Face>() {
    let set = set::<P>(1, 100);
    drop(set.pool.lend().unwrap());
    let calls = set.account.calls();
    for _ in 0..10 {
        drop(set.pool.lend().unwrap());
    }
    assert_eq!(set.account.calls(), calls);
    set.end();
}

fn oversized_objects_are_dropped_or_trimmed<P: Face>() {
    let retained = PoolConfig::builder().capacity(1).retained_size(ByteSize::new(100));
    let set = set_of::<P>(retained.clone(), 10);
    set.pool.lend().unwrap().bytes = 100;
    set.assert_charged(100);
    set.pool.lend().unwrap().bytes = 101;
    set.assert_charged(0);
    assert_eq!(set.pool.figures().oversized, 1);
    set.end();

    let set = set_of::<P>(retained.oversized(Oversized::Trim), 10);
    {
        let mut object = set.pool.lend().unwrap();
        (object.bytes, object.least) = (500, 60);
    }
    set.assert_charged(100);
    {
        let mut object = set.pool.lend().unwrap();
        (object.bytes, object.least) = (500, 101);
    }
    set.assert_charged(0);
    assert_eq!((set.pool.figures().oversized, set.pool.figures().created), (1, 1));
    set.end();
}

fn trim_drops_what_is_idle_and_leaves_what_is_lent<P: Face>() {
    let set = set::<P>(3, 10);
    let held = set.pool.lend().unwrap();
    drop([set.pool.lend().unwrap(), set.pool.lend().unwrap()]);
    assert_eq!(set.pool.cut(), 20);
    set.assert_charged(10);
    assert_eq!((set.pool.figures().reclaimed, set.pool.figures().lent), (2, 1));
    drop(held);
    let trimmed = set.pool.cut();
    if P::STORAGE_GOES {
        assert!(trimmed > 10 && set.pool.figures().places == 0);
        set.account.get_ref().assert_balance(set.own + 10 - trimmed);
    } else {
        assert_eq!(trimmed, 10);
        set.assert_charged(0);
    }
    assert!(set.pool.lend().is_ok());
    set.end();
}

fn maintain_keeps_the_least_and_drops_what_is_beyond_the_most<P: Face>() {
    let config = PoolConfig::builder().capacity(6).min_idle(2).max_idle(3);
    let set = set_of::<P>(config, 10);
    assert_eq!(set.pool.upkeep().unwrap(), (0, 2));
    assert_eq!(set.pool.upkeep().unwrap(), (0, 0));
    let crowd: Vec<_> = (0..6).map(|_| set.pool.lend().unwrap()).collect();
    assert_eq!(set.pool.upkeep().unwrap(), (0, 0), "there is no place for idle ones");
    drop(crowd);
    assert_eq!(set.pool.upkeep().unwrap(), (3, 0));
    assert_eq!((set.pool.figures().surplus, set.pool.figures().idle), (3, 3));
    set.assert_whole();
    set.factory.failures.store(1, SeqCst);
    set.pool.cut();
    assert!(set.pool.upkeep().is_err());
    set.end();
}

fn maintain_drops_what_was_not_used<P: Face>() {
    for (shrink, dropped) in
        [(Shrink::Never, [0, 0]), (Shrink::Unused, [5, 0]), (Shrink::HalfOfUnused, [3, 1])]
    {
        let config = PoolConfig::builder().capacity(8).min_idle(1).shrink(shrink);
        let set = set_of::<P>(config, 10);
        let crowd: Vec<_> = (0..6).map(|_| set.pool.lend().unwrap()).collect();
        drop(crowd);
        assert_eq!(set.pool.upkeep().unwrap(), (0, 0), "all were used");
        drop(set.pool.lend().unwrap());
        assert_eq!(set.pool.upkeep().unwrap().0, dropped[0], "{shrink:?}");
        if shrink == Shrink::HalfOfUnused {
            // Of three left, none was used since.
            assert_eq!(set.pool.upkeep().unwrap().0, 2 * dropped[1], "{shrink:?}");
        }
        set.end();
    }
}

fn objects_of_the_least_value_go<P: Face>() {
    let set = set_of::<P>(PoolConfig::builder().capacity(5).max_idle(2), 10);
    let mut crowd: Vec<_> = (0..5).map(|_| set.pool.lend().unwrap()).collect();
    for (object, value) in crowd.iter_mut().zip([3, 9, 1, 7, 5]) {
        object.value = value;
    }
    let tags: Vec<_> = crowd.iter().map(|object| object.probe.tag()).collect();
    drop(crowd);
    assert_eq!(set.pool.upkeep().unwrap().0, 3);
    // All three go, so that their order is nobody's business.
    let mut gone = set.factory.counter.dropped();
    gone.sort_unstable();
    assert_eq!(gone, [tags[0], tags[2], tags[4]]);
    set.end();
}

fn places_come_as_they_are_needed<P: Face>() {
    for (growth, steps) in [
        (Growth::None, [7, 7, 7, 7, 7, 7, 7]),
        (Growth::Fixed(3), [3, 3, 3, 6, 6, 6, 7]),
        (Growth::Doubling(1), [1, 2, 4, 4, 7, 7, 7]),
    ] {
        let set = set_of::<P>(PoolConfig::builder().capacity(7).growth(growth), 0);
        let mut guards = Vec::new();
        for step in steps {
            guards.push(set.pool.lend().unwrap());
            assert_eq!(set.pool.figures().places, step, "{growth:?}");
            set.assert_whole();
        }
        assert_eq!(set.pool.lend().unwrap_err().code(), "pool_exhausted");
        drop(guards);
        assert_eq!(set.pool.figures().idle, 7);
        set.end();
    }
}

fn refused_places_are_not_made<P: Face>() {
    let set = set_of::<P>(PoolConfig::builder().capacity(4).growth(Growth::Fixed(2)), 0);
    set.account.get_ref().set_limit(set.own);
    let guards = [set.pool.lend().unwrap(), set.pool.lend().unwrap()];
    assert_eq!(set.pool.lend().unwrap_err().code(), "capacity_exceeded");
    set.assert_charged(0);
    set.account.get_ref().set_limit(usize::MAX);
    assert!(set.pool.lend().is_ok());
    drop(guards);
    set.end();
}

fn holders_are_named_if_it_is_wanted<P: Face>() {
    let config = PoolConfig::builder().capacity(3).track_holders(true);
    let set = set_of::<P>(config, 0);
    let (first, line) = (set.pool.lend().unwrap(), line!());
    let second = P::lend_owned(&set.pool).unwrap();
    let holders = set.pool.held();
    assert_eq!(holders.len(), 2);
    assert_eq!((holders[0].location.line(), holders[1].location.line()), (line, line + 1));
    assert!(holders[0].location.file().ends_with("conformance.rs"));
    assert!(holders[0].held_for >= holders[1].held_for);
    assert!(holders[0].to_string().contains("conformance.rs"), "{}", holders[0]);
    drop(first.detach());
    assert_eq!(set.pool.held().len(), 1);
    drop(second);
    assert!(set.pool.held().is_empty());
    assert!(set.pool.figures().longest_hold.is_some());
    set.end();

    let set = self::set::<P>(1, 0);
    let _guard = set.pool.lend().unwrap();
    assert!(set.pool.held().is_empty() && set.pool.figures().longest_hold.is_none());
}

fn the_peak_is_kept_if_it_is_wanted<P: Face>() {
    for track in [false, true] {
        let set = set_of::<P>(PoolConfig::builder().capacity(4).track_peak(track), 0);
        drop([(); 3].map(|()| set.pool.lend().unwrap()));
        drop([(); 2].map(|()| set.pool.lend().unwrap().detach()));
        drop([(); 2].map(|()| set.pool.lend().unwrap()));
        assert_eq!(set.pool.figures().peak_lent, track.then_some(3));
    }
}

fn warm_up_makes_objects_ahead<P: Face>() {
    let config = PoolConfig::builder().capacity(4).warm_up(3).growth(Growth::Fixed(1));
    let set = set_of::<P>(config.clone(), 10);
    assert_eq!((set.factory.counter.made(), set.pool.figures().idle), (3, 3));
    set.assert_charged(30);
    set.end();

    // If one cannot be made, nothing is left.
    let (factory, account) = (Factory::of(10), Purse::default());
    factory.panics.factory.arm(1);
    let config = config.build().unwrap();
    assert!(catch(|| P::build(&config, &account, &factory)).is_err());
    factory.failures.store(1, SeqCst);
    assert!(P::build(&config, &account, &factory).is_err());
    factory.counter.assert_all_dropped();
    account.get_ref().assert_settled();
}

fn settings_that_a_pool_does_not_know_are_refused<P: Face>() {
    let known = |config: PoolConfigBuilder| {
        let account = Purse::default();
        let built = P::build(&config.build().unwrap(), &account, &Factory::default());
        built.map_or_else(
            |error| {
                assert_eq!(error.code(), "invalid_config");
                account.get_ref().assert_settled();
                false
            },
            |_| true,
        )
    };
    let second = std::time::Duration::from_secs(1);
    assert_eq!(known(PoolConfig::builder().order(Order::Fifo)), P::FIFO);
    assert_eq!(known(PoolConfig::builder().idle_time(second)), P::TTL);
    assert_eq!(known(PoolConfig::builder().lifetime(second)), P::TTL);
}

fn the_order_is_that_of_the_configuration<P: Face>() {
    if !P::FIFO {
        // What these lend first is the thread's own, or the last.
        return;
    }
    for (order, first) in [(Order::Fifo, 0), (Order::Lifo, 2)] {
        let set = set_of::<P>(PoolConfig::builder().capacity(3).order(order), 0);
        let crowd: Vec<_> = (0..3).map(|_| set.pool.lend().unwrap()).collect();
        let tags: Vec<_> = crowd.iter().map(|object| object.probe.tag()).collect();
        for guard in crowd {
            drop(guard);
        }
        // A sweep that takes nothing changes nothing.
        set.pool.upkeep().unwrap();
        let crowd = [(); 3].map(|()| set.pool.lend().unwrap());
        let again = crowd.each_ref().map(|object| object.probe.tag());
        drop(crowd);
        assert_eq!(again[0], tags[first], "{order:?}");
        assert_eq!(again[2], tags[2 - first], "{order:?}");
        set.end();
    }
}

/// Everything that charges or runs an object's code, once; every result may be an error.
fn scenario<P: Face>(factory: &Factory, account: &Purse) {
    let config = PoolConfig::builder()
        .capacity(5)
        .warm_up(1)
        .min_idle(1)
        .max_idle(2)
        .shrink(Shrink::Unused)
        .growth(Growth::Fixed(2))
        .retained_size(ByteSize::new(200))
        .oversized(Oversized::Trim)
        .build()
        .unwrap();
    let Ok(pool) = P::build(&config, account, factory) else { return };
    let check = || {
        assert_eq!(pool.used(), account.get_ref().balance());
        let stats = pool.figures();
        let here = (stats.lent + stats.idle) as u64;
        assert_eq!(stats.created, here + stats.destroyed + stats.detached, "{stats}");
    };
    let mut guards: Vec<PoolGuard<'_, P>> = (0..4).filter_map(|_| pool.lend().ok()).collect();
    check();
    for (i, guard) in guards.iter_mut().enumerate() {
        (guard.bytes, guard.least) = (50 + i * 100, i * 90);
        guard.valid = i != 2;
        guard.value = i as u64;
    }
    guards.truncate(1);
    check();
    guards.extend(pool.lend());
    if let Some(guard) = guards.pop() {
        let _ = guard.detach();
    }
    let owned = P::lend_owned(&pool);
    check();
    let _ = pool.upkeep();
    check();
    drop(guards);
    let _ = pool.upkeep();
    let _ = pool.upkeep();
    check();
    pool.cut();
    check();
    drop(pool.lend());
    check();
    drop(pool);
    drop(owned);
}

fn a_refusal_at_any_charge_leaves_exact_books<P: Face>() {
    for from in [false, true] {
        for n in 0.. {
            let (factory, account) = (Factory::of(100), Purse::default());
            if from {
                account.refuse_from(n);
            } else {
                account.refuse_at(n);
            }
            scenario::<P>(&factory, &account);
            factory.counter.assert_all_dropped();
            account.get_ref().assert_settled();
            if !account.tripped() {
                assert!(n > 5, "the scenario charges {n} times only");
                break;
            }
        }
    }
}

fn a_panic_or_failure_at_any_call_leaves_exact_books<P: Face>() {
    let choose: [fn(&Factory) -> &nebula_testing::PanicOn; 6] = [
        |f| &f.panics.reset,
        |f| &f.panics.is_valid,
        |f| &f.panics.heap_size,
        |f| &f.panics.value,
        |f| &f.panics.drop,
        |f| &f.panics.factory,
    ];
    for on in choose {
        for n in 0.. {
            let (factory, account) = (Factory::of(100), Purse::default());
            on(&factory).arm(n);
            let _ = catch(|| scenario::<P>(&factory, &account));
            factory.counter.assert_all_dropped();
            account.get_ref().assert_settled();
            if !on(&factory).fired() {
                assert!(n >= 3, "called {n} times only");
                break;
            }
        }
    }
}

fn figures_are_printed<P: Face>() {
    let set = set::<P>(2, 0);
    drop(set.pool.lend().unwrap());
    let text = set.pool.figures().to_string();
    assert!(text.starts_with("0 lent and 1 idle of 2; 1 gets"), "{text}");
    assert_eq!(MemoryUsage::capacity(&*set.pool), None);
    assert_eq!(set.pool.room(), 2);
}

for_all_faces!(
    an_object_comes_back_reset_and_is_lent_again,
    a_pool_lends_its_capacity_and_no_more,
    objects_stay_in_place,
    a_detached_object_is_the_callers_and_frees_its_place,
    owned_guards_keep_their_pool_alive,
    a_leaked_guard_costs_its_place_until_the_pool_is_dropped,
    an_invalid_object_is_replaced,
    what_panics_is_quarantined_and_the_pool_goes_on,
    a_goodbye_that_panics_stays_inside,
    a_guard_dropped_by_a_panic_returns_its_object,
    a_failing_factory_frees_the_place_it_had_taken,
    a_refused_charge_frees_the_place_and_says_goodbye,
    a_return_charges_the_change_of_size,
    lending_charges_nothing,
    oversized_objects_are_dropped_or_trimmed,
    trim_drops_what_is_idle_and_leaves_what_is_lent,
    maintain_keeps_the_least_and_drops_what_is_beyond_the_most,
    maintain_drops_what_was_not_used,
    objects_of_the_least_value_go,
    places_come_as_they_are_needed,
    refused_places_are_not_made,
    holders_are_named_if_it_is_wanted,
    the_peak_is_kept_if_it_is_wanted,
    warm_up_makes_objects_ahead,
    settings_that_a_pool_does_not_know_are_refused,
    the_order_is_that_of_the_configuration,
    a_refusal_at_any_charge_leaves_exact_books,
    a_panic_or_failure_at_any_call_leaves_exact_books,
    figures_are_printed,
);
